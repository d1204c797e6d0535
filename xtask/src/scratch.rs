//! A folder for one run that is gone afterwards, however the run ends: a small process of its own waits for the end and
//! removes it, since a run that is killed cannot.

use std::{
    fs,
    io::{self, PipeWriter, Read},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::workspace;

const PREFIX: &str = "mesh-agent-";

/// The folder. It is removed when this is dropped, and when the process that made it is no more.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Held by this process and those forked off it; when the last is gone, the remover reads the end of the pipe.
    _alive: PipeWriter,
}

impl Scratch {
    /// Makes the folder. Everybody may read it: servers give up root before they read their files.
    pub fn new(what: &str) -> Result<Self> {
        let path = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{what}-"))
            .tempdir()
            .context("cannot make a temporary folder")?
            .keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot open up {}", path.display()))?;
        let (reader, alive) = io::pipe().context("cannot make a pipe")?;
        Command::new(workspace::this_program()?)
            .arg("remove-at-end")
            .arg(&path)
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for us and not for it.
            .process_group(0)
            .spawn()
            .context("cannot start the process that removes the temporary folder")?;
        Ok(Self {
            path,
            _alive: alive,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is removed by the process that waits.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The other process: waits for the end of its input, then removes the folder.
pub fn remove_at_end(path: &Path) -> Result<()> {
    let ours = path.parent() == Some(&std::env::temp_dir())
        && path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    if !ours {
        bail!("{} is not a folder of ours", path.display());
    }
    // Nothing is ever written; whatever ends the reading means that nobody is left.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

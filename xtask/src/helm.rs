//! Where to get Helm: as a library for Python, which PyPI has. It renders the charts for the tests.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{pypi::Package, screen::Screen};

const PACKAGE: Package = Package {
    what: "Helm",
    name: "helm-python-sdk",
    version: "0.2.2",
    folder: "helm-python-sdk",
    usually: "20 s, 250 MB on disk",
};

/// The folder to import `helm_python` from.
pub fn pinned(screen: Screen) -> Result<PathBuf> {
    let is_there = |folder: &PathBuf| folder.join("helm_python/lib/libhelm_c.so").exists();
    let folder = PACKAGE.folder()?;
    if is_there(&folder) {
        return Ok(folder);
    }
    let folder = PACKAGE.fetch(screen)?;
    if !is_there(&folder) {
        bail!("{} has no library in {}", PACKAGE.name, folder.display());
    }
    Ok(folder)
}

//! Fetches a package from PyPI into a folder of the cache, where it can harm no one's Python.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{
    screen::{Screen, Step},
    workspace,
};

/// A package, in the version that expectations were compared with.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// What it brings, for people.
    pub what: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The folder in the cache, without the version.
    pub folder: &'static str,
    /// How long it usually takes.
    pub usually: &'static str,
}

impl Package {
    /// Where it is, once it is there.
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(workspace::cache()?.join(format!("{}-{}", self.folder, self.version)))
    }

    /// Fetches it, whatever is there already.
    pub fn fetch(&self, screen: Screen) -> Result<PathBuf> {
        if workspace::find_program("python3").is_none() {
            bail!(
                "there is no python3 to fetch the package {} with",
                self.name
            );
        }
        let folder = self.folder()?;
        let mut install = Command::new("python3");
        install
            .args(["-m", "pip", "install", "--no-input", "--quiet"])
            .args(["--disable-pip-version-check", "--upgrade", "--target"])
            .arg(&folder)
            .arg(format!("{}=={}", self.name, self.version))
            .env("PIP_ROOT_USER_ACTION", "ignore");
        let fetching = format!("Fetching {} from PyPI", self.what);
        screen.step(&Step::new(&fetching).usually(self.usually), &mut install)?;
        Ok(folder)
    }
}

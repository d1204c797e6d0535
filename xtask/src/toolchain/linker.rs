//! `bpf-linker`: one on `PATH`, or one that we built against an LLVM of this machine and keep in the cache.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    screen::{Screen, Step},
    workspace,
};

const VERSION: &str = "0.13.0";

/// The newest LLVM that this version of the linker can be built against.
const NEWEST_LLVM: u32 = 23;

/// A linker that reads what a compiler with this LLVM writes. LLVM reads older bitcode, never newer.
pub(super) fn find(llvm: u32) -> Option<PathBuf> {
    // A linker on `PATH` is the user's own doing; whether it fits is found out by trying.
    if let Some(own) = on_path() {
        return Some(own);
    }
    (llvm..=NEWEST_LLVM)
        .filter_map(|llvm| cached(llvm).ok())
        .find(|path| works(path))
}

/// Builds one if there is none.
pub(super) fn set_up(screen: Screen, llvm: u32) -> Result<PathBuf> {
    if let Some(found) = find(llvm) {
        return Ok(found);
    }
    let Some((version, prefix)) =
        (llvm..=NEWEST_LLVM).find_map(|version| Some((version, llvm_prefix(version)?)))
    else {
        bail!(
            "bpf-linker is not on PATH, and there is no LLVM {llvm} with headers to build it against: \
             put a released bpf-linker on PATH (`cargo binstall bpf-linker`)"
        );
    };
    let linker = cached(version)?;
    let folder = linker
        .parent()
        .and_then(Path::parent)
        .context("the cache has no folder")?;
    let mut command =
        workspace::outside_cargo(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--force",
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{version}"), "--root"])
        .arg(folder)
        .env("LLVM_PREFIX", &prefix);
    let step = Step::new("Building bpf-linker, once for all checkouts").usually("1 to 2 minutes");
    screen
        .step(&step, &mut command)
        .context("cannot build bpf-linker")?;
    if !works(&linker) {
        bail!("{} was built but does not start", linker.display());
    }
    Ok(linker)
}

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join("bpf-linker"))
        .find(|path| path.is_file() && works(path))
}

fn cached(llvm: u32) -> Result<PathBuf> {
    Ok(workspace::cache()?.join(format!("bpf-linker-{VERSION}-llvm-{llvm}/bin/bpf-linker")))
}

/// Whether it starts: an upgrade of LLVM can take the library away that it was linked to.
fn works(linker: &Path) -> bool {
    let status = Command::new(linker)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Where an LLVM of this major version lies, headers included.
fn llvm_prefix(version: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{version}"));
    let elsewhere = super::output(Command::new(format!("llvm-config-{version}")).arg("--prefix"))
        .map(|prefix| PathBuf::from(prefix.trim()));
    [Some(debian), elsewhere]
        .into_iter()
        .flatten()
        .find(|prefix| prefix.join("include/llvm-c/Core.h").exists())
}

//! The second way: Rust with the sources of its library, and LLVM, as Debian's packages have them.

use std::{env, ffi::OsString, process::Command};

use anyhow::{Context, Result, bail};

use crate::{debian, screen::Screen, workspace};

/// Debian 12 has a second, newer Rust for building browsers. It comes with the sources of its library.
const PACKAGES: [&str; 8] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libxml2-dev",
];

pub(super) fn cargo() -> Command {
    let mut command = command("cargo");
    // A release compiler takes `-Z` flags only so.
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", "/usr/bin/rustc");
    command
}

pub(super) fn rustc() -> Command {
    command("rustc")
}

/// Installs the packages that are missing.
pub(super) fn set_up(screen: Screen) -> Result<()> {
    if workspace::find_program("apt-get").is_none() {
        bail!("this is no Debian: install Rust's nightly through rustup, and bpf-linker");
    }
    debian::install(screen, &PACKAGES, "1 to 3 minutes, 1 GB on disk").context(
        "these packages are in Debian 12 with its security updates; on another system use rustup's nightly and bpf-linker",
    )
}

/// A program of the system's own Rust, which must not meet rustup's shims in the place of its siblings.
fn command(program: &str) -> Command {
    let mut command = workspace::outside_cargo(format!("/usr/bin/{program}"));
    let mut path = OsString::from("/usr/bin:/bin:/usr/sbin:/sbin");
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    command.env("PATH", path);
    command
}

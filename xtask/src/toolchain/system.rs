//! The second way: Rust with the sources of its library, and LLVM, as Debian's packages have them.

use std::{env, ffi::OsString, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    privilege::Privilege,
    screen::{Screen, Step},
    workspace,
};

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
    let missing: Vec<&str> = PACKAGES
        .into_iter()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted = missing.join(" ");
    let privilege = Privilege::get().with_context(|| format!("cannot install {wanted}"))?;
    screen.step(
        &Step::new("Reading Debian's package lists").usually("10 s"),
        &mut apt_get(privilege, &["update"]),
    )?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    let what = format!("Installing {wanted}");
    screen
        .step(&Step::new(&what).usually("1 to 3 minutes, 1 GB on disk"), &mut apt_get(privilege, &arguments))
        .context("these packages are in Debian 12 with its security updates; on another system use rustup's nightly and bpf-linker")
}

/// `apt-get` that waits for its lock and asks nothing.
fn apt_get(privilege: Privilege, arguments: &[&str]) -> Command {
    let mut command = privilege.command("env");
    command
        .args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .args(arguments);
    command
}

fn is_installed(package: &str) -> bool {
    let status = super::output(Command::new("dpkg-query").args([
        "-W",
        "-f",
        "${db:Status-Status}",
        package,
    ]));
    status.as_deref() == Some("installed")
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

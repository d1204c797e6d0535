//! The first way: rustup's nightly with `rust-src`. Where the network is missing it must give up soon.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    screen::{Screen, Step},
    workspace,
};

/// A program of the nightly tool chain.
pub(super) fn command(program: &str) -> Command {
    let mut command = workspace::outside_cargo("rustup");
    command.args(["run", "nightly", program]);
    command
}

/// Adds what is missing: the tool chain, the sources of its library.
pub(super) fn set_up(screen: Screen) -> Result<()> {
    if workspace::find_program("rustup").is_none() {
        bail!("rustup is not installed");
    }
    let Some(sysroot) = super::output(command("rustc").args(["--print", "sysroot"])) else {
        let mut install = workspace::outside_cargo("rustup");
        install.args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
            "--no-self-update",
        ]);
        let step = Step::new("Installing rustup's nightly with rust-src")
            .usually("1 minute")
            .limit(Duration::from_secs(300));
        return screen
            .step(&step, &mut install)
            .context("cannot install the nightly tool chain");
    };
    if Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core")
        .exists()
    {
        return Ok(());
    }
    let mut add = workspace::outside_cargo("rustup");
    add.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    let step = Step::new("Adding rust-src to rustup's nightly")
        .usually("5 s")
        .limit(Duration::from_secs(60));
    screen
        .step(&step, &mut add)
        .context("cannot add rust-src to the nightly tool chain")
}

//! `cargo xtask run`: builds as whoever calls, then hands over to the demo, which is root's.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::{build, demo, privilege::Privilege, screen::Screen, toolchain::Choice, workspace};

/// Builds, and becomes the demo. It starts anew in a process of one thread, as making namespaces needs.
pub fn run(screen: Screen, choice: Choice, options: &demo::Options) -> Result<ExitCode> {
    let privilege = Privilege::get().context("the demo makes network namespaces of its own")?;
    for (program, package) in [("ip", "iproute2"), ("iptables-restore", "iptables")] {
        if workspace::find_program(program).is_none() {
            screen.warn(&format!(
                "{program} is not installed, and the demo may need it: install {package}"
            ));
        }
    }
    screen.heading("Building");
    let built = build::run(screen, choice, false)?;
    let mut command: Command = privilege.command(workspace::this_program()?);
    command
        .arg("demo")
        .arg("--agent")
        .arg(&built.agent)
        .args(["--mode", options.mode.name()]);
    command.args(["--requests", &options.requests.to_string()]);
    if options.once {
        command.arg("--once");
    }
    if let Some(missing) = &built.without_ebpf {
        command.args(["--without-ebpf", &missing.reason]);
    }
    Err(command.exec()).context("cannot start the demo")
}

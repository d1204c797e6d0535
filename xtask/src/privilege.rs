//! Who we are, and how to become root without asking: directly, or through `sudo`.

use std::{
    ffi::OsStr,
    io::{self, IsTerminal},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::workspace;

/// How a command gets to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// We are root.
    Root,
    /// `sudo` lets us.
    Sudo,
}

impl Privilege {
    /// Finds out, and lets `sudo` ask for its password only where somebody can answer.
    pub fn get() -> Result<Self> {
        if geteuid().is_root() {
            return Ok(Self::Root);
        }
        if workspace::find_program("sudo").is_none() {
            bail!("this needs root, and there is no sudo: run the same command as root");
        }
        if sudo(&["-n", "true"]) || (io::stdin().is_terminal() && sudo(&["-v"])) {
            return Ok(Self::Sudo);
        }
        bail!(
            "this needs root, and sudo wants a password that nobody is there to type: run the same command as root"
        )
    }

    /// A command that will run as root. Of the environment it gets what is about the screen and about us.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["-n", "--", "env"]);
                for name in [
                    "NO_COLOR",
                    "TERM",
                    "LANG",
                    "RUST_LOG",
                    "RUST_BACKTRACE",
                    "CARGO_TARGET_DIR",
                    "DEBIAN_FRONTEND",
                ] {
                    if let Ok(value) = std::env::var(name) {
                        command.arg(format!("{name}={value}"));
                    }
                }
                command.arg(program);
                command
            }
        }
    }
}

fn sudo(args: &[&str]) -> bool {
    let mut command = Command::new("sudo");
    command.args(args);
    if args == ["-n", "true"] {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    }
    command.status().is_ok_and(|status| status.success())
}

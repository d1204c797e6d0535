//! `cargo xtask exec POD [-- COMMAND]`: a shell, or a command, inside a pod of the demo that runs.

use std::{
    ffi::OsString,
    fs::File,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::{demo::place::Place, privilege::Privilege, screen::Screen, workspace};

/// Enters the pod and runs the command there; its exit code is ours.
pub fn run(screen: Screen, pod: &str, command: &[OsString]) -> Result<ExitCode> {
    if Privilege::get()? == Privilege::Sudo {
        let mut again = Privilege::Sudo.command(workspace::this_program()?);
        again.arg("exec").arg(pod).arg("--").args(command);
        return Err(again.exec()).context("cannot start sudo");
    }
    let (place, count) = Place::find()?;
    if count > 1 {
        screen.warn(&format!(
            "{count} demos run; this is the one that started last"
        ));
    }
    let holder = place.holder(pod)?;
    let namespace = |kind: &str| {
        let path = format!("/proc/{holder}/ns/{kind}");
        File::open(&path).with_context(|| format!("cannot open {path}"))
    };
    // All are opened before the first is entered: the others would be out of reach from there.
    let (pids, net, mounts) = (namespace("pid")?, namespace("net")?, namespace("mnt")?);
    for (file, kind) in [
        (pids, CloneFlags::CLONE_NEWPID),
        (net, CloneFlags::CLONE_NEWNET),
        (mounts, CloneFlags::CLONE_NEWNS),
    ] {
        setns(file, kind).with_context(|| format!("cannot enter pod {pod}"))?;
    }
    let mut inside = match command.split_first() {
        Some((program, arguments)) => {
            let mut inside = Command::new(program);
            inside.args(arguments);
            inside
        }
        None => shell(pod),
    };
    let status = inside
        .current_dir(&place.manifests)
        .status()
        .with_context(|| {
            format!(
                "cannot start {} in pod {pod}",
                inside.get_program().display()
            )
        })?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn shell(pod: &str) -> Command {
    let mut command = match workspace::find_program("bash") {
        Some(bash) => {
            let mut command = Command::new(bash);
            command.arg("--norc");
            command
        }
        None => Command::new("sh"),
    };
    command.env("PS1", format!("[{pod}] # "));
    command
}

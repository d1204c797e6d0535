//! `cargo xtask bench`: what the mesh costs, beside no mesh at all and beside other proxies behind the same chains.
//! Every round runs every subject in turn on the same machine, so what disturbs one disturbs its neighbours; what is
//! reported of throughput is the median of the ratios to the direct connection of the same round.

mod cost;
mod inside;
mod load;
mod report;
mod subject;

use std::{os::unix::process::CommandExt, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::subject::Subject;
use crate::{build, envoy, privilege::Privilege, screen::Screen, toolchain::Choice, workspace};

/// What may be asked of the bench.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How long each measurement takes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// How many rounds; each runs every subject
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Only these, beside the direct connection
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Subject>,
}

/// What the bench needs besides, found or built before it becomes root.
#[derive(Debug, Clone, Args)]
pub struct Tools {
    /// The agent, optimised
    #[arg(long)]
    pub agent: PathBuf,
    /// Envoy, if there is one
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// Where the results go
    #[arg(long)]
    pub results: PathBuf,
    /// Why there is no eBPF mode
    #[arg(long)]
    pub without_ebpf: Option<String>,
}

pub use inside::run as run_inside;

/// Builds, finds the others, and becomes the bench. It starts anew in a process of one thread, as making namespaces
/// needs.
pub fn run(screen: Screen, choice: Choice, options: &Options) -> Result<ExitCode> {
    let privilege = Privilege::get().context("the bench makes network namespaces of its own")?;
    for (program, package) in [("wrk", "wrk"), ("nginx", "nginx-light"), ("ip", "iproute2")] {
        if workspace::find_program(program).is_none() {
            bail!("the bench needs {program}: apt-get install {package}");
        }
    }
    screen.heading("Building");
    let built = build::run(screen, choice, true)?;
    let wanted = |subject| options.only.is_empty() || options.only.contains(&subject);
    let envoy = if wanted(Subject::Envoy) {
        find_envoy(screen)
    } else {
        None
    };
    let mut command = privilege.command(workspace::this_program()?);
    command
        .arg("bench-inside")
        .arg("--agent")
        .arg(&built.agent)
        .arg("--results")
        .arg(workspace::target().join("bench"));
    command.args([
        "--seconds",
        &options.seconds.to_string(),
        "--rounds",
        &options.rounds.to_string(),
    ]);
    for subject in &options.only {
        command.args(["--only", subject.name()]);
    }
    if let Some(envoy) = envoy {
        command.arg("--envoy").arg(envoy);
    }
    if let Some(missing) = &built.without_ebpf {
        command.args(["--without-ebpf", &missing.reason]);
    }
    Err(command.exec()).context("cannot start the bench")
}

fn find_envoy(screen: Screen) -> Option<PathBuf> {
    match envoy::any(screen) {
        Ok(path) => Some(path),
        Err(error) => {
            screen.warn(&format!("Envoy is left out: {error:#}"));
            None
        }
    }
}

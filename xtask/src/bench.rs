//! `cargo xtask bench`: what the mesh costs, beside no mesh at all and beside other proxies behind the same chains.
//! Every round runs every subject in turn on the same machine, so what disturbs one disturbs its neighbours; what is
//! reported of throughput is the median of the ratios to the direct connection of the same round. Before all that, what
//! decisions cost, which needs no network.

mod cost;
mod decide;
mod inside;
mod load;
mod memory;
mod report;
mod subject;

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum, builder::PossibleValue};

use self::{report::Report, subject::Subject};
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
    /// Only these; proxies beside the direct connection
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
}

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Decisions.
    Decide,
    /// The agent's memory.
    Memory,
    /// A proxy on the way.
    Subject(Subject),
}

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Part; 11] = [
            Part::Decide,
            Part::Memory,
            Part::Subject(Subject::Direct),
            Part::Subject(Subject::Iptables),
            Part::Subject(Subject::Ebpf),
            Part::Subject(Subject::Applications),
            Part::Subject(Subject::Both),
            Part::Subject(Subject::BothTcp),
            Part::Subject(Subject::Envoy),
            Part::Subject(Subject::Nginx),
            Part::Subject(Subject::Haproxy),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Decide => {
                Some(PossibleValue::new("decide").help("What decisions cost, without any network"))
            }
            Self::Memory => Some(
                PossibleValue::new("memory")
                    .help("What the agent keeps in memory, with few objects and with many"),
            ),
            Self::Subject(subject) => subject.to_possible_value(),
        }
    }
}

impl Options {
    /// Whether a proxy is wanted.
    fn wants(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&Part::Subject(subject))
    }

    /// Whether the agent's memory is wanted.
    fn wants_memory(&self) -> bool {
        self.only.is_empty() || self.only.contains(&Part::Memory)
    }

    /// Whether any proxy is, beside which there is the direct connection.
    fn wants_traffic(&self) -> bool {
        Subject::ALL.into_iter().any(|subject| self.wants(subject))
    }
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
    /// What decisions cost, if that was measured: a file
    #[arg(long)]
    pub decisions: Option<PathBuf>,
}

pub use inside::run as run_inside;

/// Builds, finds the others, and becomes the bench. It starts anew in a process of one thread, as making namespaces
/// needs.
pub fn run(screen: Screen, choice: Choice, options: &Options) -> Result<ExitCode> {
    let results = workspace::target().join("bench");
    if options.only == [Part::Decide] {
        return decide_alone(screen, &results);
    }
    let privilege = Privilege::get().context("the bench makes network namespaces of its own")?;
    for (program, package) in [("wrk", "wrk"), ("nginx", "nginx-light"), ("ip", "iproute2")] {
        let needed = options.wants_traffic() || program == "ip";
        if needed && workspace::find_program(program).is_none() {
            bail!("the bench needs {program}: apt-get install {package}");
        }
    }
    screen.heading("Building");
    let built = build::run(screen, choice, true)?;
    let decisions = if options.only.is_empty() || options.only.contains(&Part::Decide) {
        let decisions = decide::measure(screen)?;
        screen.heading("Decisions");
        println!("{}", decisions.table());
        fs::create_dir_all(&results)?;
        let file = results.join("decisions.json");
        fs::write(&file, serde_json::to_string(&decisions)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Some(file)
    } else {
        None
    };
    let envoy = if options.wants(Subject::Envoy) {
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
        .arg(&results);
    command.args([
        "--seconds",
        &options.seconds.to_string(),
        "--rounds",
        &options.rounds.to_string(),
    ]);
    for part in &options.only {
        match part {
            Part::Decide => {}
            Part::Memory => _ = command.args(["--only", "memory"]),
            Part::Subject(subject) => _ = command.args(["--only", subject.name()]),
        }
    }
    if let Some(decisions) = decisions {
        command.arg("--decisions").arg(decisions);
    }
    if let Some(envoy) = envoy {
        command.arg("--envoy").arg(envoy);
    }
    if let Some(missing) = &built.without_ebpf {
        command.args(["--without-ebpf", &missing.reason]);
    }
    Err(command.exec()).context("cannot start the bench")
}

/// Measures decisions, and nothing else.
fn decide_alone(screen: Screen, results: &Path) -> Result<ExitCode> {
    let load = inside::load_average();
    if load.is_some_and(|load| load > 0.5) {
        screen.warn(inside::BUSY);
    }
    let decisions = decide::measure(screen)?;
    screen.heading("Decisions");
    println!("{}", decisions.table());
    let report = Report {
        conditions: inside::machine(load)?,
        measurements: Vec::new(),
        memory: Vec::new(),
        decisions: Some(decisions),
    };
    for condition in &report.conditions {
        screen.note(condition);
    }
    let files = report.write(results, &inside::stamp()?)?;
    screen.line(&format!("Kept in {} and .md", files[0].display()));
    Ok(ExitCode::SUCCESS)
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

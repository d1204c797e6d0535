//! `cargo xtask bench`: what the mesh costs, beside no mesh at all and beside other proxies behind the same chains.
//! Every round runs every subject in turn on the same machine, so what disturbs one disturbs its neighbours; what is
//! reported of throughput is the median of the ratios to the direct connection of the same round. Before all that, what
//! decisions cost, which needs no network.

mod bulk;
mod calls;
mod cost;
mod decide;
mod idle;
mod inside;
mod load;
mod memory;
mod report;
mod section;
mod subject;
mod versions;
mod workers;

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum, builder::PossibleValue};

use self::{report::Report, subject::Subject};
use crate::{
    build, envoy,
    privilege::Privilege,
    screen::{Screen, Step},
    toolchain::Choice,
    workspace,
};

/// What may be asked of the bench.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How long each measurement takes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// How many rounds; each runs every subject
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Only these; proxies beside the direct connection, or, with bulk, http2, grpc, idle or workers, for those alone
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
    /// Much at once.
    Bulk,
    /// Small answers by HTTP/2.
    Http2,
    /// Unary calls.
    Grpc,
    /// Connections that are idle.
    Idle,
    /// Two workers beside one.
    Workers,
    /// A proxy on the way.
    Subject(Subject),
}

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Part; 17] = [
            Part::Decide,
            Part::Memory,
            Part::Bulk,
            Part::Http2,
            Part::Grpc,
            Part::Idle,
            Part::Workers,
            Part::Subject(Subject::Direct),
            Part::Subject(Subject::Iptables),
            Part::Subject(Subject::Ebpf),
            Part::Subject(Subject::FastPath),
            Part::Subject(Subject::BothPods),
            Part::Subject(Subject::BothPodsTwice),
            Part::Subject(Subject::BothPodsFast),
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
            Self::Bulk => {
                Some(PossibleValue::new("bulk").help("A gigabyte by plain TCP, and by HTTP/1.1"))
            }
            Self::Http2 => Some(PossibleValue::new("http2").help("Small answers by HTTP/2")),
            Self::Grpc => Some(PossibleValue::new("grpc").help("Unary calls of gRPC")),
            Self::Idle => Some(
                PossibleValue::new("idle").help("What a connection costs that is kept and idle"),
            ),
            Self::Workers => {
                Some(PossibleValue::new("workers").help("Two workers of the agent beside one"))
            }
            Self::Subject(subject) => subject.to_possible_value(),
        }
    }
}

impl Options {
    /// Whether a proxy is wanted, or was not asked to be left out.
    fn needs(&self, subject: Subject) -> bool {
        let named = |part: &Part| matches!(part, Part::Subject(_));
        match self.only.iter().any(named) {
            true => self.only.contains(&Part::Subject(subject)),
            false => self.wants_traffic() || self.only.iter().any(|part| part.has_subjects()),
        }
    }

    /// Whether the agent's memory is wanted.
    fn wants_memory(&self) -> bool {
        self.wants_part(Part::Memory)
    }

    /// Whether a part is wanted.
    fn wants_part(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Whether small answers by HTTP/1.1 are wanted: always where a proxy is named for nothing else.
    fn wants_traffic(&self) -> bool {
        let named = |part: &Part| matches!(part, Part::Subject(_));
        let for_others = self.only.iter().any(|part| part.has_subjects());
        self.only.is_empty() || self.only.iter().any(named) && !for_others
    }

    /// Whether something is wanted beside which the direct connection is measured.
    fn needs_direct(&self) -> bool {
        let beside = [Part::Bulk, Part::Http2, Part::Grpc];
        self.wants_traffic() || beside.into_iter().any(|part| self.wants_part(part))
    }

    /// Whether the server of our own is needed.
    fn needs_backend(&self) -> bool {
        let parts = [Part::Bulk, Part::Http2, Part::Grpc];
        parts.into_iter().any(|part| self.wants_part(part))
    }
}

impl Part {
    /// Whether it is measured of several proxies, and not by itself.
    fn has_subjects(self) -> bool {
        match self {
            Self::Bulk | Self::Http2 | Self::Grpc | Self::Idle | Self::Workers => true,
            Self::Decide | Self::Memory | Self::Subject(_) => false,
        }
    }

    /// As the command line has it.
    fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Memory => "memory",
            Self::Bulk => "bulk",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Idle => "idle",
            Self::Workers => "workers",
            Self::Subject(subject) => subject.name(),
        }
    }
}

/// What the bench needs besides, found or built before it becomes root.
#[derive(Debug, Clone, Args)]
pub struct Tools {
    /// The agent, optimised
    #[arg(long)]
    pub agent: PathBuf,
    /// The server of what is much at once, and of HTTP/2, if it is needed
    #[arg(long)]
    pub backend: Option<PathBuf>,
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
    let small = options.wants_traffic()
        || options.wants_part(Part::Workers)
        || options.wants_part(Part::Idle);
    let calls = options.wants_part(Part::Http2) || options.wants_part(Part::Grpc);
    for (program, package, needed) in [
        ("ip", "iproute2", true),
        ("wrk", "wrk", small),
        ("nginx", "nginx-light", small),
        ("h2load", "nghttp2-client", calls),
        ("nghttp", "nghttp2-client", calls),
    ] {
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
    let backend = match options.needs_backend() {
        true => Some(build_backend(screen)?),
        false => None,
    };
    let envoy = if options.needs(Subject::Envoy) {
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
        // Measured already.
        if *part != Part::Decide {
            command.args(["--only", part.name()]);
        }
    }
    if let Some(decisions) = decisions {
        command.arg("--decisions").arg(decisions);
    }
    if let Some(backend) = backend {
        command.arg("--backend").arg(backend);
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
        sections: Vec::new(),
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

/// The server of our own, optimised.
fn build_backend(screen: Screen) -> Result<PathBuf> {
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--package", "mesh-agent"]);
    command.args(["--example", "backend"]);
    let step = Step::new("Building the server").usually("3 to 5 minutes the first time");
    screen
        .step(&step, &mut command)
        .context("the bench's server does not build")?;
    Ok(workspace::target().join("release/examples/backend"))
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

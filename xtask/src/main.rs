//! Every developer and CI task: `cargo xtask <verb>`. One file per verb; this one reads the command line and maps the
//! outcome to the exit code.

mod bench;
mod build;
mod check;
mod cluster;
mod debian;
mod demo;
mod ebpf;
mod envoy;
mod exec;
mod forward;
mod helm;
mod http;
mod image;
mod privilege;
mod pypi;
mod run;
mod scratch;
mod screen;
mod serve;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{screen::Screen, toolchain::Choice};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Every task of this repository",
    disable_help_subcommand = true
)]
struct Arguments {
    /// Which tool chain makes the BPF programs
    #[arg(long, global = true, value_enum, default_value_t = Choice::Auto, env = "MESH_TOOLCHAIN")]
    toolchain: Choice,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the BPF programs and the agent
    Build {
        /// Optimised
        #[arg(long)]
        release: bool,
    },
    /// Build what a container image of the agent is made of: one static binary, and a Dockerfile
    Image,
    /// Show the walkthrough on a network of its own (as root, or through sudo)
    Run(demo::Options),
    /// Enter a pod of the demo that runs: client, user-app-v1, user-app-v2, istio-ingressgateway, node, outside
    Exec {
        /// The pod
        pod: String,
        /// What to run there; a shell if nothing is named
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Run every test: unit, documentation, and the real ones in namespaces (as root, or through sudo)
    Test {
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Measure what the mesh costs, beside no mesh and other proxies (as root, or through sudo)
    Bench(bench::Options),
    /// A real Kubernetes of one node on this machine, from Debian's packages (as root, or through sudo)
    #[command(subcommand)]
    Cluster(cluster::Action),
    /// Check formatting, lints, dependencies, and the rules that the compiler does not know
    Check,
    /// The demo itself, once everything is built
    #[command(hide = true)]
    Demo {
        #[command(flatten)]
        options: demo::Options,
        #[arg(long)]
        agent: PathBuf,
        #[arg(long)]
        without_ebpf: Option<String>,
    },
    /// The bench itself, once everything is built
    #[command(hide = true)]
    BenchInside {
        #[command(flatten)]
        options: bench::Options,
        #[command(flatten)]
        tools: bench::Tools,
    },
    /// A web server with the files of a folder
    #[command(hide = true)]
    Serve { folder: PathBuf, port: u16 },
    /// A port that leads elsewhere
    #[command(hide = true)]
    Forward { port: u16, target: SocketAddr },
    /// Removes a folder when its standard input ends
    #[command(hide = true)]
    RemoveAtEnd { folder: PathBuf },
}

fn main() -> ExitCode {
    if let Some(folder) = stand_in_for_nginx() {
        return told(serve::run(&folder, 80).map(|()| ExitCode::SUCCESS));
    }
    let arguments = Arguments::parse();
    told(run(&arguments))
}

fn told(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The Deployments' command starts `nginx`; where there is none, the demo puts this program in its place.
fn stand_in_for_nginx() -> Option<PathBuf> {
    let name = std::env::args_os().next()?;
    if Path::new(&name).file_name()? != "nginx" {
        return None;
    }
    std::env::var_os("MESH_DEMO_FOLDER").map(PathBuf::from)
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let screen = Screen::detect();
    match &arguments.verb {
        Verb::Build { release } => {
            let built = build::run(screen, arguments.toolchain, *release)?;
            screen.good(&built.agent.display().to_string());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Image => {
            let folder = image::run(screen, arguments.toolchain)?;
            image::tell(screen, &folder);
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run(options) => run::run(screen, arguments.toolchain, options),
        Verb::Exec { pod, command } => exec::run(screen, pod, command),
        Verb::Demo {
            options,
            agent,
            without_ebpf,
        } => demo::run(screen, options, agent, without_ebpf.as_deref()),
        Verb::Serve { folder, port } => serve::run(folder, *port).map(|()| ExitCode::SUCCESS),
        Verb::Forward { port, target } => forward::run(*port, *target).map(|()| ExitCode::SUCCESS),
        Verb::RemoveAtEnd { folder } => scratch::remove_at_end(folder).map(|()| ExitCode::SUCCESS),
        Verb::Test { filter } => test::run(screen, arguments.toolchain, filter.as_deref()),
        Verb::Bench(options) => bench::run(screen, arguments.toolchain, options),
        Verb::BenchInside { options, tools } => bench::run_inside(screen, options, tools),
        Verb::Cluster(action) => cluster::run(screen, action),
        Verb::Check => check::run(screen),
    }
}

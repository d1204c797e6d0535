//! Every developer and CI task: `cargo xtask <verb>`. One file per verb; this one reads the command line and maps the
//! outcome to the exit code.

mod build;
mod check;
mod ebpf;
mod privilege;
mod screen;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

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
    /// Run every test: unit, documentation, and the real ones in namespaces (as root, or through sudo)
    Test {
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Check formatting, lints, dependencies, and the rules that the compiler does not know
    Check,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let screen = Screen::detect();
    match &arguments.verb {
        Verb::Build { release } => {
            let built = build::run(screen, arguments.toolchain, *release)?;
            screen.good(&built.agent.display().to_string());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Test { filter } => test::run(screen, arguments.toolchain, filter.as_deref()),
        Verb::Check => check::run(screen),
    }
}

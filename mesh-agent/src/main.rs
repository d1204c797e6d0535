//! The command line of the agent.

use std::process::ExitCode;

use clap::Parser;
use mesh_agent::cli::{Cli, Command};
use mesh_agent::{agent, ask, cli, cni, gateway};

fn main() -> ExitCode {
    // A container runtime gives a plugin no arguments.
    if std::env::args_os().len() == 1 && cni::is_asked() {
        return cni::run();
    }
    let done = match Cli::parse().command {
        Command::Run(args) => agent::run(&args),
        Command::Gateway(args) => gateway::run(&args),
        Command::Iptables(command) => cli::iptables::run(command),
        Command::Analyze(args) => ask::analyze(&args),
        Command::Explain(args) => ask::explain(&args),
        Command::Inject(args) => ask::inject(&args),
        Command::Status(args) => ask::status(&args),
        Command::Config(args) => ask::config(&args),
        Command::Log(args) => ask::log(&args),
    };
    done.unwrap_or_else(|e| {
        eprintln!("mesh-agent: {e:#}");
        ExitCode::FAILURE
    })
}

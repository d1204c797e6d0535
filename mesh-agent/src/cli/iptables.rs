//! `mesh-agent iptables`: the chains by hand, with the flags of istio-iptables.
//!
//! This file is the commands; their flags become [`Options`] in `flags`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Subcommand, ValueEnum};

pub use crate::cli::iptables::flags::{Chains, ProfileFlag};
use crate::intercept::InterceptError;
use crate::intercept::iptables::apply;
use crate::intercept::iptables::command::Backend;
use crate::intercept::iptables::options::{BackendChoice, Options};
use crate::intercept::iptables::render::render;
use crate::intercept::iptables::rule::Family;
use crate::netns::NetNs;

mod flags;

/// Wrong usage.
const USAGE: u8 = 2;

/// Print, apply or remove the chains that steer a pod's TCP connections to the proxy.
///
/// Without any flag these are the chains that Istio's injector sets up: everything outbound to port 15001, everything
/// inbound to port 15006, except for the proxy's own ports and the proxy's own connections (user and group 1337).
#[derive(Clone, Debug, Subcommand)]
pub enum IptablesCommand {
    /// Show the rules, as input for iptables-restore and ip6tables-restore. Changes nothing, needs no rights.
    #[command(after_help = "\
Examples:
  mesh-agent iptables print
  mesh-agent iptables print --profile current -o 3306,6379 -x 10.0.0.0/8")]
    Print(Chains),
    /// Put the rules in force in a network namespace. A second time changes nothing; what was lost is put back.
    #[command(after_help = "\
Connections that are open already stay as they are: new ones are steered.

Examples:
  mesh-agent iptables apply --netns /run/netns/web
  mesh-agent iptables apply --netns /proc/4711/ns/net -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' -d 15090,15021,15020")]
    Apply(Change),
    /// Remove every chain and jump of the mesh, of both backends and both IP families. Other people's rules stay.
    #[command(after_help = "\
Connections that go through the proxy break now. Exclude interfaces (-c, -k) are removed too where they were given here
or the rules were applied on this machine.

Example:
  mesh-agent iptables clean --netns /run/netns/web")]
    Clean(Change),
}

/// A namespace and its chains.
#[derive(Clone, Debug, Args)]
pub struct Change {
    /// The network namespace: a file in /run/netns or /proc/PID/ns/net. Without it, the one that this command runs in.
    #[arg(long, visible_alias = "network-namespace", value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// Which iptables keeps the rules; `auto` is legacy where legacy rules are already, otherwise nft.
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendFlag,
    /// Print the rules instead.
    #[arg(short = 'n', long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub dry_run: bool,
    /// Remove the rules instead of applying them, as `clean` does.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub cleanup_only: bool,
    /// Repair rules that differ. This is what `apply` always does; the flag is accepted for istio-iptables' sake.
    #[arg(long, hide_short_help = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub reconcile: bool,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would replace the help of the flattened flags"
    )]
    pub chains: Chains,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendFlag {
    /// Whichever the namespace's rules already live in.
    Auto,
    /// nf_tables.
    Nft,
    /// x_tables.
    Legacy,
}

impl From<BackendFlag> for BackendChoice {
    fn from(flag: BackendFlag) -> Self {
        match flag {
            BackendFlag::Auto => Self::Auto,
            BackendFlag::Nft => Self::Forced(Backend::Nft),
            BackendFlag::Legacy => Self::Forced(Backend::Legacy),
        }
    }
}

/// Does what the command says. 0: done; 1: failed; 2: the flags make no sense.
pub fn run(command: IptablesCommand) -> anyhow::Result<ExitCode> {
    let (chains, change, clean) = match command {
        IptablesCommand::Print(chains) => (chains, None, false),
        IptablesCommand::Apply(change) => {
            let clean = change.cleanup_only;
            (change.chains.clone(), Some(change), clean)
        }
        IptablesCommand::Clean(change) => (change.chains.clone(), Some(change), true),
    };
    let backend = change.as_ref().map(|c| c.backend);
    let options = match chains.options(backend.unwrap_or(BackendFlag::Auto)) {
        Ok(options) => options,
        Err(problems) => {
            eprintln!("error: these flags do not work:");
            for problem in problems {
                eprintln!("  {problem}");
            }
            eprintln!("\nFor the flags, try 'mesh-agent iptables apply --help'.");
            return Ok(ExitCode::from(USAGE));
        }
    };
    match change {
        None => print(&options)?,
        // A cleanup has no rules to show; what it would remove is only known in the namespace.
        Some(change) if change.dry_run && !clean => print(&options)?,
        Some(change) if change.dry_run => {
            println!("# would remove every chain and jump of the mesh");
        }
        Some(change) => {
            let netns = open(change.netns.as_deref())?;
            if !clean && change.netns.is_none() && is_machines(&netns) {
                eprintln!(
                    "error: this is the machine's own network namespace: all of its connections would be sent to a \
                     proxy.\nGive the pod's with --netns, a file in /run/netns or /proc/PID/ns/net."
                );
                return Ok(ExitCode::from(USAGE));
            }
            if clean {
                let removed = apply::clean(&netns, &options).map_err(told)?;
                println!(
                    "{}",
                    if removed {
                        "removed"
                    } else {
                        "nothing to remove"
                    }
                );
            } else {
                let applied = apply::apply(&netns, &options).map_err(told)?;
                let done = if applied.changed {
                    "applied"
                } else {
                    "unchanged"
                };
                println!("{done} ({} backend)", applied.backend);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(options: &Options) -> anyhow::Result<()> {
    let mut text = String::new();
    for rules in render(options).families() {
        let (family, program) = match rules.family {
            Family::V4 => ("IPv4", "iptables-restore"),
            Family::V6 => ("IPv6", "ip6tables-restore"),
        };
        text.push_str(&format!(
            "# {family}: input for `{program} --noflush`, in a namespace without these chains\n"
        ));
        text.push_str(&rules.to_restore());
    }
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read it has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("printing the rules"),
    }
}

/// Whether this is the machine's own network namespace, as far as can be told.
fn is_machines(netns: &NetNs) -> bool {
    // The kernel gives its first process namespace this number always, and its first network namespace since 6.18.
    // In a container, process 1 is the container's own.
    let first =
        fs::read_link("/proc/self/ns/pid").is_ok_and(|p| p == Path::new("pid:[4026531836]"));
    let process_1 = NetNs::open(Path::new("/proc/1/ns/net"));
    netns.id().inode == 4_026_531_833 || first && process_1.is_ok_and(|n| n.id() == netns.id())
}

fn open(path: Option<&Path>) -> anyhow::Result<NetNs> {
    match path {
        Some(path) => NetNs::open(path).with_context(|| {
            format!(
                "opening the network namespace {}; give a file in /run/netns or /proc/PID/ns/net",
                path.display()
            )
        }),
        None => NetNs::current().context("opening the current network namespace"),
    }
}

fn told(e: InterceptError) -> anyhow::Error {
    match nix::unistd::geteuid().is_root() {
        true => e.into(),
        false => anyhow::Error::from(e).context("changing iptables rules needs root; try sudo"),
    }
}

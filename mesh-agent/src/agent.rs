//! The node agent: builds its parts, wires them, starts them in order, and takes them down again.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use tracing::{info, warn};

use crate::cli::{FastPathChoice, ModeChoice, RunArgs};
use crate::intercept::Interceptor;
use crate::intercept::ebpf::{self, Ebpf, FastPathFor};
use crate::intercept::iptables::{self, Iptables};
use crate::intercept::journal::RUN;
use crate::intercept::succession::{Places, Successor};
use crate::model::{CapturePolicy, Topology};
use crate::pod::{self, Pods};
use crate::process::{Identity, Process};
use crate::sys::memory;

/// `mesh-agent run`: serves until it is told to end, and leaves nothing behind.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let process = Process::start(&args.process, capture_defaults(args), Topology::default())?;
    let node = args.node.clone().map_or_else(host_name, Ok)?;
    let (interceptor, reason) =
        choose(args).map_err(|e| match nix::unistd::geteuid().is_root() {
            true => e,
            false => e.context("steering the connections of pods needs root; try sudo"),
        })?;
    info!(%node, mode = %interceptor.mode(), %reason, "mesh-agent {}", env!("CARGO_PKG_VERSION"));
    let successor = Arc::new(Successor::new(
        interceptor,
        Places {
            pin_dir: args.bpffs.clone(),
            ..Places::default()
        },
    ));

    let pods = Pods::new(
        Arc::<Successor>::clone(&successor),
        Arc::clone(&process.workers),
        process.runtime.handle().clone(),
        args.process.drain,
    );
    // Not held: when the last who holds it lets go, everything is undone.
    let asked = Arc::downgrade(&successor);
    let mode = Some((successor.mode().to_string(), reason));
    let mut not_ready = Some(process.ready.hold("the pods of this node"));
    let mut swept = false;
    let enrolled = move |complete: bool| {
        // Whatever predecessors that died left in other pods goes now that ours are steered.
        if !std::mem::replace(&mut swept, true)
            && let Err(e) = successor.sweep()
        {
            warn!(
                error = &e as &dyn std::error::Error,
                "something of an agent that is gone remains"
            );
        }
        if complete {
            drop(not_ready.take());
        }
    };
    let identity = Identity {
        role: "agent",
        name: node,
        mode,
        pods: pods.reports(),
        tallies: Arc::new(move || {
            let tallies = asked.upgrade().map(|asked| asked.tallies());
            tallies.and_then(Result::ok).unwrap_or_default()
        }),
    };
    let running = process.announce(identity);

    // Enrolment makes blocking system calls and enters other namespaces, so it has this thread for itself.
    let shutdown = running.shutdown.clone();
    running
        .runtime
        .block_on(pod::run(pods, running.snapshots, enrolled, async move {
            shutdown.asked().await;
        }));
    info!("every pod is as it was before; goodbye");
    Ok(ExitCode::SUCCESS)
}

/// The mode in force, and why, for people.
type Choice = (Arc<dyn Interceptor>, String);

fn choose(args: &RunArgs) -> anyhow::Result<Choice> {
    match args.mode {
        ModeChoice::Ebpf => {
            let ebpf = ebpf(args)
                .context("the eBPF mode cannot be had here; --mode iptables or --mode auto may")?;
            Ok((ebpf, "asked for with --mode ebpf".to_owned()))
        }
        ModeChoice::Iptables => {
            let iptables = iptables(args)
                .context("the iptables mode cannot be had here; --mode ebpf or --mode auto may")?;
            Ok((iptables, "asked for with --mode iptables".to_owned()))
        }
        ModeChoice::Auto => {
            let no_ebpf = match ebpf(args) {
                Ok(ebpf) => {
                    return Ok((ebpf, "the probe of the BPF programs succeeded".to_owned()));
                }
                Err(e) => e,
            };
            warn!(
                reason = format!("{no_ebpf:#}"),
                "no eBPF here; falling back to iptables"
            );
            match iptables(args) {
                Ok(iptables) => Ok((iptables, format!("eBPF cannot be had: {no_ebpf:#}"))),
                Err(no_iptables) => bail!(
                    "neither mode can be had here: eBPF: {no_ebpf:#}; iptables: {no_iptables:#}"
                ),
            }
        }
    }
}

fn ebpf(args: &RunArgs) -> anyhow::Result<Arc<dyn Interceptor>> {
    let options = ebpf::Options {
        pin_dir: args.bpffs.clone(),
        outbound_port: args.outbound_port,
        inbound_port: args.inbound_port,
        fast_path: match args.fast_path {
            FastPathChoice::On => FastPathFor::Agent,
            FastPathChoice::Off => FastPathFor::Nobody,
            FastPathChoice::Applications => FastPathFor::Applications,
        },
        ..ebpf::Options::default()
    };
    Ebpf::probe(&options)?;
    let ebpf = Ebpf::start(&options)?;
    // To load the programs the types of the whole kernel were read: some twenty megabytes that nobody needs again.
    memory::give_back();
    Ok(Arc::new(ebpf))
}

fn iptables(args: &RunArgs) -> anyhow::Result<Arc<dyn Interceptor>> {
    let settings = iptables::Settings {
        profile: args.iptables_profile.into(),
        backend: args.iptables_backend.into(),
        outbound_port: args.outbound_port,
        inbound_port: args.inbound_port,
    };
    settings.probe()?;
    Ok(Arc::new(Iptables::start(settings, Path::new(RUN))?))
}

fn capture_defaults(args: &RunArgs) -> CapturePolicy {
    CapturePolicy {
        source: args.source.into(),
        on_agent_loss: args.on_agent_loss.into(),
        ..CapturePolicy::default()
    }
}

fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("asking for the host name")?;
    Ok(name.to_string_lossy().into_owned())
}

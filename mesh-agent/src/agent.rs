//! The node agent: builds its parts, wires them, starts them in order, and takes them down again.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use tracing::{info, warn};

use crate::cli::{ModeChoice, RunArgs};
use crate::intercept::Interceptor;
use crate::intercept::ebpf::{self, Ebpf};
use crate::intercept::iptables::Iptables;
use crate::model::CapturePolicy;
use crate::pod::{self, Pods};
use crate::process::{Identity, Process};

/// `mesh-agent run`: serves until it is told to end, and leaves nothing behind.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let process = Process::start(&args.process, capture_defaults(args))?;
    let node = args.node.clone().map_or_else(host_name, Ok)?;
    let Choice {
        interceptor,
        sweep,
        reason,
    } = choose(args)?;
    info!(%node, mode = %interceptor.mode(), %reason, "mesh-agent {}", env!("CARGO_PKG_VERSION"));

    let pods = Pods::new(
        Arc::clone(&interceptor),
        Arc::clone(&process.workers),
        process.runtime.handle().clone(),
        args.process.drain,
    );
    let mut first_round = Some((process.ready.hold("the pods of this node"), sweep));
    let enrolled = move |complete: bool| {
        if let Some((_, sweep)) = &mut first_round {
            // Whatever a predecessor that died left steering these pods goes now that we steer them.
            if let Some(sweep) = sweep.take() {
                sweep();
            }
            if complete {
                first_round = None;
            }
        }
    };
    let mode = Some((interceptor.mode().to_string(), reason));
    let identity = Identity {
        role: "agent",
        name: node,
        mode,
        pods: pods.reports(),
    };
    let running = process.announce(identity);

    // Enrolment makes blocking system calls and enters other namespaces, so it has this thread for itself.
    let shutdown = running.shutdown.clone();
    running
        .runtime
        .block_on(pod::run(pods, running.snapshots, enrolled, async move {
            shutdown.asked().await
        }));
    info!("every pod is as it was before; goodbye");
    Ok(ExitCode::SUCCESS)
}

/// The mode in force.
struct Choice {
    interceptor: Arc<dyn Interceptor>,
    /// Clears away what dead predecessors left; to be called once the pods are enrolled.
    sweep: Option<Box<dyn FnOnce() + Send>>,
    /// For people.
    reason: String,
}

fn choose(args: &RunArgs) -> anyhow::Result<Choice> {
    match args.mode {
        ModeChoice::Ebpf => ebpf(args, "asked for with --mode ebpf".to_owned())
            .context("the eBPF mode cannot be had here; --mode iptables or --mode auto may"),
        ModeChoice::Iptables => iptables(args, "asked for with --mode iptables".to_owned())
            .context("the iptables mode cannot be had here; --mode ebpf or --mode auto may"),
        ModeChoice::Auto => {
            match ebpf(args, "the probe of the BPF programs succeeded".to_owned()) {
                Ok(choice) => Ok(choice),
                Err(no_ebpf) => {
                    warn!(
                        reason = format!("{no_ebpf:#}"),
                        "no eBPF here; falling back to iptables"
                    );
                    match iptables(args, format!("eBPF cannot be had: {no_ebpf:#}")) {
                        Ok(choice) => Ok(choice),
                        Err(no_iptables) => bail!(
                            "neither mode can be had here: eBPF: {no_ebpf:#}; iptables: {no_iptables:#}"
                        ),
                    }
                }
            }
        }
    }
}

fn ebpf(args: &RunArgs, reason: String) -> anyhow::Result<Choice> {
    let options = ebpf::Options {
        pin_dir: args.bpffs.clone(),
        outbound_port: args.outbound_port,
        inbound_port: args.inbound_port,
        ..ebpf::Options::default()
    };
    Ebpf::probe(&options)?;
    let ebpf = Arc::new(Ebpf::start(&options)?);
    let interceptor: Arc<dyn Interceptor> = Arc::<Ebpf>::clone(&ebpf);
    let sweep = move || {
        if let Err(e) = ebpf.sweep() {
            warn!(
                error = &e as &dyn std::error::Error,
                "something of an agent that is gone remains"
            );
        }
    };
    Ok(Choice {
        interceptor,
        sweep: Some(Box::new(sweep)),
        reason,
    })
}

fn iptables(args: &RunArgs, reason: String) -> anyhow::Result<Choice> {
    let iptables = Iptables {
        profile: args.iptables_profile.into(),
        backend: args.iptables_backend.into(),
        outbound_port: args.outbound_port,
        inbound_port: args.inbound_port,
    };
    iptables.probe()?;
    Ok(Choice {
        interceptor: Arc::new(iptables),
        sweep: None,
        reason,
    })
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

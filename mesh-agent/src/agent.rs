//! The node agent: builds its parts, wires them, starts them in order, and takes them down again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::cli::{FailChoice, FastPathChoice, ModeChoice, RunArgs, Switch};
use crate::cni::Loss;
use crate::cni::install::{self, Keeper};
use crate::config::Membership;
use crate::config::kube::outside::{self, Outsider};
use crate::config::kube::{Viewer, Watched};
use crate::intercept::Interceptor;
use crate::intercept::ebpf::{self, Ebpf, FastPathFor};
use crate::intercept::iptables::{self, Iptables};
use crate::intercept::journal::RUN;
use crate::intercept::succession::{Places, Successor};
use crate::model::{CapturePolicy, Topology};
use crate::pod::{self, Door, Newcomer, Pods, Reports};
use crate::process::{Identity, Process, Standing};
use crate::proxy::Settings;
use crate::sys::memory;

/// What an agent waits for that is not ready.
const PODS: &str = "the pods of this node";

/// How long a pod may be on its way into the mesh before the agent is not ready for it.
const ON_THE_WAY: Duration = Duration::from_secs(2);

/// Where an agent saves what the API server says.
const STATE: &str = "/var/lib/mesh-agent";

/// `mesh-agent run`: serves until it is told to end, and leaves nothing behind.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let node = args.node.clone().map_or_else(host_name, Ok)?;
    let standing = standing(args, node.as_str().into());
    let Some(process) = Process::start(&args.process, standing)? else {
        return Ok(ExitCode::SUCCESS);
    };
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
    let ready = process.ready.clone();
    let mut not_ready = Some(ready.hold(PODS));
    let mut incomplete: Option<Instant> = None;
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
            incomplete = None;
            drop(not_ready.take());
        } else if incomplete.get_or_insert_with(Instant::now).elapsed() >= ON_THE_WAY {
            // A pod outside the mesh should be seen, and not only by those who ask.
            not_ready.get_or_insert_with(|| ready.hold(PODS));
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
    let (name, reports) = (identity.name.clone(), identity.pods.clone());
    let running = process.announce(identity);
    if let Some(client) = running
        .client
        .clone()
        .filter(|_| args.write_status == Switch::On)
    {
        let look = move || outsiders(&reports);
        running.runtime.spawn(outside::tell(client, name, look));
    }

    let (plugin, newcomers) = plugin(args)?;
    if let Some(plugin) = &plugin {
        let keeper = Arc::clone(&plugin.keeper);
        running.runtime.spawn(install::keep(keeper));
    }
    // Enrolment makes blocking system calls and enters other namespaces, so it has this thread for itself.
    let shutdown = running.shutdown.clone();
    let asked = async move {
        shutdown.asked().await;
        if let Some(plugin) = plugin {
            plugin.withdraw();
        }
    };
    running.runtime.block_on(pod::run(
        pods,
        running.snapshots,
        newcomers,
        enrolled,
        asked,
    ));
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
            FastPathChoice::Agents => FastPathFor::Agent,
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

/// The pods of this node that ought to be in the mesh and are not.
fn outsiders(reports: &Reports) -> Vec<Outsider> {
    let outside = reports.get().into_iter().filter_map(|report| {
        let (namespace, name) = report.pod.split_once('/')?;
        Some(Outsider {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: report.uid.map(|uid| uid.to_string()),
            why: report.outside?,
        })
    });
    outside.collect()
}

/// The CNI plugin of this node, and where it asks.
struct Plugin {
    keeper: Arc<Keeper>,
    door: Door,
}

/// Begins to listen for the plugin, where it is asked for.
fn plugin(args: &RunArgs) -> anyhow::Result<(Option<Plugin>, mpsc::Receiver<Newcomer>)> {
    let (Some(configurations), Some(binaries)) = (&args.cni_net_dir, &args.cni_bin_dir) else {
        // Nobody will ask.
        return Ok((None, mpsc::channel(1).1));
    };
    let (door, newcomers) = Door::open(&args.cni_socket).with_context(|| {
        format!(
            "listening for the CNI plugin at {}",
            args.cni_socket.display()
        )
    })?;
    let program = std::env::current_exe().context("finding this program's file")?;
    let node = install::Node {
        configurations: configurations.clone(),
        binaries: binaries.clone(),
    };
    let entry = install::Entry {
        socket: args.cni_socket.clone(),
        on_agent_loss: match args.on_agent_loss {
            FailChoice::Open => Loss::Open,
            FailChoice::Refuse | FailChoice::Hold => Loss::Refuse,
        },
    };
    let keeper = Arc::new(Keeper::new(node, program, entry));
    Ok((Some(Plugin { keeper, door }), newcomers))
}

impl Plugin {
    /// Takes the plugin out of the chain, before there is nobody to ask; unless another agent has taken over.
    fn withdraw(self) {
        if !self.door.is_ours() {
            self.keeper.end();
            return;
        }
        if let Err(e) = self.keeper.withdraw() {
            warn!(
                error = &e as &dyn std::error::Error,
                "the CNI plugin is still in the node's chain: pods cannot begin until an agent runs or it is removed"
            );
        }
    }
}

fn standing(args: &RunArgs, node: Arc<str>) -> Standing {
    let saved = args.process.state_dir.clone();
    let watched = Watched {
        viewer: Viewer::Node(Arc::clone(&node)),
        saved: saved.or_else(|| Some(PathBuf::from(STATE))),
        herald: (args.write_status == Switch::On).then(|| node.to_string()),
    };
    Standing {
        origin: args.process.origin(watched),
        membership: match args.process.kubernetes {
            true => Membership::Asked {
                node,
                istio: args.istio_injection,
            },
            false => Membership::Placed,
        },
        capture: capture_defaults(args),
        topology: Topology::default(),
        settings: Settings {
            one_hop: match args.one_hop {
                Some(choice) => choice == Switch::On,
                None => !args.process.kubernetes,
            },
            ..Settings::default()
        },
    }
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

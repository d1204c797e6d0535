//! The walkthrough, told step by step on a network of its own. Every step says what was asked for and what came, and
//! what differs is remembered for the exit code.

mod cluster;
pub mod manifests;
pub mod place;
mod status;
mod steps;
mod traffic;

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use nix::sys::signal::{SigSet, Signal};

pub use self::cluster::wait_until;
use self::{
    cluster::Cluster,
    place::{Holder, Place},
};
use crate::{scratch::Scratch, screen::Screen};

const GATEWAY_HOST: &str = "user-app.com";

/// What may be asked of the demo.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How the pods' traffic is taken over
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,
    /// End after the last step: with 0, or with 1 and what differed
    #[arg(long)]
    pub once: bool,
    /// How many requests show the split
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,
}

/// The interception mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// eBPF where the kernel and the build have it, else iptables
    Auto,
    /// eBPF, or an error
    Ebpf,
    /// iptables
    Iptables,
}

impl Mode {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
        }
    }
}

/// Runs the demo, as root and before there is a second thread.
pub fn run(
    screen: Screen,
    options: &Options,
    agent: &Path,
    without_ebpf: Option<&str>,
) -> Result<ExitCode> {
    let scratch = Scratch::new("demo")?;
    let folder = scratch.path().to_owned();
    mesh_tests::isolate_and_supervise(|| {
        let stage = Stage {
            screen,
            options,
            without_ebpf,
            folder: &folder,
            differences: Vec::new(),
        };
        match stage.perform(agent) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        }
    })
}

struct Stage<'a> {
    screen: Screen,
    options: &'a Options,
    without_ebpf: Option<&'a str>,
    folder: &'a Path,
    differences: Vec<String>,
}

impl Stage<'_> {
    fn perform(mut self, agent: &Path) -> Result<ExitCode> {
        let signals = block_signals()?;
        // Until the demo stands, a signal ends it where it is; the supervisor takes everything down.
        let standing = Arc::new(AtomicBool::new(false));
        watch_signals(signals, standing.clone());

        let mut cluster = self.set_up(agent)?;
        self.show_mode(&cluster)?;
        self.show_split(&cluster)?;
        cluster.start_gateway()?;
        cluster.start_node_port()?;
        self.show_gateway(&cluster)?;
        self.show_rewrite(&cluster)?;
        let code = self.conclude();
        if !self.options.once {
            self.invite(&cluster);
            standing.store(code == ExitCode::SUCCESS, Ordering::Relaxed);
            loop {
                thread::park();
            }
        }
        Ok(code)
    }

    fn set_up(&self, agent: &Path) -> Result<Cluster> {
        let screen = self.screen;
        screen.heading("The cluster");
        let mut cluster = Cluster::new(self.folder, agent)?;
        hand_over(self.folder)?;
        let pods = cluster
            .pods()
            .map(|(pod, _)| Holder {
                pod: pod.name.clone(),
                pid: pod.holder_pid(),
            })
            .collect();
        Place::new(&cluster.manifests, pods).publish()?;
        if let Some(instead) = cluster.start_backends(self.folder)? {
            screen.warn(instead);
        }
        for (pod, what) in cluster.pods() {
            screen.line(&format!(
                "{:<22} {:<12} {:<10} {what}",
                pod.name, pod.ipv4, pod.ipv6
            ));
        }
        screen.line(&format!("Manifests: {}", cluster.manifests.display()));
        screen.note("All of this is in network namespaces of its own; this machine's network is as it was. The walkthrough's");
        screen.note("files are unchanged. The demo plays the rest of a cluster: it writes the Pods that the Deployments ask for,");
        screen.note(&format!("gives user-app-svc the address {} as the API server would (user-app-svc.allocated.yaml), and", cluster::SERVICE_IP));
        screen.note(&format!(
            "forwards port {} of the node to the gateway as kube-proxy would.",
            cluster::NODE_PORT
        ));
        cluster.start_agent(self.options.mode.name())?;
        Ok(cluster)
    }

    fn conclude(&self) -> ExitCode {
        self.screen.heading("Outcome");
        if self.differences.is_empty() {
            self.screen.good("everything is as the walkthrough has it");
            return ExitCode::SUCCESS;
        }
        for difference in &self.differences {
            self.screen.bad(difference);
        }
        ExitCode::FAILURE
    }

    fn invite(&self, cluster: &Cluster) {
        let screen = self.screen;
        screen.heading("Try it yourself, from another terminal");
        screen.typed("cargo xtask exec client -- curl -i http://user-app-svc");
        screen.typed(&format!(
            "cargo xtask exec outside -- curl -i -H 'Host: {GATEWAY_HOST}' {}",
            cluster.node_address()
        ));
        screen.typed("cargo xtask exec client        (a shell in the pod; also user-app-v1, user-app-v2, istio-ingressgateway, node, outside)");
        screen.typed(&format!(
            "$EDITOR {}        (an edit is live when it is saved)",
            cluster
                .manifests
                .join("user-app-virtualservice.yaml")
                .display()
        ));
        screen.typed(&format!("tail -f {}/agent.log", cluster.logs.display()));
        screen.line("Ctrl-C takes everything down.");
    }

    /// Runs curl in a pod and shows it as one types it. Without curl the built-in client asks, and says so.
    fn check(&mut self, holds: bool, what: &str) {
        if holds {
            self.screen.good(what);
        } else {
            self.screen.bad(what);
            self.differences.push(what.to_owned());
        }
    }
}

fn block_signals() -> Result<SigSet> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals.thread_block().context("cannot block signals")?;
    Ok(signals)
}

/// Ends the demo at the first signal: well, if it stands and all was as it should be.
fn watch_signals(signals: SigSet, well: Arc<AtomicBool>) {
    thread::spawn(move || {
        let signal = signals.wait();
        println!("\n   Taking everything down.");
        let code = match signal {
            Ok(_) if well.load(Ordering::Relaxed) => 0,
            Ok(signal) => 128 + signal as i32,
            Err(_) => 1,
        };
        std::process::exit(code);
    });
}

/// Gives the folder to the person who called `sudo`, so that the manifests can be edited without it.
fn hand_over(folder: &Path) -> Result<()> {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = vec![folder.join("manifests")];
    for entry in std::fs::read_dir(&paths[0])? {
        paths.push(entry?.path());
    }
    for path in paths {
        chown(&path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} away", path.display()))?;
    }
    Ok(())
}

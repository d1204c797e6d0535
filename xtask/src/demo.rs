//! The walkthrough, told step by step on a network of its own. Every step says what was asked for and what came, and
//! what differs is remembered for the exit code.

mod cluster;
mod manifests;
pub mod place;
mod status;
mod traffic;

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use mesh_tests::Pod;
use nix::sys::signal::{SigSet, Signal};

pub use self::cluster::wait_until;
use self::{
    cluster::Cluster,
    place::{Holder, Place},
    traffic::Tally,
};
use crate::{http, scratch::Scratch, screen::Screen, workspace};

const V1: &str = "user service for v1\n";
const V2: &str = "user service for v2\n";
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
        let standing = std::sync::Arc::new(AtomicBool::new(false));
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

    fn show_mode(&mut self, cluster: &Cluster) -> Result<()> {
        let screen = self.screen;
        let status = cluster.status()?;
        screen.section(1, "The mode in force, and why");
        screen.line(&format!("{}: {}", status.mode, status.mode_reason));
        if let Some(reason) = self.without_ebpf {
            screen.note(&format!(
                "This agent was built without the BPF programs: {reason}"
            ));
        }
        for pod in &status.pods {
            screen.line(&format!(
                "{:<40} {:<10} {}",
                pod.pod,
                pod.mode.as_deref().unwrap_or("-"),
                pod.state
            ));
        }
        self.check(
            self.options.mode == Mode::Auto || status.mode == self.options.mode.name(),
            &format!(
                "the mode asked for is in force ({})",
                self.options.mode.name()
            ),
        );
        for rejected in &status.rejected {
            self.check(false, &format!("a manifest was not taken: {rejected}"));
        }
        if status.mode == "iptables" {
            screen.typed("iptables -t nat -S        (in pod client)");
            let output = cluster
                .client
                .command("iptables")
                .args(["-t", "nat", "-S"])
                .output()
                .context("cannot run iptables")?;
            screen.block(&String::from_utf8_lossy(&output.stdout));
            self.check(
                output.status.success() && !output.stdout.is_empty(),
                "the pod has its chains",
            );
        }
        Ok(())
    }

    fn show_split(&mut self, cluster: &Cluster) -> Result<()> {
        let screen = self.screen;
        let count = self.options.requests;
        screen.section(
            2,
            &format!(
                "{} requests to http://user-app-svc from the client pod",
                thousands(u64::from(count))
            ),
        );
        self.show_curl(
            &cluster.client,
            &["http://user-app-svc"],
            "user-app-svc:80",
            "user-app-svc",
        )?;
        let started = Instant::now();
        let tally = cluster
            .client
            .run(|| traffic::requests("user-app-svc:80", "user-app-svc", count as usize))?;
        let took = started.elapsed();
        screen.line(&format!(
            "{} answers in {:.1} s: v1 {}, v2 {}, failed {}; half of them on connections kept alive, half on a new one each",
            thousands(tally.total()),
            took.as_secs_f64(),
            share(tally.count(V1), tally.total()),
            share(tally.count(V2), tally.total()),
            tally.failures.len(),
        ));
        self.check_answers(&tally);
        let (low, high) = traffic::allowed(tally.total(), 0.1);
        self.check(
            (low..=high).contains(&tally.count(V2)),
            &format!("asked for 90/10: v2 got {} and may get {low} to {high} ({} standard deviations either way)", tally.count(V2), traffic::SIGMAS),
        );
        Ok(())
    }

    fn show_gateway(&mut self, cluster: &Cluster) -> Result<()> {
        self.screen
            .section(3, "Through the ingress gateway, from a machine outside");
        let to = cluster.node_address();
        let response = self.show_curl(
            cluster.world.outside(),
            &["-i", "-H", "Host: user-app.com", &to],
            &to,
            GATEWAY_HOST,
        )?;
        self.check(
            response.contains("200 OK") && (response.ends_with(V1) || response.ends_with(V2)),
            "status 200 and a backend's answer",
        );
        self.check(
            response
                .to_ascii_lowercase()
                .contains("server: istio-envoy"),
            "the gateway calls itself what users of Istio know",
        );
        Ok(())
    }

    fn show_rewrite(&mut self, cluster: &Cluster) -> Result<()> {
        let screen = self.screen;
        screen.section(4, "The rewrite manifest, applied while requests run");
        let (to, outside) = (cluster.node_address(), cluster.world.outside());
        let stop = AtomicBool::new(false);
        let (tally, seen) = thread::scope(|scope| {
            let traffic = scope.spawn(|| outside.run(|| traffic::until(&stop, &to, GATEWAY_HOST)));
            let seen = self.apply_rewrite(cluster, &to);
            stop.store(true, Ordering::Relaxed);
            (traffic.join(), seen)
        });
        let tally = tally.map_err(|_| anyhow::anyhow!("the traffic broke down"))??;
        match seen {
            Ok(seen) => {
                for (path, wanted, got) in &seen {
                    screen.typed(&format!("curl -H 'Host: {GATEWAY_HOST}' {to}{path}"));
                    screen.block(got);
                    self.check(
                        got == wanted,
                        &format!("{path} is answered by {}", version(wanted)),
                    );
                }
            }
            Err(error) => self.check(false, &format!("the rewrite took effect: {error:#}")),
        }
        screen.line(&format!(
            "{} requests ran through the gateway meanwhile, {} failed",
            thousands(tally.total()),
            tally.failures.len()
        ));
        self.check_answers(&tally);
        self.check(tally.total() > 0, "requests did run");
        Ok(())
    }

    /// Replaces the routes and waits until they are live; then asks for each path several times.
    fn apply_rewrite(
        &self,
        cluster: &Cluster,
        to: &str,
    ) -> Result<Vec<(&'static str, &'static str, String)>> {
        thread::sleep(Duration::from_millis(300));
        let (file, text) = manifests::REWRITE;
        self.screen.typed(&format!(
            "cp {file} {}",
            cluster.manifests.join(manifests::GATEWAY_ROUTES).display()
        ));
        cluster.apply(manifests::GATEWAY_ROUTES, text)?;
        let started = Instant::now();
        let outside = cluster.world.outside();
        let ask = |path: &str| outside.run(|| http::get(to, GATEWAY_HOST, path));
        cluster::wait_until("the new routes are live", Duration::from_secs(10), || {
            Ok(ask("/v2")?.is_ok_and(|response| response.status == 200))
        })?;
        self.screen
            .line(&format!("live after {} ms", started.elapsed().as_millis()));
        let mut seen = Vec::new();
        for (path, wanted) in [("/v1", V1), ("/v2", V2), ("/", V1)] {
            let mut answers: Vec<String> = Vec::new();
            for _ in 0..20 {
                answers.push(ask(path)??.text());
            }
            answers.dedup();
            seen.push((path, wanted, answers.concat()));
        }
        thread::sleep(Duration::from_millis(300));
        Ok(seen)
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
    fn show_curl(&self, pod: &Pod, arguments: &[&str], to: &str, host: &str) -> Result<String> {
        let typed: Vec<String> = arguments
            .iter()
            .map(|word| {
                if word.contains(' ') {
                    format!("'{word}'")
                } else {
                    (*word).to_owned()
                }
            })
            .collect();
        self.screen.typed(&format!("curl {}", typed.join(" ")));
        let text = if workspace::find_program("curl").is_some() {
            let output = pod
                .command("curl")
                .args(["-sS", "--max-time", "10"])
                .args(arguments)
                .output()
                .context("cannot run curl")?;
            let mut text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            text
        } else {
            self.screen
                .warn("curl is not installed; the demo's own client asks");
            match pod.run(|| http::get(to, host, "/"))? {
                Ok(response) if arguments.contains(&"-i") => response.shown(),
                Ok(response) => response.text(),
                Err(error) => format!("{error:#}"),
            }
        };
        self.screen.block(&text);
        Ok(text)
    }

    fn check_answers(&mut self, tally: &Tally) {
        let unknown: Vec<&String> = tally
            .bodies
            .keys()
            .filter(|body| *body != V1 && *body != V2)
            .collect();
        self.check(
            unknown.is_empty(),
            &format!(
                "every answer came from a backend{}",
                unknown
                    .first()
                    .map(|body| format!(", but one was {body:?}"))
                    .unwrap_or_default()
            ),
        );
        let first = tally
            .failures
            .first()
            .map(|failure| format!("; the first: {failure}"))
            .unwrap_or_default();
        self.check(
            tally.failures.is_empty(),
            &format!("no request failed{first}"),
        );
    }

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
fn watch_signals(signals: SigSet, well: std::sync::Arc<AtomicBool>) {
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

/// `v1` of `user service for v1`.
fn version(answer: &str) -> &str {
    answer.trim().rsplit(' ').next().unwrap_or_default()
}

fn share(part: u64, total: u64) -> String {
    if total == 0 {
        "0".into()
    } else {
        format!(
            "{} ({:.1} %)",
            thousands(part),
            part as f64 * 100.0 / total as f64
        )
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}

//! The four things that the demo shows, each checked against what the walkthrough says.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh_tests::Pod;

use super::{
    GATEWAY_HOST, Mode, Stage,
    cluster::{self, Cluster},
    manifests,
    traffic::{self, Tally},
};
use crate::{http, workspace};

const V1: &str = "user service for v1\n";
const V2: &str = "user service for v2\n";

impl Stage<'_> {
    pub(super) fn show_mode(&mut self, cluster: &Cluster) -> Result<()> {
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

    pub(super) fn show_split(&mut self, cluster: &Cluster) -> Result<()> {
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

    pub(super) fn show_gateway(&mut self, cluster: &Cluster) -> Result<()> {
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

    pub(super) fn show_rewrite(&mut self, cluster: &Cluster) -> Result<()> {
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

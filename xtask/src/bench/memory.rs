//! What the agent keeps in memory: with the walkthrough, whose pods it serves in either mode, and with a large world; as
//! it is once the manifests are read, and once all of them have been written anew.

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use mesh_tests::{Pod, PodOptions, Running, World};
use nix::sys::signal::Signal;
use serde::Serialize;

use super::cost;
use crate::{
    demo::{self, manifests},
    http,
    screen::Screen,
};

/// What may be resident at most, in MiB: with the walkthrough, and with the large world.
const WALKTHROUGH_GOAL: u64 = 20;
const LARGE_GOAL: u64 = 150;

/// What the large world has.
const SERVICES: usize = 10_000;
const ENDPOINTS_EACH: usize = 10;
const VIRTUAL_SERVICES: usize = 5_000;
/// How many objects of a kind one of its files has.
const IN_A_FILE: usize = 100;

const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an agent is left alone before it is looked at: it gives memory back when nothing happens.
const REST: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Footprint {
    /// With what.
    pub what: String,
    /// Resident at rest, in bytes.
    pub resident: u64,
    /// The most that was resident before that, in bytes.
    pub peak: u64,
    /// What may be resident at most, in bytes.
    pub goal: u64,
}

/// Where agents run.
pub struct Place<'a> {
    /// With whose node's network.
    pub world: &'a World,
    /// The agent, optimised.
    pub agent: &'a Path,
    /// For manifests and logs.
    pub folder: &'a Path,
    /// Why there is no eBPF mode.
    pub without_ebpf: Option<&'a str>,
}

/// Starts one agent after another and looks how large each becomes.
pub fn measure(screen: Screen, place: &Place<'_>) -> Result<Vec<Footprint>> {
    screen.heading("Memory");
    let mut found = place.walkthrough(screen)?;
    found.extend(place.large()?);
    println!("{}", table(&found));
    Ok(found)
}

impl Place<'_> {
    fn walkthrough(&self, screen: Screen) -> Result<Vec<Footprint>> {
        let folder = self.manifests("walkthrough")?;
        for (name, text) in manifests::UNCHANGED {
            fs::write(folder.join(name), text)?;
        }
        let service = manifests::allocated(manifests::SERVICE, SERVICE_IP);
        fs::write(folder.join("user-app-svc.yaml"), service)?;
        let mut pods = Vec::new();
        for deployment in manifests::DEPLOYMENTS {
            let template = manifests::template(deployment)?;
            let pod = self
                .world
                .pod(&format!("memory-{}", pods.len()), PodOptions::default())?;
            let object = manifests::PodObject {
                namespace: "default",
                name: template.name,
                labels: template.labels,
                image: template.image,
                netns: pod.netns(),
                ips: [IpAddr::V4(pod.ipv4), IpAddr::V6(pod.ipv6)],
                node: self.world.node().ipv4,
            };
            fs::write(
                folder.join(format!("pod-{}.yaml", object.name)),
                object.render(),
            )?;
            pods.push(pod);
        }
        let mut found = Vec::new();
        for mode in ["iptables", "ebpf"] {
            if let Some(reason) = self.without_ebpf.filter(|_| mode == "ebpf") {
                screen.warn(&format!(
                    "The memory of the eBPF mode is left out: {reason}"
                ));
                continue;
            }
            let agent = self.start(mode, &folder)?;
            let what = format!("the walkthrough, {mode}");
            found.push(Footprint::of(&agent, what, WALKTHROUGH_GOAL)?);
            stop(agent)?;
        }
        Ok(found)
    }

    fn large(&self) -> Result<Vec<Footprint>> {
        let folder = self.manifests("large")?;
        let world = format!(
            "{SERVICES} Services, {} endpoints",
            SERVICES * ENDPOINTS_EACH
        );
        let mut found = Vec::new();
        for routes in [false, true] {
            write_services(&folder, 8080)?;
            let mut what = world.clone();
            if routes {
                write_routes(&folder, 1)?;
                write!(what, ", {VIRTUAL_SERVICES} VirtualServices")?;
            }
            let agent = self.start("iptables", &folder)?;
            found.push(Footprint::of(&agent, what, LARGE_GOAL)?);
            write_services(&folder, 8081)?;
            if routes {
                write_routes(&folder, 2)?;
            }
            let what = "likewise, all written anew".to_owned();
            found.push(Footprint::of(&agent, what, LARGE_GOAL)?);
            stop(agent)?;
        }
        Ok(found)
    }

    fn manifests(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(format!("memory-{name}"));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// An agent with as many workers as it takes by itself, ready.
    fn start(&self, mode: &str, folder: &Path) -> Result<Running> {
        let node: &Pod = self.world.node();
        let mut command = node.command(self.agent);
        command.arg("run").arg("--manifests").arg(folder);
        command
            .args(["--mode", mode, "--node", "node1"])
            .env("NO_COLOR", "1");
        let log = self.folder.join(format!("memory-{mode}.log"));
        let agent = Running::start(mode, command, &log)?;
        demo::wait_until("the agent is ready", PATIENCE, || {
            let answer = node.run(|| http::get("127.0.0.1:15021", "node1", "/healthz/ready"))?;
            Ok(answer.is_ok_and(|answer| answer.status == 200))
        })
        .with_context(|| format!("the end of its log:\n{}\n", agent.tail(20)))?;
        Ok(agent)
    }
}

impl Footprint {
    /// Of an agent, once it has come to rest.
    fn of(agent: &Running, what: String, goal: u64) -> Result<Self> {
        thread::sleep(REST);
        let memory = cost::memory(agent.pid())?;
        Ok(Self {
            what,
            resident: memory.resident,
            peak: memory.peak,
            goal: goal << 20,
        })
    }

    fn row(&self) -> [String; 4] {
        let shown = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let missed = match self.resident <= self.goal {
            true => String::new(),
            false => format!(" (goal {})", self.goal >> 20),
        };
        [
            self.what.clone(),
            shown(self.resident) + &missed,
            shown(self.peak),
            format!("{} MiB", self.goal >> 20),
        ]
    }
}

const HEADER: [&str; 4] = ["the agent with", "resident", "peak", "goal"];

/// For a screen.
fn table(found: &[Footprint]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(HEADER);
    for footprint in found {
        table.add_row(footprint.row());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// For a file.
pub fn markdown(found: &[Footprint]) -> String {
    let mut text = format!(
        "\n# What the agent keeps in memory\n\n| {} |\n|{}\n",
        HEADER.join(" | "),
        " --- |".repeat(HEADER.len())
    );
    for footprint in found {
        text.push_str(&format!("| {} |\n", footprint.row().join(" | ")));
    }
    text
}

fn stop(mut agent: Running) -> Result<()> {
    agent.signal(Signal::SIGTERM)?;
    let status = agent.wait(PATIENCE)?;
    if !status.success() {
        bail!("the agent ended with {status}:\n{}", agent.tail(20));
    }
    Ok(())
}

/// Every Service of the large world, at this port of its pods.
fn write_services(folder: &Path, port: u16) -> Result<()> {
    for first in (0..SERVICES).step_by(IN_A_FILE) {
        let mut text = String::new();
        for number in first..first + IN_A_FILE {
            add_service(&mut text, number, port)?;
        }
        fs::write(folder.join(format!("services-{first}.yaml")), text)?;
    }
    Ok(())
}

/// Every VirtualService of the large world, with this in its path.
fn write_routes(folder: &Path, version: u32) -> Result<()> {
    for first in (0..VIRTUAL_SERVICES).step_by(IN_A_FILE) {
        let mut text = String::new();
        for number in first..first + IN_A_FILE {
            let other = (number + 1) % SERVICES;
            write!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: vs-{number}\nspec:\n  hosts:\n  \
                 - svc-{number}\n  http:\n  - match:\n    - uri:\n        prefix: /v{version}/\n    route:\n    - destination:\n        \
                 host: svc-{other}\n  - route:\n    - destination:\n        host: svc-{number}\n"
            )?;
        }
        fs::write(folder.join(format!("routes-{first}.yaml")), text)?;
    }
    Ok(())
}

/// A Service and its EndpointSlice, as the API server returns them.
fn add_service(text: &mut String, number: usize, port: u16) -> Result<()> {
    let (high, low) = (number / 250, number % 250 + 1);
    write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: svc-{number}\n  namespace: default\nspec:\n  clusterIP: 172.16.{high}.{low}\n  \
         ports:\n  - name: http\n    port: 80\n    targetPort: {port}\n  selector:\n    app: svc-{number}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: svc-{number}-a\n  namespace: default\n  labels:\n    \
         kubernetes.io/service-name: svc-{number}\naddressType: IPv4\nports:\n- name: http\n  port: {port}\n  protocol: TCP\nendpoints:\n"
    )?;
    for member in 0..ENDPOINTS_EACH {
        let (node, zone) = ((number + member) % 100, member % 3);
        write!(
            text,
            "- addresses:\n  - 10.{member}.{high}.{low}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  \
             nodeName: node-{node}\n  zone: zone-{zone}\n  targetRef:\n    kind: Pod\n    name: svc-{number}-5d8f7c9b6d-{member}\n    \
             namespace: default\n"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_that_are_missed_are_named() {
        let footprint = |mebibytes: u64| Footprint {
            what: "it".to_owned(),
            resident: mebibytes << 20,
            peak: 40 << 20,
            goal: 20 << 20,
        };
        let text = markdown(&[footprint(20), footprint(21)]);
        for line in [
            "| it | 20.0 MiB | 40.0 MiB | 20 MiB |",
            "| it | 21.0 MiB (goal 20) | 40.0 MiB | 20 MiB |",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

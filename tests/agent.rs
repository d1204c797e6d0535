//! The agent under test: its processes, and what they say about themselves through the admin address.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{Pod, Running, World};
use serde_json::Value;

use crate::http::{self, Response};

/// How connections are steered in a run of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No agent at all: shows that a test itself is sound.
    None,
    /// The nat chains through nf_tables.
    IptablesNft,
    /// The nat chains through the old tables.
    IptablesLegacy,
    /// The connect hooks.
    Ebpf,
}

/// The modes in which there is an agent.
pub const MESHED: [Mode; 3] = [Mode::IptablesNft, Mode::IptablesLegacy, Mode::Ebpf];

/// The admin address, in the node's network namespace, or in a gateway's pod.
const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15000);

/// Where Prometheus asks.
const METRICS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15020);

/// Long enough for a loaded machine; a healthy agent needs a fraction.
const START: Duration = Duration::from_secs(20);

impl Mode {
    /// For names of tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Ebpf => "ebpf",
        }
    }

    /// What this machine lacks for it; tests of the mode are then skipped, and say so.
    pub fn lacking(self) -> Option<String> {
        let program = match self {
            Self::None => return None,
            Self::Ebpf => return without_ebpf(),
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        };
        let installed = std::process::Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success());
        (!installed).then(|| format!("{program} is not installed; apt-get install iptables"))
    }

    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::IptablesNft => &["--mode", "iptables", "--iptables-backend", "nft"],
            Self::IptablesLegacy => &["--mode", "iptables", "--iptables-backend", "legacy"],
            Self::Ebpf => &["--mode", "ebpf"],
        }
    }

    /// What `/status` calls it.
    pub fn reported(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::IptablesNft | Self::IptablesLegacy => "iptables",
            Self::Ebpf => "ebpf",
        }
    }
}

/// A running `mesh-agent run` or `mesh-agent gateway`.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Running,
    place: Pod,
}

/// Connections that the agent has accepted from enrolled pods, all pods together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Opened by a pod.
    pub outbound: u64,
    /// Opened to a pod, whichever way they came.
    pub inbound: u64,
    /// Those of them that came from another pod of the node without the pod's listener.
    pub one_hop: u64,
}

impl Agent {
    /// Starts the node's agent and waits until it is ready.
    pub fn start(world: &World, manifests: &Path, mode: Mode) -> Result<Self> {
        Self::start_with(world, manifests, mode, &[])
    }

    /// Likewise with the fast path for applications too, in the eBPF mode.
    pub fn start_fast(world: &World, manifests: &Path, mode: Mode) -> Result<Self> {
        Self::start_with(world, manifests, mode, &["--fast-path", "applications"])
    }

    /// Likewise with some more flags.
    pub fn start_with(world: &World, manifests: &Path, mode: Mode, flags: &[&str]) -> Result<Self> {
        let mut agent = Self::spawn_with(world, manifests, mode, "agent", flags)?;
        agent.wait_ready()?;
        let status = agent.status()?;
        ensure!(
            status["mode"] == mode.reported(),
            "asked for {}, /status says {status}",
            mode.name()
        );
        Ok(agent)
    }

    /// Starts the node's agent.
    pub fn spawn(world: &World, manifests: &Path, mode: Mode, name: &str) -> Result<Self> {
        Self::spawn_with(world, manifests, mode, name, &[])
    }

    /// Starts the node's agent with some more flags.
    fn spawn_with(
        world: &World,
        manifests: &Path,
        mode: Mode,
        name: &str,
        flags: &[&str],
    ) -> Result<Self> {
        let mut command = world.node().command(binary()?);
        command.arg("run").arg("--manifests").arg(manifests);
        command.args(mode.flags()).args(flags);
        command.args(["--node", "node1", "--admin", &ADMIN.to_string()]);
        Ok(Self {
            process: Running::start(name, command, &world.log(name))?,
            place: world.node().clone(),
        })
    }

    /// Starts the agent of a cluster's node, whose world is what the API server says. It keeps that in `state`.
    pub fn of_cluster(
        node: &Pod,
        kubeconfig: &Path,
        state: &Path,
        mode: Mode,
        flags: &[String],
    ) -> Result<Self> {
        let mut command = node.command(binary()?);
        command.env("KUBECONFIG", kubeconfig);
        command.args(["run", "--kubernetes", "--state-dir"]);
        command.arg(state).args(mode.flags()).args(flags);
        command.args(["--node", "node1", "--admin", &ADMIN.to_string()]);
        let log = Path::new(mesh_tests::FILES).join("logs/agent.log");
        let mut agent = Self {
            process: Running::start("agent", command, &log)?,
            place: node.clone(),
        };
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts a gateway inside `pod`, as the Pod object `name` (`NAMESPACE/NAME`), and waits until it is ready.
    pub fn gateway(world: &World, manifests: &Path, pod: &Pod, name: &str) -> Result<Self> {
        Self::gateway_with(world, manifests, pod, name, &[])
    }

    /// Likewise with some more flags.
    pub fn gateway_with(
        world: &World,
        manifests: &Path,
        pod: &Pod,
        name: &str,
        flags: &[&str],
    ) -> Result<Self> {
        let mut command = pod.command(binary()?);
        command.arg("gateway").arg("--manifests").arg(manifests);
        command.args(["--pod", name, "--admin", &ADMIN.to_string()]);
        command.args(flags);
        let mut gateway = Self {
            process: Running::start("gateway", command, &world.log("gateway"))?,
            place: pod.clone(),
        };
        gateway.wait_ready()?;
        Ok(gateway)
    }

    /// Waits for `/ready`.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            if self
                .get("/ready")
                .is_ok_and(|response| response.status == 200)
            {
                return Ok(());
            }
            if let Some(status) = self.process.exited()? {
                bail!(
                    "{} ended with {status} before it was ready",
                    self.process.name()
                );
            }
            if Instant::now() > deadline {
                bail!("{} was not ready within {START:?}", self.process.name());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the admin address.
    pub fn get(&self, path: &str) -> Result<Response> {
        let stream = self
            .place
            .run(|| TcpStream::connect_timeout(&ADMIN, Duration::from_secs(2)))??;
        http::get(stream, "localhost", path)
    }

    /// A metric with its labels, if it is there.
    pub fn metric(&self, name: &str) -> Result<Option<f64>> {
        let stream = self
            .place
            .run(|| TcpStream::connect_timeout(&METRICS, Duration::from_secs(2)))??;
        let text = http::get(stream, "localhost", "/metrics")?.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().parse().context("no number"))
            .transpose()
    }

    /// What `/status` says.
    pub fn status(&self) -> Result<Value> {
        self.json("/status")
    }

    /// How many connections it has accepted so far.
    pub fn accepted(&self) -> Result<Accepted> {
        let stats = self.json("/stats")?;
        let pods = stats["pods"]
            .as_array()
            .with_context(|| format!("no list `pods` in /stats: {stats}"))?;
        let mut sum = Accepted::default();
        for pod in pods {
            let count = |key: &str| {
                pod[key]
                    .as_u64()
                    .with_context(|| format!("no number `{key}` in /stats: {pod}"))
            };
            sum.outbound += count("outbound")?;
            sum.inbound += count("inbound")? + count("one_hop")?;
            sum.one_hop += count("one_hop")?;
        }
        Ok(sum)
    }

    /// How many connections the inbound side of its proxy has taken, wherever from.
    pub fn served_inbound(&self) -> Result<u64> {
        let stats = self.json("/stats")?;
        stats["hops"]["inbound"]["accepted"]
            .as_u64()
            .with_context(|| format!("no number of inbound connections in /stats: {stats}"))
    }

    /// Whether it says that it steers the pod's connections.
    pub fn enrolled(&self, pod: &str) -> Result<bool> {
        let status = self.status()?;
        let pods = status["pods"]
            .as_array()
            .with_context(|| format!("no list `pods` in /status: {status}"))?;
        Ok(pods
            .iter()
            .any(|entry| entry["pod"] == pod && entry["state"] == "enrolled"))
    }

    /// Waits until the pod is enrolled, or no longer is.
    pub fn wait_enrolled(&self, pod: &str, wanted: bool) -> Result<()> {
        eventually(START, || self.enrolled(pod).is_ok_and(|is| is == wanted))
            .with_context(|| format!("waiting for {pod} to be enrolled: {wanted}"))
    }

    fn json(&self, path: &str) -> Result<Value> {
        let response = self.get(path)?;
        ensure!(
            response.status == 200,
            "GET {path} said {}",
            response.status
        );
        serde_json::from_slice(&response.body).with_context(|| format!("GET {path} is not JSON"))
    }
}

/// Why this build has no BPF programs, where it has none: whoever built it says so.
pub fn without_ebpf() -> Option<String> {
    let reason = std::env::var("MESH_WITHOUT_EBPF").ok()?;
    Some(format!("built without BPF programs: {reason}"))
}

/// Waits until `done`, asking every few milliseconds.
pub fn eventually(patience: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !done() {
        ensure!(Instant::now() < deadline, "not within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The program under test: `MESH_AGENT_BIN`, or what cargo built beside this test.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("MESH_AGENT_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()
            .context("finding this test's own path")?
            .ancestors()
            .nth(2)
            .context("this test is not in cargo's target directory; set MESH_AGENT_BIN")?
            .join("mesh-agent"),
    };
    ensure!(
        path.is_file(),
        "there is no agent at {}; build it with: cargo build",
        path.display()
    );
    Ok(path)
}

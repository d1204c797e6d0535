//! What a test has in its namespace: a Service with two versions of a web server, a client, and the node's agent.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::Pod;
use nix::sys::signal::Signal;

use super::node::{Cluster, place_of};
use super::{PATIENCE, plugin, pods};
use crate::agent::{Agent, Mode, eventually};
use crate::http;

/// What a client asks for: the one is routed as it is, the other under another name.
pub const PATHS: [&str; 2] = ["/", "/old/"];

/// The pods, all to be enrolled together.
const PODS: [&str; 3] = ["client", "web-v1", "web-v2"];

/// The scene.
#[derive(Debug)]
pub struct Scene {
    cluster: &'static Cluster,
    namespace: String,
    mode: Mode,
    flags: Vec<String>,
    state: PathBuf,
    agent: Option<Agent>,
    client: Pod,
    services: Vec<SocketAddr>,
    server: SocketAddr,
}

/// What the VirtualService says of [`PATHS`].
#[derive(Clone, Copy, Debug)]
pub enum Routes {
    /// The first version; the old path is the second version's new one.
    FirstVersion,
    /// The other way round.
    SecondVersion,
}

impl Routes {
    fn versions(self) -> [&'static str; 2] {
        match self {
            Self::FirstVersion => ["v1", "v2"],
            Self::SecondVersion => ["v2", "v1"],
        }
    }

    /// The answers, in the order of [`PATHS`].
    fn answers(self) -> [String; 2] {
        let [plain, old] = self.versions();
        [format!("{plain} at /"), format!("{old} at /new")]
    }
}

impl Scene {
    /// Makes the namespace with all its pods, enrolled or not, and starts the agent.
    pub fn new(cluster: &'static Cluster, name: &str, mode: Mode, enrolled: bool) -> Result<Self> {
        Self::with_flags(cluster, name, mode, enrolled, Vec::new())
    }

    /// The same, with more flags for the agent.
    pub fn with_flags(
        cluster: &'static Cluster,
        name: &str,
        mode: Mode,
        enrolled: bool,
        flags: Vec<String>,
    ) -> Result<Self> {
        let mut scene = Self::without_agent(cluster, name, mode, enrolled)?;
        scene.flags = flags;
        scene.start_agent()?;
        Ok(scene)
    }

    /// The same, where the agent is another's business.
    pub fn without_agent(
        cluster: &'static Cluster,
        name: &str,
        mode: Mode,
        enrolled: bool,
    ) -> Result<Self> {
        let namespace = format!("{name}-{}", mode.name());
        cluster.apply(&pods::namespace(&namespace, enrolled))?;
        // A namespace has its account, without which there are no pods, a moment later.
        let make_pods = || cluster.apply_in(&namespace, &pods::pods());
        eventually(PATIENCE, || make_pods().is_ok()).or_else(|_| make_pods())?;
        let all = [
            "wait",
            "pod",
            "--all",
            "--for=condition=Ready",
            "--timeout=90s",
        ];
        let within = |arguments: &[&str]| {
            let arguments = [&["--namespace", &namespace], arguments].concat();
            cluster.kubectl(&arguments)
        };
        within(&all).context("the pods")?;
        let field = |what: &[&str], field: &str| {
            let output = format!("jsonpath={field}");
            within(&[&["get"], what, &["--output", &output]].concat())
        };
        let services = field(&["service", "web"], "{.spec.clusterIPs[*]}")?;
        let server = field(&["pod", "web-v1"], "{.status.podIP}")?;
        let uid = field(&["pod", "client"], "{.metadata.uid}")?;
        let state = Path::new(mesh_tests::FILES).join(format!("state-{namespace}"));
        let client = place_of("client", &uid)?;
        let services = services
            .split_whitespace()
            .map(|address| Ok(SocketAddr::new(address.parse::<IpAddr>()?, 80)))
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            services.len() == 2,
            "one address of each family: {services:?}"
        );
        Ok(Self {
            cluster,
            mode,
            flags: Vec::new(),
            state,
            agent: None,
            client,
            services,
            server: SocketAddr::new(server.parse()?, 8080),
            namespace,
        })
    }

    /// Starts the agent.
    pub fn start_agent(&mut self) -> Result<()> {
        let kubeconfig = self.cluster.kubeconfig();
        let node = &self.cluster.node;
        self.agent = Some(Agent::of_cluster(
            node,
            &kubeconfig,
            &self.state,
            self.mode,
            &self.flags,
        )?);
        Ok(())
    }

    /// Ends the agent, as a node would, and starts another one.
    pub fn restart_agent(&mut self) -> Result<()> {
        self.stop_agent()?;
        self.start_agent()
    }

    /// Ends the agent, as a node would.
    pub fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent")?;
        agent.process.stop(Duration::from_secs(20)).map(|_| ())
    }

    /// Kills the agent.
    pub fn kill_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent")?;
        agent.process.signal(Signal::SIGKILL)?;
        agent.process.wait(Duration::from_secs(5)).map(|_| ())
    }

    /// Ends it all.
    pub fn end(mut self) -> Result<()> {
        self.stop_agent()
    }

    /// The agent.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent")
    }

    /// Kills the agent, and removes what of it would not outlive the machine.
    pub fn lose_agent(&mut self) -> Result<()> {
        self.kill_agent()?;
        for place in ["/run/mesh-agent", "/sys/fs/bpf/mesh-agent"] {
            if Path::new(place).exists() {
                std::fs::remove_dir_all(place).with_context(|| format!("removing {place}"))?;
            }
        }
        Ok(())
    }

    /// Looks for the client again, whose pod was made anew.
    pub fn find_client(&mut self) -> Result<()> {
        self.client = self.place_of("client")?;
        Ok(())
    }

    /// The cluster.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// The address of the first version's pod, and its port.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The client's pod.
    pub fn client(&self) -> &Pod {
        &self.client
    }

    /// The Service's addresses.
    pub fn services(&self) -> &[SocketAddr] {
        &self.services
    }

    // === what is said to the API server ===

    /// Puts the routes in force.
    pub fn apply_routes(&self, routes: Routes) -> Result<()> {
        let namespace = &self.namespace;
        let [plain, old] = routes.versions();
        self.cluster.apply(&format!(
            "apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {{name: web, namespace: {namespace}}}
spec:
  host: web
  subsets:
  - {{name: v1, labels: {{version: v1}}}}
  - {{name: v2, labels: {{version: v2}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: {namespace}}}
spec:
  hosts: [web]
  http:
  - match: [{{uri: {{prefix: /old/}}}}]
    rewrite: {{uri: /new/}}
    route: [{{destination: {{host: web, subset: {old}}}}}]
  - route: [{{destination: {{host: web, subset: {plain}}}}}]
"
        ))
    }

    /// Sends another host to a subset, which may not be there.
    pub fn apply_elsewhere(&self, subset: &str) -> Result<()> {
        let namespace = &self.namespace;
        self.cluster.apply(&format!(
            "apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {{name: elsewhere, namespace: {namespace}}}
spec:
  hosts: [elsewhere.example.com]
  http:
  - route: [{{destination: {{host: web, subset: {subset}}}}}]
"
        ))
    }

    /// What the agent says on a VirtualService: whether it is in force.
    pub fn condition(&self, name: &str) -> Result<String> {
        let field = r#"jsonpath={.status.conditions[?(@.type=="mesh-agent.io/Accepted")].status}"#;
        self.kubectl(&["get", "virtualservices", name, "--output", field])
    }

    /// The reasons of all Events about it.
    pub fn events_of_elsewhere(&self) -> Result<String> {
        let about = "involvedObject.kind=VirtualService,involvedObject.name=elsewhere";
        let reasons = "jsonpath={.items[*].reason}";
        self.kubectl(&[
            "get",
            "events",
            "--field-selector",
            about,
            "--output",
            reasons,
        ])
    }

    /// Sets a label of the namespace, or removes it.
    pub fn label_namespace(&self, label: &str) -> Result<()> {
        let arguments = ["label", "--overwrite", "namespace", &self.namespace, label];
        self.kubectl(&arguments).map(|_| ())
    }

    /// Sets a label of a pod, or removes it.
    pub fn label_pod(&self, pod: &str, label: &str) -> Result<()> {
        self.kubectl(&["label", "--overwrite", "pod", pod, label])
            .map(|_| ())
    }

    /// Applies manifests that name no namespace.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.cluster.apply_in(&self.namespace, manifests)
    }

    /// What `kubectl` says, in the namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let arguments = [&["--namespace", &self.namespace], arguments].concat();
        self.cluster.kubectl(&arguments)
    }

    // === what comes of it ===

    /// Whether the agent steers the pod's connections.
    pub fn is_enrolled(&self, pod: &str) -> Result<bool> {
        self.agent()?.enrolled(&format!("{}/{pod}", self.namespace))
    }

    /// Waits until a pod is in the mesh, or is not.
    pub fn wait_pod_enrolled(&self, pod: &str, wanted: bool) -> Result<()> {
        let pod = format!("{}/{pod}", self.namespace);
        self.agent()?.wait_enrolled(&pod, wanted)
    }

    /// Waits until all pods are in the mesh, or none is.
    pub fn wait_enrolled(&self, wanted: bool) -> Result<()> {
        PODS.iter()
            .try_for_each(|pod| self.wait_pod_enrolled(pod, wanted))
    }

    /// Waits until the routes are in force for both of the Service's addresses, and sees that they hold.
    pub fn wait_routed(&self, routes: Routes) -> Result<()> {
        let hold = || -> Result<()> {
            for service in &self.services {
                for (path, expected) in PATHS.iter().zip(routes.answers()) {
                    let answer = self.ask(*service, path)?;
                    ensure!(
                        answer == expected,
                        "{path} by {service} said {answer:?}, not {expected:?}"
                    );
                }
            }
            Ok(())
        };
        let in_force = eventually(PATIENCE, || hold().is_ok());
        in_force.or_else(|_| hold())?;
        (0..20).try_for_each(|_| hold())
    }

    /// Asks the Service that often, and tells the different answers.
    pub fn ask_all(&self, times: usize) -> Result<BTreeSet<String>> {
        (0..times)
            .map(|number| self.ask(self.services[number % 2], PATHS[0]))
            .collect()
    }

    /// Asks a server in the client's pod: its answer, which must be a good one.
    pub fn ask_as(&self, host: &str, target: SocketAddr, path: &str) -> Result<String> {
        ask(&self.client, host, target, path)
    }

    /// Asks the first version by the address of its pod.
    pub fn ask_server_directly(&self) -> Result<()> {
        let answer = self.ask(self.server, PATHS[0])?;
        ensure!(answer == "v1 at /", "web-v1 said {answer:?}");
        Ok(())
    }

    fn ask(&self, target: SocketAddr, path: &str) -> Result<String> {
        self.ask_as("web", target, path)
    }
}

fn ask(client: &Pod, host: &str, target: SocketAddr, path: &str) -> Result<String> {
    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(5));
    let stream = client.run(connect)?.context("connecting")?;
    let response = http::get(stream, host, path)?;
    let text = response.text().trim().to_owned();
    ensure!(
        response.status == 200,
        "{path} said {}: {text}",
        response.status
    );
    Ok(text)
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A test that failed must not leave a plugin without an agent, which would keep the pods of the next from beginning.
        if self.agent.is_none()
            && plugin::is_installed(self.cluster).unwrap_or(false)
            && let Err(error) = self.start_agent()
        {
            eprintln!("the CNI plugin stays: {error:#}");
        }
        if self.agent.is_some()
            && let Err(error) = self.stop_agent()
        {
            eprintln!("the agent did not end well: {error:#}");
        }
        let arguments = ["delete", "namespace", "--wait=false", &self.namespace];
        if let Err(error) = self.cluster.kubectl(&arguments) {
            eprintln!("{} stays: {error:#}", self.namespace);
        }
    }
}

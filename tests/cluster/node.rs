//! The cluster that all the tests share: brought up by the first of them, by the same command that a developer uses.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mesh_tests::Pod;
use serde_json::Value;
use tempfile::TempDir;

use super::image;
use crate::{Lacking, agent};

/// Istio's kinds, and their plurals.
const KINDS: [(&str, &str); 6] = [
    ("VirtualService", "virtualservices"),
    ("DestinationRule", "destinationrules"),
    ("Gateway", "gateways"),
    ("ServiceEntry", "serviceentries"),
    ("WorkloadEntry", "workloadentries"),
    ("Sidecar", "sidecars"),
];

/// Where a node has the configurations of its network, and the plugins that make it.
const NETWORKS: &str = "etc/cni/net.d";
const CNI_PLUGINS: &str = "opt/cni/bin";

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    /// The node, which is where these tests run.
    pub node: Pod,
    xtask: PathBuf,
    folder: PathBuf,
}

/// Parts of a cluster that do not run. They come back at the latest when this is dropped.
#[must_use = "they come back when this is dropped"]
#[derive(Debug)]
pub struct Away<'a> {
    cluster: &'a Cluster,
    /// In the order in which they come back.
    parts: Vec<&'static str>,
}

impl Cluster {
    /// The cluster, or why there is none.
    pub fn get() -> Result<&'static Self> {
        static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
        if let Ok(reason) = std::env::var("MESH_WITHOUT_CLUSTER") {
            return Err(Lacking(reason).into());
        }
        if std::env::var_os("MESH_CLUSTER").is_none() {
            let reason = "no cluster: `cargo xtask test cluster` sees to one";
            return Err(Lacking(reason.to_owned()).into());
        }
        CLUSTER
            .get_or_init(|| Self::bring_up().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("there is no cluster: {error}"))
    }

    fn bring_up() -> Result<Self> {
        let path = |name: &str| {
            let value = std::env::var_os(name).with_context(|| format!("{name} is not set"))?;
            anyhow::Ok(PathBuf::from(value))
        };
        fs::create_dir_all(Path::new(mesh_tests::FILES).join("logs"))?;
        let here = std::process::id();
        let cluster = Self {
            node: Pod::of_process("node", here, mesh_tests::NODE_V4, mesh_tests::NODE_V6)?,
            xtask: path("MESH_XTASK")?,
            folder: path("MESH_CLUSTER")?,
        };
        // What a run before this one left when it was killed.
        cluster.xtask("down", &[])?;
        let programs = path("MESH_KUBERNETES")?;
        let programs = programs.to_string_lossy();
        cluster.xtask("up", &["--programs", &programs])?;
        for version in ["v1", "v2"] {
            let server = ["/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"];
            cluster.make_image(
                &format!("mesh-web:{version}"),
                &image::web(version)?,
                &server,
            )?;
        }
        Ok(cluster)
    }

    /// Makes an image of a folder.
    pub fn make_image(&self, name: &str, root: &TempDir, entrypoint: &[&str]) -> Result<()> {
        let root = root.path().to_string_lossy();
        let arguments = [&[name, &root], entrypoint].concat();
        self.xtask("image", &arguments)
    }

    /// Makes the image that the manifests in `deploy/` name, of the agent that is tested.
    pub fn make_agent_image(&self) -> Result<()> {
        let root = image::agent(&agent::binary()?)?;
        self.make_image("mesh-agent:0.1.0", &root, &["/mesh-agent"])
    }

    /// A manifest of `deploy/`, with where the API server is: its usual address leads nowhere, as there is no kube-proxy.
    pub fn shipped(&self, name: &str) -> Result<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy")
            .join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let (host, port) = self.api_server()?;
        let environment = format!(
            "        env:\n        - {{name: KUBERNETES_SERVICE_HOST, value: \"{host}\"}}\n        \
             - {{name: KUBERNETES_SERVICE_PORT, value: \"{port}\"}}\n"
        );
        ensure!(text.matches("        env:\n").count() == 1, "one container");
        Ok(text.replace("        env:\n", &environment))
    }

    /// Ends all of it as when the power goes, and starts it again.
    pub fn reboot(&self) -> Result<()> {
        self.xtask("reboot", &[])
    }

    /// The flags with which an agent is among the node's CNI plugins.
    pub fn plugin_flags(&self) -> Vec<String> {
        let flag = |flag: &str, place: &str| {
            let folder = self.folder.join("private").join(place);
            format!("--{flag}={}", folder.display())
        };
        vec![
            flag("cni-net-dir", NETWORKS),
            flag("cni-bin-dir", CNI_PLUGINS),
        ]
    }

    /// The chain of the node's CNI plugins.
    pub fn chain(&self) -> Result<Value> {
        let place = self.folder.join("private").join(NETWORKS);
        let text = fs::read(place.join("10-bridge.conflist"))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The node's CNI plugins, by name.
    pub fn plugins(&self) -> Result<BTreeSet<String>> {
        let entries = fs::read_dir(self.folder.join("private").join(CNI_PLUGINS))?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn xtask(&self, verb: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.xtask);
        command.args(["cluster", verb, "--in"]).arg(&self.folder);
        command.args(arguments);
        output_of(command, None).map(|_| ())
    }

    /// How to reach its API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// What `kubectl` says.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output_of(self.kubectl_command(arguments), None)
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let command = self.kubectl_command(&["apply", "--filename", "-"]);
        output_of(command, Some(manifests)).map(|_| ())
    }

    /// The same, for manifests that name no namespace.
    pub fn apply_in(&self, namespace: &str, manifests: &str) -> Result<()> {
        let arguments = ["--namespace", namespace, "apply", "--filename", "-"];
        output_of(self.kubectl_command(&arguments), Some(manifests)).map(|_| ())
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.args(arguments);
        command
    }

    /// The address and port of its API server.
    pub fn api_server(&self) -> Result<(String, String)> {
        let server = "--output=jsonpath={.clusters[0].cluster.server}";
        let url = self.kubectl(&["config", "view", server])?;
        let host = url
            .strip_prefix("https://")
            .and_then(|rest| rest.rsplit_once(':'));
        let (host, port) = host.with_context(|| format!("the API server is at {url}"))?;
        Ok((host.to_owned(), port.to_owned()))
    }

    /// Kills parts of it.
    pub fn without(&self, parts: &[&'static str]) -> Result<Away<'_>> {
        let mut away = Away {
            cluster: self,
            parts: Vec::new(),
        };
        for part in parts {
            away.parts.insert(0, part);
            self.xtask("stop", &["--kill", part])?;
        }
        Ok(away)
    }

    /// Makes Istio's kinds known, in all versions that Istio serves.
    pub fn define_istio(&self) -> Result<()> {
        let definitions: Vec<String> = KINDS
            .iter()
            .map(|(kind, plural)| definition(kind, plural))
            .collect();
        self.apply(&definitions.join("---\n"))?;
        for (_, plural) in KINDS {
            let name = format!("crd/{plural}.networking.istio.io");
            self.kubectl(&[
                "wait",
                "--for=condition=Established",
                "--timeout=30s",
                &name,
            ])?;
        }
        Ok(())
    }

    /// Takes them away again, with all objects of them.
    pub fn forget_istio(&self) -> Result<()> {
        for (_, plural) in KINDS {
            let name = format!("crd/{plural}.networking.istio.io");
            self.kubectl(&["delete", "--ignore-not-found", "--timeout=60s", &name])?;
        }
        Ok(())
    }
}

impl Away<'_> {
    /// Starts them, and waits until they work.
    pub fn back(mut self) -> Result<()> {
        self.start()
    }

    fn start(&mut self) -> Result<()> {
        for part in std::mem::take(&mut self.parts) {
            self.cluster.xtask("start", &[part])?;
        }
        Ok(())
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.start() {
            eprintln!("the cluster stays without a part: {error:#}");
        }
    }
}

/// Without a schema: what is right in an object is the agent's to say here.
fn definition(kind: &str, plural: &str) -> String {
    let singular = kind.to_lowercase();
    let mut text = format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.networking.istio.io}}
spec:
  group: networking.istio.io
  names: {{kind: {kind}, listKind: {kind}List, plural: {plural}, singular: {singular}}}
  scope: Namespaced
  versions:
"
    );
    for version in ["v1alpha3", "v1beta1", "v1"] {
        let storage = version == "v1beta1";
        text += &format!(
            "  - name: {version}
    served: true
    storage: {storage}
    subresources: {{status: {{}}}}
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"
        );
    }
    text
}

/// What a command says, which must end well.
fn output_of(mut command: Command, input: Option<&str>) -> Result<String> {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {what}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    if let Some(input) = input {
        // Whoever does not read it says why himself.
        let _ = stdin.write_all(input.as_bytes());
    }
    drop(stdin);
    let output = child.wait_with_output().context("waiting")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}{}", said.trim(), why.trim());
    }
    Ok(said)
}

/// The processes of the pod with this uid, those first that began first: the first one holds its namespaces.
pub fn processes_of(uid: &str) -> Result<Vec<u32>> {
    let mut found: Vec<u32> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|groups| groups.contains(&format!("/pod{uid}/")))
        })
        .collect();
    found.sort_unstable();
    ensure!(!found.is_empty(), "no process is in a group of pod {uid}");
    Ok(found)
}

/// The place of the pod with this uid.
pub fn place_of(name: &str, uid: &str) -> Result<Pod> {
    let (v4, v6) = (mesh_tests::NODE_V4, mesh_tests::NODE_V6);
    Pod::of_process(name, processes_of(uid)?[0], v4, v6)
}

//! A directory of manifests, written the way a user's editor would: whole files, moved into place.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mesh_tests::Pod;
use serde_json::{Value, json};

/// The annotation that makes a Pod local.
const NETNS: &str = "mesh-agent.io/netns";
/// The label that keeps a Pod out.
const ENROL: &str = "mesh-agent.io/enrol";
/// What the app sees as its client: `sidecar` or `preserve`.
pub const SOURCE: &str = "mesh-agent.io/source";
/// What happens when the agent is gone: `refuse`, `open` or `hold`.
pub const ON_AGENT_LOSS: &str = "mesh-agent.io/on-agent-loss";

/// The directory. It lives in the world's own memory file system.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
}

/// A Pod object in the making.
#[derive(Clone, Debug)]
pub struct PodObject {
    namespace: String,
    name: String,
    uid: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    addresses: Vec<IpAddr>,
}

/// A Service object in the making.
#[derive(Clone, Debug)]
pub struct ServiceObject {
    namespace: String,
    name: String,
    addresses: Vec<IpAddr>,
    selector: BTreeMap<String, String>,
    ports: Vec<Value>,
}

impl Manifests {
    /// An empty directory beside the world's other files.
    pub fn new() -> Result<Self> {
        let directory = Path::new(mesh_tests::FILES).join("manifests");
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes a Pod to a file of its own, in place of what was there.
    pub fn pod(&self, pod: &PodObject) -> Result<()> {
        self.write(&pod.file(), &pod.render().to_string())
    }

    /// Removes a Pod's file.
    pub fn remove_pod(&self, pod: &PodObject) -> Result<()> {
        let path = self.directory.join(pod.file());
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Writes a Service.
    pub fn service(&self, service: &ServiceObject) -> Result<()> {
        let file = format!("service-{}.yaml", service.name);
        self.write(&file, &service.render().to_string())
    }

    /// Writes any file, in one step as far as a reader can tell.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.directory.join(file);
        let draft = self.directory.join(format!(".{file}.draft"));
        fs::write(&draft, text).with_context(|| format!("writing {}", draft.display()))?;
        fs::rename(&draft, &path).with_context(|| format!("writing {}", path.display()))
    }
}

impl PodObject {
    /// A Pod of this node, for a pod of the world.
    pub fn local(pod: &Pod) -> Self {
        let netns = pod.netns().display().to_string();
        Self::remote(&pod.name, vec![pod.ipv4.into(), pod.ipv6.into()]).annotation(NETNS, &netns)
    }

    /// A Pod of another node. It has the label `app`, with its name.
    pub fn remote(name: &str, addresses: Vec<IpAddr>) -> Self {
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: None,
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            annotations: BTreeMap::new(),
            addresses,
        }
    }

    /// In another Kubernetes namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With this uid.
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.to_owned());
        self
    }

    /// With this label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Whether the agent shall steer its connections.
    pub fn enrol(self, enrol: bool) -> Self {
        self.label(ENROL, if enrol { "true" } else { "false" })
    }

    fn file(&self) -> String {
        format!("pod-{}-{}.yaml", self.namespace, self.name)
    }

    fn render(&self) -> Value {
        let ready = json!({"type": "Ready", "status": "True"});
        let addresses: Vec<Value> = self.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let node = if self.annotations.contains_key(NETNS) {
            "node1"
        } else {
            "node2"
        };
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": self.labels,
                "annotations": self.annotations,
            },
            "spec": {"nodeName": node, "containers": [{"name": "app", "image": "app"}]},
            "status": {
                "phase": "Running",
                "podIP": self.addresses.first(),
                "podIPs": addresses,
                "conditions": [ready],
            },
        });
        if let Some(uid) = &self.uid {
            object["metadata"]["uid"] = json!(uid);
        }
        object
    }
}

impl ServiceObject {
    /// A Service for the Pods whose label `app` is `app`.
    pub fn new(name: &str, addresses: Vec<IpAddr>, app: &str) -> Self {
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            addresses,
            selector: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            ports: Vec::new(),
        }
    }

    /// A Service without an address of its own: clients choose among its Pods by name.
    pub fn headless(name: &str, app: &str) -> Self {
        Self::new(name, Vec::new(), app)
    }

    /// In another Kubernetes namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With one more port; its name says the protocol.
    pub fn port(mut self, name: &str, port: u16, target: u16) -> Self {
        self.ports
            .push(json!({"name": name, "protocol": "TCP", "port": port, "targetPort": target}));
        self
    }

    fn render(&self) -> Value {
        let mut addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        if addresses.is_empty() {
            addresses.push("None".to_owned());
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "clusterIP": addresses.first(),
                "clusterIPs": addresses,
                "selector": self.selector,
                "ports": self.ports,
            },
        })
    }
}

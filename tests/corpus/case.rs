//! The cases as they are written: what a file may say, and what is filled in where it says nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::keys::keys;
use super::request::Request;
use super::scenery::{GATEWAY, GATEWAY_POD, PODS};

/// The host that cases are about where they do not say another.
pub const HOST: &str = "a.default.svc.cluster.local";

/// One file: cases of one topic.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    #[serde(skip)]
    pub name: String,
    /// Why none of them can be shown to an Envoy.
    #[serde(default, rename = "not-envoy")]
    pub not_envoy: Option<String>,
    /// Why the decision alone has nothing to say about any of them.
    #[serde(default, rename = "not-decided")]
    pub not_decided: Option<String>,
    /// Each case is played in each of them; IPv4 where nothing is said.
    #[serde(default)]
    families: Vec<Family>,
    pub cases: Vec<Case>,
}

/// A configuration, and what it does to some requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The rows of the reference that it rests on; for the reader.
    #[serde(default)]
    pub row: Option<String>,
    /// What is dialled, and what Services have first; the file's where it says nothing.
    #[serde(default)]
    family: Option<Family>,
    /// `spec.http` of a VirtualService for [`HOST`], in the mesh and at the gateway.
    #[serde(default)]
    http: Option<Value>,
    /// `spec.servers` of a Gateway `own` that the ingress gateway has besides its own.
    #[serde(default)]
    servers: Option<Value>,
    /// VirtualServices for that Gateway, each with a host and the Service that all its requests go to.
    #[serde(default)]
    bound: BTreeMap<String, String>,
    /// `spec` of a DestinationRule for `b`, in place of the one with the subsets `v1` and `v2`.
    #[serde(default)]
    rule: Option<Map<String, Value>>,
    /// More objects, or all.
    #[serde(default)]
    objects: Vec<Object>,
    /// `gatewayTopology` of the gateway's `ProxyConfig`.
    #[serde(default)]
    pub topology: Value,
    /// Whether something in it is wrong, which must be told of.
    #[serde(default)]
    pub complaint: bool,
    /// Why it cannot be shown to an Envoy.
    #[serde(default, rename = "not-envoy")]
    pub not_envoy: Option<String>,
    /// Why the decision alone has nothing to say about it.
    #[serde(default, rename = "not-decided")]
    pub not_decided: Option<String>,
    pub requests: Vec<Request>,
}

/// An object, with what all of them have in common left out.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    pub kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    /// Seconds after the beginning: the age decides some conflicts.
    #[serde(default)]
    created: Option<u32>,
    #[serde(default)]
    labels: Option<Value>,
    #[serde(default)]
    annotations: Option<Value>,
    #[serde(default)]
    spec: Value,
    /// For kinds that have no `spec`.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// The pod `client`.
    Client,
    /// The pod `guest`, in another namespace.
    Guest,
    /// The machine outside, through the gateway.
    Gateway,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    #[default]
    Ipv4,
    Ipv6,
}

/// All files of the folder, by name.
pub fn load(folder: &Path) -> Result<Vec<Topic>> {
    let mut topics = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut topic: Topic =
            serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        topic.name = name;
        topic.spread();
        for case in &mut topic.cases {
            case.complete()
                .with_context(|| format!("in {}, case {:?}", path.display(), case.name))?;
        }
        topics.push(topic);
    }
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

impl Family {
    /// Of an address; that of a client of IPv4 at a socket for both is one of IPv4.
    pub fn of(address: &SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// As Kubernetes has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    pub fn loopback(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::LOCALHOST.into(),
            Self::Ipv6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

impl Topic {
    /// Makes of each case one for each family.
    fn spread(&mut self) {
        if self.families.is_empty() {
            self.families.push(Family::Ipv4);
        }
        let mut cases = Vec::new();
        for case in self.cases.drain(..) {
            if case.family.is_some() {
                cases.push(case);
                continue;
            }
            for family in &self.families {
                let mut case = case.clone();
                case.family = Some(*family);
                if self.families.len() > 1 && *family == Family::Ipv6 {
                    case.name += " (IPv6)";
                }
                cases.push(case);
            }
        }
        // Services change with the family, so those of one come together.
        cases.sort_by_key(Case::family);
        self.cases = cases;
    }
}

impl Case {
    pub fn family(&self) -> Family {
        self.family.unwrap_or_default()
    }

    /// The objects as an API server has them.
    pub fn manifests(&self) -> Vec<Value> {
        let mut all = self.written();
        for object in &mut all {
            // What names no key was told of when the case was read.
            let _ = keys().fill_in(object);
        }
        all
    }

    fn written(&self) -> Vec<Value> {
        let mut all = Vec::new();
        if let Some(http) = &self.http {
            let spec = json!({"hosts": [HOST], "gateways": ["mesh", GATEWAY], "http": http});
            all.push(istio("VirtualService", "case", "default", spec));
        }
        match &self.rule {
            Some(rule) => {
                let mut spec = rule.clone();
                spec.entry("host").or_insert(json!("b"));
                all.push(istio("DestinationRule", "case", "default", spec.into()));
            }
            None if self
                .objects
                .iter()
                .any(|object| object.kind == "DestinationRule") => {}
            None => {
                let spec = json!({"host": "b", "subsets": [
                    {"name": "v1", "labels": {"version": "v1"}},
                    {"name": "v2", "labels": {"version": "v2"}},
                ]});
                all.push(istio("DestinationRule", "case", "default", spec));
            }
        }
        if let Some(servers) = &self.servers {
            let spec = json!({"selector": {"istio": "ingressgateway"}, "servers": servers});
            all.push(istio("Gateway", "own", "default", spec));
        }
        for (host, service) in &self.bound {
            let route = json!({"destination": {"host": service, "port": {"number": 80}}});
            let spec = json!({
                "hosts": [host], "gateways": ["own"], "http": [{"route": [route]}],
            });
            let name = host.replace('*', "any");
            all.push(istio("VirtualService", &name, "default", spec));
        }
        for (number, object) in self.objects.iter().enumerate() {
            all.push(object.whole(number));
        }
        let gateway = PODS.iter().find(|pod| pod.name == GATEWAY_POD);
        if let Some(gateway) = gateway.filter(|_| !self.topology.is_null()) {
            let mut pod = gateway.object(None);
            let config = json!({"gatewayTopology": self.topology}).to_string();
            pod["metadata"]["annotations"]["proxy.istio.io/config"] = config.into();
            all.push(pod);
        }
        all
    }

    /// For messages.
    pub fn title(&self) -> String {
        match &self.row {
            Some(row) => format!("{} ({row})", self.name),
            None => self.name.clone(),
        }
    }

    fn complete(&mut self) -> Result<()> {
        let from = if self.http.is_some() {
            vec![From::Client, From::Gateway]
        } else if self.servers.is_some() {
            vec![From::Gateway]
        } else {
            vec![From::Client]
        };
        let family = self.family();
        for request in &mut self.requests {
            request.complete(&from, family)?;
        }
        self.written()
            .iter_mut()
            .try_for_each(|object| keys().fill_in(object))
    }
}

impl Object {
    /// As an API server has it. `number` tells it from others where it has no name.
    pub fn whole(&self, number: usize) -> Value {
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| format!("case-{number}"));
        let namespace = self.namespace.as_deref().unwrap_or("default");
        let mut object = istio(&self.kind, &name, namespace, self.spec.clone());
        let metadata = &mut object["metadata"];
        if let Some(created) = self.created {
            let (minute, second) = (created / 60, created % 60);
            metadata["creationTimestamp"] =
                json!(format!("2024-01-01T00:{minute:02}:{second:02}Z"));
        }
        if let Some(labels) = &self.labels {
            metadata["labels"] = labels.clone();
        }
        if let Some(annotations) = &self.annotations {
            metadata["annotations"] = annotations.clone();
        }
        for (key, value) in &self.rest {
            object[key] = value.clone();
        }
        object
    }
}

/// An object of Istio or of Kubernetes with a `spec`, which may be null.
pub fn istio(kind: &str, name: &str, namespace: &str, spec: Value) -> Value {
    let version = match kind {
        "Service" | "Pod" | "Secret" | "Namespace" | "Node" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication" => {
            "security.istio.io/v1"
        }
        "Telemetry" => "telemetry.istio.io/v1",
        _ => "networking.istio.io/v1",
    };
    let mut object = json!({
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
    });
    if !spec.is_null() {
        object["spec"] = spec;
    }
    object
}

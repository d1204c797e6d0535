//! The cases as they are written: what a file may say, and what is filled in where it says nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::{Map, Value, json};

use super::scenery::GATEWAY;

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
    pub cases: Vec<Case>,
}

/// A configuration, and what it does to some requests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The rows of the reference that it rests on; for the reader.
    #[serde(default)]
    pub row: Option<String>,
    /// `spec.http` of a VirtualService for [`HOST`], in the mesh and at the gateway.
    #[serde(default)]
    http: Option<Value>,
    /// `spec` of a DestinationRule for `b`, in place of the one with the subsets `v1` and `v2`.
    #[serde(default)]
    rule: Option<Map<String, Value>>,
    /// More objects, or all.
    #[serde(default)]
    objects: Vec<Object>,
    /// Why it cannot be shown to an Envoy.
    #[serde(default, rename = "not-envoy")]
    pub not_envoy: Option<String>,
    /// Why the decision alone has nothing to say about it.
    #[serde(default, rename = "not-decided")]
    pub not_decided: Option<String>,
    pub requests: Vec<Request>,
}

/// An object, with what all of them have in common left out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    kind: String,
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

/// What is sent, and what must come of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Request {
    // --- what is sent ---
    /// Everyone who asks; `client` and `gateway` where the case has `http`, else `client`.
    pub from: Option<OneOrMore<From>>,
    /// The path, of a GET; likewise the other methods.
    get: Option<String>,
    post: Option<String>,
    put: Option<String>,
    delete: Option<String>,
    head: Option<String>,
    options: Option<String>,
    /// Any other method, or any other form of target.
    pub method: Option<String>,
    pub path: Option<String>,
    /// The Host; [`HOST`] where there is none.
    pub host: Option<String>,
    /// Name or address that is connected to; the Host's where there is none. `pod NAME` is a pod's address.
    pub dial: Option<String>,
    pub port: Option<u16>,
    pub headers: BTreeMap<String, OneOrMore<Text>>,
    pub body: Option<String>,
    /// HTTP/2 with prior knowledge.
    pub http2: bool,
    /// These bytes as they are; `{id}` is the request's number.
    pub raw: Option<String>,
    /// Not HTTP: a line, which the server answers with its name.
    pub tcp: bool,
    /// Not HTTP: the beginning of TLS, with this server name; the server answers with its name.
    pub tls: Option<String>,
    /// Upgrade to WebSocket, and send something through it.
    pub websocket: bool,
    /// So many times, one after the other on a connection.
    pub times: Option<u32>,
    /// So many of them at once, each on its own connection.
    pub at_once: bool,
    /// How the server answers; a list is one entry per try, the last one stays.
    pub server: OneOrMore<Reply>,
    /// Why this one cannot be shown to an Envoy.
    pub not_envoy: Option<String>,
    /// Why the decision alone has nothing to say about it.
    pub not_decided: Option<String>,

    // --- what must come of it ---
    /// The pod that gets it; `b` stands for `b-v1` and `b-v2`. Nobody where there is none.
    pub to: Option<String>,
    /// 200 where `to` is there.
    pub status: Option<u16>,
    /// No answer: the connection ends.
    pub closed: bool,
    pub answer: Option<Value>,
    /// Headers of the answer: see `check`.
    pub response: BTreeMap<String, Value>,
    /// Trailers of the answer.
    pub trailers: BTreeMap<String, Value>,
    pub upstream: Upstream,
    /// How often servers got it, mirrored copies aside; 1 where `to` is there.
    pub attempts: Option<usize>,
    /// Copies, by pod.
    pub mirrored: BTreeMap<String, usize>,
    /// With `times`: each pod's part of the whole.
    pub shares: BTreeMap<String, f64>,
    /// With `times`: all to the same pod.
    pub sticky: bool,
    /// With `times`: how many connections the servers saw.
    pub connections: Option<usize>,
    /// With `times`: how many got each status: a share, a number, or from and to.
    pub statuses: BTreeMap<u16, OneOrMore<f64>>,
    pub took: Took,
    /// Envoy's abbreviation of what went wrong.
    pub flag: Option<String>,
}

/// What the server saw.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    pub method: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
    pub body: Option<String>,
    /// `http1` or `http2`.
    pub version: Option<String>,
    pub headers: BTreeMap<String, Value>,
}

/// How long the answer took.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Took {
    #[serde(deserialize_with = "milliseconds")]
    pub at_least: Option<Duration>,
    #[serde(deserialize_with = "milliseconds")]
    pub under: Option<Duration>,
}

/// How a server answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Reply {
    pub status: Option<u16>,
    pub headers: BTreeMap<String, OneOrMore<Text>>,
    pub body: Option<String>,
    /// Before the answer.
    #[serde(deserialize_with = "milliseconds")]
    pub delay: Option<Duration>,
    /// Between its head and its body.
    #[serde(deserialize_with = "milliseconds")]
    pub body_delay: Option<Duration>,
    /// No answer, but an end.
    pub close: bool,
    /// Half an answer, and an end.
    pub break_off: bool,
    /// Something that is not HTTP.
    pub garbage: bool,
    /// HTTP/2: the stream is refused.
    pub refuse: bool,
}

/// A value, or a list of them.
#[derive(Clone, Debug)]
pub struct OneOrMore<T>(pub Vec<T>);

/// A scalar of YAML as text; `LONG-50000` is so many letters.
#[derive(Clone, Debug)]
pub struct Text(pub String);

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
        for case in &mut topic.cases {
            case.complete()
                .with_context(|| format!("in {}, case {:?}", path.display(), case.name))?;
        }
        topics.push(topic);
    }
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

impl Case {
    /// The objects as an API server has them.
    pub fn manifests(&self) -> Vec<Value> {
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
        for (number, object) in self.objects.iter().enumerate() {
            all.push(object.whole(number));
        }
        all
    }

    fn complete(&mut self) -> Result<()> {
        let from = if self.http.is_some() {
            vec![From::Client, From::Gateway]
        } else {
            vec![From::Client]
        };
        for request in &mut self.requests {
            request.complete(&from)?;
        }
        Ok(())
    }
}

impl Object {
    fn whole(&self, number: usize) -> Value {
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

fn istio(kind: &str, name: &str, namespace: &str, spec: Value) -> Value {
    let version = match kind {
        "Service" | "Pod" | "Secret" | "Namespace" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "PeerAuthentication" => "security.istio.io/v1",
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

impl Request {
    fn complete(&mut self, from: &[From]) -> Result<()> {
        self.from.get_or_insert(OneOrMore(from.to_vec()));
        let verbs = [
            ("GET", self.get.take()),
            ("POST", self.post.take()),
            ("PUT", self.put.take()),
            ("DELETE", self.delete.take()),
            ("HEAD", self.head.take()),
            ("OPTIONS", self.options.take()),
        ];
        for (verb, path) in verbs {
            if let Some(path) = path {
                ensure!(self.path.is_none(), "a request with two paths");
                self.method.get_or_insert(verb.to_owned());
                self.path = Some(path);
            }
        }
        if self.path.is_none() && self.raw.is_none() && !self.tcp && self.tls.is_none() {
            bail!("a request without a path");
        }
        if self.to.is_some() && self.status.is_none() && !self.closed {
            self.status = Some(200);
        }
        let told = self.status.is_some()
            || self.closed
            || self.sticky
            || self.connections.is_some()
            || !self.shares.is_empty()
            || !self.statuses.is_empty();
        ensure!(told, "a request of which nothing is expected: {self:?}");
        Ok(())
    }

    pub fn host(&self) -> &str {
        self.host.as_deref().unwrap_or(HOST)
    }

    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("/")
    }

    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or("GET")
    }

    pub fn port(&self) -> u16 {
        self.port.unwrap_or(80)
    }

    /// For messages.
    pub fn title(&self) -> String {
        let port = self
            .port
            .map_or(String::new(), |port| format!(" port {port}"));
        let text = if let Some(raw) = &self.raw {
            format!("{:?}", raw.lines().next().unwrap_or_default())
        } else if self.tcp {
            "tcp".to_owned()
        } else if let Some(sni) = &self.tls {
            format!("tls {sni}")
        } else {
            format!("{} {}{}", self.method(), self.host(), self.path())
        };
        let headers: Vec<String> = self
            .headers
            .iter()
            .map(|(name, values)| {
                let values: Vec<&str> = values.0.iter().map(|value| value.0.as_str()).collect();
                format!(" {name}:{}", values.join(","))
            })
            .collect();
        let mut title = text + &port + &headers.concat();
        if title.len() > 160 {
            title.truncate(title.floor_char_boundary(160));
            title += "...";
        }
        title
    }
}

impl<T> Default for OneOrMore<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        let read = |value| serde_json::from_value(value).map_err(D::Error::custom);
        values
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let written = text(&value);
        let written = written.ok_or_else(|| D::Error::custom(format!("not a text: {value}")))?;
        let long = written.strip_prefix("LONG-").and_then(|n| n.parse().ok());
        Ok(Self(long.map_or(written, |length| "x".repeat(length))))
    }
}

/// A scalar as text.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `1.5s`, `300ms`, `2m` or `24h`.
pub fn duration(text: &str) -> Option<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let written = String::deserialize(deserializer)?;
    let read = duration(&written);
    read.map(Some)
        .ok_or_else(|| D::Error::custom(format!("not a duration: {written}")))
}

//! One request of a case, and what is expected of it.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::case::{Family, From, HOST};
use super::value::{OneOrMore, Text, milliseconds};

/// What is sent, and what must come of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Request {
    // --- what is sent ---
    /// Everyone who asks; `client` and `gateway` where the case has `http`, `gateway` where it has `servers`, else `client`.
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
    pub body: Option<Text>,
    /// HTTP/2 with prior knowledge.
    pub http2: bool,
    /// What is said of the connection before anything else: the PROXY protocol.
    pub announced: Option<String>,
    /// These bytes as they are; `{id}` is the request's number.
    pub raw: Option<String>,
    /// Not HTTP: a line, which the server answers with its name.
    pub tcp: bool,
    /// Not HTTP: the beginning of TLS, with this server name; the server answers with its name.
    pub tls: Option<String>,
    /// In TLS, with a handshake like this; without more, the Host is asked for.
    pub over_tls: Option<OverTls>,
    /// Upgrade to WebSocket, and send something through it.
    pub websocket: bool,
    /// Before it is sent: what the ones before it have set off needs a moment.
    #[serde(deserialize_with = "milliseconds")]
    pub pause: Option<Duration>,
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

    /// The case's.
    #[serde(skip)]
    pub family: Family,

    // --- what must come of it ---
    /// The pod that gets it; `b` stands for `b-v1` and `b-v2`. Nobody where there is none.
    pub to: Option<String>,
    /// 200 where `to` is there.
    pub status: Option<u16>,
    /// No answer: the connection ends.
    pub closed: bool,
    /// So does the handshake, with this alert of TLS, in the words of rustls.
    pub alert: Option<String>,
    /// The certificate that the server shows: see `keys`.
    pub shown: Option<String>,
    /// What was agreed on by ALPN; `none` for nothing.
    pub agreed: Option<String>,
    /// The version of TLS.
    pub agreed_version: Option<Text>,
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
    /// With `times`: how many came to each pod, from and to.
    pub counts: BTreeMap<String, [usize; 2]>,
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

/// How a client shakes hands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OverTls {
    /// The name that is asked for; empty for none.
    pub sni: Option<String>,
    /// What is offered; without it, the one that is spoken.
    pub alpn: Option<Vec<String>>,
    /// The client's certificate: see `keys`.
    pub shows: Option<String>,
    /// `1.2` or `1.3`, and nothing else.
    pub version: Option<Text>,
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
    /// Of the address that it came to; the case's where nothing is said.
    pub family: Option<Family>,
    pub headers: BTreeMap<String, Value>,
    /// Of the TLS that it came in: `sni`, `alpn`, and the certificate that was `shown`. Absent ones are null.
    pub tls: BTreeMap<String, Value>,
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
    /// HTTP/1.1: these bytes as they are.
    pub raw: Option<String>,
    /// HTTP/2: the stream is refused.
    pub refuse: bool,
}

impl Request {
    /// Fills in what is the same for most.
    pub fn complete(&mut self, from: &[From], family: Family) -> Result<()> {
        self.family = family;
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
        self.closed |= self.alert.is_some();
        let told = self.status.is_some()
            || self.closed
            || self.sticky
            || self.connections.is_some()
            || !self.shares.is_empty()
            || !self.counts.is_empty()
            || !self.statuses.is_empty();
        ensure!(told, "a request of which nothing is expected: {self:?}");
        Ok(())
    }

    pub fn host(&self) -> &str {
        self.host.as_deref().unwrap_or(HOST)
    }

    /// The Host without its port.
    pub fn name(&self) -> &str {
        without_port(self.host())
    }

    /// Whether something else than HTTP is spoken.
    pub fn is_stream(&self) -> bool {
        self.tcp || self.tls.is_some()
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
        let text = match &self.over_tls {
            Some(over) => format!(
                "{text} in TLS to {}",
                over.sni.as_deref().unwrap_or(self.name())
            ),
            None => text,
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

/// A Host without its port; an IPv6 address may have brackets, and has them where it has a port.
pub fn without_port(host: &str) -> &str {
    if host.parse::<Ipv6Addr>().is_ok() {
        return host;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

//! The request that somebody asks about, as it was typed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::proxy::plain_path;
use crate::route::{Client, Request};

/// What somebody wants to know.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The pod that asks, or the gateway that is asked; `NAMESPACE/NAME`, or a name in `default`.
    pub who: Who,
    /// The URL: `http`, `https` or `tcp`; without a scheme it is `http`.
    pub url: String,
    /// The method; `None` is GET.
    pub method: Option<String>,
    /// Headers, as `name: value`.
    pub headers: Vec<String>,
    /// The address that is dialled, where the name's own is not meant.
    pub address: Option<SocketAddr>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// This pod.
    Pod(String),
    /// A client of this gateway: of its pod, or of a Gateway.
    Gateway(String),
}

/// What is wrong with a question.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) protocol: Asking,
    method: String,
    /// Host and port as they stand in the URL.
    authority: String,
    /// The Host: the URL's, or that of a header.
    host: String,
    pub(super) name: String,
    pub(super) port: u16,
    written_path: String,
    path: String,
    query: Option<String>,
    pub(super) headers: HeaderMap,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// `http://`.
    Http,
    /// `https://`: TLS that the client begins.
    Https,
    /// `tcp://`: neither.
    Tcp,
}

impl Default for Who {
    fn default() -> Self {
        Self::Pod(String::new())
    }
}

impl Asked {
    pub(super) fn new(wish: &Wish) -> Result<Self, Usage> {
        let wrong = |what: String| Usage(format!("{what}; write for example http://reviews:9080/"));
        let (scheme, rest) = wish.url.split_once("://").unwrap_or(("http", &wish.url));
        let (protocol, default) = match &*scheme.to_ascii_lowercase() {
            "http" => (Asking::Http, Some(80)),
            "https" => (Asking::Https, Some(443)),
            "tcp" => (Asking::Tcp, None),
            _ => return Err(wrong(format!("{scheme} is none of http, https and tcp"))),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let parsed: Authority = authority
            .parse()
            .map_err(|_| wrong(format!("{authority:?} is no host")))?;
        if authority.contains('@') || parsed.host().is_empty() {
            return Err(wrong(format!("{authority:?} is no host")));
        }
        // `Authority` takes numbers that are no ports.
        let port = match authority[parsed.host().len()..].strip_prefix(':') {
            None => default.ok_or_else(|| wrong("a tcp:// URL needs a port".to_owned()))?,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(wrong(format!("{port:?} is no port"))),
            },
        };
        if !target.is_empty() && target.replace('?', "/?").parse::<PathAndQuery>().is_err() {
            return Err(wrong(format!(
                "{target:?} cannot be asked for as it is: encode what is not allowed, a blank as %20"
            )));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        let plain = plain_path(path).ok_or_else(|| wrong(format!("{path:?} is no path")))?;
        let mut headers = headers(&wish.headers)?;
        let host = headers.remove(http::header::HOST);
        let host = match host.as_ref().map(HeaderValue::to_str) {
            None => authority.to_owned(),
            Some(Ok(host)) => host.to_owned(),
            Some(Err(_)) => return Err(Usage("the Host header is no text".to_owned())),
        };
        let method = wish.method.as_deref().unwrap_or("GET");
        Method::from_bytes(method.as_bytes())
            .map_err(|_| Usage(format!("{method:?} is no method")))?;
        Ok(Self {
            protocol,
            method: method.to_owned(),
            authority: authority.to_owned(),
            host,
            name: parsed.host().trim_matches(['[', ']']).to_owned(),
            port,
            written_path: path.to_owned(),
            path: plain.into_owned(),
            query,
            headers,
        })
    }

    /// The question, for its answer's first line.
    pub(super) fn shown(&self) -> String {
        let authority = &self.authority;
        let query = self
            .query
            .as_ref()
            .map_or_else(String::new, |query| format!("?{query}"));
        let path = &self.written_path;
        match self.protocol {
            Asking::Http => format!("{} http://{authority}{path}{query}", self.method),
            Asking::Https => format!("{} https://{authority}{path}{query}", self.method),
            Asking::Tcp => format!("tcp://{authority}"),
        }
    }

    /// The name that the client's TLS asks for: none where it has no TLS or dials an address.
    pub(super) fn server_name(&self) -> Option<&str> {
        let named = self.protocol == Asking::Https && self.name.parse::<IpAddr>().is_err();
        named.then_some(&*self.name)
    }

    /// What the proxy knows of the request. `tls` is whether it came over TLS that was opened before it was routed.
    pub(super) fn request<'a>(&'a self, client: &Client<'a>, tls: bool) -> Request<'a> {
        let forwarded = self.headers.get("x-forwarded-proto");
        let forwarded = forwarded.and_then(|value| value.to_str().ok());
        let own = if tls { "https" } else { "http" };
        let address = client.pod().addresses.first().copied();
        Request {
            authority: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            scheme: match client {
                Client::Pod(_) => forwarded.unwrap_or(own),
                // A gateway's clients are strangers.
                Client::Gateway(_) => own,
            },
            headers: &self.headers,
            source: match client {
                Client::Pod(_) => address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                Client::Gateway(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            },
        }
    }
}

fn headers(written: &[String]) -> Result<HeaderMap, Usage> {
    let mut headers = HeaderMap::new();
    for written in written {
        let wrong = || Usage(format!("{written:?} is no header; write -H 'name: value'"));
        let (name, value) = written.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        headers.append(name, value);
    }
    Ok(headers)
}

//! A Gateway: the hosts that gateway pods serve, on which ports, and with which TLS.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::crd::gateway::{GatewaySpec, Server as WrittenServer, ServerPort, ServerTls};
use crate::config::object::gateway::tls::Mode;
use crate::config::object::{self, name};
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};
use crate::model::Labels;

pub use crate::config::object::gateway::tls::{
    Authorities, Certificates, ClientCheck, Clients, Tls,
};

mod tls;

/// A Gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The labels of the gateway pods; empty selects all of them.
    pub selector: Labels,
    /// Its servers that can be served.
    pub servers: Vec<Server>,
}

/// A server of a Gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// Port of the gateway's Service.
    pub port: u16,
    /// `port.name`: tells it from the other servers of its Gateway.
    pub name: Arc<str>,
    /// The address to listen at; `None` is every one.
    pub bind: Option<IpAddr>,
    /// The hosts served.
    pub hosts: Vec<ServerHost>,
    /// What is done with its connections.
    pub service: ServerKind,
    /// Where it was written.
    pub path: Path,
}

/// What a server does.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// HTTP in the clear.
    Http {
        /// Requests are sent to `https://`.
        https_redirect: bool,
    },
    /// Relays whatever is spoken, in the clear.
    Tcp,
    /// Opens TLS; within is HTTP.
    Https(Tls),
    /// Opens TLS; within is anything.
    Tls(Tls),
    /// Relays TLS by the name that the client asks for.
    Passthrough,
}

/// A host of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerHost {
    /// The namespace whose VirtualServices may use it; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// A name, `*.name`, or `*`.
    pub host: Arc<str>,
}

/// What `port.protocol` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    /// HTTP and its kin, in the clear.
    Http,
    /// Anything else, in the clear.
    Tcp,
    Https,
    Tls,
}

impl Server {
    /// Whether it has a `tls` section, be it only to redirect.
    pub fn has_tls(&self) -> bool {
        match self.service {
            ServerKind::Http { https_redirect } => https_redirect,
            ServerKind::Https(_) | ServerKind::Tls(_) | ServerKind::Passthrough => true,
            ServerKind::Tcp => false,
        }
    }
}

impl Gateway {
    /// Reads `spec`. A server that cannot be served is left out and reported; the others are not affected.
    pub fn read(spec: GatewaySpec, namespace: &str, problems: &mut Problems) -> Self {
        let GatewaySpec { servers, selector } = spec;
        let path = Path::of("spec.servers");
        if servers.is_empty() {
            problems.error(&path, "a Gateway needs at least one server", "add one");
        }
        for (index, server) in servers.iter().enumerate() {
            let name = server.port.as_ref().map(|port| port.name.as_str());
            let earlier = servers[..index]
                .iter()
                .any(|other| other.port.as_ref().map(|port| port.name.as_str()) == name);
            if earlier && name.is_some_and(|name| !name.is_empty()) {
                let path = path.index(index).key("port").key("name");
                let name = name.unwrap_or_default();
                problems.error(
                    &path,
                    format!("two ports are named \"{name}\""),
                    "give each port its own name",
                );
            }
        }
        Self {
            selector: object::labels(&selector),
            servers: servers
                .into_iter()
                .enumerate()
                .filter_map(|(index, server)| {
                    read_server(server, namespace, path.index(index), problems)
                })
                .collect(),
        }
    }
}

fn read_server(
    server: WrittenServer,
    namespace: &str,
    path: Path,
    problems: &mut Problems,
) -> Option<Server> {
    let WrittenServer {
        port,
        bind,
        hosts,
        tls,
        default_endpoint,
        name: _,
    } = server;
    if default_endpoint.is_some() {
        problems.warning(
            &path.key("defaultEndpoint"),
            "Istio does not use defaultEndpoint",
            "remove it",
        );
    }
    let hosts = read_hosts(&hosts, namespace, &path.key("hosts"), problems);
    let bind = read_bind(bind.as_deref(), &path.key("bind"), problems);
    let port = read_port(port, &path.key("port"), problems);
    let tls_path = path.key("tls");
    let service = match (port.as_ref()?.spoken?, tls) {
        (Spoken::Http, None) => ServerKind::Http {
            https_redirect: false,
        },
        (Spoken::Http, Some(tls)) => {
            check_plain(&tls, &tls_path, problems);
            ServerKind::Http {
                https_redirect: tls.https_redirect,
            }
        }
        (Spoken::Tcp, None) => ServerKind::Tcp,
        (Spoken::Tcp, Some(_)) => {
            problems.error(
                &tls_path,
                "tls on a server for neither HTTPS nor TLS",
                "use protocol TLS, or remove it",
            );
            ServerKind::Tcp
        }
        (Spoken::Https | Spoken::Tls, None) => {
            problems.error(
                &tls_path,
                "a server for HTTPS or TLS needs tls",
                "add it, with a mode",
            );
            return None;
        }
        (spoken, Some(tls)) => match tls::read(&tls, &tls_path, problems)? {
            Mode::Passthrough => ServerKind::Passthrough,
            Mode::Open(tls) if spoken == Spoken::Https => ServerKind::Https(tls),
            Mode::Open(tls) => ServerKind::Tls(tls),
        },
    };
    let Port { number, name, .. } = port?;
    Some(Server {
        port: number,
        name,
        bind: bind?,
        hosts,
        service,
        path,
    })
}

/// `port`, as far as it can be read.
struct Port {
    number: u16,
    name: Arc<str>,
    /// `None` where it is none, or cannot be served.
    spoken: Option<Spoken>,
}

fn read_port(port: Option<ServerPort>, path: &Path, problems: &mut Problems) -> Option<Port> {
    let Some(port) = port else {
        problems.error(
            path,
            "a server needs a port",
            "add number, name and protocol",
        );
        return None;
    };
    let ServerPort {
        number,
        protocol,
        name,
        target_port,
    } = port;
    if name.is_empty() {
        problems.error(
            &path.key("name"),
            "a port needs a name",
            "for example \"http\"",
        );
    }
    if target_port.is_some() {
        problems.error(
            &path.key("targetPort"),
            "Istio does not take targetPort",
            "remove it",
        );
    }
    let spoken = read_protocol(&protocol, &path.key("protocol"), problems);
    let number = super::port_number(number, &path.key("number"), problems)?;
    Some(Port {
        number,
        name: name.into(),
        spoken,
    })
}

fn read_protocol(written: &str, path: &Path, problems: &mut Problems) -> Option<Spoken> {
    Some(match written.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY" => Spoken::Http,
        "HTTPS" => Spoken::Https,
        "TLS" => Spoken::Tls,
        "TCP" | "MONGO" | "REDIS" | "MYSQL" => Spoken::Tcp,
        "UDP" | "HBONE" => {
            left_out(problems, path, &format!("a server for {written}"));
            return None;
        }
        _ => {
            problems.error(
                path,
                format!("\"{written}\" is no protocol of a server"),
                "write HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP or TLS",
            );
            return None;
        }
    })
}

/// A server that is left out does not make the Gateway wrong, so its other servers stay.
fn left_out(problems: &mut Problems, path: &Path, what: &str) {
    problems.code(Code::Mesh0001).left_out(
        path,
        format!("{what} is not supported yet, so this server is not served"),
        "the Gateway's other servers are not affected",
    );
}

/// The address; `None` where the server cannot be served for it.
#[expect(
    clippy::option_option,
    reason = "an address that is wanted, none that is, or none that can be had"
)]
fn read_bind(
    written: Option<&str>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Option<IpAddr>> {
    let Some(written) = written.filter(|bind| !bind.is_empty()) else {
        return Some(None);
    };
    if written.starts_with("unix://") {
        left_out(problems, path, "a unix socket");
        return None;
    }
    match written.parse() {
        Ok(address) => Some(Some(address)),
        Err(_) => {
            problems.error(
                path,
                format!("\"{written}\" is no IP address"),
                "write the address to listen at, or remove it to listen at every one",
            );
            None
        }
    }
}

/// On a server for plain HTTP `tls` may say that requests are to come by HTTPS, and no more.
fn check_plain(tls: &ServerTls, path: &Path, problems: &mut Problems) {
    let more = !matches!(tls.mode.as_str(), "" | "PASSTHROUGH" | "AUTO_PASSTHROUGH")
        || !tls.server_certificate.is_empty()
        || !tls.private_key.is_empty()
        || !tls.ca_certificates.is_empty();
    if more {
        problems.error(
            path,
            "tls on a server for plain HTTP",
            "use protocol HTTPS, or keep httpsRedirect alone",
        );
    }
}

fn read_hosts(
    hosts: &[String],
    own: &str,
    path: &Path,
    problems: &mut Problems,
) -> Vec<ServerHost> {
    if hosts.is_empty() {
        problems.error(path, "a server needs hosts", "add one, or \"*\" for all");
    }
    let mut read = Vec::new();
    for (index, written) in hosts.iter().enumerate() {
        let path = path.index(index);
        let (namespace, host) = match written.split_once('/') {
            None | Some(("*", _)) => (None, written.trim_start_matches("*/")),
            Some((".", host)) => (Some(own), host),
            Some((namespace, host)) => (Some(namespace), host),
        };
        if namespace.is_some_and(|namespace| !name::is_label(namespace)) {
            let remedy = "write a namespace, \".\" or \"*\" before the slash";
            problems.error(
                &path,
                format!("\"{written}\" does not begin with a namespace"),
                remedy,
            );
        }
        let short = !host.contains('.') && host != "*";
        if !name::is_host(host) || short {
            problems.error(
                &path,
                format!("\"{host}\" is no host of a Gateway"),
                "write a fully qualified name, \"*.example.com\" or \"*\"",
            );
        }
        read.push(ServerHost {
            namespace: namespace.map(Into::into),
            host: host.to_ascii_lowercase().into(),
        });
    }
    read
}

#[cfg(test)]
mod tests;

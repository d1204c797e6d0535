//! A Gateway: the hosts that gateway pods serve, and on which ports.

use std::sync::Arc;

use crate::config::crd::gateway::{GatewaySpec, Server as WrittenServer, ServerPort, ServerTls};
use crate::config::object::{self, name};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Labels, Protocol};

/// A Gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The labels of the gateway pods; empty selects all of them.
    pub selector: Labels,
    /// Its servers that this version can serve.
    pub servers: Vec<Server>,
}

/// A server of a Gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// Port of the gateway's Service.
    pub port: u16,
    /// What clients speak.
    pub protocol: Protocol,
    /// The hosts served.
    pub hosts: Vec<ServerHost>,
    /// Where it was written.
    pub path: Path,
}

/// A host of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerHost {
    /// The namespace whose VirtualServices may use it; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// A name, `*.name`, or `*`.
    pub host: Arc<str>,
}

impl Gateway {
    /// Reads `spec`. A server that this version cannot serve is left out and reported; the others are not affected.
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
                    read_server(server, namespace, &path.index(index), problems)
                })
                .collect(),
        }
    }
}

fn read_server(
    server: WrittenServer,
    namespace: &str,
    path: &Path,
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
        problems.without_effect(&path.key("defaultEndpoint"), "defaultEndpoint");
    }
    if bind.is_some_and(|bind| !bind.is_empty()) {
        problems.unsupported(&path.key("bind"), "bind");
    }
    let hosts = read_hosts(&hosts, namespace, &path.key("hosts"), problems);
    let (number, protocol) = read_port(port, &path.key("port"), problems)?;
    let encrypted = matches!(protocol, Some(Protocol::Tls));
    match tls {
        None if encrypted => {
            problems.error(
                &path.key("tls"),
                "a server for HTTPS or TLS needs tls",
                "add it, with a mode",
            );
        }
        Some(tls) => check_tls(&tls, encrypted, &path.key("tls"), problems)?,
        None => {}
    }
    Some(Server {
        port: number,
        protocol: protocol
            .filter(|protocol| matches!(protocol, Protocol::Http | Protocol::Http2))?,
        hosts,
        path: path.clone(),
    })
}

/// The number and what is spoken; `None` inside where the protocol is known to Istio but not served yet.
fn read_port(
    port: Option<ServerPort>,
    path: &Path,
    problems: &mut Problems,
) -> Option<(u16, Option<Protocol>)> {
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
    let number = super::port_number(number, &path.key("number"), problems)?;
    let protocol_path = path.key("protocol");
    let protocol = match protocol.to_ascii_uppercase().as_str() {
        "HTTP" => Some(Protocol::Http),
        "HTTP2" | "GRPC" | "GRPC-WEB" => Some(Protocol::Http2),
        "HTTPS" | "TLS" => {
            left_out(&protocol_path, number, &protocol, problems);
            Some(Protocol::Tls)
        }
        "TCP" | "MONGO" | "REDIS" | "MYSQL" => {
            left_out(&protocol_path, number, &protocol, problems);
            None
        }
        _ => {
            problems.error(
                &protocol_path,
                format!("\"{protocol}\" is no protocol of a server"),
                "write HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP or TLS",
            );
            None
        }
    };
    Some((number, protocol))
}

/// A server that is left out does not make the Gateway wrong, so its other servers stay.
fn left_out(path: &Path, number: u16, protocol: &str, problems: &mut Problems) {
    problems.left_out(
        path,
        format!("a server for {protocol} is not supported yet, so port {number} is not served"),
        "the Gateway's other servers are not affected",
    );
}

/// `None` where the server cannot be served.
fn check_tls(tls: &ServerTls, encrypted: bool, path: &Path, problems: &mut Problems) -> Option<()> {
    if encrypted {
        return Some(());
    }
    if tls.https_redirect {
        // Serving in the clear what should be redirected would be worse than not serving it.
        problems.left_out(
            &path.key("httpsRedirect"),
            "httpsRedirect is not supported yet, so this server is not served",
            "the Gateway's other servers are not affected",
        );
        return None;
    }
    let certificates = tls.server_certificate.is_some()
        || tls.private_key.is_some()
        || tls.credential_name.is_some()
        || tls.credential_names.is_some()
        || tls.tls_certificates.is_some()
        || tls.ca_certificates.is_some()
        || tls.mode.is_some();
    if certificates {
        problems.error(
            path,
            "tls on a server for plain HTTP",
            "use protocol HTTPS, or keep httpsRedirect alone",
        );
    }
    Some(())
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

//! A Service: its addresses, its ports and what they speak, and which Pods serve them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::crd::core::{NumberOrName, ServicePort as WrittenPort, ServiceSpec};
use crate::config::object;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Labels, Protocol};

/// A Service.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Cluster IPs; none for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// `ipFamilies`: whether it is IPv4 by which clients reach its Pods; `None` where nothing tells.
    pub ipv4_first: Option<bool>,
    /// Whether it has no cluster IP on purpose: clients dial its Pods.
    pub headless: bool,
    /// `type: ExternalName`: the name that it stands for, lower case.
    pub external: Option<Arc<str>>,
    /// The labels of its Pods; `None` where it has no selector.
    pub selector: Option<Labels>,
    /// Its ports, in written order.
    pub ports: Vec<Port>,
    /// Whether Pods that are not ready serve it too.
    pub publish_not_ready: bool,
    /// `internalTrafficPolicy: Local`: clients reach the endpoints of their own node alone.
    pub node_local: bool,
    /// `trafficDistribution`.
    pub distribution: Distribution,
}

/// Which endpoints a Service prefers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// None.
    #[default]
    Any,
    /// `PreferClose` and `PreferSameZone`: those of the client's zone, then those of its region.
    SameZone,
    /// `PreferSameNode`: those of the client's node, then those of its zone, and so on.
    SameNode,
}

/// A port of a Service.
#[derive(Debug, PartialEq, Eq)]
pub struct Port {
    /// What clients dial.
    pub number: u16,
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// The container port behind it.
    pub target: Target,
}

/// A container port.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// By number.
    Number(u16),
    /// By the name that each Pod gives it.
    Name(Arc<str>),
}

impl Service {
    /// Reads `spec`.
    pub fn read(spec: ServiceSpec, problems: &mut Problems) -> Self {
        let ServiceSpec {
            r#type,
            selector,
            cluster_ip,
            cluster_ips,
            ip_families,
            ports,
            publish_not_ready_addresses,
            internal_traffic_policy,
            traffic_distribution,
            external_name,
        } = spec;
        let path = Path::of("spec");
        let external = read_external(&r#type, &external_name, &path, problems);
        let distribution = Distribution::of(&traffic_distribution);
        if distribution.is_none() && !traffic_distribution.is_empty() {
            problems.warning(
                &path.key("trafficDistribution"),
                format!("\"{traffic_distribution}\" is no distribution that the mesh knows"),
                "write PreferSameZone or PreferSameNode",
            );
        }
        let headless = cluster_ip == "None" || cluster_ips.iter().any(|ip| ip == "None");
        let addresses = if headless {
            Vec::new()
        } else {
            addresses(&cluster_ip, &cluster_ips, problems)
        };
        // Cluster IPs have the families' order; a headless Service has nothing but the families.
        let first = ip_families.first().map(|family| family == "IPv4");
        Self {
            ipv4_first: addresses.first().map(IpAddr::is_ipv4).or(first),
            addresses,
            headless,
            external,
            selector: (!selector.is_empty()).then(|| object::labels(&selector)),
            ports: {
                // Collected from what is written they would keep its room.
                let mut read = Vec::with_capacity(ports.len());
                read.extend(ports.into_iter().enumerate().filter_map(|(index, port)| {
                    read_port(port, &path.key("ports").index(index), problems)
                }));
                read
            },
            publish_not_ready: publish_not_ready_addresses,
            node_local: internal_traffic_policy == "Local",
            distribution: distribution.unwrap_or_default(),
        }
    }
}

impl Distribution {
    /// Reads the field's value; `None` where it is not known.
    pub fn of(written: &str) -> Option<Self> {
        match written {
            "PreferClose" | "PreferSameZone" => Some(Self::SameZone),
            "PreferSameNode" => Some(Self::SameNode),
            _ => None,
        }
    }

    /// Reads the value of the annotation that Istio had before there was a field, in whatever case.
    pub fn of_annotation(written: &str) -> Option<Self> {
        match written.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => Some(Self::SameZone),
            "prefersamenode" => Some(Self::SameNode),
            _ => None,
        }
    }
}

/// The protocol of a Service port (`istio-routing.md` 1.8): `appProtocol`, else the name's beginning, else well-known
/// numbers, else the first bytes tell.
pub fn protocol(transport: &str, app_protocol: Option<&str>, name: &str, number: u16) -> Protocol {
    if !(transport.is_empty() || transport.eq_ignore_ascii_case("TCP")) {
        return Protocol::Udp;
    }
    let declared = match app_protocol {
        Some("kubernetes.io/h2c") => Some(Protocol::Http2),
        Some("kubernetes.io/ws") => Some(Protocol::Http),
        Some("kubernetes.io/wss") => Some(Protocol::Tls),
        // An unknown value hides the name all the same.
        Some(other) => by_name(other),
        None => by_name(name),
    };
    declared.unwrap_or(match number {
        25 | 53 | 3306 | 27017 => Protocol::Tcp,
        _ => Protocol::Auto,
    })
}

/// `protocol` or `protocol-suffix`, in any case.
pub fn by_name(name: &str) -> Option<Protocol> {
    let name = name.to_ascii_lowercase();
    let protocol = name.split('-').next().unwrap_or_default();
    match protocol {
        "http" | "http_proxy" => Some(Protocol::Http),
        // `grpc-web` and its like begin with `grpc`, and are HTTP/2 as well.
        "http2" | "grpc" => Some(Protocol::Http2),
        "https" | "tls" => Some(Protocol::Tls),
        "tcp" | "mongo" | "redis" | "mysql" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

fn read_external(
    kind: &str,
    external_name: &str,
    path: &Path,
    problems: &mut Problems,
) -> Option<Arc<str>> {
    if kind != "ExternalName" {
        return None;
    }
    let name = external_name.trim_end_matches('.');
    if name.contains('*') || !super::name::is_host(name) {
        problems.error(
            &path.key("externalName"),
            format!("\"{external_name}\" is no DNS name"),
            "write the name that this Service stands for",
        );
        return None;
    }
    Some(name.to_ascii_lowercase().into())
}

fn addresses(cluster_ip: &str, cluster_ips: &[String], problems: &mut Problems) -> Vec<IpAddr> {
    let path = Path::of("spec");
    let mut addresses: Vec<IpAddr> = Vec::new();
    let listed = cluster_ips
        .iter()
        .enumerate()
        .map(|(index, ip)| (ip.as_str(), path.key("clusterIPs").index(index)));
    for (ip, path) in std::iter::once((cluster_ip, path.key("clusterIP"))).chain(listed) {
        if ip.is_empty() {
            continue;
        }
        match ip.parse() {
            Ok(address) if !addresses.contains(&address) => addresses.push(address),
            Ok(_) => {}
            Err(_) => problems.error(
                &path,
                format!("\"{ip}\" is no IP address"),
                "write an address, or None",
            ),
        }
    }
    addresses
}

fn read_port(port: WrittenPort, path: &Path, problems: &mut Problems) -> Option<Port> {
    let WrittenPort {
        name,
        protocol: transport,
        app_protocol,
        port: number,
        target_port,
    } = port;
    let number = super::port_number(number, &path.key("port"), problems)?;
    Some(Port {
        number,
        protocol: protocol(&transport, app_protocol.as_deref(), &name, number),
        name: name.into(),
        target: match target_port {
            None | Some(NumberOrName::Number(0)) => Target::Number(number),
            Some(NumberOrName::Number(target)) => Target::Number(target),
            Some(NumberOrName::Name(target)) => match target.parse() {
                Ok(target) => Target::Number(target),
                Err(_) => Target::Name(target.into()),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_comes_from_app_protocol_name_or_number() {
        let cases = [
            (("", None, "http", 80), Protocol::Http),
            (("TCP", None, "HTTP-web", 80), Protocol::Http),
            (("", None, "http2", 80), Protocol::Http2),
            (("", None, "grpc", 80), Protocol::Http2),
            (("", None, "grpc-web", 80), Protocol::Http2),
            (("", None, "grpc-web-x", 80), Protocol::Http2),
            (("", None, "https", 443), Protocol::Tls),
            (("", None, "tls-x", 443), Protocol::Tls),
            (("", None, "tcp", 80), Protocol::Tcp),
            (("", None, "mongo", 80), Protocol::Tcp),
            (("", None, "redis-a", 80), Protocol::Tcp),
            (("", None, "mysql", 80), Protocol::Tcp),
            (("", None, "", 80), Protocol::Auto),
            (("", None, "web", 80), Protocol::Auto),
            (("", None, "httpx", 80), Protocol::Auto),
            (("", None, "", 3306), Protocol::Tcp),
            (("", None, "", 25), Protocol::Tcp),
            (("", None, "http", 25), Protocol::Http),
            (("UDP", None, "http", 80), Protocol::Udp),
            (("SCTP", None, "http", 80), Protocol::Udp),
            (("", Some("http"), "tcp", 80), Protocol::Http),
            (("", Some("http-foo"), "", 80), Protocol::Http),
            (("", Some("kubernetes.io/h2c"), "", 80), Protocol::Http2),
            (("", Some("kubernetes.io/ws"), "", 80), Protocol::Http),
            (("", Some("kubernetes.io/wss"), "", 80), Protocol::Tls),
            (("", Some("acme.io/x"), "http", 80), Protocol::Auto),
            (("", Some("acme.io/x"), "http", 3306), Protocol::Tcp),
        ];
        for ((transport, app, name, number), expected) in cases {
            assert_eq!(
                protocol(transport, app, name, number),
                expected,
                "{transport} {app:?} {name} {number}"
            );
        }
    }
}

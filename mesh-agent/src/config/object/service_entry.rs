//! A ServiceEntry: a destination that Kubernetes does not know.

use std::sync::Arc;

use ipnet::IpNet;

use crate::config::crd::service_entry::{EntryPort, ServiceEntrySpec, WorkloadEntrySpec};
use crate::config::object::name::{self, ExportTo};
use crate::config::object::workload_entry::{Address, WorkloadEntry};
use crate::config::object::{self, Context, service};
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};
use crate::model::{Labels, Protocol};

/// A ServiceEntry.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its hosts, lower case; `*.x` among them.
    pub hosts: Vec<Arc<str>>,
    /// The addresses that lead to it; a single address is a range of one.
    pub addresses: Vec<IpNet>,
    /// Its ports, in written order.
    pub ports: Vec<Port>,
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// Its endpoints, where they are listed in it.
    pub endpoints: Vec<WorkloadEntry>,
    /// The labels of its endpoints, where they are Pods and WorkloadEntries of its namespace.
    pub selector: Option<Labels>,
    /// Whose clients see it.
    pub export: ExportTo,
    /// `subjectAltNames`, one of which the certificates of its servers must bear, where a DestinationRule names none.
    pub subject_alt_names: Vec<Arc<str>>,
}

/// A port of a ServiceEntry.
#[derive(Debug, PartialEq, Eq)]
pub struct Port {
    /// What clients dial.
    pub number: u16,
    /// Its name.
    pub name: Arc<str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// The endpoints' port, where they do not say otherwise.
    pub target: u16,
}

/// `resolution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// `NONE`: clients dial the endpoint itself.
    None,
    /// `STATIC`: the endpoints are IP addresses.
    Static,
    /// `DNS`: all addresses of their names.
    Dns,
    /// `DNS_ROUND_ROBIN`: one address of a name at a time.
    DnsRoundRobin,
}

impl ServiceEntry {
    /// Reads `spec`.
    pub fn read(spec: ServiceEntrySpec, _context: &Context<'_>, problems: &mut Problems) -> Self {
        let ServiceEntrySpec {
            hosts,
            addresses,
            ports,
            location,
            resolution,
            endpoints,
            workload_selector,
            export_to,
            subject_alt_names,
        } = spec;
        let path = Path::of("spec");
        check_location(location.as_deref(), &path.key("location"), problems);
        let resolution = read_resolution(resolution.as_deref(), &path.key("resolution"), problems);
        let selector = workload_selector.map(|selector| object::labels(&selector.labels));
        if selector.is_some() && !endpoints.is_empty() {
            problems.error(
                &path.key("workloadSelector"),
                "endpoints and workloadSelector exclude each other",
                "keep one of them",
            );
        }
        let entry = Self {
            hosts: read_hosts(&hosts, &path.key("hosts"), problems),
            addresses: read_addresses(&addresses, &path.key("addresses"), problems),
            ports: read_ports(ports, &path.key("ports"), problems),
            resolution,
            endpoints: Vec::new(),
            selector,
            export: ExportTo::read(&export_to, &path.key("exportTo"), problems),
            subject_alt_names: subject_alt_names.into_iter().map(Into::into).collect(),
        };
        let endpoints = read_endpoints(endpoints, &entry, &path.key("endpoints"), problems);
        let entry = Self { endpoints, ..entry };
        check(&entry, &path, problems);
        entry
    }
}

fn check_location(location: Option<&str>, path: &Path, problems: &mut Problems) {
    match location {
        None | Some("MESH_EXTERNAL" | "MESH_INTERNAL") => {}
        Some(other) => problems.error(
            path,
            format!("\"{other}\" is no location"),
            "write MESH_EXTERNAL or MESH_INTERNAL",
        ),
    }
}

fn read_resolution(text: Option<&str>, path: &Path, problems: &mut Problems) -> Resolution {
    match text {
        None | Some("NONE") => Resolution::None,
        Some("STATIC") => Resolution::Static,
        Some("DNS") => Resolution::Dns,
        Some("DNS_ROUND_ROBIN") => Resolution::DnsRoundRobin,
        Some("DYNAMIC_DNS") => {
            problems.code(Code::Mesh0001).warning(
                path,
                "DYNAMIC_DNS is NONE here: what is sent to these hosts goes to the address that the client dialled",
                "write NONE",
            );
            Resolution::None
        }
        Some(other) => {
            problems.error(
                path,
                format!("\"{other}\" is no resolution"),
                "write NONE, STATIC, DNS or DNS_ROUND_ROBIN",
            );
            Resolution::None
        }
    }
}

fn read_hosts(written: &[String], path: &Path, problems: &mut Problems) -> Vec<Arc<str>> {
    if written.is_empty() {
        problems.error(path, "a ServiceEntry needs at least one host", "add one");
    }
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for (index, host) in written.iter().enumerate() {
        let path = path.index(index);
        if host == "*" {
            problems.error(
                &path,
                "the host \"*\" would be everything",
                "name hosts; \"*.example.com\" is possible",
            );
        } else if !name::is_host(host) {
            problems.error(
                &path,
                format!("\"{host}\" is no host"),
                "write a DNS name, or \"*.name\"",
            );
        } else {
            let host: Arc<str> = host.to_ascii_lowercase().into();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
    }
    hosts
}

fn read_addresses(written: &[String], path: &Path, problems: &mut Problems) -> Vec<IpNet> {
    let mut addresses = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let single = text
            .parse()
            .ok()
            .map(|address: std::net::IpAddr| address.into());
        match single.or_else(|| text.parse::<IpNet>().ok()) {
            Some(address) => addresses.push(address.trunc()),
            None => problems.error(
                &path.index(index),
                format!("\"{text}\" is neither an IP address nor a CIDR range"),
                "write one of both",
            ),
        }
    }
    addresses
}

fn read_ports(written: Vec<EntryPort>, path: &Path, problems: &mut Problems) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for (index, port) in written.into_iter().enumerate() {
        let path = path.index(index);
        let EntryPort {
            number,
            protocol,
            name,
            target_port,
        } = port;
        let Some(number) = object::port_number(number, &path.key("number"), problems) else {
            continue;
        };
        let target = match target_port {
            None => number,
            Some(_) => {
                let path = path.key("targetPort");
                match object::port_number(target_port, &path, problems) {
                    Some(target) => target,
                    None => continue,
                }
            }
        };
        if name.is_empty() {
            problems.error(
                &path.key("name"),
                "a port needs a name",
                "for example \"http\"",
            );
        }
        for (same, field, what) in [
            (
                ports.iter().any(|other| other.number == number),
                "number",
                number.to_string(),
            ),
            (
                ports.iter().any(|other| *other.name == *name),
                "name",
                format!("\"{name}\""),
            ),
        ] {
            if same {
                let message = format!("two ports have the {field} {what}");
                problems.error(&path.key(field), message, "keep one of them");
            }
        }
        ports.push(Port {
            number,
            protocol: read_protocol(&protocol, &path.key("protocol"), problems),
            name: name.into(),
            target,
        });
    }
    ports
}

fn read_protocol(text: &str, path: &Path, problems: &mut Problems) -> Protocol {
    if text.is_empty() {
        return Protocol::Auto;
    }
    service::by_name(text).unwrap_or_else(|| {
        problems.error(
            path,
            format!("\"{text}\" is no protocol"),
            "write HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS",
        );
        Protocol::Auto
    })
}

fn read_endpoints(
    written: Vec<WorkloadEntrySpec>,
    entry: &ServiceEntry,
    path: &Path,
    problems: &mut Problems,
) -> Vec<WorkloadEntry> {
    let mut endpoints = Vec::new();
    for (index, spec) in written.into_iter().enumerate() {
        let path = path.index(index);
        let Some(endpoint) = WorkloadEntry::read(spec, &path, problems) else {
            continue;
        };
        for (name, _) in &endpoint.ports {
            if !entry.ports.iter().any(|port| port.name == *name) {
                problems.error(
                    &path.key("ports").key(name),
                    format!("no port of this ServiceEntry is named \"{name}\""),
                    "name one of its ports",
                );
            }
        }
        if entry.resolution == Resolution::Static && matches!(endpoint.address, Address::Name(_)) {
            problems.error(
                &path.key("address"),
                "with resolution STATIC an endpoint is an IP address",
                "write its address, or resolution: DNS",
            );
        }
        endpoints.push(endpoint);
    }
    endpoints
}

/// What depends on more than one field (`istio-routing.md` 5.4, rules 47 to 51).
fn check(entry: &ServiceEntry, path: &Path, problems: &mut Problems) {
    let dns = matches!(
        entry.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    );
    let listed = !entry.endpoints.is_empty() || entry.selector.is_some();
    if dns && let Some(index) = entry.addresses.iter().position(is_range) {
        problems.error(
            &path.key("addresses").index(index),
            "a CIDR range cannot be combined with resolution DNS",
            "write single addresses, or resolution: NONE",
        );
    }
    if entry.resolution == Resolution::None && !entry.endpoints.is_empty() {
        problems.error(
            &path.key("endpoints"),
            "with resolution NONE there are no endpoints: clients dial them",
            "remove them, or write resolution: STATIC or DNS",
        );
    }
    if entry.resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        problems.error(
            &path.key("endpoints"),
            "resolution DNS_ROUND_ROBIN takes one endpoint at most",
            "write resolution: DNS for several",
        );
    }
    if dns
        && !listed
        && let Some(index) = entry.hosts.iter().position(|host| host.starts_with('*'))
    {
        problems.error(
            &path.key("hosts").index(index),
            "a wildcard has no address to look up",
            "list endpoints, or write resolution: NONE",
        );
    }
    // Of an object that is of no use there may be less here than was written.
    if entry.addresses.is_empty() && !problems.unusable() {
        check_reach(entry, &path.key("ports"), problems);
    }
}

/// Without addresses, what leads to an entry is the port alone, but where the protocol tells the host.
fn check_reach(entry: &ServiceEntry, path: &Path, problems: &mut Problems) {
    for (index, port) in entry.ports.iter().enumerate() {
        let path = path.index(index);
        let number = port.number;
        match port.protocol {
            Protocol::Tcp if entry.hosts.len() > 1 => problems.error(
                &path,
                "several hosts without addresses cannot be told apart on a TCP port",
                "add addresses, or write one ServiceEntry for each host",
            ),
            Protocol::Tcp => problems.code(Code::Ist0134).warning(
                &path,
                format!("without addresses, everything that is sent to port {number} goes here"),
                "add the addresses that lead here",
            ),
            Protocol::Auto => problems.code(Code::Ist0134).warning(
                &path,
                format!(
                    "without addresses, everything that is sent to port {number} and is not HTTP goes here"
                ),
                "add the addresses that lead here, or the port's protocol",
            ),
            _ => {}
        }
    }
}

fn is_range(address: &IpNet) -> bool {
    address.prefix_len() != address.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolution_that_cannot_be_had_is_told_of() {
        let check = |text: Option<&str>, expected: Resolution, usable: bool, told: &[&str]| {
            let mut problems = Problems::default();
            let path = Path::of("spec").key("resolution");
            let found = read_resolution(text, &path, &mut problems);
            let unusable = problems.unusable();
            let messages: Vec<String> = problems.into_iter().map(|told| told.message).collect();
            assert_eq!(
                (found, messages),
                (expected, told.iter().map(ToString::to_string).collect())
            );
            assert_eq!(unusable, !usable, "{text:?}");
        };
        check(None, Resolution::None, true, &[]);
        check(Some("STATIC"), Resolution::Static, true, &[]);
        check(Some("DNS"), Resolution::Dns, true, &[]);
        let message = "DYNAMIC_DNS is NONE here: what is sent to these hosts goes to the address that the client dialled";
        check(Some("DYNAMIC_DNS"), Resolution::None, true, &[message]);
        let message = "\"DYNAMIC\" is no resolution";
        check(Some("DYNAMIC"), Resolution::None, false, &[message]);
    }
}

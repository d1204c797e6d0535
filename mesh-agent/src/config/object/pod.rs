//! A Pod: its addresses, its named ports, and whether it may be sent requests.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::crd::core::{Container, PodSpec, PodStatus};
use crate::config::path::Path;
use crate::config::problem::Problems;

/// A Pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Pod {
    /// `status.podIPs`, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Whether it has ended: its addresses may be another's by now.
    pub ended: bool,
    /// The `Ready` condition; true where the object has none.
    pub ready: bool,
    /// The named TCP ports of its containers.
    pub ports: Vec<(Arc<str>, u16)>,
    /// `spec.nodeName`, once it has one.
    pub node: Option<Arc<str>>,
}

impl Pod {
    /// Reads `spec` and `status`.
    pub fn read(spec: PodSpec, status: PodStatus, problems: &mut Problems) -> Self {
        let PodSpec {
            node_name,
            containers,
            init_containers,
        } = spec;
        let PodStatus {
            phase,
            pod_ip,
            pod_ips,
            conditions,
        } = status;
        let path = Path::of("status");
        let mut addresses: Vec<IpAddr> = Vec::new();
        let listed = pod_ips
            .iter()
            .enumerate()
            .map(|(index, ip)| (ip.ip.as_str(), path.key("podIPs").index(index).key("ip")));
        for (ip, path) in std::iter::once((pod_ip.as_str(), path.key("podIP"))).chain(listed) {
            match ip.parse() {
                Ok(address) if !addresses.contains(&address) => addresses.push(address),
                Err(_) if !ip.is_empty() => {
                    problems.error(
                        &path,
                        format!("\"{ip}\" is no IP address"),
                        "write the Pod's address",
                    );
                }
                Ok(_) | Err(_) => {}
            }
        }
        Self {
            addresses,
            ended: matches!(phase.as_str(), "Succeeded" | "Failed"),
            ready: conditions
                .iter()
                .find(|condition| condition.r#type == "Ready")
                .is_none_or(|condition| condition.status == "True"),
            ports: containers
                .into_iter()
                .chain(init_containers)
                .flat_map(named_ports)
                .collect(),
            node: (!node_name.is_empty()).then(|| node_name.into()),
        }
    }
}

fn named_ports(container: Container) -> impl Iterator<Item = (Arc<str>, u16)> {
    let Container { ports } = container;
    ports.into_iter().filter_map(|port| {
        let tcp = port.protocol.is_empty() || port.protocol == "TCP";
        let number = u16::try_from(port.container_port?.0).ok()?;
        (tcp && !port.name.is_empty()).then(|| (port.name.into(), number))
    })
}

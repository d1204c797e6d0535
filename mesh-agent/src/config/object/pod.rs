//! A Pod: its addresses, its named ports, and whether it may be sent requests.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::crd::Number;
use crate::config::crd::core::{Container, PodSpec, PodStatus, SecurityContext};
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
    /// The fields that make it run as the user who is the proxy.
    pub as_proxy: Vec<Path>,
    /// `spec.nodeName`, once it has one.
    pub node: Option<Arc<str>>,
    /// Whether it has the network of its node.
    pub host_network: bool,
    /// Whether a proxy of Istio's is in it.
    pub has_proxy: bool,
    /// Whether its metadata is all that is known: what it serves, and where, is for EndpointSlices to say.
    pub partial: bool,
}

/// The user of Istio's proxy, and of every iptables rule that lets the proxy pass.
const PROXY_USER: i64 = 1337;

/// What Istio calls the proxy's own container; it stands in the Pods of gateways too.
const PROXY_CONTAINER: &str = "istio-proxy";

impl Pod {
    /// Reads `spec` and `status`.
    pub fn read(spec: PodSpec, status: PodStatus, problems: &mut Problems) -> Self {
        let PodSpec {
            node_name,
            host_network,
            containers,
            init_containers,
            security_context,
        } = spec;
        let mut all = containers.iter().chain(&init_containers);
        let has_proxy = all.any(|container| container.name == PROXY_CONTAINER);
        let as_proxy = as_proxy(security_context, &containers, &init_containers);
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
            as_proxy,
            node: (!node_name.is_empty()).then(|| node_name.into()),
            host_network,
            has_proxy,
            partial: false,
        }
    }
}

/// What the Pod says holds for the containers that say nothing.
fn as_proxy(pod: SecurityContext, containers: &[Container], init: &[Container]) -> Vec<Path> {
    let asks = |context: SecurityContext| context.run_as_user == Some(Number(PROXY_USER));
    let spec = Path::of("spec");
    let listed = |list: &[Container], name: &str| -> Vec<Path> {
        let path = spec.key(name);
        list.iter()
            .enumerate()
            .filter(|(_, container)| container.name != PROXY_CONTAINER)
            .filter(|(_, container)| asks(container.security_context))
            .map(|(index, _)| path.index(index).key("securityContext").key("runAsUser"))
            .collect()
    };
    let own = asks(pod).then(|| spec.key("securityContext").key("runAsUser"));
    let mut paths: Vec<Path> = own.into_iter().collect();
    paths.extend(listed(containers, "containers"));
    paths.extend(listed(init, "initContainers"));
    paths
}

fn named_ports(container: Container) -> impl Iterator<Item = (Arc<str>, u16)> {
    let Container {
        name: _,
        security_context: _,
        ports,
    } = container;
    ports.into_iter().filter_map(|port| {
        let tcp = port.protocol.is_empty() || port.protocol == "TCP";
        let number = u16::try_from(port.container_port?.0).ok()?;
        (tcp && !port.name.is_empty()).then(|| (port.name.into(), number))
    })
}

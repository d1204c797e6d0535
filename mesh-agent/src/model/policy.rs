//! Which of a pod's connections are steered to the agent, and what happens to them when it is gone.
//!
//! Both interception modes are set up from this one value: the iptables mode renders chains from it, the eBPF mode
//! fills maps. The fields mean what Istio's `traffic.sidecar.istio.io/*` annotations mean.

use std::net::IpAddr;

use ipnet::IpNet;

/// The steering of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturePolicy {
    /// `includeInboundPorts`.
    pub inbound_ports: PortSet,
    /// `excludeInboundPorts`; without effect where `inbound_ports` is a list.
    pub exclude_inbound_ports: Vec<u16>,
    /// `includeOutboundIPRanges`.
    pub outbound_cidrs: CidrSet,
    /// `excludeOutboundIPRanges`; stronger than any include.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// `includeOutboundPorts`: steered even where the address is not in `outbound_cidrs`.
    pub include_outbound_ports: Vec<u16>,
    /// `excludeOutboundPorts`.
    pub exclude_outbound_ports: Vec<u16>,
    /// `excludeInterfaces`: neither direction is steered there.
    pub exclude_interfaces: Vec<String>,
    /// `kubevirtInterfaces`, `istio.io/reroute-virtual-interfaces`: what enters there counts as outbound.
    pub virtual_interfaces: Vec<String>,
    /// Users whose connections are the proxy's own.
    pub proxy_uids: Vec<u32>,
    /// Groups likewise.
    pub proxy_gids: Vec<u32>,
    /// The ports at which the node asks after the pod: connections from `probers` to them are not steered, so that what is
    /// heard is the pod's own answer, with an agent and without one.
    pub probed_ports: Vec<u16>,
    /// The node's own addresses, as the pod sees them.
    pub probers: Vec<IpAddr>,
    /// What the app sees as its client.
    pub source: SourceMode,
    /// What happens to new connections while no agent runs.
    pub on_agent_loss: FailPolicy,
    /// Whether its connections within the node may go without TCP, in the eBPF mode.
    pub fast_path: bool,
}

/// A choice of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSet {
    /// `*`.
    All,
    /// These alone; empty is none.
    Only(Vec<u16>),
}

/// A choice of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CidrSet {
    /// `*`.
    All,
    /// These alone; empty is none.
    Only(Vec<IpNet>),
}

/// The client address that an application sees on a connection that came through the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceMode {
    /// 127.0.0.6 or ::6, as with Istio's sidecar.
    Sidecar,
    /// The true client's.
    Preserve,
}

/// What becomes of a pod's new connections while its agent is gone. The iptables mode can only refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailPolicy {
    /// `ECONNREFUSED` at once, as with a dead sidecar.
    Refuse,
    /// They go where they were going, outside the mesh.
    Open,
    /// They wait in the kernel's connect until an agent is back, or their own timeout.
    Hold,
}

impl Default for CapturePolicy {
    /// What Istio's injector asks for: everything, but for the ports of the proxy's own health and metrics.
    fn default() -> Self {
        Self {
            inbound_ports: PortSet::All,
            exclude_inbound_ports: vec![15090, 15021, 15020],
            outbound_cidrs: CidrSet::All,
            exclude_outbound_cidrs: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_interfaces: Vec::new(),
            virtual_interfaces: Vec::new(),
            proxy_uids: vec![1337],
            proxy_gids: vec![1337],
            probed_ports: Vec::new(),
            probers: Vec::new(),
            source: SourceMode::Sidecar,
            on_agent_loss: FailPolicy::Refuse,
            fast_path: true,
        }
    }
}

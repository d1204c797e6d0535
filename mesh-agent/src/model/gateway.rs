//! What an ingress gateway serves: the servers of all the Gateways that select one pod, merged as Istio merges them
//! (`istio-routing.md` 1.7).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{RouteTable, ServerTls, StreamTable};

/// What the gateway pods serve that one set of Gateways selects.
#[derive(Debug, Default, PartialEq)]
pub struct Gateway {
    /// The Gateways, as `namespace/name`, oldest first.
    pub names: Vec<Arc<str>>,
    /// By `servers[].port.number`: the port of the gateway's Service.
    pub ports: BTreeMap<u16, GatewayPort>,
}

/// One port of a gateway.
#[derive(Debug, PartialEq)]
pub struct GatewayPort {
    /// `servers[].bind`; `None` is every address.
    pub bind: Option<IpAddr>,
    /// What is done with its connections.
    pub listener: GatewayListener,
}

/// What is done with the connections of a port.
#[derive(Debug, PartialEq)]
pub enum GatewayListener {
    /// HTTP in the clear: one table for all servers. Requests to no host in it get a 404.
    Http(RouteTable),
    /// TLS: a server by the name that the client asks for. No name that fits is a reset.
    Secure(Vec<SecureServer>),
    /// Anything else: relayed.
    Tcp(StreamTable),
}

/// A server of a TLS port. Each has its own routes: a Host of another server gets a 404.
#[derive(Debug, PartialEq)]
pub struct SecureServer {
    /// Tells it from the others: `namespace/gateway/port-name`.
    pub name: Arc<str>,
    /// The names that clients may ask for, lower case, `*.x` and `*` included; the first server that has one keeps it.
    pub hosts: Vec<Arc<str>>,
    /// What is done with the TLS.
    pub tls: Termination,
}

/// Who opens the TLS.
#[derive(Debug, PartialEq)]
pub enum Termination {
    /// The gateway.
    Here(Arc<ServerTls>, Inside),
    /// `PASSTHROUGH`: whoever the server name is routed to.
    Beyond(StreamTable),
}

/// What is inside the TLS.
#[derive(Debug, PartialEq)]
pub enum Inside {
    /// HTTP, by ALPN or as the client speaks it.
    Http(RouteTable),
    /// Anything else.
    Tcp(StreamTable),
}

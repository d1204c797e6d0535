//! What an ingress gateway serves: the servers of all the Gateways that select one pod, merged as Istio merges them
//! (`istio-routing.md` 1.7).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use crate::model::{RouteTable, ServerTls, StreamTable};

/// What the gateway pods serve that one set of Gateways selects.
#[derive(Debug, Default, PartialEq)]
pub struct Gateway {
    /// The Gateways, as `namespace/name`, oldest first.
    pub names: Vec<Arc<str>>,
    /// By `servers[].port.number`: the port of the gateway's Service.
    pub ports: BTreeMap<u16, GatewayPort>,
    /// The ports that the Service leads to the same port of the pod as a lower one: each with that, whose listener has
    /// the servers of both.
    pub together: BTreeMap<u16, u16>,
    /// The `targetPort` of the gateway's Service for each of its ports, whether or not the pods are ready; a port of a
    /// Gateway that no Service has is not here.
    pub targets: BTreeMap<u16, u16>,
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
    Secure(SecureServers),
    /// Anything else: relayed.
    Tcp(StreamTable),
}

/// The servers of a TLS port, in the order in which they were given, to be found by name.
#[derive(Debug, Default, PartialEq)]
pub struct SecureServers {
    servers: Vec<SecureServer>,
    by_name: HashMap<Arc<str>, usize>,
    /// `*.x` and `*` as they are written; the first server that has one keeps it.
    by_host: HashMap<Arc<str>, usize>,
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

impl Gateway {
    /// Where in the pod a port of the Service is listened at.
    pub fn target(&self, number: u16) -> u16 {
        *self.targets.get(&number).unwrap_or(&number)
    }

    /// What is served at a port of the Service.
    pub fn port(&self, number: u16) -> Option<&GatewayPort> {
        self.ports
            .get(self.together.get(&number).unwrap_or(&number))
    }
}

impl SecureServers {
    /// The server of this name.
    pub fn named(&self, name: &str) -> Option<&SecureServer> {
        self.by_name.get(name).map(|index| &self.servers[*index])
    }

    /// The server for the name that a client asks for, lower case: the one that has just this name, else the longest
    /// wildcard that covers it. A client that asks for none gets what `*` has.
    pub fn asked_for(&self, server_name: Option<&str>) -> Option<&SecureServer> {
        let exact = server_name.and_then(|name| self.by_host.get(name));
        let wildcard = || {
            let name = server_name?;
            let mut dots = name.match_indices('.').map(|(dot, _)| &name[dot..]);
            dots.find_map(|suffix| self.by_host.get(&*format!("*{suffix}")))
        };
        let index = exact.or_else(wildcard).or_else(|| self.by_host.get("*"))?;
        Some(&self.servers[*index])
    }
}

impl From<Vec<SecureServer>> for SecureServers {
    fn from(servers: Vec<SecureServer>) -> Self {
        let (mut by_name, mut by_host) = (HashMap::new(), HashMap::new());
        for (index, server) in servers.iter().enumerate() {
            by_name.entry(Arc::clone(&server.name)).or_insert(index);
            for host in &server.hosts {
                by_host.entry(Arc::clone(host)).or_insert(index);
            }
        }
        Self {
            servers,
            by_name,
            by_host,
        }
    }
}

impl Deref for SecureServers {
    type Target = [SecureServer];

    fn deref(&self) -> &[SecureServer] {
        &self.servers
    }
}

//! ServiceEntries as Services: one for each of their hosts, with the endpoints that they list or select.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::compile::located::LocatedPods;
use crate::config::compile::services::{Backend, Found, Registered, State, of_pod};
use crate::config::object::service::Distribution;
use crate::config::object::service_entry::{Port, Resolution};
use crate::config::object::workload_entry::Address;
use crate::config::object::{Object, ServiceEntry, WorkloadEntry};
use crate::model::{self, Endpoint, NamedEndpoint};

/// Makes a Service of one host of a ServiceEntry.
pub(super) fn register<'a>(
    object: &'a Object,
    entry: &'a ServiceEntry,
    host: &Arc<str>,
    pods: &LocatedPods<'a>,
) -> Registered<'a> {
    let single = |net: &IpNet| (net.prefix_len() == net.max_prefix_len()).then(|| net.addr());
    let ports = entry.ports.iter().map(|port| model::ServicePort {
        number: port.number,
        name: Arc::clone(&port.name),
        protocol: port.protocol,
    });
    let found = match entry.resolution {
        Resolution::None => Found::Dialled,
        Resolution::Static => Found::Listed,
        Resolution::Dns => Found::Named {
            every_address: true,
        },
        Resolution::DnsRoundRobin => Found::Named {
            every_address: false,
        },
    };
    let named = matches!(found, Found::Named { .. });
    let workloads = Workloads::of(object, entry, pods);
    Registered {
        model: Arc::new(model::Service {
            host: Arc::clone(host),
            namespace: Arc::clone(&object.id.namespace),
            name: Arc::clone(host),
            addresses: entry.addresses.iter().filter_map(single).collect(),
            ports: ports.collect(),
        }),
        object,
        found,
        node_local: false,
        distribution: Distribution::Any,
        vouched: &entry.subject_alt_names,
        export: entry.export.clone(),
        ranges: entry
            .addresses
            .iter()
            .filter(|net| single(net).is_none())
            .copied()
            .collect(),
        backends: entry
            .ports
            .iter()
            .map(|port| match named {
                true => Vec::new(),
                false => workloads.backends(port),
            })
            .collect(),
        names: entry
            .ports
            .iter()
            .map(|port| match named {
                true => workloads.names(port, host),
                false => Vec::new(),
            })
            .collect(),
    }
}

/// What stands behind a ServiceEntry.
struct Workloads<'a, 'p> {
    entries: Vec<&'a WorkloadEntry>,
    /// The places of Pods in the list.
    pods: Vec<usize>,
    located: &'p LocatedPods<'a>,
}

impl<'a, 'p> Workloads<'a, 'p> {
    fn of(object: &'a Object, entry: &'a ServiceEntry, located: &'p LocatedPods<'a>) -> Self {
        match &entry.selector {
            None => Self {
                entries: entry.endpoints.iter().collect(),
                pods: Vec::new(),
                located,
            },
            Some(selector) => Self {
                entries: located.workloads(&object.id.namespace, selector).collect(),
                pods: located.selected(&object.id.namespace, selector).collect(),
                located,
            },
        }
    }

    fn backends(&self, port: &Port) -> Vec<Backend> {
        let entries = self
            .entries
            .iter()
            .filter_map(|entry| workload(entry, &port.name, port.target));
        let pods = self.pods.iter().filter_map(|index| {
            let located = &self.located.list[*index];
            let address = SocketAddr::new(*located.pod.addresses.first()?, port.target);
            let leaving = located.object.terminating;
            let ready = located.pod.ready && !leaving;
            Some(of_pod(*index, address, ready, leaving, self.located))
        });
        entries.chain(pods).collect()
    }

    /// What is to be looked up: the endpoints, or the host itself where none is listed.
    fn names(&self, port: &Port, host: &Arc<str>) -> Vec<NamedEndpoint> {
        if self.entries.is_empty() && self.pods.is_empty() {
            let own = NamedEndpoint {
                name: Arc::clone(host),
                port: port.target,
                labels: None,
                locality: None,
                weight: 1,
            };
            return vec![own];
        }
        let entries = self.entries.iter().map(|entry| NamedEndpoint {
            name: match &entry.address {
                Address::Ip(address) => address.to_string().into(),
                Address::Name(name) => Arc::clone(name),
            },
            port: entry.port(&port.name, port.target),
            labels: Some(Arc::clone(&entry.labels)),
            locality: entry.locality.clone(),
            weight: entry.weight,
        });
        let pods = self.pods.iter().filter_map(|index| {
            let located = &self.located.list[*index];
            Some(NamedEndpoint {
                name: located.pod.addresses.first()?.to_string().into(),
                port: port.target,
                labels: Some(Arc::clone(&located.labels)),
                locality: located.locality.clone(),
                weight: 1,
            })
        });
        entries.chain(pods).collect()
    }
}

/// A WorkloadEntry as an endpoint of a port; none where its address is a name.
pub(super) fn workload(entry: &WorkloadEntry, name: &str, target: u16) -> Option<Backend> {
    let Address::Ip(address) = entry.address else {
        return None;
    };
    Some(Backend {
        endpoint: Endpoint {
            labels: Some(Arc::clone(&entry.labels)),
            locality: entry.locality.clone(),
            weight: entry.weight,
            ..Endpoint::at(SocketAddr::new(address, entry.port(name, target)))
        },
        state: State::Ready,
        pod: None,
    })
}

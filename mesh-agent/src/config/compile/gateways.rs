//! The servers of Gateways, each with the hosts of the VirtualServices that are bound to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::mesh::add;
use crate::config::compile::routes::{Binding, Place};
use crate::config::compile::services::{Services, has_labels};
use crate::config::object::gateway::Server;
use crate::config::object::name::{GatewayName, intersection};
use crate::config::object::{Gateway, Object};
use crate::model::{self, GatewayListener, GatewayPort, Labels, Route, RouteTable, VirtualHost};

/// Which Gateways select which pods: each set of Gateways that selects any pod is merged once.
pub(super) struct Selections<'a> {
    gateways: Vec<(&'a Object, &'a Gateway)>,
    /// Indices into `gateways`; first those that select every pod.
    sets: Vec<Vec<usize>>,
}

impl<'a> Selections<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        let gateways = inputs.gateways();
        let of_all = (0..gateways.len()).filter(|index| gateways[*index].1.selector.is_empty());
        let sets = vec![of_all.collect()];
        Self { gateways, sets }
    }

    /// The place of a pod's set.
    pub(super) fn of(&mut self, labels: &Labels) -> usize {
        let selected: Vec<usize> = (0..self.gateways.len())
            .filter(|index| has_labels(labels, &self.gateways[*index].1.selector))
            .collect();
        let known = self.sets.iter().position(|set| *set == selected);
        known.unwrap_or_else(|| {
            self.sets.push(selected);
            self.sets.len() - 1
        })
    }
}

/// Each set of Gateways as one, the oldest Gateway first.
pub(super) fn gateways(
    selections: &Selections<'_>,
    bindings: &[Binding<'_>],
    services: &Services<'_>,
) -> Vec<model::Gateway> {
    let merged = selections.sets.iter().map(|set| {
        let members: Vec<_> = set
            .iter()
            .map(|index| selections.gateways[*index])
            .collect();
        merge(&members, bindings, services)
    });
    merged.collect()
}

fn merge(
    members: &[(&Object, &Gateway)],
    bindings: &[Binding<'_>],
    services: &Services<'_>,
) -> model::Gateway {
    let names = members.iter().map(|(object, _)| {
        let id = &object.id;
        format!("{}/{}", id.namespace, id.name).into()
    });
    let mut ports: BTreeMap<u16, BTreeMap<&str, Vec<Arc<Route>>>> = BTreeMap::new();
    for (object, gateway) in members {
        let name = gateway_name(object);
        for server in &gateway.servers {
            let hosts = ports.entry(server.port).or_default();
            add_routes(hosts, server, &name, bindings, services);
        }
    }
    model::Gateway {
        names: names.collect(),
        ports: ports
            .into_iter()
            .map(|(port, hosts)| {
                let listener = GatewayListener::Http(table(hosts));
                (
                    port,
                    GatewayPort {
                        bind: None,
                        listener,
                    },
                )
            })
            .collect(),
    }
}

/// What VirtualServices call a Gateway.
pub(super) fn gateway_name(object: &Object) -> GatewayName {
    GatewayName::Gateway(
        Arc::clone(&object.id.namespace),
        Arc::clone(&object.id.name),
    )
}

/// The hosts that a server and a VirtualService of `namespace` for `host` share.
pub(super) fn shared_hosts<'s>(
    server: &'s Server,
    host: &'s str,
    namespace: &'s str,
) -> impl Iterator<Item = &'s str> {
    server
        .hosts
        .iter()
        .filter(move |served| {
            served
                .namespace
                .as_deref()
                .is_none_or(|only| only == namespace)
        })
        .filter_map(move |served| intersection(&served.host, host))
}

/// VirtualServices for one host are put one behind the other, the oldest first.
fn add_routes<'a>(
    hosts: &mut BTreeMap<&'a str, Vec<Arc<Route>>>,
    server: &'a Server,
    name: &GatewayName,
    bindings: &'a [Binding<'a>],
    services: &Services<'_>,
) {
    let place = Place {
        gateway: name,
        port: server.port,
        tls: false,
    };
    for binding in bindings.iter().filter(|binding| binding.applies_to(name)) {
        for host in &binding.service.hosts {
            for shared in shared_hosts(server, host, &binding.object.id.namespace) {
                let routes = binding.routes(&place, services);
                if !routes.is_empty() {
                    hosts.entry(shared).or_default().extend(routes);
                }
            }
        }
    }
}

/// What takes every request comes last, whoever it belongs to.
fn table(hosts: BTreeMap<&str, Vec<Arc<Route>>>) -> RouteTable {
    let mut table = RouteTable::default();
    for (host, mut routes) in hosts {
        routes.sort_by_key(|route| route.when.takes_any_request());
        let name: Arc<str> = host.into();
        let host = VirtualHost {
            name: Arc::clone(&name),
            routes,
            https_redirect: false,
            next: None,
        };
        add(&mut table, &name, &Arc::new(host));
    }
    table
}

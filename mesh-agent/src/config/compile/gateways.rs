//! The servers of Gateways, each with the hosts of the VirtualServices that are bound to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::mesh::add;
use crate::config::compile::routes::{Binding, Place};
use crate::config::compile::services::Services;
use crate::config::object::Object;
use crate::config::object::gateway::Server;
use crate::config::object::name::{GatewayName, intersection};
use crate::model::{GatewayServer, Route, RouteTable, VirtualHost};

/// Every server, in the order of the Gateways' ages.
pub(super) fn servers(
    inputs: &Inputs,
    bindings: &[Binding<'_>],
    services: &Services<'_>,
) -> Vec<GatewayServer> {
    let mut servers = Vec::new();
    for (object, gateway) in inputs.gateways() {
        let name = gateway_name(object);
        let bound: Vec<&Binding<'_>> = bindings
            .iter()
            .filter(|binding| binding.applies_to(&name))
            .collect();
        for server in &gateway.servers {
            servers.push(GatewayServer {
                name: Arc::clone(&object.id.name),
                namespace: Arc::clone(&object.id.namespace),
                selector: gateway.selector.clone(),
                port: server.port,
                protocol: server.protocol,
                routes: table(server, &name, &bound, services),
            });
        }
    }
    servers
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

/// VirtualServices for one host are put one behind the other, the oldest first; what takes every request comes last.
fn table(
    server: &Server,
    name: &GatewayName,
    bound: &[&Binding<'_>],
    services: &Services<'_>,
) -> RouteTable {
    let place = Place {
        gateway: name,
        port: server.port,
    };
    let mut hosts: BTreeMap<&str, Vec<Route>> = BTreeMap::new();
    for binding in bound {
        for host in &binding.service.hosts {
            for shared in shared_hosts(server, host, &binding.object.id.namespace) {
                let routes = binding.routes(&place, services);
                if !routes.is_empty() {
                    hosts.entry(shared).or_default().extend(routes);
                }
            }
        }
    }
    let mut table = RouteTable::default();
    for (host, mut routes) in hosts {
        routes.sort_by_key(|route| route.when.takes_any_request());
        let name: Arc<str> = host.into();
        let host = VirtualHost {
            name: Arc::clone(&name),
            routes,
            next: None,
        };
        add(&mut table, &name, &Arc::new(host));
    }
    table
}

//! `tcp` and `tls` rules as routes, for connections that are not HTTP (`istio-routing.md` 1.6).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::config::compile::gateways::shared_hosts;
use crate::config::compile::hosts::HostIndex;
use crate::config::compile::routes::{Binding, destinations, total_weight};
use crate::config::compile::services::{Registered, Services};
use crate::config::compile::sight::Sight;
use crate::config::compile::streams::order::{merge_clients, split};
use crate::config::object::gateway::Server;
use crate::config::object::name::GatewayName;
use crate::config::object::virtual_service::{StreamBlock, StreamRule};
use crate::model::{
    ClientMatch, ClusterKey, Destination, Protocol, SharedMap, StreamMatch, StreamRoute,
    StreamTable,
};

pub(super) use crate::config::compile::streams::order::sort;

mod order;

/// Which rules of VirtualServices a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// `tcp`.
    Tcp,
    /// `tls`.
    Tls,
}

/// By Service and port.
pub(super) type Streams = SharedMap<Arc<str>, BTreeMap<u16, Arc<StreamTable>>>;

/// Where the mesh's connections go that are not HTTP, by Service and port.
pub(super) fn mesh_streams(
    bindings: &[Binding<'_>],
    services: &Services<'_>,
    sight: &Sight<'_>,
) -> Streams {
    let bindings: Vec<&Binding<'_>> = bindings
        .iter()
        .filter(|binding| binding.applies_to(&GatewayName::Mesh))
        .filter(|binding| !binding.service.tcp.is_empty() || !binding.service.tls.is_empty())
        .filter(|binding| sight.sees_rules(binding))
        .collect();
    let mut index = HostIndex::default();
    for (number, binding) in bindings.iter().enumerate() {
        for host in &binding.service.hosts {
            index.insert(host, number);
        }
    }
    let mut streams = Streams::default();
    for service in services.list.iter().filter(|service| sight.sees(service)) {
        let host = &service.model.host;
        let exact = index.exact(host).iter();
        let mut numbers: Vec<usize> = exact
            .chain(index.wildcards(host).flatten())
            .copied()
            .collect();
        // Whoever names the Service more closely comes no earlier here: age alone decides.
        numbers.sort_unstable();
        numbers.dedup();
        let bindings: Vec<&Binding<'_>> = numbers.iter().map(|number| bindings[*number]).collect();
        let ports: BTreeMap<u16, Arc<StreamTable>> = service
            .model
            .ports
            .iter()
            .filter(|port| sight.sees_port(service, port.number))
            .filter_map(|port| {
                let table = match port.protocol {
                    Protocol::Tcp | Protocol::Auto => {
                        tcp_table(&bindings, service, port.number, services)
                    }
                    Protocol::Tls => tls_table(&bindings, service, port.number, services),
                    Protocol::Http | Protocol::Http2 | Protocol::Udp => None,
                };
                Some((port.number, Arc::new(table?)))
            })
            .collect();
        if !ports.is_empty() {
            streams.insert(Arc::clone(host), ports);
        }
    }
    streams
}

/// Where a gateway's server sends connections that are not HTTP: `tcp` rules where it opens TLS itself or there is none,
/// `tls` rules where it passes TLS on.
///
/// As in Istio, a gateway looks at the port and the gateways of a rule alone, and for `tls` at its server names.
pub(super) fn gateway_streams(
    bindings: &[&Binding<'_>],
    name: &GatewayName,
    server: &Server,
    services: &Services<'_>,
    kind: StreamKind,
) -> StreamTable {
    let bound = bindings.iter().filter(|binding| {
        let namespace = &binding.object.id.namespace;
        let hosts = &binding.service.hosts;
        binding.applies_to(name)
            && hosts
                .iter()
                .any(|host| shared_hosts(server, host, namespace).next().is_some())
    });
    let mut table = StreamTable::default();
    let mut taken = HashSet::new();
    for binding in bound {
        let audience = binding.exported_to.as_deref();
        let before = table.routes.len();
        let rules: Vec<_> = rules(binding, kind).collect();
        let blocks = rules
            .iter()
            .flat_map(|rule| rule.1.blocks.iter().map(move |block| (rule, block)))
            .filter(|(_, block)| concerns(block, name, server.port));
        for (rule, block) in blocks {
            // A name that has a route keeps it, and costs the whole block that names it again.
            let names = &block.server_names;
            if names
                .iter()
                .any(|name| taken.contains(&(None, name)) || taken.contains(&(audience, name)))
            {
                continue;
            }
            taken.extend(names.iter().map(|name| (audience, name)));
            let when = StreamMatch {
                server_names: names.clone(),
                client: ClientMatch {
                    exported_to: binding.exported_to.clone(),
                    ..ClientMatch::default()
                },
                ..StreamMatch::default()
            };
            table
                .routes
                .extend(split(route(binding, rule, when, server.port, services)));
            // The first rule for TCP takes everything.
            if kind == StreamKind::Tcp {
                break;
            }
        }
        if kind == StreamKind::Tcp && audience.is_none() && table.routes.len() > before {
            break;
        }
    }
    sort(&mut table.routes);
    table
}

/// The rules of a kind, each with its field.
fn rules<'a>(
    binding: &Binding<'a>,
    kind: StreamKind,
) -> impl Iterator<Item = (Arc<str>, &'a StreamRule)> {
    let (section, rules) = match kind {
        StreamKind::Tcp => ("tcp", &binding.service.tcp),
        StreamKind::Tls => ("tls", &binding.service.tls),
    };
    let named = move |(index, rule)| (format!("{section}[{index}]").into(), rule);
    rules.iter().enumerate().map(named)
}

fn concerns(block: &StreamBlock, gateway: &GatewayName, port: u16) -> bool {
    (block.gateways.is_empty() || block.gateways.contains(gateway))
        && block.port.is_none_or(|wanted| wanted == port)
}

/// The blocks of a kind that are for a port of the mesh, in order, each as a route.
fn mesh_routes(
    bindings: &[&Binding<'_>],
    port: u16,
    kind: StreamKind,
    services: &Services<'_>,
) -> Vec<StreamRoute> {
    let mut routes = Vec::new();
    for binding in bindings {
        for rule in rules(binding, kind) {
            let blocks = rule.1.blocks.iter();
            for block in blocks.filter(|block| concerns(block, &GatewayName::Mesh, port)) {
                let when = StreamMatch {
                    server_names: block.server_names.clone(),
                    subnets: block.subnets.clone(),
                    client: ClientMatch {
                        labels: block.client_labels.clone(),
                        namespace: block.client_namespace.clone(),
                        exported_to: binding.exported_to.clone(),
                    },
                };
                routes.push(route(binding, &rule, when, port, services));
            }
        }
    }
    routes
}

/// A TCP port: the first rule whose conditions on the client hold and that asks for no subnet takes everything; those
/// with subnets that stand before it take what goes there, the narrowest subnet first; without such a rule the Service
/// itself takes the rest. `None` where no rule is for this port.
fn tcp_table(
    bindings: &[&Binding<'_>],
    service: &Registered<'_>,
    port: u16,
    services: &Services<'_>,
) -> Option<StreamTable> {
    let rules = mesh_routes(bindings, port, StreamKind::Tcp, services);
    if rules.is_empty() {
        return None;
    }
    let mut table = StreamTable::default();
    let mut narrow: Vec<StreamRoute> = Vec::new();
    for rule in rules {
        if !rule.when.subnets.is_empty() {
            narrow.extend(split(rule));
            continue;
        }
        // The clients of this rule never get to what stands behind it, so a narrower subnet there must not come first.
        let before = narrow.iter().filter_map(|route| {
            let client = merge_clients(&route.when.client, &rule.when.client)?;
            Some(StreamRoute {
                when: StreamMatch {
                    client,
                    ..route.when.clone()
                },
                ..route.clone()
            })
        });
        let mut before: Vec<StreamRoute> = before.collect();
        sort(&mut before);
        table.routes.extend(before);
        let everyone = rule.when.client.takes_anyone();
        table.routes.push(rule);
        if everyone {
            return Some(table);
        }
    }
    sort(&mut narrow);
    table.routes.extend(narrow);
    table
        .routes
        .push(own(service, port, StreamMatch::default()));
    Some(table)
}

/// A TLS port: the most specific server name wins, the first of equals. Where any rule concerns the client, the Service
/// itself takes nothing more.
fn tls_table(
    bindings: &[&Binding<'_>],
    service: &Registered<'_>,
    port: u16,
    services: &Services<'_>,
) -> Option<StreamTable> {
    // A Service that no address tells apart is told by its name alone.
    let nameless = service.model.addresses.is_empty() && !service.is_headless();
    let when = StreamMatch {
        server_names: nameless
            .then(|| Arc::clone(&service.model.host))
            .into_iter()
            .collect(),
        ..StreamMatch::default()
    };
    let own = StreamTable {
        routes: vec![own(service, port, when)],
        next: None,
    };
    let rules = mesh_routes(bindings, port, StreamKind::Tls, services);
    if rules.is_empty() {
        return nameless.then_some(own);
    }
    let everyone = rules.iter().any(|rule| rule.when.client.takes_anyone());
    let mut routes: Vec<StreamRoute> = rules.into_iter().flat_map(split).collect();
    sort(&mut routes);
    Some(StreamTable {
        routes,
        next: (!everyone).then(|| Arc::new(own)),
    })
}

fn route(
    binding: &Binding<'_>,
    (field, rule): &(Arc<str>, &StreamRule),
    when: StreamMatch,
    port: u16,
    services: &Services<'_>,
) -> StreamRoute {
    let id = &binding.object.id;
    let destinations = destinations(&rule.shares, port, services);
    StreamRoute {
        origin: Some((
            format!("{}/{}", id.namespace, id.name).into(),
            Arc::clone(field),
        )),
        when,
        total_weight: total_weight(&destinations),
        destinations,
    }
}

/// The route to the Service's own cluster.
pub(super) fn own(service: &Registered<'_>, port: u16, when: StreamMatch) -> StreamRoute {
    StreamRoute {
        origin: None,
        when,
        destinations: vec![Destination::whole(ClusterKey {
            host: Arc::clone(&service.model.host),
            port,
            subset: None,
        })],
        total_weight: 0,
    }
}

#[cfg(test)]
mod tests;

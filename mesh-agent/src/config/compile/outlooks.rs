//! What each group of pods knows of the world, and how what it sends there is routed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::CompileOptions;
use crate::config::OutboundTrafficPolicy;
use crate::config::compile::mesh;
use crate::config::compile::routes::{Binding, route_to};
use crate::config::compile::services::Services;
use crate::config::compile::sight::Sight;
use crate::config::compile::streams::{self, Streams};
use crate::config::object::sidecar::OutboundPolicy;
use crate::model::{ClusterKey, Outlook, Protocol, Retry, StreamMatch, StreamTable, Unknown};

/// Makes the outlook of those who see what `sight` says.
pub(super) fn outlook(
    sight: &Sight<'_>,
    bindings: &[Binding<'_>],
    services: &Services<'_>,
    options: &CompileOptions,
) -> Outlook {
    let (mesh, undeclared) = mesh::tables(bindings, services, sight, options);
    let streams = streams::mesh_streams(bindings, services, sight);
    Outlook {
        addresses: services.addresses(sight),
        ranges: ranges(sight, services),
        whole_ports: Arc::new(whole_ports(sight, services, &streams)),
        mesh,
        undeclared,
        streams,
        unknown: match sight.unknown {
            None => match services.unknown.unwrap_or(options.outbound_traffic_policy) {
                OutboundTrafficPolicy::AllowAny => Unknown::Allow,
                OutboundTrafficPolicy::RegistryOnly => Unknown::Refuse,
            },
            Some(OutboundPolicy::AllowAny) => Unknown::Allow,
            Some(OutboundPolicy::RegistryOnly) => Unknown::Refuse,
            Some(OutboundPolicy::Through { host, subset, port }) => {
                let key = ClusterKey {
                    host: Arc::clone(host),
                    port: *port,
                    subset: subset.clone(),
                };
                Unknown::Through(route_to(key, &Retry::default()))
            }
        },
    }
}

fn ranges(
    sight: &Sight<'_>,
    services: &Services<'_>,
) -> Arc<[(ipnet::IpNet, Arc<crate::model::Service>)]> {
    let mut ranges: Vec<_> = services
        .list
        .iter()
        .filter(|service| sight.sees(service))
        .flat_map(|service| {
            let owner = &service.model;
            service.ranges.iter().map(|net| (*net, Arc::clone(owner)))
        })
        .collect();
    // Stable: of equals the older comes first.
    ranges.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    ranges.into()
}

/// The ports of ServiceEntries that have no address: told apart by server name where there is one.
fn whole_ports(
    sight: &Sight<'_>,
    services: &Services<'_>,
    streams: &Streams,
) -> BTreeMap<u16, StreamTable> {
    let mut ports: BTreeMap<u16, StreamTable> = BTreeMap::new();
    for service in &services.list {
        let model = &service.model;
        let anywhere = model.addresses.is_empty() && service.ranges.is_empty();
        if !anywhere || service.is_kubernetes() {
            continue;
        }
        for port in &model.ports {
            let relayed = matches!(port.protocol, Protocol::Tls | Protocol::Tcp);
            if !relayed || !sight.sees_port(service, port.number) {
                continue;
            }
            let ruled = streams.get(&model.host);
            let mut next = ruled
                .and_then(|ports| ports.get(&port.number))
                .map(|table| &**table);
            let routes = &mut ports.entry(port.number).or_default().routes;
            if next.is_none() {
                routes.push(streams::own(service, port.number, StreamMatch::default()));
            }
            while let Some(table) = next {
                routes.extend(table.routes.iter().cloned());
                next = table.next.as_deref();
            }
        }
    }
    for table in ports.values_mut() {
        streams::sort(&mut table.routes);
    }
    ports
}

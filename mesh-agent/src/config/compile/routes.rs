//! The rules of VirtualServices as routes, for one place at a time: a port of the mesh, or of a gateway.

use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::services::Services;
use crate::config::object::name::{ExportTo, GatewayName};
use crate::config::object::virtual_service::{Action, Block, Share, Target};
use crate::config::object::{Object, VirtualService};
use crate::model::{
    ClientMatch, ClusterKey, Destination, Fault, Forward, HeaderEdits, PathRewrite, Retry, Route,
    RouteAction, RouteMatch,
};

/// A VirtualService for one audience.
pub(super) struct Binding<'a> {
    pub(super) object: &'a Object,
    pub(super) service: &'a VirtualService,
    pub(super) exported_to: Audience,
}

/// The namespaces of the clients; `None` is all of them.
pub(super) type Audience = Option<Vec<Arc<str>>>;

/// Where routes are made for.
pub(super) struct Place<'a> {
    /// What the client is, by the name that VirtualServices have for it.
    pub(super) gateway: &'a GatewayName,
    /// The Service port, or the server's.
    pub(super) port: u16,
}

/// Every VirtualService in the order in which they are asked: those of the client's namespace alone, then those that
/// were exported to it by name, then the public ones; the oldest first among each. One that is exported in two ways is
/// there twice.
pub(super) fn bindings(inputs: &Inputs) -> Vec<Binding<'_>> {
    let services = inputs.virtual_services();
    let exported = |audience: fn(&ExportTo, &Object) -> Option<Audience>| {
        let bound = services.iter().filter_map(move |(object, service)| {
            Some(Binding {
                object,
                service,
                exported_to: audience(&service.export, object)?,
            })
        });
        bound.collect::<Vec<_>>()
    };
    let own = |export: &ExportTo, object: &Object| {
        let own = || Some(vec![Arc::clone(&object.id.namespace)]);
        export.private.then(own)
    };
    let named = |export: &ExportTo, _: &Object| {
        let named = || Some(export.namespaces.clone());
        (!export.namespaces.is_empty()).then(named)
    };
    let public = |export: &ExportTo, _: &Object| export.public.then_some(None);
    let mut all = exported(own);
    all.extend(exported(named));
    all.extend(exported(public));
    all
}

impl Binding<'_> {
    /// Whether this VirtualService applies to what is called `gateway`.
    pub(super) fn applies_to(&self, gateway: &GatewayName) -> bool {
        self.service.gateways.contains(gateway)
    }

    /// The hosts that its rules send to.
    pub(super) fn destinations(&self) -> impl Iterator<Item = Arc<str>> {
        let rules = self.service.rules.iter();
        rules
            .flat_map(|rule| &rule.action.shares)
            .map(|share| Arc::clone(&share.target.host))
    }

    /// Its routes at a place; none where every rule is for other ports or gateways.
    pub(super) fn routes(&self, place: &Place<'_>, services: &Services<'_>) -> Vec<Arc<Route>> {
        let mut routes = Vec::new();
        for (index, rule) in self.service.rules.iter().enumerate() {
            for block in rule.blocks.iter().filter(|block| place.concerns(block)) {
                let route = Arc::new(self.route(index, block, place, services));
                // Nothing behind a route that takes everything can be reached.
                let client = &route.when.client;
                let last = route.when.takes_any_request()
                    && client.labels.is_empty()
                    && client.namespace.is_none();
                routes.push(route);
                if last {
                    return routes;
                }
            }
        }
        routes
    }

    fn route(
        &self,
        index: usize,
        block: &Block,
        place: &Place<'_>,
        services: &Services<'_>,
    ) -> Route {
        // Where a block names gateways, Istio does not look at what else it says of the client.
        let by_gateway = !block.gateways.is_empty();
        let rule = &self.service.rules[index];
        let id = &self.object.id;
        Route {
            origin: Some((format!("{}/{}", id.namespace, id.name).into(), index)),
            name: match (&*rule.name, &*block.name) {
                (_, "") => Arc::clone(&rule.name),
                (rule, block) => format!("{rule}.{block}").into(),
            },
            when: RouteMatch {
                uri: block.uri.clone(),
                scheme: None,
                method: None,
                authority: None,
                headers: Vec::new(),
                query: Vec::new(),
                client: ClientMatch {
                    labels: if by_gateway {
                        Default::default()
                    } else {
                        block.client_labels.clone()
                    },
                    namespace: block.client_namespace.clone().filter(|_| !by_gateway),
                    exported_to: self.exported_to.clone(),
                },
            },
            action: RouteAction::Forward(forward(&rule.action, place.port, services)),
            cors: None,
        }
    }
}

impl Place<'_> {
    fn concerns(&self, block: &Block) -> bool {
        (block.gateways.is_empty() || block.gateways.contains(self.gateway))
            && block.port.is_none_or(|port| port == self.port)
    }
}

/// The route of a Service that no VirtualService has taken.
pub(super) fn default_route(host: &Arc<str>, port: u16) -> Arc<Route> {
    route_to(ClusterKey {
        host: Arc::clone(host),
        port,
        subset: None,
    })
}

/// The route that sends everything to one cluster.
pub(super) fn route_to(cluster: ClusterKey) -> Arc<Route> {
    Arc::new(Route {
        origin: None,
        cors: None,
        name: "default".into(),
        when: RouteMatch::default(),
        action: RouteAction::Forward(Forward {
            destinations: vec![Destination {
                cluster,
                weight: 0,
                request_headers: HeaderEdits::default(),
                response_headers: HeaderEdits::default(),
            }],
            total_weight: 0,
            rewrite_path: None,
            rewrite_authority: None,
            timeout: None,
            retry: Retry::default(),
            fault: Fault::default(),
            mirrors: Vec::new(),
        }),
    })
}

fn forward(action: &Action, port: u16, services: &Services<'_>) -> Forward {
    let Action {
        shares,
        rewrite_uri,
        rewrite_authority,
        timeout,
        retry,
    } = action;
    let destinations = destinations(shares, port, services);
    Forward {
        total_weight: total_weight(&destinations),
        destinations,
        rewrite_path: rewrite_uri.clone().map(PathRewrite::Matched),
        rewrite_authority: rewrite_authority.clone(),
        timeout: *timeout,
        retry: retry.clone(),
        fault: Fault::default(),
        mirrors: Vec::new(),
    }
}

/// Shares as a route has them, without changes of headers.
pub(super) fn destinations(
    shares: &[Share],
    port: u16,
    services: &Services<'_>,
) -> Vec<Destination> {
    let destinations = shares.iter().map(|share| Destination {
        cluster: cluster(&share.target, port, services),
        weight: share.weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    });
    destinations.collect()
}

/// The sum of the weights.
pub(super) fn total_weight(destinations: &[Destination]) -> u64 {
    destinations
        .iter()
        .map(|destination| u64::from(destination.weight))
        .sum()
}

/// What a destination names. The port is as written; else the only one that the Service has; else the one that the
/// request came in on.
pub(super) fn cluster(target: &Target, port: u16, services: &Services<'_>) -> ClusterKey {
    let service = services.get(&target.host).map(|service| &service.model);
    let only = || match service?.ports.as_slice() {
        [only] => Some(only.number),
        _ => None,
    };
    ClusterKey {
        // Of a name that stands for another, the other.
        host: Arc::clone(service.map_or(&target.host, |service| &service.host)),
        port: target.port.or_else(only).unwrap_or(port),
        subset: target.subset.clone(),
    }
}

//! The rules of VirtualServices as routes, for one place at a time: a port of the mesh, or of a gateway.

use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::delegates::{self, Ruled};
use crate::config::compile::services::Services;
use crate::config::object::name::{ExportTo, GatewayName};
use crate::config::object::virtual_service::{Block, Target};
use crate::config::object::{Object, VirtualService};
use crate::model::{
    ClientMatch, ClusterKey, Destination, Fault, Forward, QueryMatch, Retry, Route, RouteAction,
    RouteMatch,
};

mod action;

pub(super) use crate::config::compile::routes::action::{destinations, total_weight};

/// A VirtualService for one audience.
pub(super) struct Binding<'a> {
    pub(super) object: &'a Object,
    pub(super) service: &'a VirtualService,
    /// Its rules for HTTP, with those of its delegates in their places.
    rules: Arc<[Ruled<'a>]>,
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
    /// Whether it is a gateway's server with `tls`.
    pub(super) tls: bool,
}

/// Every VirtualService in the order in which they are asked: those of the client's namespace alone, then those that
/// were exported to it by name, then the public ones; the oldest first among each. One that is exported in two ways is
/// there twice.
pub(super) fn bindings(inputs: &Inputs) -> Vec<Binding<'_>> {
    // What cannot be had is told by the analysis.
    let services = delegates::resolve(inputs, &mut |_, _| {});
    let default = inputs.mesh_config().virtual_services.as_ref();
    let exported = |audience: fn(&ExportTo, &Object) -> Option<Audience>| {
        let bound = services.iter().filter_map(move |(object, service, rules)| {
            Some(Binding {
                object,
                service,
                rules: Arc::clone(rules),
                exported_to: audience(service.export.or(default), object)?,
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
        let http = self.rules.iter().flat_map(|ruled| ruled.rule.targets());
        let all = http.chain(self.service.targets());
        all.map(|target| Arc::clone(&target.host))
    }

    /// Its routes at a place; none where every rule is for other ports or gateways.
    pub(super) fn routes(&self, place: &Place<'_>, services: &Services<'_>) -> Vec<Arc<Route>> {
        let everything = [Block::default()];
        let mut routes = Vec::new();
        for ruled in self.rules.iter() {
            let blocks = match ruled.rule.blocks.as_slice() {
                [] => &everything,
                blocks => blocks,
            };
            for block in blocks.iter().filter(|block| place.concerns(block)) {
                let Some(route) = self.route(ruled, block, place, services) else {
                    continue;
                };
                // Nothing behind a route that takes everything can be reached.
                let client = &route.when.client;
                let last = route.when.takes_any_request()
                    && client.labels.is_empty()
                    && client.namespace.is_none();
                routes.push(Arc::new(route));
                if last {
                    return routes;
                }
            }
        }
        routes
    }

    fn route(
        &self,
        ruled: &Ruled<'_>,
        block: &Block,
        place: &Place<'_>,
        services: &Services<'_>,
    ) -> Option<Route> {
        let rule = &*ruled.rule;
        Some(Route {
            origin: Some(ruled.origin.clone()),
            name: match (&*rule.name, &*block.name) {
                (_, "") => Arc::clone(&rule.name),
                (rule, block) => format!("{rule}.{block}").into(),
            },
            when: RouteMatch {
                client: self.client(block),
                ..conditions(block)
            },
            action: action::action(rule, place, services)?,
            cors: rule.cors.as_deref().cloned(),
        })
    }

    fn client(&self, block: &Block) -> ClientMatch {
        let exported_to = self.exported_to.clone();
        // Where a block names gateways, Istio does not look at what else it says of the client.
        if !block.gateways.is_empty() {
            return ClientMatch {
                exported_to,
                ..ClientMatch::default()
            };
        }
        ClientMatch {
            labels: block.client_labels.clone(),
            namespace: block.client_namespace.clone(),
            exported_to,
        }
    }
}

/// What a block asks of a request.
fn conditions(block: &Block) -> RouteMatch {
    let headers = block.headers.values().chain(block.without_headers.values());
    let query = block.query.iter().map(|(name, value)| QueryMatch {
        name: Arc::clone(name),
        value: value.clone(),
    });
    RouteMatch {
        uri: block.uri.clone(),
        scheme: block.scheme.clone(),
        method: block.method.clone(),
        authority: block.authority.clone(),
        headers: headers.cloned().collect(),
        query: query.collect(),
        client: ClientMatch::default(),
    }
}

impl Place<'_> {
    fn concerns(&self, block: &Block) -> bool {
        (block.gateways.is_empty() || block.gateways.contains(self.gateway))
            && block.port.is_none_or(|port| port == self.port)
    }
}

/// The route of a Service that no VirtualService has taken.
pub(super) fn default_route(host: &Arc<str>, port: u16, retry: &Retry) -> Arc<Route> {
    let key = ClusterKey {
        host: Arc::clone(host),
        port,
        subset: None,
    };
    route_to(key, retry)
}

/// The route that sends everything to one cluster.
pub(super) fn route_to(cluster: ClusterKey, retry: &Retry) -> Arc<Route> {
    Arc::new(Route {
        origin: None,
        cors: None,
        name: "default".into(),
        when: RouteMatch::default(),
        action: RouteAction::Forward(Forward {
            destinations: vec![Destination::whole(cluster)],
            total_weight: 0,
            rewrite_path: None,
            rewrite_authority: None,
            timeout: None,
            retry: retry.clone(),
            fault: Fault::default(),
            mirrors: Vec::new(),
        }),
    })
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

#[cfg(test)]
pub(in crate::config::compile) mod tests;

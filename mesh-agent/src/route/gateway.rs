//! Routes of an ingress gateway: the servers that select its pod are one table, as in Istio.

use crate::model::{GatewayServer, Labels, Snapshot, VirtualHost};
use crate::route::host::{self, Name};
use crate::route::{Client, Found, Request, path};

/// Finds the route of a request that came in on `port` of a gateway.
pub(super) fn route<'a>(
    snapshot: &'a Snapshot,
    port: u16,
    client: &Client<'_>,
    request: &Request<'_>,
) -> Found<'a> {
    let name = Name::of(request.authority);
    let name = name.as_str();
    let labels = client.labels();
    let servers = || {
        snapshot
            .gateways
            .iter()
            .filter(move |server| server.port == port && selects(&server.selector, labels))
    };
    let exact = |server: &'a GatewayServer| server.routes.exact.get(name).map(|host| &**host);
    if let Some(found) = first(|| servers().filter_map(exact), client, request.path) {
        return found;
    }
    let suffix = |shorter_than: usize| {
        let suffixes = servers().flat_map(|server| &server.routes.suffixes);
        suffixes
            .map(|(suffix, _)| suffix)
            .filter(|suffix| suffix.len() < shorter_than && host::covers(suffix, name))
            .max_by_key(|suffix| suffix.len())
    };
    let mut longest = suffix(usize::MAX);
    while let Some(domain) = longest {
        let of_domain = |server: &'a GatewayServer| {
            let mut suffixes = server.routes.suffixes.iter();
            let (_, host) = suffixes.find(|(suffix, _)| suffix == domain)?;
            Some(&**host)
        };
        if let Some(found) = first(|| servers().filter_map(of_domain), client, request.path) {
            return found;
        }
        longest = suffix(domain.len());
    }
    let any = |server: &'a GatewayServer| server.routes.any.as_deref();
    first(|| servers().filter_map(any), client, request.path).unwrap_or(Found::Nothing)
}

/// The first route that matches among virtual hosts of one domain, one behind the other; routes that take every request
/// come last, whoever they belong to. `None` where none concerns the client.
fn first<'a, I: Iterator<Item = &'a VirtualHost>>(
    hosts: impl Fn() -> I,
    client: &Client<'_>,
    request_path: &str,
) -> Option<Found<'a>> {
    let mut concerned = false;
    for last in [false, true] {
        for route in hosts().flat_map(|host| &host.routes) {
            if route.when.takes_any_request() != last || !client.concerned_by(&route.when.client) {
                continue;
            }
            concerned = true;
            if path::matches(route.when.uri.as_ref(), request_path) {
                return Some(Found::Route(route));
            }
        }
    }
    concerned.then_some(Found::NoRoute)
}

fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

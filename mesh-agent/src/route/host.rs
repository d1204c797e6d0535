//! Which virtual host a Host header means, and which of its routes a request takes.

use std::borrow::Cow;
use std::sync::Arc;

use crate::model::{Route, RouteTable, VirtualHost};
use crate::route::{Client, Found, Request, matching};

/// A Host header as virtual hosts are looked up by: without port, in lower case. Borrowed where it already is so.
pub struct Name<'a>(Cow<'a, str>);

impl<'a> Name<'a> {
    /// Of an authority, as sent.
    pub fn of(authority: &'a str) -> Self {
        let host = match authority.rfind(':') {
            // In `[fd00::1]` the colons belong to the address.
            Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
            _ => authority,
        };
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Self(host.to_ascii_lowercase().into())
        } else {
            Self(host.into())
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The virtual hosts of a table that have `name`, the most specific first: the name itself, for all clients and for those
/// of the client's namespace; then wildcards, the longest first; then `*`. The first that concerns the client is the one
/// that is asked, and no other.
pub fn candidates<'a>(
    table: &'a RouteTable,
    client: &Client<'_>,
    name: &str,
) -> impl Iterator<Item = &'a Arc<VirtualHost>> {
    let local = table.local.get(client.namespace());
    let exact = table.exact.get(name);
    let local_exact = local.and_then(|local| local.exact.get(name));
    let wildcards = table.suffixes.covering(name);
    // The names for some have no dot to share with the others, so one of both is empty.
    let local_wildcards = local.map(|local| local.suffixes.covering(name));
    exact
        .into_iter()
        .chain(local_exact)
        .chain(wildcards)
        .chain(local_wildcards.into_iter().flatten())
        .chain(&table.any)
}

/// A virtual host, and what stands in for it where it does not concern the client, in order.
pub fn with_stand_ins(host: &VirtualHost) -> impl Iterator<Item = &VirtualHost> {
    std::iter::successors(Some(host), |host| host.next.as_deref())
}

/// Whether a virtual host is for this client, whatever it asks for.
pub fn concerns(host: &VirtualHost, client: &Client<'_>) -> bool {
    let mut audiences = host.routes.audiences();
    host.https_redirect || audiences.any(|audience| matching::stranger(audience, client).is_none())
}

/// The first route that matches, in the first of a virtual host and its stand-ins that concerns the client.
pub(super) fn route<'a>(
    host: &'a VirtualHost,
    client: &Client<'_>,
    request: &Request<'_>,
) -> Found<'a> {
    for host in with_stand_ins(host) {
        if host.https_redirect && request.scheme != "https" {
            return Found::Insecure;
        }
        let matches = |route: &Route| matching::mismatch(&route.when, client, request).is_none();
        if let Some(route) = host.routes.first(request.path, matches) {
            return Found::Route(route);
        }
        if concerns(host, client) {
            return Found::NoRoute;
        }
    }
    Found::Nothing
}

#[cfg(test)]
mod tests;

//! Which virtual host a Host header means, and which of its routes a request takes.

use std::borrow::Cow;
use std::sync::Arc;

use crate::model::{Route, RouteTable, VirtualHost};
use crate::route::{Client, Found, Request, matching};

/// A Host header as virtual hosts are looked up by: without port, in lower case. Borrowed where it already is so.
pub(super) struct Name<'a>(Cow<'a, str>);

impl<'a> Name<'a> {
    pub(super) fn of(authority: &'a str) -> Self {
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

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The wildcards of a table that cover `name`, the longest first: those for all clients and those for some.
pub(super) fn wildcards<'a>(
    table: &'a RouteTable,
    local: Option<&'a RouteTable>,
    name: &str,
) -> impl Iterator<Item = &'a Arc<VirtualHost>> {
    let general = table
        .suffixes
        .iter()
        .filter(move |(suffix, _)| covers(suffix, name));
    let local = local.map_or(&[][..], |local| local.suffixes.as_slice());
    let local = local.iter().filter(move |(suffix, _)| covers(suffix, name));
    // The names for some have no dot to share with the others, so one of both lists is empty.
    general.chain(local).map(|(_, host)| host).chain(&table.any)
}

/// `.foo.com` covers `a.foo.com` and `a.b.foo.com`, not `.foo.com`.
pub(super) fn covers(suffix: &str, name: &str) -> bool {
    name.len() > suffix.len() && name.ends_with(suffix)
}

/// The first route that matches, in the first of a virtual host and its stand-ins that concerns the client.
pub(super) fn route<'a>(
    host: &'a VirtualHost,
    client: &Client<'_>,
    request: &Request<'_>,
) -> Found<'a> {
    let mut next = Some(host);
    while let Some(host) = next {
        let matching =
            |route: &&Arc<Route>| matching::mismatch(&route.when, client, request).is_none();
        if let Some(route) = host.routes.iter().find(matching) {
            return Found::Route(route);
        }
        if concerns(host, client) {
            return Found::NoRoute;
        }
        next = host.next.as_deref();
    }
    Found::Nothing
}

/// Whether any route of a virtual host is for this client, whatever it asks for.
pub(super) fn concerns(host: &VirtualHost, client: &Client<'_>) -> bool {
    host.routes
        .iter()
        .any(|route| matching::stranger(&route.when.client, client).is_none())
}

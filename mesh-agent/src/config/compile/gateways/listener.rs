//! The parts of a gateway's port: the hosts of its HTTP, and the names of its TLS.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::config::compile::mesh::add;
use crate::config::object::gateway::Server;
use crate::model::{Route, RouteTable, StreamTable, VirtualHost};

/// The virtual hosts of one table, in the making.
#[derive(Default)]
pub(super) struct Hosts(BTreeMap<Arc<str>, Host>);

#[derive(Default)]
struct Host {
    routes: Vec<Arc<Route>>,
    https_redirect: bool,
}

impl Hosts {
    /// Adds routes to a host. Where one server redirects it, it is redirected.
    pub(super) fn add(&mut self, host: &Arc<str>, routes: &[Arc<Route>], https_redirect: bool) {
        let host = self.0.entry(Arc::clone(host)).or_default();
        host.routes.extend(routes.iter().cloned());
        host.https_redirect |= https_redirect;
    }

    /// What takes every request comes last, whoever it belongs to.
    pub(super) fn table(self) -> RouteTable {
        let mut table = RouteTable::default();
        for (name, host) in self.0 {
            let Host {
                mut routes,
                https_redirect,
            } = host;
            routes.sort_by_key(|route| route.when.takes_any_request());
            let host = Arc::new(VirtualHost {
                name: Arc::clone(&name),
                routes: routes.into(),
                https_redirect,
                next: None,
            });
            add(&mut table, &name, &host);
        }
        table
    }
}

/// The hosts of a server, each once.
pub(super) fn hosts(server: &Server) -> Vec<Arc<str>> {
    let mut seen = HashSet::new();
    let hosts = server.hosts.iter().map(|served| &served.host);
    hosts.filter(|host| seen.insert(*host)).cloned().collect()
}

/// The server names that a table routes, each once.
pub(super) fn server_names(table: &StreamTable) -> Vec<Arc<str>> {
    let mut seen = HashSet::new();
    let routes = table.routes.iter();
    let names = routes.flat_map(|route| &route.when.server_names);
    names.filter(|name| seen.insert(*name)).cloned().collect()
}

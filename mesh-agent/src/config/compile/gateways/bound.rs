//! Which VirtualServices are bound to a Gateway, and which of them share a host with one of its servers.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use crate::config::compile::routes::{Binding, Place};
use crate::config::compile::services::Services;
use crate::config::object::gateway::Server;
use crate::config::object::name::GatewayName;
use crate::model::Route;

/// Every Gateway that VirtualServices name, with these.
pub(super) struct BoundTo<'a> {
    by_gateway: HashMap<&'a GatewayName, Bound<'a>>,
    none: Bound<'a>,
}

/// The VirtualServices that name one Gateway, in the order in which they are asked.
#[derive(Default)]
pub(super) struct Bound<'a> {
    bindings: Vec<&'a Binding<'a>>,
    /// By host, backwards, so that what a wildcard covers stands together.
    by_host: BTreeMap<String, Vec<Named<'a>>>,
    /// The routes of one of them at a port.
    routes: RefCell<HashMap<(usize, u16), Routes>>,
}

/// Routes, made once for all that have them.
pub(super) type Routes = Rc<[Arc<Route>]>;

/// A VirtualService, by its place among `bindings`, and one of its hosts.
#[derive(Clone, Copy)]
struct Named<'a> {
    index: usize,
    host: &'a Arc<str>,
}

/// A VirtualService that shares a host with a server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shared {
    /// Its place among those of its Gateway.
    pub(super) index: usize,
    /// What both have in common.
    pub(super) host: Arc<str>,
}

impl<'a> BoundTo<'a> {
    pub(super) fn new(bindings: &'a [Binding<'a>]) -> Self {
        let mut by_gateway: HashMap<&GatewayName, Bound<'a>> = HashMap::new();
        for binding in bindings {
            for name in &binding.service.gateways {
                if *name != GatewayName::Mesh {
                    by_gateway.entry(name).or_default().add(binding);
                }
            }
        }
        Self {
            by_gateway,
            none: Bound::default(),
        }
    }

    /// Those that name this Gateway.
    pub(super) fn of(&self, name: &GatewayName) -> &Bound<'a> {
        self.by_gateway.get(name).unwrap_or(&self.none)
    }
}

impl<'a> Bound<'a> {
    fn add(&mut self, binding: &'a Binding<'a>) {
        // Who names a Gateway twice is bound to it once.
        if let Some(last) = self.bindings.last()
            && std::ptr::eq(*last, binding)
        {
            return;
        }
        let index = self.bindings.len();
        self.bindings.push(binding);
        for host in &binding.service.hosts {
            let named = Named { index, host };
            self.by_host.entry(backwards(host)).or_default().push(named);
        }
    }

    /// The VirtualServices that share a host with a server, in their order; one with several such hosts is there for each.
    pub(super) fn sharing(&self, server: &Server) -> Vec<Shared> {
        let mut found = Vec::new();
        for served in &server.hosts {
            let allowed = |named: &&Named<'_>| {
                let namespace = &self.bindings[named.index].object.id.namespace;
                served
                    .namespace
                    .as_ref()
                    .is_none_or(|only| only == namespace)
            };
            let narrower = self.narrower(&served.host).filter(allowed);
            found.extend(narrower.map(|named| Shared {
                index: named.index,
                host: Arc::clone(named.host),
            }));
            let wider = self.wider(&served.host).filter(allowed);
            found.extend(wider.map(|named| Shared {
                index: named.index,
                host: Arc::clone(&served.host),
            }));
        }
        found.sort();
        found.dedup();
        found
    }

    /// What `host` covers, itself included.
    fn narrower<'s>(&'s self, host: &str) -> impl Iterator<Item = &'s Named<'a>> + use<'s, 'a> {
        let (start, wildcard) = match host.strip_prefix('*') {
            Some(suffix) => (backwards(suffix), true),
            None => (backwards(host), false),
        };
        self.by_host
            .range(start.clone()..)
            .take_while(move |(key, _)| match wildcard {
                true => key.starts_with(&start),
                false => **key == start,
            })
            .flat_map(|(_, named)| named)
    }

    /// The wildcards that cover `host`, itself excluded.
    fn wider<'s>(&'s self, host: &str) -> impl Iterator<Item = &'s Named<'a>> + use<'s, 'a> {
        let name = host.strip_prefix('*').unwrap_or(host);
        let dots = name.match_indices('.').map(|(dot, _)| &name[dot..]);
        let wildcards: Vec<String> = dots
            .chain([""])
            .map(|suffix| backwards(&format!("*{suffix}")))
            .filter(|wildcard| *wildcard != backwards(host))
            .collect();
        wildcards
            .into_iter()
            .filter_map(|wildcard| self.by_host.get(&wildcard))
            .flatten()
    }

    /// Those of these places, each once.
    pub(super) fn these(&self, shared: &[Shared]) -> Vec<&'a Binding<'a>> {
        let mut indices: Vec<usize> = shared.iter().map(|shared| shared.index).collect();
        indices.dedup();
        indices
            .into_iter()
            .map(|index| self.bindings[index])
            .collect()
    }

    /// The routes of the VirtualService at a place.
    pub(super) fn routes(
        &self,
        index: usize,
        place: &Place<'_>,
        services: &Services<'_>,
    ) -> Routes {
        let mut made = self.routes.borrow_mut();
        let routes = made
            .entry((index, place.port))
            .or_insert_with(|| self.bindings[index].routes(place, services).into());
        Rc::clone(routes)
    }
}

fn backwards(host: &str) -> String {
    host.chars().rev().collect()
}

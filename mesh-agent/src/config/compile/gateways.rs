//! What gateway pods serve: which Gateways select which of them, and each such set of Gateways as one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::Report;
use crate::config::compile::gateways::bound::BoundTo;
use crate::config::compile::gateways::merge::Merger;
use crate::config::compile::routes::Binding;
use crate::config::compile::secrets::Secrets;
use crate::config::compile::services::{Services, has_labels};
use crate::config::object::gateway::{Authorities, Certificates, Clients, Server, ServerKind};
use crate::config::object::name::{GatewayName, intersection};
use crate::config::object::{Gateway, Object};
use crate::model::{self, Labels};

mod bound;
mod listener;
mod merge;

/// Which Gateways select which pods: each set of Gateways that selects any pod is merged once.
pub(super) struct Selections<'a> {
    gateways: Vec<(&'a Object, &'a Gateway)>,
    /// Of each Gateway, the Secrets that it names.
    credentials: Vec<Vec<&'a Arc<str>>>,
    /// First those that select every pod.
    sets: Vec<Set>,
    secrets: Secrets<'a>,
}

/// Where the Services of a pod lead, by their port; of several Services the first by host.
pub(super) type Targets<'a> = BTreeMap<u16, (&'a str, u16)>;

/// What is said of ports, by port.
type PortMap = BTreeMap<u16, u16>;

/// The Gateways of some pods.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    /// Indices of Gateways, the oldest first.
    members: Vec<usize>,
    places: Places,
    /// Where their Secrets are looked for; `None` where none of them names one, or no such Secret is there.
    namespace: Option<Arc<str>>,
}

/// What is special about where a pod listens for the ports of its Gateways.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// See [`model::Gateway::together`].
    together: PortMap,
    /// See [`model::Gateway::targets`].
    targets: PortMap,
}

impl Places {
    /// Where in the pod a port is listened at.
    fn target(&self, number: u16) -> u16 {
        *self.targets.get(&number).unwrap_or(&number)
    }
}

impl<'a> Selections<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        let gateways = inputs.gateways();
        let of_all = (0..gateways.len()).filter(|index| gateways[*index].1.selector.is_empty());
        let sets = vec![Set {
            members: of_all.collect(),
            places: Places::default(),
            namespace: None,
        }];
        let credentials = gateways
            .iter()
            .map(|(_, gateway)| gateway.servers.iter().flat_map(credentials).collect())
            .collect();
        Self {
            gateways,
            credentials,
            sets,
            secrets: Secrets::new(inputs),
        }
    }

    /// Whether a pod is meant to be a gateway: one without a selector means nobody.
    pub(super) fn mean(&self, labels: &Labels) -> bool {
        let mut selectors = self.gateways.iter().map(|(_, gateway)| &gateway.selector);
        selectors.any(|selector| !selector.is_empty() && has_labels(labels, selector))
    }

    /// The place of a pod's set, with where its Services lead.
    pub(super) fn of(
        &mut self,
        labels: &Labels,
        namespace: &Arc<str>,
        targets: Option<&Targets<'_>>,
    ) -> usize {
        let members: Vec<usize> = (0..self.gateways.len())
            .filter(|index| has_labels(labels, &self.gateways[*index].1.selector))
            .collect();
        let places = targets.map(|targets| self.places(&members, targets));
        let set = Set {
            places: places.unwrap_or_default(),
            namespace: self
                .matters(&members, namespace)
                .then(|| Arc::clone(namespace)),
            members,
        };
        let known = self.sets.iter().position(|known| *known == set);
        known.unwrap_or_else(|| {
            self.sets.push(set);
            self.sets.len() - 1
        })
    }

    /// As Istio merges servers: by the port that the pod listens at. Each address has its own.
    fn places(&self, members: &[usize], targets: &Targets<'_>) -> Places {
        let mut binds = BTreeMap::new();
        let servers = members
            .iter()
            .flat_map(|index| &self.gateways[*index].1.servers);
        for server in servers {
            binds.entry(server.port).or_insert(server.bind);
        }
        let (mut first, mut together) = (HashMap::new(), PortMap::new());
        let mut led = PortMap::new();
        for (number, bind) in binds {
            let target = targets.get(&number).map(|(_, target)| *target);
            led.extend(target.map(|target| (number, target)));
            let target = target.unwrap_or(number);
            match first.entry((target, bind)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(number);
                }
                Entry::Occupied(lower) => {
                    together.insert(number, *lower.get());
                }
            }
        }
        Places {
            together,
            targets: led,
        }
    }

    /// Whether it makes a difference which namespace Secrets are looked for in. A Gateway without a selector selects pods
    /// that nobody takes for a gateway: there, only what is found makes one.
    fn matters(&self, members: &[usize], namespace: &str) -> bool {
        members.iter().any(|index| {
            let names = &self.credentials[*index];
            let meant = !self.gateways[*index].1.selector.is_empty();
            !names.is_empty()
                && (meant || names.iter().any(|name| self.secrets.has(namespace, name)))
        })
    }
}

impl Gateway {
    /// Whether a server of it names a Secret.
    pub(super) fn names_secret(&self) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|server| !credentials(server).is_empty())
    }
}

/// The Secrets that a server names.
pub(super) fn credentials(server: &Server) -> Vec<&Arc<str>> {
    let (ServerKind::Https(tls) | ServerKind::Tls(tls)) = &server.service else {
        return Vec::new();
    };
    let own = match &tls.certificates {
        Certificates::Secrets(names) => names.iter().map(|(name, _)| name).collect(),
        Certificates::Files(_) => Vec::new(),
    };
    let authorities = match &tls.clients {
        Clients::Required(check) | Clients::Optional(check) => match &check.authorities {
            Authorities::Secret(name, _) => Some(name),
            Authorities::Files(_) => None,
        },
        Clients::Anyone => None,
    };
    own.into_iter().chain(authorities).collect()
}

/// Each set of Gateways as one, the oldest Gateway first.
pub(super) fn gateways<'a>(
    selections: &Selections<'a>,
    bindings: &'a [Binding<'a>],
    services: &Services<'_>,
    report: &mut Report,
) -> Vec<Arc<model::Gateway>> {
    let mut merger = Merger {
        bound: BoundTo::new(bindings),
        services,
        secrets: &selections.secrets,
        report,
        told: HashSet::new(),
    };
    let merged = selections.sets.iter().map(|set| {
        let members = set.members.iter();
        let members: Vec<_> = members.map(|index| selections.gateways[*index]).collect();
        Arc::new(merger.merge(&members, set))
    });
    merged.collect()
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

#[cfg(test)]
mod tests;

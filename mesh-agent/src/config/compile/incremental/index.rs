//! Where the objects are that have to do with a host, an address, a label: kept from one compile to the next.
//!
//! One table for all of it, from the hash of a [`Key`] to objects. Two keys may share a hash, so what is found may be too
//! much and is looked at again by whoever asks; it is never too little.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::hash_table::{Entry, HashTable};

use crate::config::CompileOptions;
use crate::config::compile::hosts::endings;
use crate::config::compile::services::exported;
use crate::config::object::endpoint_slice::SERVICE_LABEL;
use crate::config::object::name::{ExportTo, service_host};
use crate::config::object::virtual_service::Action;
use crate::config::object::{Body, Object, Service, ServiceEntry, VirtualService};
use crate::model::{Labels, Protocol};

/// What objects are looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key<'k> {
    /// Services, those of type ExternalName too, and ServiceEntries: their hosts.
    Host(&'k str),
    /// Likewise: their own addresses.
    Owns(IpAddr),
    /// Likewise, those that are seen by all: a port of HTTP that is declared as such.
    Declares(u16),
    /// Likewise: a port of which nobody says what it speaks.
    Guesses(u16),
    /// Likewise: a label that they select by, in a namespace.
    Selects(&'k str, &'k str, &'k str),
    /// ExternalName Services: what they stand for.
    StandsFor(&'k str),
    /// EndpointSlices: their Service, by namespace and name.
    Behind(&'k str, &'k str),
    /// EndpointSlices: a Pod that they name.
    Names(&'k str, &'k str),
    /// EndpointSlices: an address.
    Lists(IpAddr),
    /// Pods: an address.
    At(IpAddr),
    /// Pods: one of their labels, in a namespace, as far as somebody selects by such labels.
    Labelled(&'k str, &'k str, &'k str),
    /// DestinationRules: their host; of a wildcard, what comes after the `*`.
    Rules(&'k str),
    /// VirtualServices: a host.
    Routes(&'k str),
    /// VirtualServices: a wildcard, by what comes after the `*`.
    RoutesAll(&'k str),
    /// VirtualServices: a host that they send to.
    Sends(&'k str),
    /// VirtualServices: another that they delegate to.
    Delegates(&'k str, &'k str),
}

/// The objects by their keys, and how many there are of some that matter for all others.
#[derive(Debug, Default)]
pub(super) struct Index {
    table: HashTable<(u64, Slot)>,
    hasher: hashbrown::DefaultHashBuilder,
    /// The keys of labels that somebody selects by.
    selected: HashSet<Arc<str>>,
    /// Services and ServiceEntries that are not for all.
    pub(super) hidden: usize,
    /// VirtualServices with an address for a host.
    pub(super) addressed: usize,
    /// DestinationRules with a selector.
    pub(super) selecting: usize,
    /// DestinationRules that name a Secret.
    pub(super) secretive: usize,
}

/// The objects of a key.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "a slot with room for a list would be twice as large for every key"
)]
enum Slot {
    One(Arc<Object>),
    Many(Box<Vec<Arc<Object>>>),
}

/// Somebody selects by a label that nobody selected by before, so that the Pods must be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stale;

impl Index {
    /// The index of some objects.
    pub(super) fn of<'a>(
        objects: impl Iterator<Item = &'a Arc<Object>> + Clone,
        options: &CompileOptions,
    ) -> Self {
        let mut index = Self::default();
        for object in objects.clone() {
            let keys = selector(object).into_iter().flat_map(Labels::keys);
            index.selected.extend(keys.cloned());
        }
        for object in objects {
            // Every label is known by now.
            let _ = index.insert(object, options);
        }
        index
    }

    /// Adds an object. It is not added where the index is stale by it.
    pub(super) fn insert(
        &mut self,
        object: &Arc<Object>,
        options: &CompileOptions,
    ) -> Result<(), Stale> {
        let mut wanted = selector(object).into_iter().flat_map(Labels::keys);
        if wanted.any(|key| !self.selected.contains(key)) {
            return Err(Stale);
        }
        for hash in self.hashes(object, options) {
            match self.entry(hash) {
                Entry::Occupied(mut entry) => entry.get_mut().1.add(object),
                Entry::Vacant(entry) => {
                    entry.insert((hash, Slot::One(Arc::clone(object))));
                }
            }
        }
        self.count(object, |count| *count += 1);
        Ok(())
    }

    /// Takes an object out that was added.
    pub(super) fn remove(&mut self, object: &Arc<Object>, options: &CompileOptions) {
        for hash in self.hashes(object, options) {
            if let Entry::Occupied(mut entry) = self.entry(hash)
                && entry.get_mut().1.take(object)
            {
                entry.remove();
            }
        }
        self.count(object, |count| *count -= 1);
    }

    /// What stands under a key, and maybe more.
    pub(super) fn get(&self, key: Key<'_>) -> &[Arc<Object>] {
        let hash = self.hasher.hash_one(key);
        match self.table.find(hash, |(other, _)| *other == hash) {
            Some((_, Slot::One(object))) => std::slice::from_ref(object),
            Some((_, Slot::Many(objects))) => objects,
            None => &[],
        }
    }

    /// The Services and ServiceEntries of a host, those of type ExternalName too.
    pub(super) fn hosted<'i>(
        &'i self,
        host: &'i str,
        options: &'i CompileOptions,
    ) -> impl Iterator<Item = &'i Arc<Object>> {
        let found = self.get(Key::Host(host)).iter();
        found.filter(move |object| hosts(object, options).iter().any(|own| **own == *host))
    }

    /// The VirtualServices that are for a host, by their names or by wildcards.
    pub(super) fn routing<'i>(&'i self, host: &'i str) -> impl Iterator<Item = &'i Arc<Object>> {
        let wide = endings(host);
        let wide = wide.flat_map(|suffix| self.get(Key::RoutesAll(suffix)));
        self.get(Key::Routes(host)).iter().chain(wide)
    }

    /// Whether a VirtualService is for a host by a wildcard.
    pub(super) fn covered(&self, host: &str) -> bool {
        let mut wide = endings(host);
        wide.any(|suffix| !self.get(Key::RoutesAll(suffix)).is_empty())
    }

    fn entry(&mut self, hash: u64) -> Entry<'_, (u64, Slot)> {
        self.table
            .entry(hash, |(other, _)| *other == hash, |(other, _)| *other)
    }

    /// Each once, for an object stands under a key once.
    fn hashes(&self, object: &Object, options: &CompileOptions) -> Vec<u64> {
        let mut hashes = Vec::new();
        self.each_key(object, options, &mut |key| {
            hashes.push(self.hasher.hash_one(key));
        });
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    fn each_key(&self, object: &Object, options: &CompileOptions, key: &mut dyn FnMut(Key<'_>)) {
        let namespace = &*object.id.namespace;
        for host in hosts(object, options) {
            key(Key::Host(&host));
        }
        if let Some(selector) = selector(object) {
            // A Pod that it selects has all of them, so one is enough.
            if let Some((name, value)) = selector.first_key_value() {
                key(Key::Selects(namespace, name, value));
            }
        }
        match &object.body {
            Body::Service(service) => service_keys(object, service, key),
            Body::ServiceEntry(entry) => entry_keys(entry, key),
            Body::EndpointSlice(slice) => {
                if let Some(service) = object.labels.get(SERVICE_LABEL) {
                    key(Key::Behind(namespace, service));
                }
                for endpoint in &slice.endpoints {
                    key(Key::Lists(endpoint.address));
                    if let Some(pod) = &endpoint.pod {
                        key(Key::Names(&pod.namespace, &pod.name));
                    }
                }
            }
            Body::Pod(pod) => {
                for address in &pod.addresses {
                    key(Key::At(*address));
                }
                for (name, value) in object.labels.iter() {
                    if self.selected.contains(name) {
                        key(Key::Labelled(namespace, name, value));
                    }
                }
            }
            Body::DestinationRule(rule) => {
                key(Key::Rules(
                    rule.host.strip_prefix('*').unwrap_or(&rule.host),
                ));
            }
            Body::VirtualService(service) => rule_keys(service, key),
            Body::Node(_)
            | Body::Gateway(_)
            | Body::WorkloadEntry(_)
            | Body::Sidecar(_)
            | Body::Secret(_)
            | Body::Namespace
            | Body::WorkloadPolicy(_)
            | Body::MeshConfig(_) => {}
        }
    }

    fn count(&mut self, object: &Object, change: fn(&mut usize)) {
        match &object.body {
            Body::Service(_) if !exported(object).public => change(&mut self.hidden),
            Body::ServiceEntry(entry) if !entry.export.public => change(&mut self.hidden),
            Body::VirtualService(service) if is_addressed(service) => change(&mut self.addressed),
            Body::DestinationRule(rule) => {
                if rule.selector.is_some() {
                    change(&mut self.selecting);
                }
                if rule.names_secret() {
                    change(&mut self.secretive);
                }
            }
            _ => {}
        }
    }
}

impl Slot {
    fn add(&mut self, object: &Arc<Object>) {
        match self {
            Self::One(other) => {
                *self = Self::Many(Box::new(vec![Arc::clone(other), Arc::clone(object)]));
            }
            Self::Many(objects) => objects.push(Arc::clone(object)),
        }
    }

    /// Whether nothing is left.
    fn take(&mut self, object: &Arc<Object>) -> bool {
        match self {
            Self::One(only) => Arc::ptr_eq(only, object),
            Self::Many(objects) => {
                if let Some(place) = objects.iter().position(|other| Arc::ptr_eq(other, object)) {
                    objects.swap_remove(place);
                }
                objects.is_empty()
            }
        }
    }
}

/// The hosts of a Service or ServiceEntry.
pub(super) fn hosts(object: &Object, options: &CompileOptions) -> Vec<Arc<str>> {
    let id = &object.id;
    match &object.body {
        Body::Service(_) => vec![service_host(
            &id.name,
            &id.namespace,
            &options.cluster_domain,
        )],
        Body::ServiceEntry(entry) => entry.hosts.clone(),
        _ => Vec::new(),
    }
}

/// The labels that a Service or ServiceEntry selects by.
pub(super) fn selector(object: &Object) -> Option<&Labels> {
    match &object.body {
        Body::Service(service) => service.selector.as_ref(),
        Body::ServiceEntry(entry) => entry.selector.as_ref(),
        _ => None,
    }
}

/// A port of HTTP. Once anyone declares it, all of its Services share a table.
fn port_key(number: u16, protocol: Protocol) -> Option<Key<'static>> {
    match protocol {
        Protocol::Http | Protocol::Http2 => Some(Key::Declares(number)),
        Protocol::Auto => Some(Key::Guesses(number)),
        Protocol::Tls | Protocol::Tcp | Protocol::Udp => None,
    }
}

fn service_keys(object: &Object, service: &Service, key: &mut dyn FnMut(Key<'_>)) {
    if let Some(target) = &service.external {
        key(Key::StandsFor(target));
        return;
    }
    for address in &service.addresses {
        key(Key::Owns(*address));
    }
    let seen = exported(object).public;
    let ports = service.ports.iter().filter(|_| seen);
    ports
        .filter_map(|port| port_key(port.number, port.protocol))
        .for_each(key);
}

fn entry_keys(entry: &ServiceEntry, key: &mut dyn FnMut(Key<'_>)) {
    for net in &entry.addresses {
        key(Key::Owns(net.addr()));
    }
    let ExportTo { public, .. } = entry.export;
    let ports = entry.ports.iter().filter(|_| public);
    ports
        .filter_map(|port| port_key(port.number, port.protocol))
        .for_each(key);
}

fn rule_keys(service: &VirtualService, key: &mut dyn FnMut(Key<'_>)) {
    for host in &service.hosts {
        match host.strip_prefix('*') {
            Some(suffix) => key(Key::RoutesAll(suffix)),
            None => key(Key::Routes(host)),
        }
    }
    for target in service.targets() {
        key(Key::Sends(&target.host));
    }
    for rule in &service.rules {
        if let Action::Delegate(delegate) = &rule.action {
            key(Key::Delegates(&delegate.namespace, &delegate.name));
        }
    }
}

/// Whether it has an address for a host, which may be written in several ways.
pub(super) fn is_addressed(service: &VirtualService) -> bool {
    let mut hosts = service.hosts.iter();
    hosts.any(|host| host.parse::<IpAddr>().is_ok())
}

//! Pods that run, and where: what Services, EndpointSlices and rules look them up by.

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;

use crate::config::compile::services::has_labels;
use crate::config::object::node::{HOSTNAME, REGION, SUBZONE, ZONE};
use crate::config::object::{Kind, Object, Pod, WorkloadEntry};
use crate::config::{CompileOptions, Inputs};
use crate::model::{Labels, Locality, PodId};

/// Labels of a Pod that say where it is, instead of its Node: `region/zone/subzone`, or with dots.
const OWN_LOCALITY: [&str; 2] = ["topology.istio.io/locality", "istio-locality"];

/// A Pod with an address that has not ended.
pub(super) struct Located<'a> {
    pub(super) object: &'a Object,
    pub(super) pod: &'a Pod,
    /// Its labels, and those that say where it is.
    pub(super) labels: Arc<Labels>,
    pub(super) locality: Option<Arc<Locality>>,
    /// The labels of its namespace.
    pub(super) namespace: Option<&'a Labels>,
}

/// Hashed with less effort than std does: there may be a hundred thousand Pods, and whoever writes their names is trusted.
type HashMap<K, V> = std::collections::HashMap<K, V, DefaultHashBuilder>;

/// All of them.
pub(super) struct LocatedPods<'a> {
    /// Oldest first.
    pub(super) list: Vec<Located<'a>>,
    /// Made when they are first asked for: only EndpointSlices look Pods up by name and address.
    by_name: OnceCell<HashMap<(&'a str, &'a str), usize>>,
    by_address: OnceCell<HashMap<IpAddr, usize>>,
    by_label: HashMap<&'a str, ByLabel<'a>>,
    places: Places<'a>,
    /// The labels of namespaces.
    namespaces: HashMap<&'a str, &'a Labels>,
    /// What serves and is no Pod.
    workloads: Vec<(&'a Object, &'a WorkloadEntry)>,
}

/// The Pods of a namespace, by the key and value of a label that some Service selects by.
type ByLabel<'a> = HashMap<(&'a str, &'a str), Vec<usize>>;

/// Where Nodes and zones are.
struct Places<'a> {
    nodes: HashMap<&'a str, &'a Arc<Locality>>,
    zones: HashMap<&'a str, Arc<Locality>>,
    /// Zones that no Node is in.
    strange: RefCell<HashMap<Arc<str>, Arc<Locality>>>,
    /// What Pods say of themselves, as they write it.
    own: HashMap<&'a str, Arc<Locality>>,
    names: [Arc<str>; 4],
}

impl<'a> LocatedPods<'a> {
    /// `options` say whose Pods matter before they have an address: a node's own, which it takes into the mesh first.
    pub(super) fn gather(inputs: &'a Inputs, options: &CompileOptions) -> Self {
        let services = inputs.services();
        let entries = inputs.service_entries();
        let selectors = services
            .iter()
            .filter_map(|(_, service)| service.selector.as_ref())
            .chain(
                entries
                    .iter()
                    .filter_map(|(_, entry)| entry.selector.as_ref()),
            );
        let keys: HashSet<&str> = selectors
            .flat_map(|labels| labels.keys().map(|key| &**key))
            .collect();
        let found = inputs.pods();
        let mut pods = Self {
            list: Vec::with_capacity(found.len()),
            by_name: OnceCell::new(),
            by_address: OnceCell::new(),
            by_label: HashMap::default(),
            places: Places::gather(inputs),
            namespaces: inputs
                .of_kind(Kind::Namespace)
                .map(|object| (&*object.id.name, &*object.labels))
                .collect(),
            workloads: inputs.workload_entries(),
        };
        for (object, pod) in found {
            if !pod.ended && (pod.partial || !pod.addresses.is_empty() || options.is_here(pod)) {
                pods.add(object, pod, &keys);
            }
        }
        pods
    }

    fn add(&mut self, object: &'a Object, pod: &'a Pod, keys: &HashSet<&str>) {
        let index = self.list.len();
        let namespace = &*object.id.namespace;
        let by_label = self.by_label.entry(namespace).or_default();
        let mut add = |key: &'a Arc<str>, value: &'a Arc<str>| {
            by_label.entry((key, value)).or_default().push(index);
        };
        // Most meshes select by one label or two, and Pods have many.
        if keys.len() < object.labels.len() {
            for (key, value) in keys
                .iter()
                .filter_map(|key| object.labels.get_key_value(*key))
            {
                add(key, value);
            }
        } else {
            for (key, value) in &*object.labels {
                if keys.contains(&**key) {
                    add(key, value);
                }
            }
        }
        let locality = self.places.of_pod(object, pod);
        self.list.push(Located {
            labels: self
                .places
                .labels(&object.labels, locality.as_deref(), pod.node.as_ref()),
            object,
            pod,
            locality,
            namespace: self.namespaces.get(namespace).copied(),
        });
    }

    /// The Pods of `namespace` that have all these labels, by their places in the list.
    pub(super) fn selected(
        &self,
        namespace: &'a str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = usize> {
        // The label that the fewest have is looked at first: a whole namespace may share one of the others.
        let of_namespace = self.by_label.get(namespace);
        let candidates = selector.iter().map(|(key, value)| {
            let found = of_namespace.and_then(|pods| pods.get(&(&**key, &**value)));
            found.map_or(&[][..], Vec::as_slice)
        });
        let fewest = candidates.min_by_key(|pods| pods.len()).unwrap_or_default();
        fewest
            .iter()
            .copied()
            .filter(move |index| has_labels(&self.list[*index].object.labels, selector))
    }

    /// The WorkloadEntries of `namespace` that have all these labels.
    pub(super) fn workloads(
        &self,
        namespace: &'a str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = &'a WorkloadEntry> {
        let of_namespace = self
            .workloads
            .iter()
            .copied()
            .filter(move |(object, entry)| {
                *object.id.namespace == *namespace && has_labels(&entry.labels, selector)
            });
        of_namespace.map(|(_, entry)| entry)
    }

    pub(super) fn named(&self, id: &PodId) -> Option<usize> {
        let by_name = self.by_name.get_or_init(|| {
            let pods = self.list.iter().map(|located| &located.object.id);
            let names = pods.map(|id| (&*id.namespace, &*id.name));
            names.zip(0..).collect()
        });
        by_name.get(&(&*id.namespace, &*id.name)).copied()
    }

    pub(super) fn at(&self, address: IpAddr) -> Option<usize> {
        let by_address = self.by_address.get_or_init(|| {
            let pods = self.list.iter().zip(0..);
            pods.flat_map(|(located, index)| {
                let addresses = located.pod.addresses.iter();
                addresses.map(move |address| (*address, index))
            })
            .collect()
        });
        by_address.get(&address).copied()
    }

    /// Labels with the place of who has them.
    pub(super) fn labels(
        &self,
        labels: &Arc<Labels>,
        locality: Option<&Locality>,
        node: Option<&Arc<str>>,
    ) -> Arc<Labels> {
        self.places.labels(labels, locality, node)
    }

    /// Where an address is of which no Pod is known: on a Node, or at least in a zone.
    pub(super) fn place(
        &self,
        node: Option<&str>,
        zone: Option<&Arc<str>>,
    ) -> Option<Arc<Locality>> {
        let of_node = || self.places.nodes.get(node?).map(|place| Arc::clone(place));
        let of_zone = |zone: &Arc<str>| match self.places.zones.get(&**zone) {
            Some(place) => Arc::clone(place),
            None => self.places.only_zone(zone),
        };
        of_node().or_else(|| zone.map(of_zone))
    }
}

impl<'a> Places<'a> {
    fn gather(inputs: &'a Inputs) -> Self {
        let mut places = Self {
            nodes: HashMap::default(),
            zones: HashMap::default(),
            strange: RefCell::default(),
            own: HashMap::default(),
            names: [REGION, ZONE, SUBZONE, HOSTNAME].map(Arc::from),
        };
        for (object, node) in inputs.nodes() {
            let Some(locality) = &node.locality else {
                continue;
            };
            places.nodes.insert(&object.id.name, locality);
            if !locality.zone.is_empty() {
                places.zones.entry(&locality.zone).or_insert_with(|| {
                    Arc::new(Locality {
                        subzone: Arc::default(),
                        ..Locality::clone(locality)
                    })
                });
            }
        }
        places
    }

    /// A zone of which nothing else is known. Each is kept once, for whole slices may be in it.
    fn only_zone(&self, zone: &Arc<str>) -> Arc<Locality> {
        let mut known = self.strange.borrow_mut();
        let place = known.entry(Arc::clone(zone)).or_insert_with(|| {
            Arc::new(Locality {
                zone: Arc::clone(zone),
                ..Locality::default()
            })
        });
        Arc::clone(place)
    }

    fn of_pod(&mut self, object: &'a Object, pod: &'a Pod) -> Option<Arc<Locality>> {
        let own = OWN_LOCALITY
            .iter()
            .find_map(|name| object.labels.get(*name));
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            let place = self.own.entry(own).or_insert_with(|| Arc::new(parse(own)));
            return Some(Arc::clone(place));
        }
        self.nodes
            .get(pod.node.as_deref()?)
            .map(|place| Arc::clone(place))
    }

    /// Labels as Istio matches them: with the place, which is stronger than what a label says of it.
    fn labels(
        &self,
        labels: &Arc<Labels>,
        locality: Option<&Locality>,
        node: Option<&Arc<str>>,
    ) -> Arc<Labels> {
        let part =
            |part: fn(&Locality) -> &Arc<str>| locality.map(part).filter(|part| !part.is_empty());
        let values = [
            part(|place| &place.region),
            part(|place| &place.zone),
            part(|place| &place.subzone),
            node,
        ];
        if values.iter().all(Option::is_none) {
            return Arc::clone(labels);
        }
        let mut labels = Labels::clone(labels);
        for (name, value) in self.names.iter().zip(values) {
            if let Some(value) = value {
                labels.insert(Arc::clone(name), Arc::clone(value));
            }
        }
        Arc::new(labels)
    }
}

/// Labels cannot have slashes, so dots stand for them; unless there are slashes all the same.
fn parse(text: &str) -> Locality {
    let separator = if text.contains('/') { '/' } else { '.' };
    let mut parts = text.split(separator).map(Arc::from);
    let mut part = || parts.next().unwrap_or_default();
    Locality {
        region: part(),
        zone: part(),
        subzone: part(),
    }
}

#[cfg(test)]
mod tests;

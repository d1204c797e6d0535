//! The objects in force.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::config::object::{Body, Kind, Object, ObjectId, Secret};
use crate::config::object::{
    DestinationRule, EndpointSlice, Gateway, Node, Pod, Service, ServiceEntry, Sidecar,
    VirtualService, WorkloadEntry, WorkloadPolicy,
};

use crate::config::object::Age;

/// Every object in force, one version of each.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    objects: BTreeMap<ObjectId, Arc<Object>>,
}

/// An object, and the version of it that is in force now.
pub(super) type Change = (ObjectId, Option<Arc<Object>>);

impl Inputs {
    /// Puts an object in force. The one of the same name that was in force comes back.
    pub fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.objects.insert(object.id.clone(), object)
    }

    /// Takes an object out of force. It comes back where it was in force.
    pub fn remove(&mut self, id: &ObjectId) -> Option<Arc<Object>> {
        self.objects.remove(id)
    }

    /// Puts objects in force.
    pub fn extend(&mut self, objects: impl IntoIterator<Item = Arc<Object>>) {
        for object in objects {
            self.insert(object);
        }
    }

    /// All of them, by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> + Clone {
        self.objects.values()
    }

    /// The object in force under a name.
    pub fn get(&self, id: &ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether both hold the very same versions.
    pub fn same_as(&self, other: &Self) -> bool {
        self.objects.len() == other.objects.len()
            && self
                .objects
                .values()
                .zip(other.objects.values())
                .all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// The Services, oldest first.
    pub fn services(&self) -> Vec<(&Object, &Service)> {
        self.by_age(Kind::Service, |body| match body {
            Body::Service(service) => Some(service),
            _ => None,
        })
    }

    /// The Pods, oldest first.
    pub fn pods(&self) -> Vec<(&Object, &Pod)> {
        self.by_age(Kind::Pod, |body| match body {
            Body::Pod(pod) => Some(pod),
            _ => None,
        })
    }

    /// The EndpointSlices, oldest first.
    pub fn endpoint_slices(&self) -> Vec<(&Object, &EndpointSlice)> {
        self.by_age(Kind::EndpointSlice, |body| match body {
            Body::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
    }

    /// The Nodes, oldest first.
    pub fn nodes(&self) -> Vec<(&Object, &Node)> {
        self.by_age(Kind::Node, |body| match body {
            Body::Node(node) => Some(node),
            _ => None,
        })
    }

    /// The VirtualServices, oldest first.
    pub fn virtual_services(&self) -> Vec<(&Object, &VirtualService)> {
        self.by_age(Kind::VirtualService, |body| match body {
            Body::VirtualService(service) => Some(service),
            _ => None,
        })
    }

    /// The DestinationRules, oldest first.
    pub fn destination_rules(&self) -> Vec<(&Object, &DestinationRule)> {
        self.by_age(Kind::DestinationRule, |body| match body {
            Body::DestinationRule(rule) => Some(rule),
            _ => None,
        })
    }

    /// The Gateways, oldest first.
    pub fn gateways(&self) -> Vec<(&Object, &Gateway)> {
        self.by_age(Kind::Gateway, |body| match body {
            Body::Gateway(gateway) => Some(gateway),
            _ => None,
        })
    }

    /// The ServiceEntries, oldest first.
    pub fn service_entries(&self) -> Vec<(&Object, &ServiceEntry)> {
        self.by_age(Kind::ServiceEntry, |body| match body {
            Body::ServiceEntry(entry) => Some(entry),
            _ => None,
        })
    }

    /// The WorkloadEntries, oldest first.
    pub fn workload_entries(&self) -> Vec<(&Object, &WorkloadEntry)> {
        self.by_age(Kind::WorkloadEntry, |body| match body {
            Body::WorkloadEntry(entry) => Some(entry),
            _ => None,
        })
    }

    /// The Sidecars, oldest first.
    pub fn sidecars(&self) -> Vec<(&Object, &Sidecar)> {
        self.by_age(Kind::Sidecar, |body| match body {
            Body::Sidecar(sidecar) => Some(sidecar),
            _ => None,
        })
    }

    /// The Secrets, oldest first.
    pub fn secrets(&self) -> Vec<(&Object, &Secret)> {
        self.by_age(Kind::Secret, |body| match body {
            Body::Secret(secret) => Some(secret),
            _ => None,
        })
    }

    /// The policies of a kind that are not acted on, oldest first.
    pub fn workload_policies(&self, kind: Kind) -> Vec<(&Object, &WorkloadPolicy)> {
        self.by_age(kind, |body| match body {
            Body::WorkloadPolicy(policy) => Some(policy),
            _ => None,
        })
    }

    /// The objects of a kind, by name. They stand together, as an object's name begins with its kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = ObjectId {
            kind,
            namespace: Arc::default(),
            name: Arc::default(),
        };
        let from = self.objects.range(first..);
        from.take_while(move |(id, _)| id.kind == kind)
            .map(|(_, object)| object)
    }

    /// The objects of a kind in a namespace, by name.
    pub fn of_namespace(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Arc<Object>> {
        let first = ObjectId {
            kind,
            namespace: namespace.into(),
            name: Arc::default(),
        };
        let namespace = Arc::clone(&first.namespace);
        let from = self.objects.range(first..);
        from.take_while(move |(id, _)| id.kind == kind && id.namespace == namespace)
            .map(|(_, object)| object)
    }

    fn by_age<'a, T>(
        &'a self,
        kind: Kind,
        body: impl Fn(&'a Body) -> Option<&'a T>,
    ) -> Vec<(&'a Object, &'a T)> {
        let objects = self
            .of_kind(kind)
            .filter_map(|object| Some((&**object, body(&object.body)?)));
        let objects: Vec<(&Object, &T)> = objects.collect();
        let files = Files::of(objects.iter().map(|(object, _)| &object.age));
        let mut ranked: Vec<(Rank, (&Object, &T))> = objects
            .into_iter()
            .map(|object| (files.rank(&object.0.age), object))
            .collect();
        // The objects themselves are looked at only where the second of their creation does not tell them apart: there
        // may be a hundred thousand, all over the memory.
        ranked.sort_by(|(a, (one, _)), (b, (other, _))| {
            a.cmp(b).then_with(|| one.age.cmp(&other.age))
        });
        ranked.into_iter().map(|(_, object)| object).collect()
    }
}

/// An age in short. Where two differ, they are in the order of the ages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The second.
    Created(i64),
    /// The file's place among the files, and the object's in it.
    Written(usize, usize),
}

/// The files of some objects, by where their names are in memory: equal names may be there more than once.
struct Files {
    places: HashMap<*const u8, usize>,
}

impl Files {
    fn of<'a>(ages: impl Iterator<Item = &'a Age>) -> Self {
        let mut names: HashMap<*const u8, &Path> = HashMap::new();
        for age in ages {
            if let Age::Written(file, _) = age {
                names.entry(Arc::as_ptr(file).cast()).or_insert(file);
            }
        }
        let mut order: Vec<&Path> = names.values().copied().collect();
        order.sort_unstable();
        order.dedup();
        let places = names.into_iter().map(|(pointer, name)| {
            let place = order.partition_point(|other| *other < name);
            (pointer, place)
        });
        Self {
            places: places.collect(),
        }
    }

    fn rank(&self, age: &Age) -> Rank {
        match age {
            Age::Created(second, _, _) => Rank::Created(*second),
            Age::Written(file, place) => {
                let pointer: *const u8 = Arc::as_ptr(file).cast();
                Rank::Written(
                    self.places.get(&pointer).copied().unwrap_or_default(),
                    *place,
                )
            }
        }
    }
}

impl FromIterator<Arc<Object>> for Inputs {
    fn from_iter<I: IntoIterator<Item = Arc<Object>>>(objects: I) -> Self {
        let mut inputs = Self::default();
        for object in objects {
            inputs.insert(object);
        }
        inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CompileOptions;
    use crate::config::document::{Outcome, read_text};

    #[test]
    fn objects_come_from_the_oldest_to_the_newest() {
        let mut inputs = Inputs::default();
        // The same name is in memory twice, as it is after a file was read again.
        for (file, names) in [
            ("b.yaml", &["z", "y"][..]),
            ("a.yaml", &["x"]),
            ("b.yaml", &["-", "-", "w"]),
            (
                "c.yaml",
                &["v@2024-01-02T00:00:00Z", "u@2024-01-01T00:00:00Z"],
            ),
            ("d.yaml", &["t@2024-01-02T00:00:00Z"]),
        ] {
            let text: String = names
                .iter()
                .map(|name| {
                    let (name, created) = name.split_once('@').unwrap_or((name, "null"));
                    format!(
                        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: \"{name}\", creationTimestamp: {created}}}\n"
                    )
                })
                .collect();
            let file: Arc<Path> = Path::new(file).into();
            for document in read_text(&text, &file, &CompileOptions::default()) {
                if let Outcome::Good(object) = document.outcome {
                    inputs.insert(object);
                }
            }
        }
        let names: Vec<&str> = inputs
            .pods()
            .iter()
            .map(|(object, _)| &*object.id.name)
            .collect();
        // Those with a time first, then file by file; two that say the same of their age go by their names.
        assert_eq!(names, ["u", "t", "v", "x", "z", "-", "y", "w"]);
    }
}

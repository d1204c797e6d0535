//! The objects in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::object::{Body, Kind, Object, ObjectId, Secret};
use crate::config::object::{
    DestinationRule, EndpointSlice, Gateway, Node, Pod, Service, ServiceEntry, Sidecar,
    VirtualService, WorkloadEntry,
};

/// Every object in force, one version of each.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    objects: BTreeMap<ObjectId, Arc<Object>>,
}

impl Inputs {
    /// Puts an object in force. The one of the same name that was in force comes back.
    pub fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.objects.insert(object.id.clone(), object)
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

    /// The objects of a kind. They stand together, as an object's name begins with its kind.
    fn by_age<'a, T>(
        &'a self,
        kind: Kind,
        body: impl Fn(&'a Body) -> Option<&'a T>,
    ) -> Vec<(&'a Object, &'a T)> {
        let first = ObjectId {
            kind,
            namespace: Arc::default(),
            name: Arc::default(),
        };
        let mut found: Vec<(&Object, &T)> = self
            .objects
            .range(first..)
            .take_while(|(id, _)| id.kind == kind)
            .filter_map(|(_, object)| Some((&**object, body(&object.body)?)))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.age.cmp(&b.age));
        found
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

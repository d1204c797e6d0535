//! Who asks: a pod, or a client of a gateway.

use std::sync::Arc;

use crate::config::World;
use crate::explain::asked::{Usage, Who, Wish};
use crate::model::{Pod, PodId, Snapshot};
use crate::route::Client;

/// A pod, and which side of it is asked.
pub(super) enum Found<'a> {
    /// It asks.
    Pod(&'a Pod),
    /// It is a gateway, and somebody asks it.
    Gateway(&'a Pod),
}

impl<'a> Found<'a> {
    pub(super) fn client(&self) -> Client<'a> {
        match self {
            Self::Pod(pod) => Client::Pod(pod),
            Self::Gateway(pod) => Client::Gateway(pod),
        }
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Pod(pod) => format!("pod {}", pod.id),
            Self::Gateway(pod) => format!("a client of gateway {}", pod.id),
        }
    }
}

/// Finds the pod that is meant.
pub(super) fn find<'a>(world: &'a World, wish: &Wish) -> Result<Found<'a>, Usage> {
    let snapshot = &world.snapshot;
    match &wish.who {
        Who::Pod(name) => {
            let pod = snapshot.pods.get(&id(name));
            pod.map(|pod| Found::Pod(pod))
                .ok_or_else(|| Usage(format!("there is no pod {}; {}", id(name), known(snapshot))))
        }
        Who::Gateway(name) => {
            let id = id(name);
            if let Some(pod) = snapshot.pods.get(&id) {
                return Ok(Found::Gateway(pod));
            }
            let full = id.to_string();
            let selected = |pod: &&Arc<Pod>| {
                let gateway = snapshot.gateway(pod);
                gateway.is_some_and(|gateway| gateway.names.iter().any(|name| **name == *full))
            };
            let mut pods: Vec<&Arc<Pod>> = snapshot.pods.values().filter(selected).collect();
            pods.sort_by(|a, b| a.id.cmp(&b.id));
            match pods.first() {
                Some(pod) => Ok(Found::Gateway(pod)),
                None => Err(Usage(format!(
                    "{id} is neither a pod nor a Gateway that selects one; {}",
                    known(snapshot)
                ))),
            }
        }
    }
}

fn id(name: &str) -> PodId {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    PodId {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn known(snapshot: &Snapshot) -> String {
    let mut pods: Vec<String> = snapshot.pods.keys().map(ToString::to_string).collect();
    pods.sort();
    let more = pods.len().saturating_sub(10);
    pods.truncate(10);
    match (pods.is_empty(), more) {
        (true, _) => {
            "the manifests have none with an address: write one down, with its labels and status.podIP"
                .to_owned()
        }
        (false, 0) => format!("there are {}", pods.join(", ")),
        (false, more) => format!("there are {} and {more} more", pods.join(", ")),
    }
}

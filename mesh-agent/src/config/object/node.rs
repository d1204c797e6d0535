//! A Node: where the Pods are that run on it.

use std::sync::Arc;

use crate::model::{Labels, Locality};

/// A Node.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it is, as far as its labels tell.
    pub locality: Option<Arc<Locality>>,
}

/// The label of the region, on Nodes, Pods and endpoints.
pub const REGION: &str = "topology.kubernetes.io/region";

/// Likewise of the zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Likewise of the subzone, which Kubernetes does not know.
pub const SUBZONE: &str = "topology.istio.io/subzone";

/// Likewise of the node.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

impl Node {
    /// Reads the labels.
    pub fn read(labels: &Labels) -> Self {
        let label = |names: &[&str]| {
            let value = names.iter().find_map(|name| labels.get(*name));
            value.cloned().unwrap_or_default()
        };
        let locality = Locality {
            region: label(&[REGION, "failure-domain.beta.kubernetes.io/region"]),
            zone: label(&[ZONE, "failure-domain.beta.kubernetes.io/zone"]),
            subzone: label(&[SUBZONE]),
        };
        Self {
            locality: (locality != Locality::default()).then(|| Arc::new(locality)),
        }
    }
}

//! An AuthorizationPolicy, a PeerAuthentication, a RequestAuthentication or a Telemetry. They are not acted on; what is known
//! of them is whom they are for.

use crate::config::crd::security::PolicySpec;
use crate::config::object::{self, Kind};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::Labels;

/// A policy for some workloads.
#[derive(Debug, PartialEq, Eq)]
pub struct WorkloadPolicy {
    /// `selector`: the labels of the Pods; `None` is all Pods of its namespace, or of all where that is the root namespace.
    pub selector: Option<Labels>,
    /// Whether it is for what `targetRefs` names, and not for Pods by their labels.
    pub attached: bool,
}

impl WorkloadPolicy {
    /// Reads `spec` of an object of this kind.
    pub fn read(kind: Kind, spec: PolicySpec, problems: &mut Problems) -> Self {
        let PolicySpec {
            selector,
            target_ref,
            target_refs,
            port_level_mtls,
        } = spec;
        problems.without_effect(&Path::of("kind"), kind.name());
        let selector = selector
            .map(|selector| object::labels(&selector.match_labels))
            .filter(|labels| !labels.is_empty());
        if !port_level_mtls.is_empty() && selector.is_none() {
            problems.error(
                &Path::of("spec.portLevelMtls"),
                "portLevelMtls is for the ports of some Pods, and nothing here says of which",
                "add a selector, or write mtls for all ports",
            );
        }
        Self {
            selector,
            attached: target_ref.is_some() || !target_refs.is_empty(),
        }
    }
}

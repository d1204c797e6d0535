//! Which Pods are this node's, and which of those are in the mesh. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::compile::located::Located;
use crate::config::compile::{Report, capture};
use crate::config::object::{self, Object, Pod};
use crate::config::problem::{Code, Problems};
use crate::config::{CompileOptions, Membership};
use crate::model::{Labels, LocalPod, NetnsPlace};

/// Where a Pod's network namespace is; makes it a Pod of this machine.
pub(super) const NETNS: &str = "mesh-agent.io/netns";

/// Whether a Pod is in the mesh, as a label or an annotation; of a namespace, whether its Pods are unless they say
/// otherwise.
pub const ENROL: &str = "mesh-agent.io/enrol";

/// Istio's word for the same, on a Pod; and on a namespace: `enabled` or `disabled`, or which revision of Istio.
pub(super) const INJECT: &str = "sidecar.istio.io/inject";
pub(super) const INJECTION: &str = "istio-injection";
pub(super) const REVISION: &str = "istio.io/rev";

/// What the kubelet calls a Pod that it read from a file: the API server has another uid for it.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// The part of a Pod that only its own node cares about; `None` for Pods of other nodes.
pub(super) fn local(
    located: &Located<'_>,
    options: &CompileOptions,
    report: &mut Report,
) -> Option<LocalPod> {
    let object = located.object;
    let mut problems = Problems::default();
    let place = place(object, located.pod, options, &mut problems);
    let local = place.map(|netns| LocalPod {
        netns,
        enrol: enrols(located, options, &mut problems),
        capture: capture::policy(&object.annotations, &options.capture, &mut problems),
    });
    report.take(object, problems);
    local
}

/// Where the network namespace of a Pod of this machine is.
fn place(
    object: &Object,
    pod: &Pod,
    options: &CompileOptions,
    problems: &mut Problems,
) -> Option<NetnsPlace> {
    if let Membership::Asked { .. } = &options.membership {
        let here = options.is_here(pod);
        let hash = object.annotations.get(CONFIG_HASH);
        let uid = hash.map(String::as_str).or(object.uid.as_deref());
        return here.then(|| NetnsPlace::Processes(uid.unwrap_or_default().into()));
    }
    let netns = object.annotations.get(NETNS)?;
    if !netns.starts_with('/') {
        problems.left_out(
            &object::annotation(NETNS),
            format!("\"{netns}\" is no absolute path, so the Pod is not enrolled"),
            "write for example /run/netns/NAME",
        );
        return None;
    }
    Some(NetnsPlace::Path(PathBuf::from(netns)))
}

/// Whether a Pod of this machine is in the mesh.
fn enrols(located: &Located<'_>, options: &CompileOptions, problems: &mut Problems) -> bool {
    let object = located.object;
    let own = Own::of(&object.labels, &object.annotations, ENROL);
    let Membership::Asked { istio, .. } = options.membership else {
        return own != Own::No;
    };
    let asked = match own {
        Own::Yes => true,
        Own::No => false,
        Own::Silent => {
            let silent = Labels::default();
            let namespace = located.namespace.unwrap_or(&silent);
            let says = |label: &str, value: &str| {
                namespace.get(label).is_some_and(|found| **found == *value)
            };
            says(ENROL, "true") || (istio && !says(ENROL, "false") && as_istio(object, namespace))
        }
    };
    let Some(why) = asked.then(|| never(located.pod)).flatten() else {
        return asked;
    };
    // A namespace means those of its Pods that can be.
    if own == Own::Yes {
        let path = match object.labels.contains_key(ENROL) {
            true => object::label(ENROL),
            false => object::annotation(ENROL),
        };
        let remedy = "take the word away, or what hinders";
        problems.code(Code::Mesh0008).warning(&path, why, remedy);
    }
    false
}

/// Whether Istio would inject its sidecar: the Pod's label before its annotation, and before what the namespace says,
/// unless that says never.
fn as_istio(object: &Object, namespace: &Labels) -> bool {
    let injection = namespace.get(INJECTION).map(|value| &**value);
    let own = match object.labels.get(INJECT) {
        Some(value) => Some(&**value),
        None => object.annotations.get(INJECT).map(String::as_str),
    };
    match (injection, own) {
        (Some("disabled"), _) | (_, Some("false")) => false,
        (_, Some("true")) | (Some("enabled"), _) => true,
        _ => namespace.contains_key(REVISION) || object.labels.contains_key(REVISION),
    }
}

/// Why a Pod is never in the mesh, whoever asks.
fn never(pod: &Pod) -> Option<&'static str> {
    if pod.host_network {
        Some("the Pod has the network of its node, and cannot be enrolled without all of that")
    } else if pod.has_proxy {
        Some("the Pod has a proxy of Istio's, and is not enrolled beside")
    } else {
        None
    }
}

/// What a Pod says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Yes,
    No,
    Silent,
}

impl Own {
    /// By a label or an annotation; no is stronger.
    fn of(labels: &Arc<Labels>, annotations: &BTreeMap<String, String>, name: &str) -> Self {
        let label = labels.get(name).map(|value| &**value);
        let words = [label, annotations.get(name).map(String::as_str)];
        if words.contains(&Some("false")) {
            Self::No
        } else if words.contains(&Some("true")) {
            Self::Yes
        } else {
            Self::Silent
        }
    }
}

#[cfg(test)]
mod tests;

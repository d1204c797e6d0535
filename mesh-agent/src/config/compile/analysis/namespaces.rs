//! Namespaces whose Pods Istio would not take in (IST0102). Of a directory every Pod is taken in that has an agent and does
//! not say no; in Kubernetes those that ask for it, or whose namespaces do.

use crate::config::compile::analysis::Findings;
use crate::config::compile::analysis::services::SYSTEM;
use crate::config::compile::membership::{ENROL, INJECTION, REVISION};
use crate::config::object::{Kind, Object};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem, Severity};
use crate::config::{CompileOptions, Inputs, Membership};

/// Labels with which Istio takes a namespace in by other ways.
const OTHERS: [&str; 2] = [REVISION, "istio.io/dataplane-mode"];

/// Whether a namespace says anything about its Pods, in our words or, where they count, in Istio's.
fn asks(object: &Object, istio: bool) -> bool {
    let ours = object.labels.contains_key(ENROL);
    let mut theirs = OTHERS.iter().chain([&INJECTION]);
    ours || (istio && theirs.any(|label| object.labels.contains_key(*label)))
}

pub(super) fn check(inputs: &Inputs, options: &CompileOptions, findings: &mut Findings) {
    for object in inputs.of_kind(Kind::Namespace) {
        let name = &*object.id.name;
        if SYSTEM.contains(&name) || *name == *options.root_namespace {
            continue;
        }
        if let Membership::Asked { istio, .. } = options.membership {
            if !asks(object, istio) {
                let path = Path::of("metadata.name");
                let message = "the Pods of this namespace are outside the mesh, but for those that ask themselves";
                let remedy =
                    "label it mesh-agent.io/enrol: \"true\", or \"false\" where that is meant";
                let problem = Problem::breach(Code::Ist0102, &path, message, remedy);
                findings.add(object, problem);
            }
            continue;
        }
        let labelled = OTHERS
            .iter()
            .any(|label| object.labels.contains_key(*label));
        match object.labels.get(INJECTION).map(|value| &**value) {
            Some("enabled") => {}
            Some("disabled") => {
                let path = Path::of("metadata.labels").key(INJECTION);
                let message = "the Pods of this namespace are in the mesh all the same: the label is not looked at";
                let remedy = "label those Pods mesh-agent.io/enrol: \"false\"";
                let problem = Problem::new(&path, message, remedy, Severity::Warning);
                findings.add(object, problem.of(Code::Mesh0001));
            }
            _ if labelled => {}
            _ => {
                let path = Path::of("metadata.name");
                let message = "Istio would leave the Pods of this namespace outside the mesh, as it is not labelled for injection; here they are in it";
                let remedy =
                    "label it istio-injection: enabled, or the Pods mesh-agent.io/enrol: \"false\"";
                let problem = Problem::breach(Code::Ist0102, &path, message, remedy);
                findings.add(object, problem);
            }
        }
    }
}

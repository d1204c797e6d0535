//! Pods: who runs as the proxy's user (IST0144), and who says two things about being in the mesh (IST0103).

use crate::config::compile::analysis::Findings;
use crate::config::compile::analysis::registry::{Member, Registry};
use crate::config::compile::membership::{ENROL, INJECT, NETNS};
use crate::config::object::annotation;
use crate::config::path::Path;
use crate::config::problem::{Code, Problem, Severity};

pub(super) fn check(registry: &Registry<'_>, findings: &mut Findings) {
    for pod in &registry.pods {
        for path in &pod.pod.as_proxy {
            let message =
                "user 1337 is the proxy's: where iptables steers, its connections pass by the mesh";
            let problem = Problem::breach(Code::Ist0144, path, message, "choose another user");
            findings.add(pod.object, problem);
        }
        if let Some(problem) = two_minds(pod) {
            findings.add(pod.object, problem);
        }
    }
}

/// A Pod that an agent could take in, and that says of itself both yes and no.
fn two_minds(pod: &Member<'_>) -> Option<Problem> {
    pod.object.annotations.get(NETNS)?;
    let (inject, path) = said(pod, INJECT)?;
    let enrol = said(pod, ENROL).map(|(value, _)| value);
    match (inject, enrol) {
        ("true", Some("false")) => {
            let message =
                format!("this Pod asks for a proxy, and {ENROL} keeps it out of the mesh");
            let remedy = "remove one of the two";
            Some(Problem::breach(Code::Ist0103, &path, message, remedy))
        }
        ("false", None | Some("true")) => {
            let message =
                format!("this Pod is in the mesh all the same: {INJECT} is not looked at");
            let remedy = format!("write {ENROL}: \"false\"");
            let problem = Problem::new(&path, message, remedy, Severity::Warning);
            Some(problem.of(Code::Mesh0001))
        }
        _ => None,
    }
}

/// The value of a label, or else of an annotation.
fn said<'p>(pod: &'p Member<'_>, name: &str) -> Option<(&'p str, Path)> {
    let label = pod.object.labels.get(name);
    let label = label.map(|value| (&**value, Path::of("metadata.labels").key(name)));
    let written = pod.object.annotations.get(name);
    label.or_else(|| written.map(|value| (value.as_str(), annotation(name))))
}

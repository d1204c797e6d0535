//! Services: ports whose protocol nobody said (IST0118), and Services that do not agree on the ports of the Pods that they
//! share (IST0116, IST0137); and what Istio would do for a Service and nobody does here.

use std::collections::HashSet;

use crate::config::compile::analysis::Findings;
use crate::config::compile::analysis::registry::{Known, Member, Registry};
use crate::config::object;
use crate::config::object::service::Port;
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};
use crate::model::Protocol;

/// Kubernetes' own, whose names its users do not choose.
pub(super) const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Labels of Services that ask for sessions.
const SESSIONS: [&str; 2] = [
    "istio.io/persistent-session",
    "istio.io/persistent-session-header",
];

/// The most Services in front of one Pod that are compared with each other.
const MOST: usize = 16;

pub(super) fn check(registry: &Registry<'_>, findings: &mut Findings) {
    for known in &registry.services {
        if !SYSTEM.contains(&&*known.object.id.namespace) {
            check_names(known, findings);
        }
        check_sessions(known, findings);
    }
    let mut seen = HashSet::new();
    for pod in &registry.pods {
        let several = pod.services.len() > 1;
        if several && seen.insert(&pod.services) {
            check_shared(pod, registry, findings);
        }
    }
}

fn check_names(known: &Known<'_>, findings: &mut Findings) {
    for (index, port) in known.service.ports.iter().enumerate() {
        if port.protocol != Protocol::Auto {
            continue;
        }
        let message = match &*port.name {
            "" => format!(
                "port {} has no name that says what is spoken there",
                port.number
            ),
            name => format!(
                "\"{name}\" does not say what is spoken on port {}",
                port.number
            ),
        };
        let remedy = "begin the name with http, http2, grpc, tcp, tls or another of Istio's protocols, or set appProtocol";
        let path = Path::of("spec.ports").index(index).key("name");
        let problem = Problem::breach(Code::Ist0118, &path, message, remedy);
        findings.add(known.object, problem);
    }
}

/// Sessions that stay with their endpoint, also while it ends: in Istio, where that is switched on.
fn check_sessions(known: &Known<'_>, findings: &mut Findings) {
    for name in SESSIONS {
        if known.object.labels.contains_key(name) {
            let message = format!("{name} has no effect: endpoints that end get nothing more");
            let remedy = "use consistentHash of a DestinationRule";
            let problem = Problem::breach(Code::Mesh0001, &object::label(name), message, remedy);
            findings.add(known.object, problem);
        }
    }
}

/// Compares the Services in front of a Pod, each with those that are older.
fn check_shared(pod: &Member<'_>, registry: &Registry<'_>, findings: &mut Findings) {
    let services: Vec<&Known<'_>> = pod
        .services
        .iter()
        .take(MOST)
        .map(|place| &registry.services[*place])
        .collect();
    for (index, younger) in services.iter().enumerate() {
        for older in &services[..index] {
            for (at, port) in tcp(younger) {
                let target = pod.target(&port.target);
                let shared = tcp(older)
                    .find(|(_, other)| target.is_some() && pod.target(&other.target) == target);
                if let Some((other_at, other)) = shared {
                    let ports = Shared {
                        number: target.unwrap_or_default(),
                        younger: (younger, at, port),
                        older: (older, other_at, other),
                    };
                    ports.check(findings);
                }
            }
        }
    }
}

fn tcp<'k>(known: &'k Known<'_>) -> impl Iterator<Item = (usize, &'k Port)> {
    let ports = known.service.ports.iter().enumerate();
    ports.filter(|(_, port)| port.protocol != Protocol::Udp)
}

/// A port of a Pod that two Services lead to.
struct Shared<'k, 'a> {
    number: u16,
    younger: (&'k Known<'a>, usize, &'k Port),
    older: (&'k Known<'a>, usize, &'k Port),
}

impl Shared<'_, '_> {
    fn check(&self, findings: &mut Findings) {
        let (younger, at, port) = self.younger;
        let (older, other_at, other) = self.older;
        let place = |index: usize| Path::of("spec.ports").index(index);
        let id = &older.object.id;
        if port.protocol != other.protocol {
            let message = format!(
                "port {} of the Pods is {:?} by this Service and {:?} by the older {id}, which holds",
                self.number, port.protocol, other.protocol
            );
            let remedy = "give the port the same protocol in both";
            let path = place(at).key("name");
            let problem = Problem::breach(Code::Ist0116, &path, message, remedy);
            let there = older
                .object
                .place(&place(other_at).key("name"), format!("{id} says so here"));
            findings.add(younger.object, problem.see(there));
        }
        if port.number != other.number {
            let message = format!(
                "port {} of the Pods is port {} of this Service and port {} of the older {id}",
                self.number, port.number, other.number
            );
            let remedy = "use the same port in both, or different ports of the Pods";
            let path = place(at).key("port");
            let problem = Problem::breach(Code::Ist0137, &path, message, remedy);
            let there = older
                .object
                .place(&place(other_at).key("port"), format!("{id} has it here"));
            findings.add(younger.object, problem.see(there));
        }
    }
}

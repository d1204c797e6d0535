//! Policies whose selectors select nobody (IST0127), and routes by claims of a token that nobody checks (IST0149).

use std::collections::HashMap;

use crate::config::Inputs;
use crate::config::compile::analysis::registry::{Registry, Selectors};
use crate::config::compile::analysis::{Findings, shown};
use crate::config::compile::services::has_labels;
use crate::config::object::name::GatewayName;
use crate::config::object::{Gateway, Kind, Object, VirtualService, WorkloadPolicy};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem, Severity};

type Found<'a> = (&'a Object, &'a WorkloadPolicy);

pub(super) fn check(inputs: &Inputs, registry: &Registry<'_>, findings: &mut Findings) {
    if !registry.pods.is_empty() {
        for kind in [
            Kind::AuthorizationPolicy,
            Kind::PeerAuthentication,
            Kind::RequestAuthentication,
            Kind::Telemetry,
        ] {
            check_selectors(&inputs.workload_policies(kind), registry, findings);
        }
    }
    check_claims(inputs, registry, findings);
}

fn check_selectors(policies: &[Found<'_>], registry: &Registry<'_>, findings: &mut Findings) {
    let selectors = policies.iter().map(|(object, policy)| {
        let selector = policy.selector.as_ref().filter(|_| !policy.attached)?;
        // No namespace is called "": those of the root namespace are for all.
        let everywhere = *object.id.namespace == *registry.root;
        let namespace = if everywhere { "" } else { &object.id.namespace };
        Some((namespace, selector))
    });
    let index = Selectors::new(selectors.clone());
    let mut selects = vec![false; policies.len()];
    for pod in &registry.pods {
        for namespace in ["", &*pod.object.id.namespace] {
            for place in index.matching(namespace, &pod.object.labels) {
                selects[place] = true;
            }
        }
    }
    for ((selector, selects), (object, _)) in selectors.zip(selects).zip(policies) {
        let Some((namespace, selector)) = selector.filter(|_| !selects) else {
            continue;
        };
        let whose = match namespace {
            "" => "no Pod".to_owned(),
            namespace => format!("no Pod of namespace {namespace}"),
        };
        let message = format!(
            "{whose} is labelled {}, so this is for nobody",
            shown(selector)
        );
        let remedy = "correct the labels, or add the Pods";
        let path = Path::of("spec.selector");
        let problem = Problem::breach(Code::Ist0127, &path, message, remedy);
        findings.add(object, problem);
    }
}

/// Nobody checks tokens here, so such a route never matches; with Istio it would, where a RequestAuthentication is for the
/// Pods of the gateway.
fn check_claims(inputs: &Inputs, registry: &Registry<'_>, findings: &mut Findings) {
    let services = inputs.virtual_services();
    let mut asking = services
        .iter()
        .filter(|(_, service)| !service.claims.is_empty())
        .peekable();
    if asking.peek().is_none() {
        return;
    }
    let gateways = inputs.gateways().into_iter().map(|(object, gateway)| {
        let id = &object.id;
        ((&*id.namespace, &*id.name), gateway)
    });
    let checkers = Checkers {
        policies: inputs.workload_policies(Kind::RequestAuthentication),
        gateways: gateways.collect(),
        registry,
    };
    for (object, service) in asking {
        let unchecked = checkers.unchecked(service);
        for path in &service.claims {
            let problem = match &unchecked {
                Some(gateway) => {
                    let message = format!(
                        "no RequestAuthentication checks tokens at the gateway {gateway}, so no request has claims, and this never matches"
                    );
                    let remedy = "add one that selects the gateway's Pods, or match something else";
                    Problem::breach(Code::Ist0149, path, message, remedy)
                }
                None => {
                    let message = "tokens are not checked yet, so no request has claims, and this never matches";
                    let remedy = "match something else";
                    let problem = Problem::new(path, message, remedy, Severity::Error);
                    problem.of(Code::Mesh0001)
                }
            };
            findings.add(object, problem);
        }
    }
}

/// The RequestAuthentications, and whom they are for.
struct Checkers<'c, 'a> {
    policies: Vec<Found<'a>>,
    gateways: HashMap<(&'a str, &'a str), &'a Gateway>,
    registry: &'c Registry<'a>,
}

impl Checkers<'_, '_> {
    /// The first gateway of a VirtualService at which no token is checked.
    fn unchecked(&self, service: &VirtualService) -> Option<String> {
        let mut gateways = service.gateways.iter().filter_map(|name| match name {
            GatewayName::Mesh => None,
            GatewayName::Gateway(namespace, name) => Some((&**namespace, &**name)),
        });
        let (namespace, name) = gateways.find(|name| !self.checks(*name))?;
        Some(format!("{namespace}/{name}"))
    }

    /// Where there are no Pods to look at, any RequestAuthentication may be the one.
    fn checks(&self, name: (&str, &str)) -> bool {
        let Some(gateway) = self.gateways.get(&name) else {
            return false;
        };
        if self.registry.pods.is_empty() {
            return !self.policies.is_empty();
        }
        let pods = self.registry.pods.iter().map(|pod| pod.object);
        let mut pods = pods.filter(|pod| has_labels(&pod.labels, &gateway.selector));
        pods.any(|pod| self.policies.iter().any(|policy| self.is_for(*policy, pod)))
    }

    fn is_for(&self, (object, policy): Found<'_>, pod: &Object) -> bool {
        let namespace = &*object.id.namespace;
        let near = *namespace == *pod.id.namespace || *namespace == *self.registry.root;
        let selector = policy.selector.as_ref().filter(|_| !policy.attached);
        near && selector.is_none_or(|selector| has_labels(&pod.labels, selector))
    }
}

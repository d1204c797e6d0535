//! Where VirtualServices send requests: hosts, ports and subsets that are not there (IST0101), ports that are not said
//! (IST0112), and what the mesh's own rules do not do for a gateway (IST0140).

use std::collections::HashMap;

use crate::config::Inputs;
use crate::config::compile::analysis::registry::{Known, Registry};
use crate::config::compile::analysis::{Findings, some};
use crate::config::compile::hosts::HostIndex;
use crate::config::object::name::{ExportTo, GatewayName};
use crate::config::object::virtual_service::Target;
use crate::config::object::{DestinationRule, Object, VirtualService};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};

type Rules<'a> = HostIndex<'a, (&'a Object, &'a DestinationRule)>;

pub(super) fn check(inputs: &Inputs, registry: &Registry<'_>, findings: &mut Findings) {
    let written = inputs.destination_rules();
    let rules = written
        .iter()
        .map(|(object, rule)| (&*rule.host, (*object, *rule)));
    let subsets = Subsets {
        registry,
        rules: &rules.collect(),
        export: inputs.mesh_config().destination_rules.as_ref(),
    };
    let services = inputs.virtual_services();
    let split = split_in_the_mesh(&services);
    for (object, service) in &services {
        let at_gateway = service
            .gateways
            .iter()
            .any(|name| *name != GatewayName::Mesh);
        for target in service.targets() {
            if registry.is_elsewhere(&target.host) {
                continue;
            }
            let Some(known) = registry.service(&target.host) else {
                let message = format!(
                    "no Service is called {}, so this share is answered with 503",
                    target.host
                );
                let path = target.path.key("host");
                let remedy = registry.remedy(&target.host);
                findings.add(
                    object,
                    Problem::breach(Code::Ist0101, &path, message, remedy),
                );
                continue;
            };
            let problems = [
                check_port(target, known),
                subsets.check(object, target, known),
            ];
            for problem in problems.into_iter().flatten() {
                findings.add(object, problem);
            }
            let other = split.get(&*target.host).filter(|_| at_gateway);
            if let Some(problem) = other.and_then(|other| check_gateway(object, target, other)) {
                findings.add(object, problem);
            }
        }
    }
}

/// The oldest VirtualService of the mesh that sends requests for a host to subsets of that host, and where it does.
fn split_in_the_mesh<'a>(
    services: &[(&'a Object, &'a VirtualService)],
) -> HashMap<&'a str, (&'a Object, &'a Path)> {
    let mut split = HashMap::new();
    for (object, service) in services {
        if !service.gateways.contains(&GatewayName::Mesh) {
            continue;
        }
        for target in service.targets() {
            if target.subset.is_some() && service.hosts.contains(&target.host) {
                split
                    .entry(&*target.host)
                    .or_insert((*object, &target.path));
            }
        }
    }
    split
}

fn check_gateway(object: &Object, target: &Target, other: &(&Object, &Path)) -> Option<Problem> {
    let (other, place) = *other;
    if target.subset.is_some() || other.id == object.id {
        return None;
    }
    let message = format!(
        "what comes in through a gateway goes to all of {}: the subsets of {} are for the mesh alone",
        target.host, other.id
    );
    let remedy = "name the subsets here too, if that is what is meant";
    let problem = Problem::breach(Code::Ist0140, &target.path.key("host"), message, remedy);
    Some(problem.see(other.place(&place.key("subset"), "the mesh's rule is here")))
}

fn check_port(target: &Target, known: &Known<'_>) -> Option<Problem> {
    let ports: Vec<u16> = known.ports().collect();
    let host = &target.host;
    let problem = match target.port {
        Some(port) if !ports.contains(&port) => {
            let message = format!("{host} has no port {port}, so this share is answered with 503");
            let remedy = format!("name one of its ports: {}", some(&ports));
            let path = target.path.key("port").key("number");
            Problem::breach(Code::Ist0101, &path, message, remedy)
        }
        None if ports.len() > 1 => {
            let message = format!(
                "{host} has the ports {}, and this route does not say which",
                some(&ports)
            );
            let remedy = "add port.number; until then it is the port that the request came in on";
            Problem::breach(Code::Ist0112, &target.path.key("host"), message, remedy)
        }
        _ => return None,
    };
    let there = known.object.place(
        &Path::of("spec.ports"),
        format!("the ports of {}", known.object.id),
    );
    Some(problem.see(there))
}

/// What subsets are looked up in.
struct Subsets<'c, 'a> {
    registry: &'c Registry<'a>,
    rules: &'c Rules<'a>,
    /// Whom a rule is for that does not say so, where the mesh does.
    export: Option<&'c ExportTo>,
}

impl Subsets<'_, '_> {
    /// Declared is a subset where the clients of any of the namespaces that are likely to ask get it.
    fn check(&self, object: &Object, target: &Target, known: &Known<'_>) -> Option<Problem> {
        let subset = target.subset.as_ref()?;
        let (client, owner) = (&*object.id.namespace, &*known.object.id.namespace);
        let declared = [Some(client), Some(owner), None]
            .into_iter()
            .any(|client| self.declares(client, owner, &target.host, subset));
        if declared {
            return None;
        }
        let message = format!(
            "no DestinationRule for {} has a subset {subset}",
            target.host
        );
        let remedy =
            "add it to one, or correct the name; until then this share is answered with 503";
        let path = target.path.key("subset");
        let problem = Problem::breach(Code::Ist0101, &path, message, remedy);
        let Some((other, rule)) = self.rules.covering(&target.host).next() else {
            return Some(problem);
        };
        let names = some(rule.subsets.iter().map(|subset| &subset.name));
        let there = match rule.subsets.as_slice() {
            [] => other.place(
                &Path::of("spec.host"),
                format!("{} has no subsets", other.id),
            ),
            [_] => other.place(
                &Path::of("spec.subsets"),
                format!("{} has the subset {names}", other.id),
            ),
            _ => other.place(
                &Path::of("spec.subsets"),
                format!("{} has the subsets {names}", other.id),
            ),
        };
        Some(problem.see(there))
    }

    /// Whether the rule that clients of `client` get for a host has a subset: the most specific one of the first namespace
    /// that has any, with those of the same namespace, host and audience (`istio-routing.md` 2.1).
    fn declares(&self, client: Option<&str>, owner: &str, host: &str, subset: &str) -> bool {
        let root = &*self.registry.root;
        let own = client.filter(|client| *client != root);
        for namespace in [own, Some(owner), Some(root)].into_iter().flatten() {
            let mut visible = self.rules.covering(host).filter(|(object, rule)| {
                *object.id.namespace == *namespace
                    && rule
                        .export
                        .or(self.export)
                        .allows(namespace, client.unwrap_or_default())
            });
            let Some((_, first)) = visible.next() else {
                continue;
            };
            let same =
                visible.filter(|(_, rule)| rule.host == first.host && rule.export == first.export);
            return std::iter::once(*first)
                .chain(same.map(|(_, rule)| *rule))
                .flat_map(|rule| &rule.subsets)
                .any(|declared| *declared.name == *subset);
        }
        false
    }
}

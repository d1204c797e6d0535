//! Gateways: those that VirtualServices name and that are not there (IST0101) or serve none of their hosts (IST0132), those
//! without Pods (IST0101), ports that no Service has (IST0162), and Gateways for the same hosts (IST0145) or with the same
//! certificate (IST0138).

use std::collections::{BTreeSet, HashMap};

use crate::config::Inputs;
use crate::config::compile::analysis::registry::{Registry, Selectors};
use crate::config::compile::analysis::{Findings, some};
use crate::config::compile::gateways::shared_hosts;
use crate::config::object::name::GatewayName;
use crate::config::object::{Gateway, Object, VirtualService};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};
use crate::model::Labels;

mod certificate;
mod conflict;

type Found<'a> = (&'a Object, &'a Gateway);

pub(super) fn check(inputs: &Inputs, registry: &Registry<'_>, findings: &mut Findings) {
    let gateways = inputs.gateways();
    let by_name: HashMap<(&str, &str), Found<'_>> = gateways
        .iter()
        .map(|found| {
            let id = &found.0.id;
            ((&*id.namespace, &*id.name), *found)
        })
        .collect();
    for (object, service) in inputs.virtual_services() {
        for (index, name) in service.gateways.iter().enumerate() {
            if let GatewayName::Gateway(namespace, name) = name {
                let found = by_name.get(&(&**namespace, &**name));
                let problem = match found {
                    Some(found) => check_hosts(object, service, found),
                    None => Some(missing(index, namespace, name)),
                };
                if let Some(problem) = problem {
                    findings.add(object, problem);
                }
            }
        }
    }
    conflict::check(&gateways, findings);
    certificate::check(&gateways, findings);
    if !registry.pods.is_empty() {
        check_pods(&gateways, registry, findings);
    }
}

fn missing(index: usize, namespace: &str, name: &str) -> Problem {
    let path = Path::of("spec.gateways").index(index);
    let message = format!("there is no Gateway {namespace}/{name}");
    Problem::breach(
        Code::Ist0101,
        &path,
        message,
        "check the name, or add the Gateway",
    )
}

fn check_hosts(object: &Object, service: &VirtualService, found: &Found<'_>) -> Option<Problem> {
    let (other, gateway) = found;
    let namespace = &object.id.namespace;
    let served = gateway.servers.iter().any(|server| {
        let mut hosts = service.hosts.iter();
        hosts.any(|host| shared_hosts(server, host, namespace).next().is_some())
    });
    if served || gateway.servers.is_empty() {
        return None;
    }
    let message = format!("{} serves none of these hosts", other.id);
    let remedy = "add a host to the Gateway, or correct it here";
    let problem = Problem::breach(Code::Ist0132, &Path::of("spec.hosts"), message, remedy);
    let hosts: BTreeSet<String> = gateway
        .servers
        .iter()
        .flat_map(|server| &server.hosts)
        .map(|served| match &served.namespace {
            Some(namespace) => format!("{namespace}/{}", served.host),
            None => served.host.to_string(),
        })
        .collect();
    let there = other.place(
        &Path::of("spec.servers"),
        format!("it serves {}", some(hosts)),
    );
    Some(problem.see(there))
}

/// What the Pods that a selector selects are reached by.
#[derive(Clone, Default)]
struct Reached {
    any_pod: bool,
    services: BTreeSet<usize>,
}

fn check_pods(gateways: &[Found<'_>], registry: &Registry<'_>, findings: &mut Findings) {
    // A selector looks into every namespace.
    let selectors: Vec<&Labels> = gateways
        .iter()
        .map(|(_, gateway)| &gateway.selector)
        .collect();
    let distinct: BTreeSet<&Labels> = selectors.iter().copied().collect();
    let distinct: Vec<&Labels> = distinct.into_iter().collect();
    let places = distinct
        .iter()
        .map(|selector| (!selector.is_empty()).then_some(("", *selector)));
    let index = Selectors::new(places);
    let mut reached = vec![Reached::default(); distinct.len()];
    for pod in &registry.pods {
        for place in index.matching("", &pod.object.labels) {
            reached[place].any_pod = true;
            reached[place].services.extend(&pod.services);
        }
    }
    for (object, gateway) in gateways {
        let found = distinct.binary_search(&&gateway.selector);
        if let Ok(place) = found.map(|place| &reached[place])
            && !gateway.selector.is_empty()
        {
            check_reach(object, gateway, place, registry, findings);
        }
    }
}

fn check_reach(
    object: &Object,
    gateway: &Gateway,
    reached: &Reached,
    registry: &Registry<'_>,
    findings: &mut Findings,
) {
    if !reached.any_pod {
        let labels = gateway
            .selector
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let message = format!("no Pod is labelled {}, so nobody serves this", some(labels));
        let remedy = "correct the selector, or add the gateway's Pods";
        let path = Path::of("spec.selector");
        findings.add(
            object,
            Problem::breach(Code::Ist0101, &path, message, remedy),
        );
        return;
    }
    let services = reached.services.iter();
    let services: Vec<_> = services.map(|place| &registry.services[*place]).collect();
    for server in &gateway.servers {
        if services
            .iter()
            .any(|known| known.ports().any(|port| port == server.port))
        {
            continue;
        }
        let path = server.path.key("port").key("number");
        let (message, remedy) = match services.first() {
            Some(known) => (
                format!(
                    "no Service in front of the gateway's Pods has port {}",
                    server.port
                ),
                format!("add it to {}", known.object.id),
            ),
            None => (
                format!(
                    "no Service is in front of the gateway's Pods, so nobody gets to port {} by one",
                    server.port
                ),
                "add a Service that selects them".to_owned(),
            ),
        };
        let problem = Problem::breach(Code::Ist0162, &path, message, remedy);
        findings.add(
            object,
            match services.first() {
                Some(known) => problem.see(known.object.place(
                    &Path::of("spec.ports"),
                    format!("the ports of {}", known.object.id),
                )),
                None => problem,
            },
        );
    }
}

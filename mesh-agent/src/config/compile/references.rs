//! What objects say of each other that is not so: names that nobody has, hosts that two claim.

use std::collections::HashMap;

use crate::config::Inputs;
use crate::config::compile::Report;
use crate::config::compile::gateways::{gateway_name, shared_hosts};
use crate::config::compile::rules::SubsetRules;
use crate::config::compile::services::Services;
use crate::config::object::name::{GatewayName, covers};
use crate::config::object::virtual_service::Target;
use crate::config::object::{Gateway, Object, VirtualService};
use crate::config::path::Path;

/// Warns about them. All are in force as written, as in Istio.
pub(super) fn check(
    inputs: &Inputs,
    services: &Services<'_>,
    rules: &SubsetRules,
    report: &mut Report,
) {
    let gateways = inputs.gateways();
    for (object, service) in inputs.virtual_services() {
        check_gateways(object, service, &gateways, report);
        for target in service.targets() {
            check_target(object, target, services, rules, report);
        }
    }
    check_conflicts(inputs, report);
    for (object, rule) in inputs.destination_rules() {
        if !services
            .list
            .iter()
            .any(|service| covers(&rule.host, &service.model.host))
        {
            let message = format!("no Service is called {}", rule.host);
            report.warn(
                object,
                &Path::of("spec.host"),
                message,
                "check the name, or add the Service",
            );
        }
    }
}

fn check_gateways(
    object: &Object,
    service: &VirtualService,
    gateways: &[(&Object, &Gateway)],
    report: &mut Report,
) {
    for (index, name) in service.gateways.iter().enumerate() {
        let GatewayName::Gateway(namespace, short) = name else {
            continue;
        };
        let found = gateways
            .iter()
            .find(|(gateway, _)| gateway_name(gateway) == *name);
        let path = Path::of("spec.gateways").index(index);
        let Some((_, gateway)) = found else {
            let message = format!("there is no Gateway {namespace}/{short}");
            report.warn(object, &path, message, "check the name, or add the Gateway");
            continue;
        };
        let served = gateway.servers.iter().any(|server| {
            service.hosts.iter().any(|host| {
                shared_hosts(server, host, &object.id.namespace)
                    .next()
                    .is_some()
            })
        });
        if !served && !gateway.servers.is_empty() {
            let message = format!("Gateway {namespace}/{short} serves none of these hosts");
            report.warn(
                object,
                &Path::of("spec.hosts"),
                message,
                "add a host to the Gateway, or correct it here",
            );
        }
    }
}

fn check_target(
    object: &Object,
    target: &Target,
    services: &Services<'_>,
    rules: &SubsetRules,
    report: &mut Report,
) {
    let Some(service) = services.get(&target.host) else {
        let message = format!(
            "no Service is called {}, so this share is answered with 503",
            target.host
        );
        report.warn(
            object,
            &target.path.key("host"),
            message,
            "check the name, or add the Service",
        );
        return;
    };
    if let Some(port) = target.port.filter(|port| !service.has_port(*port)) {
        let message = format!(
            "{} has no port {port}, so this share is answered with 503",
            target.host
        );
        report.warn(
            object,
            &target.path.key("port").key("number"),
            message,
            "name one of its ports",
        );
    }
    let Some(subset) = &target.subset else {
        return;
    };
    let (client, owner) = (&*object.id.namespace, &*service.model.namespace);
    let declared = [Some(client), Some(owner), None]
        .into_iter()
        .filter_map(|client| rules.rule(client, owner, &target.host))
        .any(|rule| rule.subsets.iter().any(|declared| declared.name == *subset));
    if !declared {
        let message = format!(
            "no DestinationRule for {} has a subset {subset}",
            target.host
        );
        let remedy = "until one has, this share is answered with 503";
        report.warn(object, &target.path.key("subset"), message, remedy);
    }
}

/// In the mesh one VirtualService has a host, and that is the oldest.
fn check_conflicts(inputs: &Inputs, report: &mut Report) {
    let mut owners: HashMap<&str, &Object> = HashMap::new();
    for (object, service) in inputs.virtual_services() {
        if !service.gateways.contains(&GatewayName::Mesh) || !service.export.public {
            continue;
        }
        for (index, host) in service.hosts.iter().enumerate() {
            match owners.get(&**host) {
                Some(older) => {
                    let message = format!("in the mesh, {host} belongs to the older {}", older.id);
                    let path = Path::of("spec.hosts").index(index);
                    report.warn(object, &path, message, "put the rules of both into one");
                }
                None => {
                    owners.insert(host, object);
                }
            }
        }
    }
}

//! A gateway's servers, as istiod makes them for an Envoy.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::tls;
use super::translate::{
    connection_manager, http_routes, is_catch_all, passed_on, tcp_proxy, tcp_rule, virtual_host,
};
use super::view::{View, array, covers, full_name, hosts_of};

/// One chain for each server of a port for TLS, found by the name that is asked for.
pub fn tls_chains(view: &View<'_>) -> Result<Vec<Value>> {
    let mut chains: Vec<Value> = Vec::new();
    for gateway in view.gateways() {
        let own = full_name(gateway);
        for server in array(&gateway["spec"]["servers"]) {
            if server["port"]["number"] != view.place.port {
                continue;
            }
            let mode = server["tls"]["mode"].as_str().unwrap_or("PASSTHROUGH");
            if mode == "PASSTHROUGH" {
                chains.extend(passed_on(view, view.bound_to(&own))?);
                continue;
            }
            let filter = if server["port"]["protocol"] == "HTTPS" {
                let hosts = hosts(view, &|other| std::ptr::eq(other, server))?;
                connection_manager(view, &hosts)
            } else {
                match tcp_rule(view, view.bound_to(&own))? {
                    Some(route) => tcp_proxy(view, &route),
                    None => continue,
                }
            };
            let names: Vec<&str> = array(&server["hosts"])
                .iter()
                .filter_map(Value::as_str)
                .map(|host| host.split_once('/').map_or(host, |(_, host)| host))
                .collect();
            let names = if names.contains(&"*") {
                Vec::new()
            } else {
                names
            };
            let Some(opened) = tls::opened(view, &server["tls"]) else {
                // Envoy waits for a Secret that is not there, and ends what comes meanwhile.
                continue;
            };
            chains.push(json!({
                "filter_chain_match": {"server_names": names},
                "transport_socket": opened,
                "filters": [filter],
            }));
        }
    }
    Ok(chains)
}

/// The virtual hosts of the servers that are meant, of this port.
pub fn hosts(view: &View<'_>, meant: &dyn Fn(&Value) -> bool) -> Result<Vec<Value>> {
    let mut by_host: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut secured: Vec<String> = Vec::new();
    for gateway in view.gateways() {
        let own = full_name(gateway);
        for server in array(&gateway["spec"]["servers"]) {
            if server["port"]["number"] != view.place.port || !meant(server) {
                continue;
            }
            for pattern in array(&server["hosts"]) {
                let pattern = pattern.as_str().unwrap_or_default();
                let (namespace, pattern) = pattern.split_once('/').unwrap_or(("*", pattern));
                if server["tls"]["httpsRedirect"] == true {
                    by_host.entry(pattern.to_owned()).or_default();
                    secured.push(pattern.to_owned());
                }
                for virtual_service in view.bound_to(&own) {
                    let its = virtual_service["metadata"]["namespace"].as_str();
                    let wanted = match namespace {
                        "*" => its,
                        "." => gateway["metadata"]["namespace"].as_str(),
                        name => Some(name),
                    };
                    if its != wanted {
                        continue;
                    }
                    for host in hosts_of(virtual_service) {
                        let narrow = if covers(pattern, &host) {
                            host
                        } else if covers(&host, pattern) {
                            pattern.to_owned()
                        } else {
                            continue;
                        };
                        let routes = http_routes(view, virtual_service)?;
                        by_host.entry(narrow).or_default().extend(routes);
                    }
                }
            }
        }
    }
    let made = by_host.into_iter().map(|(host, mut routes)| {
        routes.sort_by_key(is_catch_all);
        let tls = secured.iter().any(|pattern| covers(pattern, &host));
        let mut made = virtual_host(&[host], &routes);
        if tls {
            made["require_tls"] = json!("ALL");
        }
        made
    });
    Ok(made.collect())
}

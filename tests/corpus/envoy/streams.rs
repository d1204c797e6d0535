//! What is not HTTP: filter chains of `tcp` and `tls` rules, as istiod makes them.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::action;
use super::view::{View, array, map};

pub fn tcp_route(view: &View<'_>) -> Result<Value> {
    if let Some(route) = tcp_rule(view, view.virtual_services())? {
        return Ok(route);
    }
    let service = view
        .dialled()
        .context("a TCP case without a Service of its port")?;
    Ok(json!({"cluster": view.cluster(service, view.place.port, "")}))
}

/// The first `tcp` rule that is for this proxy.
pub fn tcp_rule<'a>(
    view: &View<'_>,
    virtual_services: impl Iterator<Item = &'a Value>,
) -> Result<Option<Value>> {
    let rules = virtual_services
        .flat_map(|vs| array(&vs["spec"]["tcp"]).iter().map(move |rule| (vs, rule)));
    for (vs, rule) in rules {
        let matches = array(&rule["match"]);
        if matches.is_empty()
            || matches
                .iter()
                .any(|condition| view.strictly_concerned_by(condition))
        {
            return action::stream_destinations(view, vs, rule).map(Some);
        }
    }
    Ok(None)
}

/// Of a client in the mesh: by name, where a rule has it.
pub fn tls_chains(view: &View<'_>) -> Result<Vec<Value>> {
    let mut chains = passed_on(view, view.virtual_services())?;
    if let Some(service) = view.dialled().filter(|_| chains.is_empty()) {
        let route = json!({"cluster": view.cluster(service, view.place.port, "")});
        chains.push(json!({"filters": [tcp_proxy(view, &route)]}));
    }
    Ok(chains)
}

/// A chain for each predicate of `tls` rules.
pub fn passed_on<'a>(
    view: &View<'_>,
    virtual_services: impl Iterator<Item = &'a Value>,
) -> Result<Vec<Value>> {
    let mut chains: Vec<Value> = Vec::new();
    for virtual_service in virtual_services {
        for rule in array(&virtual_service["spec"]["tls"]) {
            for condition in array(&rule["match"]) {
                if !view.strictly_concerned_by(condition) {
                    continue;
                }
                let mut wanted = json!({"server_names": condition["sniHosts"]});
                let subnets = array(&condition["destinationSubnets"]);
                if !subnets.is_empty() && !view.gateway() {
                    wanted["prefix_ranges"] = subnets.iter().filter_map(range).collect();
                }
                if chains
                    .iter()
                    .any(|chain| chain["filter_chain_match"] == wanted)
                {
                    continue;
                }
                let route = action::stream_destinations(view, virtual_service, rule)?;
                chains.push(json!({
                    "filter_chain_match": wanted,
                    "filters": [tcp_proxy(view, &route)],
                }));
            }
        }
    }
    Ok(chains)
}

/// `10.1.0.0/16`, or an address alone.
fn range(subnet: &Value) -> Option<Value> {
    let subnet = subnet.as_str()?;
    let (address, length) = match subnet.split_once('/') {
        Some((address, length)) => (address, length.parse().ok()?),
        None => (subnet, if subnet.contains(':') { 128 } else { 32 }),
    };
    Some(json!({"address_prefix": address, "prefix_len": length}))
}

pub fn tcp_proxy(view: &View<'_>, route: &Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": view.prefix,
    });
    for (key, value) in map(route) {
        config[key] = value.clone();
    }
    json!({"name": "tcp", "typed_config": config})
}

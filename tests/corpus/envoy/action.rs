//! What a rule does, as Envoy has it.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::super::scenery::{SERVICES, Storefront};
use super::super::value::{duration, text};
use super::filters::{cors, fault};
use super::translate::conditions;
use super::view::{Kind, View, array, full_host, map};

/// The retries of every route that does not say otherwise.
pub fn default_retry() -> Value {
    retry_policy(
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        2,
    )
}

fn retry_policy(on: &str, attempts: u64) -> Value {
    let (codes, mut on): (Vec<&str>, Vec<&str>) = on
        .split(',')
        .map(str::trim)
        .partition(|token| token.parse::<u16>().is_ok());
    let codes: Vec<u16> = codes.iter().filter_map(|code| code.parse().ok()).collect();
    if !codes.is_empty() && !on.contains(&"retriable-status-codes") {
        on.push("retriable-status-codes");
    }
    json!({
        "retry_on": on.join(","),
        "num_retries": attempts,
        "retriable_status_codes": codes,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }],
        "host_selection_retry_max_attempts": 5,
    })
}

/// One rule, under one of its conditions.
pub fn route(view: &View<'_>, owner: &Value, rule: &Value, condition: &Value) -> Result<Value> {
    let mut route = json!({"match": conditions(condition)});
    if !rule["redirect"].is_null() {
        route["redirect"] = redirect(view, &rule["redirect"]);
    } else if !rule["directResponse"].is_null() {
        let reply = &rule["directResponse"];
        route["direct_response"] = json!({"status": reply["status"]});
        if let Some(body) = reply["body"]["string"].as_str() {
            route["direct_response"]["body"] = json!({"inline_string": body});
        } else if let Some(body) = reply["body"]["bytes"].as_str() {
            route["direct_response"]["body"] = json!({"inline_bytes": body});
        }
    } else {
        forward(view, owner, rule, &mut route)?;
    }
    let single = array(&rule["route"]).len() == 1;
    let mut levels = vec![&rule["headers"]];
    if single {
        levels.push(&rule["route"][0]["headers"]);
    }
    header_operations(&levels, &mut route);
    let mut filters = Map::new();
    if !rule["fault"].is_null() {
        filters.insert("envoy.filters.http.fault".into(), fault(&rule["fault"]));
    }
    if !rule["corsPolicy"].is_null() {
        filters.insert("envoy.filters.http.cors".into(), cors(&rule["corsPolicy"]));
    }
    if !filters.is_empty() {
        route["typed_per_filter_config"] = filters.into();
    }
    Ok(route)
}

fn redirect(view: &View<'_>, redirect: &Value) -> Value {
    let mut action = Map::new();
    let mut take = |from: &str, to: &str| {
        if !redirect[from].is_null() {
            action.insert(to.into(), redirect[from].clone());
        }
    };
    take("authority", "host_redirect");
    take("uri", "path_redirect");
    take("prefixRewrite", "prefix_rewrite");
    take("scheme", "scheme_redirect");
    take("port", "port_redirect");
    let https = match redirect["scheme"].as_str() {
        Some(scheme) => scheme == "https",
        None => view.place.kind == Kind::Tls,
    };
    let usual = if https { 443 } else { 80 };
    if redirect["derivePort"] == "FROM_REQUEST_PORT" && view.place.port != usual {
        action.insert("port_redirect".into(), json!(view.place.port));
    }
    if action.get("port_redirect") == Some(&json!(usual)) {
        action.remove("port_redirect");
    }
    let code = match redirect["redirectCode"].as_u64() {
        Some(302) => "FOUND",
        Some(303) => "SEE_OTHER",
        Some(307) => "TEMPORARY_REDIRECT",
        Some(308) => "PERMANENT_REDIRECT",
        _ => "MOVED_PERMANENTLY",
    };
    action.insert("response_code".into(), json!(code));
    action.into()
}

fn forward(view: &View<'_>, owner: &Value, rule: &Value, route: &mut Value) -> Result<()> {
    let mut action = Map::new();
    let destinations = array(&rule["route"]);
    if let [only] = destinations {
        let cluster = destination(view, owner, &only["destination"])?;
        action.insert("cluster".into(), json!(cluster));
        if let Some(host) = host_operation(&only["headers"]) {
            action.insert("host_rewrite_literal".into(), json!(host));
        }
    } else {
        let mut shares = Vec::new();
        for entry in destinations {
            let weight = entry["weight"].as_u64().unwrap_or(0);
            if weight == 0 {
                continue;
            }
            let cluster = destination(view, owner, &entry["destination"])?;
            let mut share = json!({"name": cluster, "weight": weight});
            header_operations(&[&entry["headers"]], &mut share);
            if let Some(host) = host_operation(&entry["headers"]) {
                share["host_rewrite_literal"] = json!(host);
            }
            shares.push(share);
        }
        action.insert("weighted_clusters".into(), json!({"clusters": shares}));
    }
    if let Some(host) = host_operation(&rule["headers"]) {
        action.insert("host_rewrite_literal".into(), json!(host));
    }
    let rewrite = &rule["rewrite"];
    if let Some(regex) = rewrite["uriRegexRewrite"]["match"].as_str() {
        let with = rewrite["uriRegexRewrite"]["rewrite"].as_str().unwrap_or("");
        let value = json!({"pattern": {"regex": regex}, "substitution": with});
        action.insert("regex_rewrite".into(), value);
    } else if let Some(uri) = rewrite["uri"].as_str() {
        action.insert("prefix_rewrite".into(), json!(uri));
    }
    if let Some(authority) = rewrite["authority"].as_str() {
        action.insert("host_rewrite_literal".into(), json!(authority));
    }
    let timeout = rule["timeout"].as_str().and_then(seconds);
    let timeout = timeout.unwrap_or("0s".to_owned());
    action.insert("timeout".into(), json!(timeout));
    action.insert("max_grpc_timeout".into(), json!(timeout));
    if let Some(policy) = retries(&rule["retries"]) {
        action.insert("retry_policy".into(), policy);
    }
    mirrors(view, owner, rule, &mut action)?;
    for entry in destinations {
        if destinations.len() > 1 && entry["weight"].as_u64().unwrap_or(0) == 0 {
            continue;
        }
        let target = &entry["destination"];
        let host = full_host(target["host"].as_str().unwrap_or_default(), owner);
        if let Some(service) = SERVICES.iter().find(|service| service.fqdn() == host) {
            let port = target["port"]["number"].as_u64();
            let port = port.and_then(|port| u16::try_from(port).ok());
            hash(view, service, target["subset"].as_str(), port, &mut action);
        }
    }
    route["route"] = action.into();
    Ok(())
}

/// The name of the cluster that a destination means.
fn destination(view: &View<'_>, owner: &Value, target: &Value) -> Result<String> {
    let host = target["host"]
        .as_str()
        .context("a destination without a host")?;
    let host = full_host(host, owner);
    let service = SERVICES.iter().find(|service| service.fqdn() == host);
    let port = match target["port"]["number"].as_u64() {
        Some(port) => u16::try_from(port)?,
        None => match service.map(|service| service.ports) {
            Some([(_, port, _)]) => *port,
            Some(_) | None => view.place.port,
        },
    };
    let subset = target["subset"].as_str().unwrap_or_default();
    Ok(view.cluster_of(&host, port, subset))
}

/// Weighted or single, as the TCP proxy has it.
pub fn stream_destinations(view: &View<'_>, owner: &Value, rule: &Value) -> Result<Value> {
    let destinations = array(&rule["route"]);
    if let [only] = destinations {
        return Ok(json!({"cluster": destination(view, owner, &only["destination"])?}));
    }
    let mut shares = Vec::new();
    for entry in destinations {
        let weight = entry["weight"].as_u64().unwrap_or(0);
        if weight > 0 {
            let cluster = destination(view, owner, &entry["destination"])?;
            shares.push(json!({"name": cluster, "weight": weight}));
        }
    }
    Ok(json!({"weighted_clusters": {"clusters": shares}}))
}

fn retries(retries: &Value) -> Option<Value> {
    if retries.is_null() {
        return Some(default_retry());
    }
    let attempts = retries["attempts"]
        .as_u64()
        .filter(|attempts| *attempts > 0)?;
    let mut policy = match retries["retryOn"].as_str() {
        Some(on) if !on.is_empty() => retry_policy(on, attempts),
        Some(_) | None => default_retry(),
    };
    policy["num_retries"] = json!(attempts);
    if let Some(limit) = retries["perTryTimeout"].as_str().and_then(seconds) {
        policy["per_try_timeout"] = json!(limit);
    }
    if let Some(base) = retries["backoff"].as_str().and_then(seconds) {
        policy["retry_back_off"] = json!({"base_interval": base});
    }
    if retries["retryIgnorePreviousHosts"] == false {
        policy["retry_host_predicate"] = json!([]);
    }
    Some(policy)
}

fn mirrors(
    view: &View<'_>,
    owner: &Value,
    rule: &Value,
    action: &mut Map<String, Value>,
) -> Result<()> {
    let mut policies = Vec::new();
    let mut add = |target: &Value, share: Option<f64>| -> Result<()> {
        let share = share.unwrap_or(100.0);
        if share > 0.0 {
            policies.push(json!({
                "cluster": destination(view, owner, target)?,
                "runtime_fraction": {"default_value": millionths(share)},
                "disable_shadow_host_suffix_append": true,
            }));
        }
        Ok(())
    };
    if !rule["mirror"].is_null() {
        let share = match &rule["mirrorPercentage"] {
            Value::Null => rule["mirrorPercent"].as_f64(),
            percentage => Some(percentage["value"].as_f64().unwrap_or(0.0)),
        };
        add(&rule["mirror"], share)?;
    }
    for mirror in array(&rule["mirrors"]) {
        let share = match &mirror["percentage"] {
            Value::Null => None,
            percentage => Some(percentage["value"].as_f64().unwrap_or(0.0)),
        };
        add(&mirror["destination"], share)?;
    }
    if !policies.is_empty() {
        action.insert("request_mirror_policies".into(), policies.into());
    }
    Ok(())
}

/// Adds the hash of the destination's rule, where it has one: that of a port only where the destination names the port.
pub fn hash(
    view: &View<'_>,
    service: &Storefront,
    subset: Option<&str>,
    port: Option<u16>,
    action: &mut Map<String, Value>,
) {
    let Some(rule) = view.rule(service) else {
        return;
    };
    let spec = &rule["spec"];
    let mut subsets = array(&spec["subsets"]).iter();
    let own = subsets.find(|own| subset.is_some_and(|name| own["name"] == name));
    let own = own.map_or(&Value::Null, |own| &own["trafficPolicy"]);
    let whole = |policy: &'_ Value| policy["loadBalancer"]["consistentHash"].clone();
    let at_port = |policy: &Value| {
        let mut levels = array(&policy["portLevelSettings"]).iter();
        let level = levels.find(|level| port.is_some_and(|port| level["port"]["number"] == port));
        level.map_or(Value::Null, whole)
    };
    let top = &spec["trafficPolicy"];
    let mut levels = [at_port(own), whole(own), at_port(top), whole(top)].into_iter();
    let hash = levels.find(|hash| !hash.is_null()).unwrap_or_default();
    let entry = if let Some(header) = hash["httpHeaderName"].as_str() {
        json!({"header": {"header_name": header}})
    } else if !hash["httpCookie"].is_null() {
        let cookie = &hash["httpCookie"];
        let mut entry = json!({"name": cookie["name"]});
        if let Some(ttl) = cookie["ttl"].as_str().and_then(seconds) {
            entry["ttl"] = json!(ttl);
        }
        if !cookie["path"].is_null() {
            entry["path"] = cookie["path"].clone();
        }
        json!({"cookie": entry})
    } else if hash["useSourceIp"] == true {
        json!({"connection_properties": {"source_ip": true}})
    } else if let Some(name) = hash["httpQueryParameterName"].as_str() {
        json!({"query_parameter": {"name": name}})
    } else {
        return;
    };
    let all = action.entry("hash_policy").or_insert_with(|| json!([]));
    if let Some(all) = all.as_array_mut() {
        all.push(entry);
    }
    if let Some(policy) = action.get_mut("retry_policy") {
        policy["retry_host_predicate"] = json!([]);
    }
}

/// Sets and adds of several levels one after the other; removals come before all of them.
fn header_operations(levels: &[&Value], route: &mut Value) {
    for (direction, fields) in [
        ("request", "request_headers"),
        ("response", "response_headers"),
    ] {
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for level in levels {
            let operations = &level[direction];
            for name in array(&operations["remove"]) {
                if name.as_str().is_some_and(allowed) {
                    remove.push(name.clone());
                }
            }
            for (field, how) in [
                ("set", "OVERWRITE_IF_EXISTS_OR_ADD"),
                ("add", "APPEND_IF_EXISTS_OR_ADD"),
            ] {
                for (name, value) in map(&operations[field]) {
                    if allowed(name) {
                        let header = json!({"key": name, "value": text(value)});
                        add.push(json!({"header": header, "append_action": how}));
                    }
                }
            }
        }
        if !add.is_empty() {
            route[format!("{fields}_to_add")] = add.into();
        }
        if !remove.is_empty() {
            route[format!("{fields}_to_remove")] = remove.into();
        }
    }
}

fn allowed(name: &str) -> bool {
    !name.starts_with(':') && !name.eq_ignore_ascii_case("host")
}

/// The Host that operations on headers set.
fn host_operation(headers: &Value) -> Option<String> {
    ["set", "add"].iter().find_map(|field| {
        let entries = map(&headers["request"][*field]);
        let found = entries.into_iter().find(|(name, _)| {
            name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
        });
        found.and_then(|(_, value)| text(value))
    })
}

/// Of a hundred, as Envoy draws them.
pub fn millionths(percent: f64) -> Value {
    json!({"numerator": (percent * 10_000.0).round(), "denominator": "MILLION"})
}

/// Protobuf wants seconds.
pub fn seconds(written: &str) -> Option<String> {
    duration(written).map(|length| format!("{}s", length.as_secs_f64()))
}

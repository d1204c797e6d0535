//! What istiod would make of a case for an Envoy in the place of the client's sidecar, or of the gateway: one listener,
//! its routes, and the clusters that they name. Pure.
//!
//! It knows what decides over a request. How istiod merges several objects is not its business: such cases say
//! `not-envoy`.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::super::scenery::{SERVICES, Storefront};
use super::super::value::text;
use super::view::{Kind, View, array, covers, hosts_of, map};
use super::{action, clusters, gateway};

/// A listener on loopback and the clusters behind it.
pub fn listener(view: &View<'_>, listen: u16) -> Result<(Value, Vec<Value>)> {
    let name = format!("{}{}", view.prefix, view.place.port);
    let mut listener = json!({
        "name": format!("{name}-{listen}"),
        "address": {"socket_address": {"address": view.place.family.loopback(), "port_value": listen}},
    });
    let chains = match view.place.kind {
        Kind::Http => {
            let hosts = match view.gateway() {
                true => gateway::hosts(view, &|_| true)?,
                false => mesh_hosts(view)?,
            };
            vec![json!({"filters": [connection_manager(view, &hosts)]})]
        }
        Kind::Tcp => vec![json!({"filters": [tcp_proxy(view, &tcp_route(view)?)]})],
        Kind::Tls => {
            listener["listener_filters"] = json!([{
                "name": "tls_inspector",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
            }]);
            if view.gateway() {
                gateway::tls_chains(view)?
            } else {
                tls_chains(view)?
            }
        }
    };
    listener["filter_chains"] = chains.into();
    if view.gateway() && !view.topology["proxyProtocol"].is_null() {
        let filter = json!({
            "name": "proxy_protocol",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"},
        });
        let mut filters = vec![filter];
        filters.extend(array(&listener["listener_filters"]).iter().cloned());
        listener["listener_filters"] = filters.into();
    }
    let mut named = Vec::new();
    names(&listener["filter_chains"], &mut named);
    named.sort();
    named.dedup();
    let made = named
        .iter()
        .filter_map(|name| clusters::cluster(view, name))
        .collect();
    Ok((listener, made))
}

/// Every cluster that is named in it.
fn names(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(name) if key == "cluster" => found.push(name.clone()),
                    Value::String(name) if key == "name" && name.contains("|outbound|") => {
                        found.push(name.clone());
                    }
                    other => names(other, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| names(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

pub fn connection_manager(view: &View<'_>, hosts: &[Value]) -> Value {
    let gateway = view.gateway();
    let filter = |name: &str, message: &str| {
        json!({
            "name": format!("envoy.filters.http.{name}"),
            "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.filters.http.{name}.v3.{message}")},
        })
    };
    let mut manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "server_name": if gateway { "istio-envoy" } else { "envoy" },
            "use_remote_address": gateway,
            "xff_num_trusted_hops": if gateway { view.topology["numTrustedProxies"].as_u64() } else { None },
            "normalize_path": true,
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            "stream_idle_timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "access_log": access_log(),
            "http_filters": [
                filter("fault", "HTTPFault"),
                filter("cors", "Cors"),
                filter("router", "Router"),
            ],
            "route_config": {
                "name": "routes",
                "validate_clusters": false,
                "ignore_port_in_host_matching": true,
                "max_direct_response_body_size_bytes": 1_048_576,
                "virtual_hosts": hosts,
            },
        },
    });
    if gateway {
        let config = &mut manager["typed_config"];
        config["forward_client_cert_details"] = json!("SANITIZE_SET");
        config["set_current_client_cert_details"] =
            json!({"subject": true, "cert": true, "uri": true, "dns": true});
    }
    manager
}

fn access_log() -> Value {
    json!([{
        "name": "log",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": super::access_log(),
            "log_format": {"text_format_source": {"inline_string": "%REQ(X-CASE-ID)% %RESPONSE_FLAGS%\n"}},
        },
    }])
}

// === virtual hosts ===

/// One for each Service on this port, and on port 80 one for each host that is no Service.
fn mesh_hosts(view: &View<'_>) -> Result<Vec<Value>> {
    let mut hosts = Vec::new();
    let on_port = |service: &&Storefront| {
        let port = service.port(view.place.port);
        port.is_some_and(|(name, ..)| {
            let http = name.starts_with("http") && !name.starts_with("https");
            http || name.starts_with("grpc")
        })
    };
    for service in SERVICES.iter().filter(on_port) {
        let mut routes = Vec::new();
        let virtual_service = view.virtual_service(&service.fqdn());
        if let Some(virtual_service) = virtual_service {
            routes = http_routes(view, virtual_service)?;
        }
        if routes.is_empty() {
            routes.push(default_route(view, service));
        }
        hosts.push(virtual_host(&service.domains(view.namespace()), &routes));
    }
    if view.place.port == 80 {
        for virtual_service in view.virtual_services() {
            for host in hosts_of(virtual_service) {
                if SERVICES
                    .iter()
                    .any(|service| covers(&host, &service.fqdn()))
                {
                    continue;
                }
                let routes = http_routes(view, virtual_service)?;
                if !routes.is_empty() {
                    hosts.push(virtual_host(&[host], &routes));
                }
            }
        }
    }
    if !hosts.iter().any(|host| host["domains"] == json!(["*"])) {
        // In the place of what cannot be had here: a connection with the address that the client dialled.
        let route = json!({
            "match": {"prefix": "/"},
            "direct_response": {"status": 299, "body": {"inline_string": "passthrough"}},
        });
        hosts.push(virtual_host(&["*".to_owned()], &[route]));
    }
    Ok(hosts)
}

pub fn virtual_host(domains: &[String], routes: &[Value]) -> Value {
    json!({
        "name": domains.first(),
        "domains": domains,
        "routes": routes,
        "include_request_attempt_count": true,
    })
}

fn default_route(view: &View<'_>, service: &Storefront) -> Value {
    let mut forward = Map::new();
    forward.insert(
        "cluster".into(),
        json!(view.cluster(service, view.place.port, "")),
    );
    forward.insert("timeout".into(), json!("0s"));
    forward.insert("retry_policy".into(), action::default_retry());
    action::hash(view, service, None, Some(view.place.port), &mut forward);
    json!({"name": "default", "match": {"prefix": "/"}, "route": forward})
}

// === routes ===

pub fn http_routes(view: &View<'_>, virtual_service: &Value) -> Result<Vec<Value>> {
    let mut routes = Vec::new();
    for rule in array(&virtual_service["spec"]["http"]) {
        let matches = array(&rule["match"]);
        if matches.is_empty() {
            routes.push(action::route(view, virtual_service, rule, &Value::Null)?);
            return Ok(routes);
        }
        for condition in matches {
            if !view.concerned_by(condition) {
                continue;
            }
            let route = action::route(view, virtual_service, rule, condition)?;
            let last = is_catch_all(&route);
            routes.push(route);
            if last {
                return Ok(routes);
            }
        }
    }
    Ok(routes)
}

pub fn is_catch_all(route: &Value) -> bool {
    let when = &route["match"];
    let any = when["prefix"] == "/" || when["safe_regex"]["regex"] == ".*";
    any && when.get("headers").is_none() && when.get("query_parameters").is_none()
}

/// `http[].match[]` as Envoy has it.
pub fn conditions(condition: &Value) -> Value {
    let mut when = Map::new();
    let uri = &condition["uri"];
    if let Some(exact) = uri["exact"].as_str() {
        when.insert("path".into(), json!(exact));
    } else if let Some(regex) = uri["regex"].as_str() {
        when.insert("safe_regex".into(), json!({"regex": regex}));
    } else {
        let prefix = uri["prefix"].as_str().unwrap_or("/");
        when.insert("prefix".into(), json!(prefix));
    }
    if condition["ignoreUriCase"] == true && uri.get("regex").is_none() {
        when.insert("case_sensitive".into(), json!(false));
    }
    let mut headers = Vec::new();
    for (name, wanted) in map(&condition["headers"]) {
        headers.push(header_match(name, wanted));
    }
    for (name, wanted) in map(&condition["withoutHeaders"]) {
        let mut matcher = header_match(name, wanted);
        matcher["invert_match"] = json!(true);
        if matcher.get("string_match").is_some() {
            matcher["treat_missing_header_as_empty"] = json!(true);
        }
        headers.push(matcher);
    }
    for field in ["method", "authority", "scheme"] {
        if !condition[field].is_null() {
            headers.push(header_match(&format!(":{field}"), &condition[field]));
        }
    }
    if !headers.is_empty() {
        when.insert("headers".into(), headers.into());
    }
    let mut query = Vec::new();
    for (name, wanted) in map(&condition["queryParams"]) {
        query.push(match string_match(wanted) {
            Some(matcher) => json!({"name": name, "string_match": matcher}),
            None => json!({"name": name, "present_match": true}),
        });
    }
    if !query.is_empty() {
        when.insert("query_parameters".into(), query.into());
    }
    when.into()
}

fn header_match(name: &str, wanted: &Value) -> Value {
    match string_match(wanted) {
        Some(matcher) => json!({"name": name, "string_match": matcher}),
        None => json!({"name": name, "present_match": true}),
    }
}

/// `None` asks for presence alone.
pub fn string_match(wanted: &Value) -> Option<Value> {
    if wanted["regex"] == "*" {
        return None;
    }
    if let Some(regex) = wanted["regex"].as_str() {
        return Some(json!({"safe_regex": {"regex": regex}}));
    }
    for kind in ["exact", "prefix"] {
        if let Some(value) = wanted.get(kind).and_then(text) {
            return Some(json!({kind: value}));
        }
    }
    None
}

// === TCP and TLS ===

fn tcp_route(view: &View<'_>) -> Result<Value> {
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
fn tls_chains(view: &View<'_>) -> Result<Vec<Value>> {
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
                let names = &condition["sniHosts"];
                let same = |chain: &Value| chain["filter_chain_match"]["server_names"] == *names;
                if chains.iter().any(same) {
                    continue;
                }
                let route = action::stream_destinations(view, virtual_service, rule)?;
                chains.push(json!({
                    "filter_chain_match": {"server_names": names},
                    "filters": [tcp_proxy(view, &route)],
                }));
            }
        }
    }
    Ok(chains)
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

//! Faults and CORS, which in Envoy are filters with a configuration per route.

use serde_json::{Value, json};

use super::super::value::duration;
use super::action::{millionths, seconds};
use super::translate::string_match;
use super::view::array;

/// `fault`.
pub fn fault(fault: &Value) -> Value {
    let mut made =
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"});
    let share = |part: &Value| match &part["percentage"] {
        Value::Null => part["percent"].as_f64().unwrap_or(0.0),
        percentage => percentage["value"].as_f64().unwrap_or(0.0),
    };
    let delay = &fault["delay"];
    if let Some(fixed) = delay["fixedDelay"].as_str().and_then(seconds) {
        made["delay"] = json!({"fixed_delay": fixed, "percentage": millionths(share(delay))});
    }
    let abort = &fault["abort"];
    if !abort.is_null() {
        let mut made_abort = json!({"percentage": millionths(share(abort))});
        if !abort["httpStatus"].is_null() {
            made_abort["http_status"] = abort["httpStatus"].clone();
        }
        if let Some(name) = abort["grpcStatus"].as_str() {
            made_abort["grpc_status"] = json!(grpc_status(name));
        }
        made["abort"] = made_abort;
    }
    made
}

fn grpc_status(name: &str) -> u32 {
    let names = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let number = names.iter().position(|own| *own == name).unwrap_or(2);
    u32::try_from(number).unwrap_or(2)
}

/// `corsPolicy`.
pub fn cors(policy: &Value) -> Value {
    let mut made = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "filter_enabled": {"default_value": {"numerator": 100}},
    });
    let mut origins: Vec<Value> = array(&policy["allowOrigins"])
        .iter()
        .filter_map(string_match)
        .collect();
    if origins.is_empty() {
        origins = array(&policy["allowOrigin"])
            .iter()
            .map(|origin| json!({"exact": origin}))
            .collect();
    }
    made["allow_origin_string_match"] = origins.into();
    let joined = |key: &str| {
        let parts: Vec<&str> = array(&policy[key])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        (!parts.is_empty()).then(|| parts.join(","))
    };
    for (from, to) in [
        ("allowMethods", "allow_methods"),
        ("allowHeaders", "allow_headers"),
        ("exposeHeaders", "expose_headers"),
    ] {
        if let Some(list) = joined(from) {
            made[to] = json!(list);
        }
    }
    if let Some(age) = policy["maxAge"].as_str().and_then(duration) {
        made["max_age"] = json!(age.as_secs().to_string());
    }
    if policy["allowCredentials"] == true {
        made["allow_credentials"] = json!(true);
    }
    match policy["unmatchedPreflights"].as_str() {
        Some("IGNORE") => made["forward_not_matching_preflights"] = json!(false),
        Some("FORWARD") => made["forward_not_matching_preflights"] = json!(true),
        Some(_) | None => {}
    }
    made
}

//! TLS contexts, as istiod makes them.

use serde_json::{Value, json};

use super::super::case::Family;
use super::super::scenery::{GATEWAY_NAMESPACE, objects};
use super::view::{View, array};

/// `servers[].tls` of a Gateway. `None` where a Secret is missing.
pub fn opened(view: &View<'_>, tls: &Value) -> Option<Value> {
    let mut common = json!({"alpn_protocols": ["h2", "http/1.1"]});
    let checked = matches!(tls["mode"].as_str(), Some("MUTUAL" | "OPTIONAL_MUTUAL"));
    let mut certificates = Vec::new();
    let mut authorities = Value::Null;
    if let Some(name) = tls["credentialName"].as_str() {
        let data = secret(view, name)?;
        certificates.push(json!({
            "certificate_chain": {"inline_string": data["tls.crt"]},
            "private_key": {"inline_string": data["tls.key"]},
        }));
        if checked {
            let beside = secret(view, &format!("{name}-cacert"));
            let data = beside.as_ref().unwrap_or(&data);
            authorities = json!({"inline_string": data["ca.crt"].as_str()?});
        }
    } else {
        certificates.push(json!({
            "certificate_chain": {"filename": tls["serverCertificate"]},
            "private_key": {"filename": tls["privateKey"]},
        }));
        authorities = json!({"filename": tls["caCertificates"]});
    }
    common["tls_certificates"] = certificates.into();
    if checked {
        let mut context = validation(&authorities, &tls["subjectAltNames"]);
        for (from, to) in [
            ("verifyCertificateHash", "verify_certificate_hash"),
            ("verifyCertificateSpki", "verify_certificate_spki"),
        ] {
            if !tls[from].is_null() {
                context[to] = tls[from].clone();
            }
        }
        common["validation_context"] = context;
    }
    let mut limits = json!({
        "tls_minimum_protocol_version": version(&tls["minProtocolVersion"], "TLSv1_2"),
        "tls_maximum_protocol_version": version(&tls["maxProtocolVersion"], "TLSv1_3"),
    });
    if !tls["cipherSuites"].is_null() {
        limits["cipher_suites"] = tls["cipherSuites"].clone();
    }
    common["tls_params"] = limits;
    Some(json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
            "require_client_certificate": tls["mode"] == "MUTUAL",
        },
    }))
}

/// `tls` of a traffic policy: the socket, and what the cluster's HTTP does by itself. `None` is plain text.
pub fn originated(view: &View<'_>, tls: &Value, http2: bool) -> Option<(Value, Value)> {
    let mode = tls["mode"].as_str()?;
    if !matches!(mode, "SIMPLE" | "MUTUAL") {
        return None;
    }
    let mut common = json!({});
    let (mut certificate, mut authorities) = (Value::Null, Value::Null);
    if let Some(name) = tls["credentialName"].as_str() {
        // Only gateways get them: a rule for all pods would want it everywhere.
        if !view.gateway() {
            return None;
        }
        let data = secret(view, name)?;
        certificate = json!({
            "certificate_chain": {"inline_string": data["tls.crt"]},
            "private_key": {"inline_string": data["tls.key"]},
        });
        authorities = json!({"inline_string": data["ca.crt"]});
    } else {
        if mode == "MUTUAL" {
            certificate = json!({
                "certificate_chain": {"filename": tls["clientCertificate"]},
                "private_key": {"filename": tls["privateKey"]},
            });
        }
        let file = tls["caCertificates"].as_str();
        if let Some(file) = file {
            authorities = json!({"filename": file});
        }
    }
    if mode == "MUTUAL" {
        common["tls_certificates"] = json!([certificate]);
    }
    let any = tls["insecureSkipVerify"] == true;
    if !any {
        common["validation_context"] = match authorities.is_null() {
            true => json!({"system_root_certs": {}}),
            false => validation(&authorities, &tls["subjectAltNames"]),
        };
    }
    if http2 {
        common["alpn_protocols"] = json!(["h2"]);
    }
    let by_itself = tls["sni"].as_str().is_none();
    let automatic = json!({
        "auto_sni": by_itself,
        "auto_san_validation": by_itself && array(&tls["subjectAltNames"]).is_empty() && !any,
    });
    let socket = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": common,
            "sni": tls["sni"],
        },
    });
    Some((socket, automatic))
}

fn validation(authorities: &Value, names: &Value) -> Value {
    let matchers = array(names)
        .iter()
        .flat_map(|name| {
            ["DNS", "URI"].map(|kind| json!({"san_type": kind, "matcher": {"exact": name}}))
        })
        .collect::<Vec<_>>();
    json!({"trusted_ca": authorities, "match_typed_subject_alt_names": matchers})
}

/// What is in a Secret next to the gateway.
fn secret(view: &View<'_>, name: &str) -> Option<Value> {
    let standing = objects(Family::default(), |_| None);
    let mut all = view.manifests.iter().chain(&standing);
    let found = all.find(|object| {
        let metadata = &object["metadata"];
        object["kind"] == "Secret"
            && metadata["name"] == name
            && metadata["namespace"] == GATEWAY_NAMESPACE
    })?;
    Some(found["stringData"].clone())
}

fn version(written: &Value, usual: &str) -> String {
    match written.as_str() {
        Some(version) if version.starts_with("TLSV") => version.replace("TLSV", "TLSv"),
        Some(_) | None => usual.to_owned(),
    }
}

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
    let mut authorities = Authorities::default();
    let named = [&tls["credentialName"]].into_iter();
    let names: Vec<&str> = named
        .chain(array(&tls["credentialNames"]))
        .filter_map(Value::as_str)
        .collect();
    for name in &names {
        let data = secret(view, name)?;
        certificates.push(json!({
            "certificate_chain": {"inline_string": data["tls.crt"]},
            "private_key": {"inline_string": data["tls.key"]},
        }));
    }
    if let Some(first) = names.first() {
        if checked {
            let elsewhere = tls["caCertCredentialName"].as_str();
            let data = match elsewhere {
                Some(name) => secret(view, name)?,
                None => secret(view, &format!("{first}-cacert")).or_else(|| secret(view, first))?,
            };
            authorities = Authorities::of_secret(&data)?;
        }
    } else {
        let several = array(&tls["tlsCertificates"]);
        let pairs = match several {
            [] => std::slice::from_ref(tls),
            pairs => pairs,
        };
        for pair in pairs {
            certificates.push(json!({
                "certificate_chain": {"filename": pair["serverCertificate"]},
                "private_key": {"filename": pair["privateKey"]},
            }));
        }
        authorities = Authorities::of_files(tls);
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
        if tls["insecureSkipVerify"] == true {
            context["trust_chain_verification"] = json!("ACCEPT_UNTRUSTED");
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
    let mut certificate = Value::Null;
    let authorities;
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
        authorities = Authorities::of_secret(&data)?;
    } else {
        if mode == "MUTUAL" {
            certificate = json!({
                "certificate_chain": {"filename": tls["clientCertificate"]},
                "private_key": {"filename": tls["privateKey"]},
            });
        }
        authorities = Authorities::of_files(tls);
    }
    if mode == "MUTUAL" {
        common["tls_certificates"] = json!([certificate]);
    }
    let any = tls["insecureSkipVerify"] == true;
    if !any {
        common["validation_context"] = match authorities.trusted.is_null() {
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

/// Who is believed, and what is not any more.
#[derive(Default)]
struct Authorities {
    trusted: Value,
    revoked: Value,
}

impl Authorities {
    fn of_secret(data: &Value) -> Option<Self> {
        let text = |name: &str| Some(json!({"inline_string": data[name].as_str()?}));
        Some(Self {
            trusted: text("ca.crt")?,
            revoked: text("ca.crl").unwrap_or_default(),
        })
    }

    fn of_files(tls: &Value) -> Self {
        let file = |name: &str| Some(json!({"filename": tls[name].as_str()?}));
        Self {
            trusted: file("caCertificates").unwrap_or_default(),
            revoked: file("caCrl").unwrap_or_default(),
        }
    }
}

fn validation(authorities: &Authorities, names: &Value) -> Value {
    let matchers = array(names)
        .iter()
        .flat_map(|name| {
            ["DNS", "URI"].map(|kind| json!({"san_type": kind, "matcher": {"exact": name}}))
        })
        .collect::<Vec<_>>();
    json!({
        "trusted_ca": authorities.trusted,
        "crl": authorities.revoked,
        "match_typed_subject_alt_names": matchers,
    })
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

//! What gateways serve, as JSON.

use serde_json::{Value, json};

use super::clusters::credential;
use super::routes::{compact, streams, table};
use crate::model::{
    ClientAuthentication, Gateway, GatewayListener, Inside, SecureServer, ServerTls, Termination,
};

/// One set of Gateways.
pub fn gateway(gateway: &Gateway) -> Value {
    let ports: serde_json::Map<_, _> = gateway
        .ports
        .iter()
        .map(|(number, port)| {
            let (kind, served) = match &port.listener {
                GatewayListener::Http(routes) => ("http", table(routes)),
                GatewayListener::Secure(servers) => ("tls", servers.iter().map(secure).collect()),
                GatewayListener::Tcp(routes) => ("tcp", streams(routes)),
            };
            let port = compact([("bind", json!(port.bind)), (kind, served)]);
            (number.to_string(), port)
        })
        .collect();
    json!({ "gateways": gateway.names, "ports": ports })
}

fn secure(server: &SecureServer) -> Value {
    let (settings, kind, routes) = match &server.tls {
        Termination::Here(tls, Inside::Http(routes)) => (self::tls(tls), "http", table(routes)),
        Termination::Here(tls, Inside::Tcp(routes)) => (self::tls(tls), "tcp", streams(routes)),
        Termination::Beyond(routes) => (json!("PASSTHROUGH"), "tcp", streams(routes)),
    };
    compact([
        ("name", json!(server.name)),
        ("hosts", json!(server.hosts)),
        ("tls", settings),
        (kind, routes),
    ])
}

fn tls(tls: &ServerTls) -> Value {
    let mode = match tls.clients {
        ClientAuthentication::None => "SIMPLE",
        ClientAuthentication::Optional(_) => "OPTIONAL_MUTUAL",
        ClientAuthentication::Required(_) => "MUTUAL",
    };
    compact([
        ("mode", json!(mode)),
        (
            "certificates",
            tls.certificates.iter().map(credential).collect(),
        ),
    ])
}

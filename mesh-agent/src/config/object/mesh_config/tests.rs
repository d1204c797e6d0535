//! The configuration as it is read: what each field becomes, and what is said of it.

use std::path::Path as FilePath;
use std::sync::Arc;

use super::*;
use crate::config::CompileOptions;
use crate::config::document::{Outcome, read_text};
use crate::config::object::{Body, Kind};
use crate::config::problem::Severity;
use crate::model::{Failover, RetryOn};

/// The configuration with this text, and what is said of it: `E` or `W`, the field and the message.
fn read(text: &str) -> (Option<MeshConfig>, Vec<String>) {
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    let manifest = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{indented}"
    );
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let mut documents = read_text(&manifest, &file, &CompileOptions::default());
    let document = documents.remove(0);
    let complaints = document.rejected.iter().map(|complaint| {
        let severity = match complaint.severity {
            Severity::Error => "E",
            Severity::Warning => "W",
            Severity::Info => "I",
        };
        let field = complaint.field.trim_start_matches("data.mesh");
        format!(
            "{severity} {}: {}",
            field.trim_start_matches('.'),
            complaint.message
        )
    });
    let complaints = complaints.collect();
    let config = match document.outcome {
        Outcome::Good(object) => match Arc::try_unwrap(object).expect("nobody else has it").body {
            Body::MeshConfig(config) => Some(*config),
            _ => None,
        },
        Outcome::Broken(_) | Outcome::Ignored(_) => None,
    };
    (config, complaints)
}

fn check(text: &str, expected: &[&str]) {
    let (config, complaints) = read(text);
    assert_eq!(complaints, expected, "{text}");
    let broken = expected.iter().any(|complaint| complaint.starts_with('E'));
    assert_eq!(config.is_none(), broken, "{text}");
}

#[test]
fn what_decides_over_traffic_is_read() {
    let (config, complaints) = read(
        "connectTimeout: 1s
tcpKeepalive: {time: 20s, probes: 3}
h2UpgradePolicy: UPGRADE
defaultHttpRetryPolicy: {attempts: 4, retryOn: 'reset,503'}
defaultTrafficPolicy:
  connectionPool: {tcp: {maxConnections: 7}}
  outlierDetection: {consecutive5xxErrors: 9}
localityLbSetting: {failover: [{from: a, to: b}]}
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
defaultServiceExportTo: ['.']
defaultVirtualServiceExportTo: [x]
defaultDestinationRuleExportTo: ['*']
rootNamespace: istio-system",
    );
    assert_eq!(complaints, Vec::<String>::new());
    let config = config.expect("it is good");
    assert!(config.hides());
    let export = |public, private, names: &[&str]| {
        Some(ExportTo {
            public,
            private,
            namespaces: names.iter().map(|name| (*name).into()).collect(),
            unsaid: false,
        })
    };
    let limits = |pool: &Pool| pool.limits.max_connections;
    assert_eq!(config.pool.as_ref().and_then(limits), Some(7));
    let failover = Failover::Regions(vec![("a".into(), "b".into())]);
    assert_eq!(
        config,
        MeshConfig {
            connect_timeout: Some(Duration::from_secs(1)),
            keepalive: Some(Keepalive {
                probes: Some(3),
                time: Some(Duration::from_secs(20)),
                interval: None,
            }),
            upgrades: true,
            retry: Some(Retry {
                attempts: 4,
                on: RetryOn {
                    reset: true,
                    ..RetryOn::default()
                },
                statuses: vec![http::StatusCode::SERVICE_UNAVAILABLE],
                ..Retry::default()
            }),
            pool: config.pool.clone(),
            outliers: Some(OutlierDetection {
                consecutive_5xx: Some(9),
                ..OutlierDetection::default()
            }),
            locality: Some(LocalitySetting::Failover(failover)),
            unknown: Some(OutboundTrafficPolicy::RegistryOnly),
            services: export(false, true, &[]),
            virtual_services: export(false, false, &["x"]),
            destination_rules: export(true, false, &[]),
        }
    );
}

#[test]
fn what_is_wrong_or_not_acted_on_is_told() {
    check("", &[]);
    check("connectTimeout: 10s", &[]);
    check(
        "accessLogFile: /dev/stdout\ndefaultConfig: {concurrency: 2}",
        &["W : accessLogFile, defaultConfig is not supported yet and has no effect"],
    );
    check(
        "localityLbSetting: {distribut: []}",
        &["W : localityLbSetting.distribut is not supported yet and has no effect"],
    );
    check(
        "connectTimeout: soon",
        &["E connectTimeout: \"soon\" is no duration"],
    );
    check(
        "connectTimeout: [1]",
        &["E : connectTimeout is a list, expected a string"],
    );
    check(
        "defaultHttpRetryPolicy: {attempts: 1, retryOn: sometimes}",
        &["E defaultHttpRetryPolicy.retryOn: \"sometimes\" is nothing to retry on"],
    );
    check(
        "defaultTrafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}",
        &["E defaultTrafficPolicy.outlierDetection.maxEjectionPercent: 101 is no percentage"],
    );
    check(
        "h2UpgradePolicy: DEFAULT",
        &["E h2UpgradePolicy: \"DEFAULT\" is no upgrade policy of a mesh"],
    );
    check(
        "outboundTrafficPolicy: {mode: ALLOW}",
        &["E outboundTrafficPolicy.mode: \"ALLOW\" is nothing to do with what nobody knows"],
    );
    check(
        "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}",
        &[
            "W outboundTrafficPolicy.mode: ALLOW_ANY_DYNAMIC_DNS is ALLOW_ANY here: what nobody knows goes to the address that the client dialled",
        ],
    );
    check(
        "rootNamespace: elsewhere",
        &["W rootNamespace: the root namespace is \"istio-system\" here, not \"elsewhere\""],
    );
    check(
        "defaultServiceExportTo: ['*', x]",
        &["E defaultServiceExportTo: \"*\" and \"~\" cannot stand beside others"],
    );
    let (_, complaints) = read("a: [");
    assert!(
        complaints[0].starts_with("E : this is no YAML: "),
        "{complaints:?}"
    );
}

#[test]
fn other_config_maps_are_nobodys_business() {
    for metadata in [
        "{name: istio, namespace: other}",
        "{name: istio}",
        "{name: mine, namespace: istio-system}",
        "{}",
    ] {
        let text =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {metadata}\ndata: {{mesh: '['}}");
        let file: Arc<FilePath> = FilePath::new("x.yaml").into();
        let documents = read_text(&text, &file, &CompileOptions::default());
        assert!(
            matches!(&documents[0].outcome, Outcome::Ignored(kind) if kind == "ConfigMap"),
            "{metadata}"
        );
        assert!(documents[0].rejected.is_empty(), "{metadata}");
    }
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {meshNetworks: 'networks: {}'}";
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let documents = read_text(text, &file, &CompileOptions::default());
    assert_eq!(documents[0].rejected.len(), 1);
    assert_eq!(
        documents[0].rejected[0].message,
        "meshNetworks is not supported yet and has no effect"
    );
    assert_eq!(Kind::named("ConfigMap"), Some(Kind::ConfigMap));
}

//! Where objects tell their age, the order of files and documents means nothing.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use crate::admin::view;
use crate::config::document::{Outcome, read_text};
use crate::config::fixture::{istio, pod, service};
use crate::config::{CompileOptions, Inputs, compile};

/// Objects that get in each other's way: several for one host in the mesh and at a gateway, rules that are merged and
/// rules that hide others, Services in front of one Pod, entries for one name.
fn rivals() -> Vec<String> {
    let vs = |name: &str, spec: &str| istio("VirtualService", name, spec);
    let to = |host: &str| {
        format!("http: [{{route: [{{destination: {{host: {host}.default.svc.cluster.local}}}}]}}]")
    };
    let all = service("a", "10.0.0.1", &["http:80:8080", "tcp:81:8081"])
        + &service("b", "10.0.0.2", &["http:80:8080"])
        + &service("c", "10.0.0.1", &["http2:80:8080"]).replace("{app: c}", "{app: a}")
        + &service("other/a", "10.0.0.3", &["http:80:8080"])
        + &pod("a-1", "10.1.0.1", "app=a,version=v1")
        + &pod("a-2", "10.1.0.2", "app=a,version=v2")
        + &pod("b-1", "10.1.0.1", "app=b")
        + &pod("gateway", "10.1.0.9", "app=gw")
        + &vs("one", &format!("{{hosts: [a], {}}}", to("b")))
        + &vs("two", &format!("{{hosts: [a], {}}}", to("a")))
        + &vs(
            "wide",
            &format!("{{hosts: ['*.svc.cluster.local'], {}}}", to("b")),
        )
        + &vs(
            "other/own",
            &format!(
                "{{hosts: [a.default.svc.cluster.local], exportTo: ['.'], {}}}",
                to("b")
            ),
        )
        + &vs(
            "edge",
            &format!("{{hosts: [x.com], gateways: [gw, gw2], {}}}", to("a")),
        )
        + &vs(
            "edge2",
            &format!("{{hosts: ['*.com', x.com], gateways: [gw2], {}}}", to("b"))
                .replace("'*.com', ", ""),
        )
        + &vs(
            "tcp",
            "{hosts: [a], tcp: [{match: [{port: 81}], route: [{destination: {host: b, port: {number: 80}}}]}]}",
        )
        + &istio(
            "Gateway",
            "gw",
            "{selector: {app: gw}, servers: [{hosts: ['*'], port: {number: 80, name: http, protocol: HTTP}}]}",
        )
        + &istio(
            "Gateway",
            "gw2",
            "{selector: {app: gw}, servers: [{hosts: [x.com], port: {number: 80, name: http, protocol: HTTP}}, {hosts: ['*'], port: {number: 81, name: tcp, protocol: TCP}}]}",
        )
        + &istio(
            "DestinationRule",
            "r1",
            "{host: a, subsets: [{name: v1, labels: {version: v1}}], trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
        )
        + &istio(
            "DestinationRule",
            "r2",
            "{host: a, subsets: [{name: v1, labels: {version: v2}}, {name: v2, labels: {version: v2}}], trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}",
        )
        + &istio(
            "DestinationRule",
            "r3",
            "{host: '*.cluster.local', trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}",
        )
        + &istio(
            "DestinationRule",
            "other/r4",
            "{host: a.default.svc.cluster.local, trafficPolicy: {connectionPool: {tcp: {maxConnections: 9}}}}",
        )
        + &istio(
            "ServiceEntry",
            "e1",
            "{hosts: [e.com], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 10.5.0.1}]}",
        )
        + &istio(
            "ServiceEntry",
            "e2",
            "{hosts: [e.com], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 10.5.0.2}]}",
        )
        + &istio(
            "Sidecar",
            "s1",
            "{workloadSelector: {labels: {app: b}}, egress: [{hosts: ['./*']}]}",
        )
        + &istio(
            "Sidecar",
            "s2",
            "{workloadSelector: {labels: {app: b}}, egress: [{hosts: ['~/*']}]}",
        );
    let documents = all.split("---\n").filter(|text| !text.is_empty());
    let dated = documents.enumerate().map(|(age, text)| {
        let created = format!("metadata: {{creationTimestamp: \"2024-05-01T12:00:{age:02}Z\", ");
        text.replacen("metadata: {", &created, 1)
    });
    dated.collect()
}

/// The world, told, of documents that were cut into files.
fn told(documents: &[String], files: usize) -> serde_json::Value {
    let options = CompileOptions::default();
    let per_file = documents.len().div_ceil(files);
    let mut inputs = Inputs::default();
    for (index, part) in documents.chunks(per_file).enumerate() {
        let name = format!("{index}.yaml");
        let file: Arc<Path> = Path::new(&name).into();
        for document in read_text(&part.join("---\n"), &file, &options) {
            match document.outcome {
                Outcome::Good(object) => inputs.insert(object),
                other => panic!("{other:?}: {:?}", document.rejected),
            };
        }
    }
    view::config(&compile(&inputs, &options).0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_files_means_nothing(
        documents in Just(rivals()).prop_shuffle(),
        files in 1..8_usize,
    ) {
        prop_assert_eq!(told(&documents, files), told(&rivals(), 1));
    }
}

#[test]
fn age_means_something() {
    let one = rivals();
    let youngest_first: Vec<String> = one
        .iter()
        .map(|text| {
            let at = text.find("12:00:").map_or(0, |at| at + 6);
            let age: usize = text[at..at + 2].parse().unwrap_or(0);
            text.replacen(
                &format!("12:00:{age:02}Z"),
                &format!("12:00:{:02}Z", 59 - age),
                1,
            )
        })
        .collect();
    assert_ne!(told(&youngest_first, 1), told(&one, 1));
}

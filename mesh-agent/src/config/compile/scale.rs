//! How long a large world takes to compile. Run it alone and optimised:
//! `cargo test --release -p mesh-agent --lib -- --ignored --nocapture compile::scale`.

use std::fmt::Write as _;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::document::{Outcome, read_text};
use crate::config::fixture::{istio, pod, service};

const SERVICES: u16 = 10_000;
const PODS_OF_A_SERVICE: u16 = 10;
const SERVICES_OF_A_NAMESPACE: u16 = 100;

/// 10,000 Services in 100 namespaces, 100,000 Pods behind them, and for every second Service a DestinationRule with two
/// subsets and a VirtualService between them.
fn large(slices: bool, options: &CompileOptions) -> Inputs {
    let mut inputs = Inputs::default();
    let mut add = |name: &str, text: &str| {
        let file: Arc<FilePath> = FilePath::new(name).into();
        for document in read_text(text, &file, options) {
            if let Outcome::Good(object) = document.outcome {
                inputs.insert(object);
            }
        }
    };
    for team in 0..SERVICES / SERVICES_OF_A_NAMESPACE {
        let services = team * SERVICES_OF_A_NAMESPACE..(team + 1) * SERVICES_OF_A_NAMESPACE;
        let text: String = services.map(|number| text_of(number, slices)).collect();
        add(&format!("team-{team}.yaml"), &text);
    }
    let everyone = "{host: '*.local', trafficPolicy: {outlierDetection: {}}}";
    add(
        "all.yaml",
        &istio("DestinationRule", "istio-system/all", everyone),
    );
    inputs
}

/// One Service, and all that belongs to it.
fn text_of(number: u16, slices: bool) -> String {
    let app = format!("app-{number}");
    let name = format!("team-{}/{app}", number / SERVICES_OF_A_NAMESPACE);
    let [high, low] = number.to_be_bytes();
    let vip = format!("10.0.{high}.{low}");
    let mut text = service(&name, &vip, &["http:80:8080", "http-admin:81:8081"]);
    let mut endpoints = String::new();
    for member in 0..PODS_OF_A_SERVICE {
        let address = format!("10.{}.{high}.{low}", 100 + member);
        let labels = format!(
            "app={app},app.kubernetes.io/managed-by=helm,pod-template-hash=5f6d7c8b9d,version=v{}",
            member % 2 + 1
        );
        let node = format!("spec: {{nodeName: node-{}, ", number % 100);
        let pod = pod(&format!("{name}-{member}"), &address, &labels);
        text.push_str(&pod.replace("spec: {", &node));
        let target = format!("{{kind: Pod, name: {app}-{member}}}");
        let _ = writeln!(
            endpoints,
            "- {{addresses: [{address}], targetRef: {target}}}"
        );
    }
    if slices {
        let (namespace, _) = name.split_once('/').expect("a namespace");
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {app}\n  namespace: {namespace}\n  \
             labels: {{kubernetes.io/service-name: {app}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: 8080}}, {{name: http-admin, port: 8081}}]\nendpoints:\n{endpoints}"
        );
    }
    if number.is_multiple_of(2) {
        let rule = format!(
            "{{host: {app}, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 100}}}}}}, subsets: [{{name: v1, \
             labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}"
        );
        let routes = format!(
            "{{hosts: [{app}], http: [{{route: [{{destination: {{host: {app}, subset: v1}}, weight: 90}}, \
             {{destination: {{host: {app}, subset: v2}}, weight: 10}}]}}]}}"
        );
        text.push_str(&istio("DestinationRule", &name, &rule));
        text.push_str(&istio("VirtualService", &name, &routes));
    }
    text
}

/// How long this thread has worked. What else a machine does meanwhile is not counted.
fn worked() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux kernel");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let start = worked();
    let made = work();
    let took = worked() - start;
    println!("{what:>16}: {:>8.1} ms", took.as_secs_f64() * 1000.0);
    (made, took)
}

#[test]
#[ignore = "measures; only an optimised build is fast enough"]
fn a_large_world_is_compiled_within_a_second() {
    let options = CompileOptions::default();
    for slices in [false, true] {
        let (inputs, _) = timed("reading", || large(slices, &options));
        println!("{} objects, slices: {slices}", inputs.len());
        timed("pods in order", || inputs.pods());
        let (located, _) = timed("pods located", || {
            LocatedPods::gather(&inputs, &CompileOptions::default())
        });
        let (services, _) = timed("services", || Services::gather(&inputs, &located, &options));
        let (rules, _) = timed("rules", || Rules::gather(&inputs, &options));
        let (clusters, _) = timed("clusters", || Clusters::new(&inputs, &services, &rules));
        assert_eq!(clusters.usual.len(), 40_000);
        let ((snapshot, _), took) = timed("all of it", || compile(&inputs, &options));
        assert_eq!((snapshot.clusters.len(), snapshot.views.len()), (40_000, 0));
        assert_eq!(snapshot.pods.len(), 100_000);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

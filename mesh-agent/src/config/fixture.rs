//! Worlds from text, for tests.

use std::path::Path;
use std::sync::Arc;

use crate::config::document::{Outcome, read_text};
use crate::config::{CompileOptions, Inputs, Rejected, World, compile};
use crate::model::Snapshot;

/// The world of these documents, and what is wrong with them.
pub fn world(text: &str) -> (Snapshot, Vec<Rejected>) {
    world_with(text, &CompileOptions::default())
}

/// The same, read with other options.
pub fn world_with(text: &str, options: &CompileOptions) -> (Snapshot, Vec<Rejected>) {
    let (inputs, mut rejected) = inputs(text, options);
    let (snapshot, more) = compile(&inputs, options);
    rejected.extend(more);
    (snapshot, rejected)
}

fn inputs(text: &str, options: &CompileOptions) -> (Inputs, Vec<Rejected>) {
    let file: Arc<Path> = Path::new("test.yaml").into();
    let mut inputs = Inputs::default();
    let mut rejected = Vec::new();
    for document in read_text(text, &file, options) {
        rejected.extend(document.rejected);
        match document.outcome {
            Outcome::Good(object) => {
                inputs.insert(object);
            }
            Outcome::Broken(_) | Outcome::Ignored(_) => {}
        }
    }
    (inputs, rejected)
}

/// The world of these documents, with what it was made of.
pub fn read(text: &str) -> World {
    let options = CompileOptions::default();
    let (inputs, rejected) = inputs(text, &options);
    World::new(inputs, rejected, &options)
}

/// The world of these documents, which must be without fault.
pub fn sound_world(text: &str) -> Snapshot {
    let (snapshot, rejected) = world(text);
    let rejected: Vec<String> = rejected.iter().map(ToString::to_string).collect();
    assert_eq!(rejected, Vec::<String>::new());
    snapshot
}

/// A Service of namespace `default`, or `ns/name`. Ports are written `name:port:target`; Pods are selected by `app`.
pub fn service(name: &str, vip: &str, ports: &[&str]) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let ports: String = ports
        .iter()
        .map(|port| {
            let mut parts = port.split(':');
            let (name, number) = (parts.next().unwrap_or(""), parts.next().unwrap_or("80"));
            let target = parts.next().unwrap_or(number);
            format!("  - {{name: \"{name}\", port: {number}, targetPort: {target}}}\n")
        })
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         clusterIP: {vip}\n  selector: {{app: {name}}}\n  ports:\n{ports}"
    )
}

/// A ready Pod of namespace `default`, or `ns/name`, with labels written `a=b,c=d`.
pub fn pod(name: &str, address: &str, labels: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let labels = labels.replace('=', ": ").replace(',', ", ");
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{containers: [{{ports: [{{name: web, containerPort: 8080}}]}}]}}\n\
         status: {{podIP: \"{address}\", conditions: [{{type: Ready, status: \"True\"}}]}}\n"
    )
}

/// An object of Istio, of namespace `default`, or `ns/name`, with its `spec` in flow style or indented by two.
pub fn istio(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {spec}\n"
    )
}

//! The manifests of the demo: the walkthrough's own, word for word, and what a cluster would add to them. Pure: text in,
//! text out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use anyhow::{Context, Result};
use serde::Deserialize;

/// A file of the walkthrough.
macro_rules! walkthrough {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/data/walkthrough/",
            $name
        ))
    };
}

/// The files that are applied as they are. Deployments are for controllers to read, and lie there like everything else.
pub const UNCHANGED: &[(&str, &str)] = &[
    ("user-app-v1-deploy.yaml", V1),
    ("user-app-v2-deploy.yaml", V2),
    (
        "user-app-destinationrule.yaml",
        walkthrough!("user-app-destinationrule.yaml"),
    ),
    (
        "user-app-virtualservice.yaml",
        walkthrough!("user-app-virtualservice.yaml"),
    ),
    (
        "user-app-gateway.yaml",
        walkthrough!("user-app-gateway.yaml"),
    ),
    (
        GATEWAY_ROUTES,
        walkthrough!("user-app-gateway-virtualservice.yaml"),
    ),
];

/// The file with the gateway's routes, which the rewriting ones replace: both are the same object.
pub const GATEWAY_ROUTES: &str = "user-app-gateway-virtualservice.yaml";

/// The gateway's routes with paths that are rewritten.
pub const REWRITE: (&str, &str) = (
    "user-app-gateway-virtualservice-rewrite.yaml",
    walkthrough!("user-app-gateway-virtualservice-rewrite.yaml"),
);

/// The Service as its author wrote it.
pub const SERVICE: &str = walkthrough!("user-app-svc.yaml");

/// The Deployments of the backends.
pub const DEPLOYMENTS: [&str; 2] = [V1, V2];

const V1: &str = walkthrough!("user-app-v1-deploy.yaml");
const V2: &str = walkthrough!("user-app-v2-deploy.yaml");

/// What a controller and a kubelet make of a Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The Deployment's name.
    pub name: String,
    /// The labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// The container's image.
    pub image: String,
    /// The container's command.
    pub command: Vec<String>,
}

/// A pod of the demo.
#[derive(Debug, Clone)]
pub struct PodObject {
    /// Its namespace in the cluster.
    pub namespace: &'static str,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its image, as its object says.
    pub image: String,
    /// Where its network namespace lies.
    pub netns: PathBuf,
    /// Its addresses.
    pub ips: [IpAddr; 2],
    /// The node's address.
    pub node: Ipv4Addr,
}

impl PodObject {
    /// The object as the API server would return it, as far as anybody here reads it.
    pub fn render(&self) -> String {
        let labels: String = self
            .labels
            .iter()
            .map(|(key, value)| format!("    {}: {}\n", quoted(key), quoted(value)))
            .collect();
        let [v4, v6] = self.ips;
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  labels:\n{labels}  annotations:\n    \
             mesh-agent.io/netns: {netns}\nspec:\n  nodeName: node1\n  containers:\n  - name: {name}\n    image: {image}\nstatus:\n  \
             phase: Running\n  hostIP: {node}\n  podIP: {v4}\n  podIPs:\n  - ip: {v4}\n  - ip: {ipv6}\n  conditions:\n  - type: Ready\n    \
             status: \"True\"\n",
            name = self.name,
            namespace = self.namespace,
            netns = self.netns.display(),
            image = quoted(&self.image),
            node = self.node,
            ipv6 = quoted(&v6.to_string()),
        )
    }
}

/// Reads a Deployment.
pub fn template(deployment: &str) -> Result<Template> {
    let Deployment { metadata, spec } =
        serde_saphyr::from_str(deployment).context("the Deployment does not parse")?;
    let container = spec
        .template
        .spec
        .containers
        .into_iter()
        .next()
        .context("the Deployment has no container")?;
    Ok(Template {
        name: metadata.name,
        labels: spec.template.metadata.labels,
        image: container.image,
        command: container.command,
    })
}

/// The Service with the address that the API server would have given it.
pub fn allocated(service: &str, address: Ipv4Addr) -> String {
    let mut text = String::new();
    for line in service.lines() {
        text.push_str(line);
        text.push('\n');
        if line.trim_end() == "spec:" {
            text.push_str(&format!(
                "  clusterIP: {address}\n  clusterIPs:\n  - {address}\n  type: ClusterIP\n"
            ));
        }
    }
    text
}

/// The Service of the ingress gateway, which comes with Istio and not with the walkthrough.
pub fn gateway_service(address: Ipv4Addr, node_port: u16, target_port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: istio-ingressgateway\n  namespace: istio-system\n  labels:\n    \
         app: istio-ingressgateway\nspec:\n  type: NodePort\n  clusterIP: {address}\n  clusterIPs:\n  - {address}\n  selector:\n    \
         app: istio-ingressgateway\n  ports:\n  - name: http2\n    protocol: TCP\n    port: 80\n    targetPort: {target_port}\n    \
         nodePort: {node_port}\n"
    )
}

/// A scalar that YAML reads as the string that it is.
fn quoted(text: &str) -> String {
    // JSON's strings are YAML's, too.
    serde_json::Value::from(text).to_string()
}

// === the parts of a Deployment that we read ===

#[derive(Deserialize)]
struct Deployment {
    metadata: Named,
    spec: DeploymentSpec,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct DeploymentSpec {
    template: PodTemplate,
}

#[derive(Deserialize)]
struct PodTemplate {
    metadata: Labelled,
    spec: PodSpec,
}

#[derive(Deserialize)]
struct Labelled {
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct PodSpec {
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    image: String,
    command: Vec<String>,
}

#[cfg(test)]
mod tests;

//! A DestinationRule: the subsets of a Service, and how its endpoints are talked to.
//!
//! What is read here is complete and right in itself (`istio-routing.md` 5.2). Which rule holds for whom, and what the
//! levels of a policy make of one another, is decided when the world is compiled.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::crd::destination_rule::{
    DestinationRuleSpec, Subset as WrittenSubset, WorkloadSelector,
};
use crate::config::object::name::{self, ExportTo};
use crate::config::object::{self, Context};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::Labels;

pub use crate::config::object::destination_rule::balancer::{LoadBalancer, Method};
pub use crate::config::object::destination_rule::locality::LocalitySetting;
pub use crate::config::object::destination_rule::policy::{Blocks, Policy};
pub use crate::config::object::destination_rule::pool::Pool;
pub use crate::config::object::destination_rule::tls::{KeyMaterial, Tls, TlsOrigin};

pub(in crate::config::object) use crate::config::object::destination_rule::locality::read as read_locality;
pub(in crate::config::object) use crate::config::object::destination_rule::outliers::read as read_outliers;
pub(in crate::config::object) use crate::config::object::destination_rule::pool::{
    read as read_pool, read_keepalive,
};

mod balancer;
mod locality;
mod outliers;
mod policy;
mod pool;
mod tls;

/// A DestinationRule.
#[derive(Debug, PartialEq)]
pub struct DestinationRule {
    /// The Service, fully qualified, or a wildcard over Services.
    pub host: Arc<str>,
    /// Whose clients it concerns; with a selector those of its own namespace alone.
    pub export: ExportTo,
    /// `workloadSelector`: the labels of the clients that it concerns; `None` is all of them.
    pub selector: Option<Labels>,
    /// `trafficPolicy`.
    pub policy: Option<Policy>,
    /// Its subsets, in written order.
    pub subsets: Vec<Subset>,
}

/// A subset.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// Its name.
    pub name: Arc<str>,
    /// The labels that its endpoints have; empty for all endpoints.
    pub labels: Labels,
    /// Its own `trafficPolicy`.
    pub policy: Option<Policy>,
}

impl DestinationRule {
    /// Reads `spec`.
    pub fn read(spec: DestinationRuleSpec, context: &Context<'_>, problems: &mut Problems) -> Self {
        let DestinationRuleSpec {
            host,
            traffic_policy,
            subsets,
            export_to,
            workload_selector,
        } = spec;
        let path = Path::of("spec");
        check_host(&host, &path.key("host"), problems);
        let for_some = workload_selector.is_some();
        let policy = traffic_policy
            .map(|policy| policy::read(policy, for_some, &path.key("trafficPolicy"), problems));
        let mut export = ExportTo::read(&export_to, &path.key("exportTo"), problems);
        if for_some {
            check_private(
                &export_to,
                context.namespace,
                &path.key("exportTo"),
                problems,
            );
            export = ExportTo {
                private: true,
                ..ExportTo::default()
            };
        }
        Self {
            host: name::qualify(&host, context.namespace, &context.options.cluster_domain),
            export,
            selector: workload_selector
                .map(|selector| read_selector(selector, &path.key("workloadSelector"), problems)),
            policy,
            subsets: read_subsets(subsets, for_some, &path.key("subsets"), problems),
        }
    }
}

fn check_host(host: &str, path: &Path, problems: &mut Problems) {
    let message = match host {
        "" => "a DestinationRule needs a host".to_owned(),
        host if !name::is_host(host) => format!("\"{host}\" is no host"),
        _ => return,
    };
    problems.error(path, message, "name a Service");
}

/// A rule for some clients is for those of its own namespace.
fn check_private(export: &[String], own: &str, path: &Path, problems: &mut Problems) {
    let private = |name: &String| name == "." || name == own;
    if export.len() > 1 || !export.iter().all(private) {
        problems.error(
            path,
            "a rule with a workloadSelector is for its own namespace alone",
            "write \".\", or leave exportTo out",
        );
    }
}

fn read_selector(selector: WorkloadSelector, path: &Path, problems: &mut Problems) -> Labels {
    let WorkloadSelector { match_labels } = selector;
    if match_labels.is_empty() {
        problems.warning(
            path,
            "a workloadSelector without labels selects every Pod of the namespace",
            "add matchLabels",
        );
    }
    for (key, value) in &match_labels {
        if key.is_empty() || key.contains('*') || value.contains('*') {
            problems.error(
                &path.key("matchLabels").key(key),
                "a label must be named, and wildcards do not select",
                "write the whole label and its value",
            );
        }
    }
    object::labels(&match_labels)
}

fn read_subsets(
    written: Vec<WrittenSubset>,
    for_some: bool,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Subset> {
    let mut subsets: Vec<Subset> = Vec::new();
    let mut names = HashSet::new();
    for (index, subset) in written.into_iter().enumerate() {
        let path = path.index(index);
        let WrittenSubset {
            name: subset_name,
            labels,
            traffic_policy,
        } = subset;
        if subset_name.is_empty() {
            problems.error(&path.key("name"), "a subset needs a name", "add one");
        } else if !name::is_label(&subset_name) {
            let message = format!("\"{subset_name}\" is no name of a subset");
            problems.error(
                &path.key("name"),
                message,
                "use letters, digits and hyphens, at most 63",
            );
        }
        if !names.insert(subset_name.clone()) {
            let message = format!("two subsets are named \"{subset_name}\"");
            problems.error(&path.key("name"), message, "give each subset its own name");
        }
        for (key, value) in &labels {
            let path = path.key("labels").key(key);
            if !name::is_label_key(key) {
                let message = format!("\"{key}\" is no name of a label");
                problems.error(&path, message, "write it as Kubernetes has it");
            } else if !name::is_label_value(value) {
                let message = format!("\"{value}\" is no value of a label");
                problems.error(&path, message, "write it as Kubernetes has it");
            }
        }
        let policy = traffic_policy
            .map(|policy| policy::read(policy, for_some, &path.key("trafficPolicy"), problems));
        subsets.push(Subset {
            name: subset_name.into(),
            labels: object::labels(&labels),
            policy,
        });
    }
    subsets
}

#[cfg(test)]
mod tests;

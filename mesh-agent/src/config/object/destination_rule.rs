//! A DestinationRule: the subsets of a Service.

use std::sync::Arc;

use crate::config::crd::destination_rule::{
    DestinationRuleSpec, LoadBalancer, PortPolicy, Subset as WrittenSubset, Tls, TrafficPolicy,
};
use crate::config::object::name::{self, ExportTo};
use crate::config::object::{self, Context};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::Labels;

/// A DestinationRule.
#[derive(Debug, PartialEq, Eq)]
pub struct DestinationRule {
    /// The Service, fully qualified, or a wildcard over Services.
    pub host: Arc<str>,
    /// Whose clients it concerns.
    pub export: ExportTo,
    /// Its subsets, in written order.
    pub subsets: Vec<Subset>,
}

/// A subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Its name.
    pub name: Arc<str>,
    /// The labels that its endpoints have; empty for all endpoints.
    pub labels: Labels,
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
        if host.is_empty() {
            problems.error(
                &path.key("host"),
                "a DestinationRule needs a host",
                "name a Service",
            );
        } else if !name::is_host(&host) {
            problems.error(
                &path.key("host"),
                format!("\"{host}\" is no host"),
                "name a Service",
            );
        }
        if let Some(policy) = traffic_policy {
            check_policy(&policy, &path.key("trafficPolicy"), problems);
        }
        if workload_selector.is_some() {
            problems.unsupported(&path.key("workloadSelector"), "workloadSelector");
        }
        Self {
            host: name::qualify(&host, context.namespace, &context.options.cluster_domain),
            export: ExportTo::read(&export_to, &path.key("exportTo"), problems),
            subsets: read_subsets(subsets, &path.key("subsets"), problems),
        }
    }
}

fn read_subsets(written: Vec<WrittenSubset>, path: &Path, problems: &mut Problems) -> Vec<Subset> {
    let mut subsets: Vec<Subset> = Vec::new();
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
        if subsets.iter().any(|earlier| *earlier.name == *subset_name) {
            let message = format!("two subsets are named \"{subset_name}\"");
            problems.error(&path.key("name"), message, "give each subset its own name");
        }
        if let Some(policy) = traffic_policy {
            check_policy(&policy, &path.key("trafficPolicy"), problems);
        }
        subsets.push(Subset {
            name: subset_name.into(),
            labels: object::labels(&labels),
        });
    }
    subsets
}

/// What would send requests elsewhere, or unprotected, is refused; limits and preferences among equal endpoints are
/// said to have no effect.
fn check_policy(policy: &TrafficPolicy, path: &Path, problems: &mut Problems) {
    let TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = policy;
    let something = [
        connection_pool,
        outlier_detection,
        tunnel,
        proxy_protocol,
        retry_budget,
    ]
    .iter()
    .any(|field| field.is_some());
    if !something && load_balancer.is_none() && tls.is_none() && port_level_settings.is_empty() {
        problems.error(
            path,
            "this traffic policy says nothing",
            "fill it, or remove it",
        );
    }
    if let Some(load_balancer) = load_balancer {
        check_load_balancer(load_balancer, &path.key("loadBalancer"), problems);
    }
    if let Some(tls) = tls {
        check_tls(tls, &path.key("tls"), problems);
    }
    for (field, name) in [
        (connection_pool, "connectionPool"),
        (outlier_detection, "outlierDetection"),
        (retry_budget, "retryBudget"),
    ] {
        if field.is_some() {
            problems.without_effect(&path.key(name), name);
        }
    }
    for (field, name) in [(tunnel, "tunnel"), (proxy_protocol, "proxyProtocol")] {
        if field.is_some() {
            problems.unsupported(&path.key(name), name);
        }
    }
    for (index, settings) in port_level_settings.iter().enumerate() {
        check_port(
            settings,
            &path.key("portLevelSettings").index(index),
            problems,
        );
    }
}

fn check_port(settings: &PortPolicy, path: &Path, problems: &mut Problems) {
    let PortPolicy {
        port,
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
    } = settings;
    let number = port.as_ref().and_then(|port| port.number);
    object::port_number(number, &path.key("port").key("number"), problems);
    let something = connection_pool.is_some() || outlier_detection.is_some() || tls.is_some();
    if !something && load_balancer.is_none() {
        problems.error(
            path,
            "these settings say nothing",
            "fill them, or remove them",
        );
    }
    if let Some(load_balancer) = load_balancer {
        check_load_balancer(load_balancer, &path.key("loadBalancer"), problems);
    }
    if let Some(tls) = tls {
        check_tls(tls, &path.key("tls"), problems);
    }
    for (field, name) in [
        (connection_pool, "connectionPool"),
        (outlier_detection, "outlierDetection"),
    ] {
        if field.is_some() {
            problems.without_effect(&path.key(name), name);
        }
    }
}

fn check_load_balancer(balancer: &LoadBalancer, path: &Path, problems: &mut Problems) {
    let LoadBalancer {
        simple,
        consistent_hash,
        locality_lb_setting,
        zone_aware_lb_setting,
        warmup_duration_secs,
        warmup,
    } = balancer;
    let simple_path = path.key("simple");
    match simple.as_deref() {
        // These are what the mesh does anyway.
        None | Some("UNSPECIFIED" | "LEAST_REQUEST" | "LEAST_CONN") => {}
        Some(name @ ("ROUND_ROBIN" | "RANDOM")) => {
            problems.warning(
                &simple_path,
                format!("{name} is not supported yet"),
                "LEAST_REQUEST is used",
            );
        }
        Some("PASSTHROUGH") => problems.unsupported(&simple_path, "PASSTHROUGH"),
        Some(other) => problems.error(
            &simple_path,
            format!("\"{other}\" is no load balancer"),
            "write LEAST_REQUEST, ROUND_ROBIN, RANDOM or PASSTHROUGH",
        ),
    }
    for (field, name) in [
        (consistent_hash, "consistentHash"),
        (locality_lb_setting, "localityLbSetting"),
        (zone_aware_lb_setting, "zoneAwareLbSetting"),
    ] {
        if field.is_some() {
            problems.unsupported(&path.key(name), name);
        }
    }
    for (field, name) in [
        (warmup_duration_secs, "warmupDurationSecs"),
        (warmup, "warmup"),
    ] {
        if field.is_some() {
            problems.without_effect(&path.key(name), name);
        }
    }
}

fn check_tls(tls: &Tls, path: &Path, problems: &mut Problems) {
    let path = path.key("mode");
    match tls.mode.as_deref() {
        None | Some("DISABLE") => {}
        Some(mode @ ("SIMPLE" | "MUTUAL" | "ISTIO_MUTUAL")) => {
            problems.unsupported(&path, &format!("tls mode {mode}"));
        }
        Some(other) => problems.error(
            &path,
            format!("\"{other}\" is no tls mode"),
            "write DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL",
        ),
    }
}

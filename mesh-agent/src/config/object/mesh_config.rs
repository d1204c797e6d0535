//! The mesh's configuration: what holds where no other object says otherwise. Istio keeps it as a text in the ConfigMap
//! `istio` of its root namespace; of all that may stand there, what decides over traffic is acted on, and the rest is told
//! of by name.

use std::time::Duration;

use crate::config::OutboundTrafficPolicy;
use crate::config::crd::mesh_config::{ConfigMapBody, DefaultTrafficPolicy, MeshConfigSpec};
use crate::config::crd::sidecar::OutboundTrafficPolicy as WrittenPolicy;
use crate::config::object::destination_rule::{
    LocalitySetting, Pool, read_keepalive, read_locality, read_outliers, read_pool,
};
use crate::config::object::name::ExportTo;
use crate::config::object::sidecar::read_mode;
use crate::config::object::virtual_service::read_retries;
use crate::config::object::{Context, duration};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::config::yaml;
use crate::config::yaml::read::read as read_yaml;
use crate::model::{Keepalive, OutlierDetection, Retry};

/// The ConfigMap's name.
pub const NAME: &str = "istio";

/// The key that the text stands under.
const KEY: &str = "mesh";

/// The mesh's configuration. What is absent is Istio's own default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeshConfig {
    /// `connectTimeout`.
    pub connect_timeout: Option<Duration>,
    /// `tcpKeepalive`.
    pub keepalive: Option<Keepalive>,
    /// `h2UpgradePolicy: UPGRADE`: servers of ports that are declared as HTTP are spoken to in HTTP/2.
    pub upgrades: bool,
    /// `defaultHttpRetryPolicy`: the retries of routes that say nothing of them.
    pub retry: Option<Retry>,
    /// `defaultTrafficPolicy.connectionPool`, where no DestinationRule has one.
    pub pool: Option<Pool>,
    /// `defaultTrafficPolicy.outlierDetection`, likewise.
    pub outliers: Option<OutlierDetection>,
    /// `localityLbSetting`, where no DestinationRule has one.
    pub locality: Option<LocalitySetting>,
    /// `outboundTrafficPolicy.mode`.
    pub unknown: Option<OutboundTrafficPolicy>,
    /// `defaultServiceExportTo`, of Services and ServiceEntries.
    pub services: Option<ExportTo>,
    /// `defaultVirtualServiceExportTo`.
    pub virtual_services: Option<ExportTo>,
    /// `defaultDestinationRuleExportTo`.
    pub destination_rules: Option<ExportTo>,
}

impl MeshConfig {
    /// Reads the ConfigMap.
    pub fn read(body: &ConfigMapBody, context: &Context<'_>, problems: &mut Problems) -> Self {
        let path = Path::of("data");
        let others: Vec<&str> = body
            .data
            .keys()
            .map(String::as_str)
            .filter(|key| *key != KEY)
            .collect();
        if !others.is_empty() {
            problems.without_effect(&path, &others.join(", "));
        }
        match body.data.get(KEY) {
            Some(text) => read_text(text, context, &path.key(KEY), problems).unwrap_or_default(),
            None => Self::default(),
        }
    }

    /// Whether anything is hidden from some clients that says nothing of whom it is for.
    pub fn hides(&self) -> bool {
        let defaults = [
            &self.services,
            &self.virtual_services,
            &self.destination_rules,
        ];
        defaults.into_iter().flatten().any(|export| !export.public)
    }
}

/// All of it is one text to the ConfigMap, so a complaint names the field and shows the text's beginning.
fn read_text(
    text: &str,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<MeshConfig> {
    let node = match yaml::documents(text).next()? {
        Ok(node) => node,
        Err(error) => {
            problems.error(path, format!("this is no YAML: {error}"), "");
            return None;
        }
    };
    let (spec, unread) = match read_yaml::<MeshConfigSpec>(&node) {
        Ok(found) => found,
        Err(misfit) => {
            let message = format!("{} {}", misfit.path, misfit.message);
            problems.error(path, message.trim_start(), "");
            return None;
        }
    };
    let unread: Vec<String> = unread.iter().map(|field| field.path.to_string()).collect();
    if !unread.is_empty() {
        problems.without_effect(path, &unread.join(", "));
    }
    Some(read_spec(spec, context, path, problems))
}

fn read_spec(
    spec: MeshConfigSpec,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> MeshConfig {
    let MeshConfigSpec {
        connect_timeout,
        tcp_keepalive,
        h2_upgrade_policy,
        default_http_retry_policy,
        default_traffic_policy,
        locality_lb_setting,
        outbound_traffic_policy,
        default_service_export_to,
        default_virtual_service_export_to,
        default_destination_rule_export_to,
        root_namespace,
    } = spec;
    check_root(root_namespace.as_deref(), context, path, problems);
    let DefaultTrafficPolicy {
        connection_pool,
        outlier_detection,
    } = default_traffic_policy.unwrap_or_default();
    let mut export = |written: Vec<String>, name: &str| {
        let some = !written.is_empty();
        some.then(|| ExportTo::read(&written, &path.key(name), problems))
    };
    let services = export(default_service_export_to, "defaultServiceExportTo");
    let name = "defaultVirtualServiceExportTo";
    let virtual_services = export(default_virtual_service_export_to, name);
    let name = "defaultDestinationRuleExportTo";
    let destination_rules = export(default_destination_rule_export_to, name);
    let policy = path.key("defaultTrafficPolicy");
    MeshConfig {
        services,
        virtual_services,
        destination_rules,
        connect_timeout: connect_timeout
            .and_then(|text| duration::read(&text, &path.key("connectTimeout"), problems)),
        keepalive: tcp_keepalive
            .map(|written| read_keepalive(written, &path.key("tcpKeepalive"), problems)),
        pool: connection_pool
            .map(|written| read_pool(written, &policy.key("connectionPool"), problems)),
        outliers: outlier_detection
            .map(|written| read_outliers(written, &policy.key("outlierDetection"), problems)),
        // Whether anything is ever ejected is known where it is used.
        locality: read_locality(locality_lb_setting, None, true, path, problems),
        upgrades: read_upgrade(h2_upgrade_policy.as_deref(), path, problems),
        retry: default_http_retry_policy
            .map(|written| read_retries(&written, &path.key("defaultHttpRetryPolicy"), problems)),
        unknown: outbound_traffic_policy.and_then(|written| {
            read_unknown(&written, &path.key("outboundTrafficPolicy"), problems)
        }),
    }
}

/// Where the ConfigMap is found depends on it, so it cannot be changed from within.
fn check_root(written: Option<&str>, context: &Context<'_>, path: &Path, problems: &mut Problems) {
    let root = &*context.options.root_namespace;
    if let Some(other) = written.filter(|written| !written.is_empty() && *written != root) {
        problems.warning(
            &path.key("rootNamespace"),
            format!("the root namespace is \"{root}\" here, not \"{other}\""),
            "start with --root-namespace",
        );
    }
}

fn read_upgrade(written: Option<&str>, path: &Path, problems: &mut Problems) -> bool {
    match written {
        None | Some("DO_NOT_UPGRADE") => false,
        Some("UPGRADE") => true,
        Some(other) => {
            problems.error(
                &path.key("h2UpgradePolicy"),
                format!("\"{other}\" is no upgrade policy of a mesh"),
                "write DO_NOT_UPGRADE or UPGRADE",
            );
            false
        }
    }
}

fn read_unknown(
    written: &WrittenPolicy,
    path: &Path,
    problems: &mut Problems,
) -> Option<OutboundTrafficPolicy> {
    let WrittenPolicy { mode, egress_proxy } = written;
    if egress_proxy.is_some() {
        problems.without_effect(&path.key("egressProxy"), "egressProxy");
    }
    let refusal = "is nothing to do with what nobody knows";
    read_mode(mode.as_deref()?, refusal, &path.key("mode"), problems)
}

#[cfg(test)]
mod tests;

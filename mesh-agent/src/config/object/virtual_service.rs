//! A VirtualService: rules for the requests to a host.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::crd::virtual_service::VirtualServiceSpec;
use crate::config::object::Context;
use crate::config::object::name::{self, ExportTo, GatewayName};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Labels, PathMatch, Retry};

mod block;
mod reach;
mod rule;
mod share;
mod stream;

/// A VirtualService.
#[derive(Debug)]
pub struct VirtualService {
    /// Fully qualified, lower case; never empty.
    pub hosts: Vec<Arc<str>>,
    /// Where it applies; never empty.
    pub gateways: Vec<GatewayName>,
    /// Whose clients it concerns.
    pub export: ExportTo,
    /// `http`, in written order.
    pub rules: Vec<Rule>,
    /// `tls`, in written order.
    pub tls: Vec<StreamRule>,
    /// `tcp`, in written order.
    pub tcp: Vec<StreamRule>,
}

/// One of `http[]`.
#[derive(Debug)]
pub struct Rule {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Of which one must match; never empty: a rule without `match` has one that always does.
    pub blocks: Vec<Block>,
    /// What is done.
    pub action: Action,
}

/// One of `http[].match[]`.
#[derive(Debug, Default)]
pub struct Block {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// The request's path.
    pub uri: Option<PathMatch>,
    /// The port that the request came in on.
    pub port: Option<u16>,
    /// The client pod's labels.
    pub client_labels: Labels,
    /// The client pod's namespace.
    pub client_namespace: Option<Arc<str>>,
    /// Instead of the two above: the gateways that the client is.
    pub gateways: Vec<GatewayName>,
}

/// What is done with a request.
#[derive(Debug)]
pub struct Action {
    /// Where it goes; never empty. Weights are above 0 where there are several.
    pub shares: Vec<Share>,
    /// `rewrite.uri`.
    pub rewrite_uri: Option<Arc<str>>,
    /// `rewrite.authority`.
    pub rewrite_authority: Option<Arc<str>>,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `retries`.
    pub retry: Retry,
}

/// One of `tcp[]` or `tls[]`.
#[derive(Debug)]
pub struct StreamRule {
    /// Of which one must match; never empty.
    pub blocks: Vec<StreamBlock>,
    /// Where it goes; never empty. Weights are above 0 where there are several.
    pub shares: Vec<Share>,
}

/// One of `tcp[].match[]` or `tls[].match[]`: all of it must hold.
#[derive(Debug, Default)]
pub struct StreamBlock {
    /// `sniHosts`, lower case; empty for `tcp`.
    pub server_names: Vec<Arc<str>>,
    /// `destinationSubnets`.
    pub subnets: Vec<IpNet>,
    /// The port that the connection came in on.
    pub port: Option<u16>,
    /// The client pod's labels.
    pub client_labels: Labels,
    /// The client pod's namespace.
    pub client_namespace: Option<Arc<str>>,
    /// The gateways that the client is.
    pub gateways: Vec<GatewayName>,
}

/// One of `route[]`.
#[derive(Debug)]
pub struct Share {
    /// Whose it is.
    pub target: Target,
    /// Its share.
    pub weight: u32,
}

/// `destination`.
#[derive(Clone, Debug)]
pub struct Target {
    /// Fully qualified.
    pub host: Arc<str>,
    /// Subset of the host.
    pub subset: Option<Arc<str>>,
    /// Port of the host, where written.
    pub port: Option<u16>,
    /// Where it was written.
    pub path: Path,
}

impl VirtualService {
    /// Reads `spec`.
    pub fn read(spec: VirtualServiceSpec, context: &Context<'_>, problems: &mut Problems) -> Self {
        let VirtualServiceSpec {
            hosts,
            gateways,
            http,
            tls,
            tcp,
            export_to,
        } = spec;
        let path = Path::of("spec");
        if http.is_empty() && tls.is_empty() && tcp.is_empty() {
            problems.error(
                &path,
                "a VirtualService needs http, tls or tcp",
                "add at least one rule",
            );
        }
        let gateways = read_gateways(&gateways, context, &path.key("gateways"), problems);
        let written = hosts;
        let hosts = read_hosts(&written, &gateways, context, &path.key("hosts"), problems);
        let rules: Vec<Rule> = http
            .into_iter()
            .enumerate()
            .filter_map(|(index, rule)| {
                rule::read(rule, context, &path.key("http").index(index), problems)
            })
            .collect();
        reach::check(&rules, &path.key("http"), problems);
        let names: Vec<&str> = hosts
            .iter()
            .map(|host| &**host)
            .chain(written.iter().map(String::as_str))
            .collect();
        let tls = tls
            .into_iter()
            .enumerate()
            .map(|(index, rule)| {
                stream::read_tls(
                    rule,
                    &names,
                    context,
                    &path.key("tls").index(index),
                    problems,
                )
            })
            .collect();
        let tcp = tcp
            .into_iter()
            .enumerate()
            .map(|(index, rule)| {
                stream::read_tcp(rule, context, &path.key("tcp").index(index), problems)
            })
            .collect();
        Self {
            hosts,
            gateways,
            export: ExportTo::read(&export_to, &path.key("exportTo"), problems),
            rules,
            tls,
            tcp,
        }
    }
}

fn read_gateways(
    written: &[String],
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<GatewayName> {
    if written.is_empty() {
        return vec![GatewayName::Mesh];
    }
    written
        .iter()
        .enumerate()
        .filter_map(|(index, name)| {
            GatewayName::read(name, context.namespace, &path.index(index), problems)
        })
        .collect()
}

fn read_hosts(
    written: &[String],
    gateways: &[GatewayName],
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Arc<str>> {
    if written.is_empty() {
        problems.error(
            path,
            "a VirtualService without hosts is a delegate, which is not supported yet",
            "add the hosts that it is for",
        );
    }
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for (index, host) in written.iter().enumerate() {
        let path = path.index(index);
        if !name::is_host(host) {
            problems.error(
                &path,
                format!("\"{host}\" is no host"),
                "write a name, \"*.name\", \"*\" or an IP address",
            );
            continue;
        }
        if host == "*" && gateways.contains(&GatewayName::Mesh) {
            problems.error(
                &path,
                "the host \"*\" cannot be used in the mesh",
                "name hosts, or name gateways without \"mesh\"",
            );
        }
        let host = name::qualify(host, context.namespace, &context.options.cluster_domain);
        if let Some(other) = hosts
            .iter()
            .find(|other| name::intersection(other, &host).is_some())
        {
            problems.error(
                &path,
                format!("\"{host}\" overlaps with \"{other}\""),
                "keep one of them",
            );
        }
        hosts.push(host);
    }
    hosts
}

//! Where a VirtualService applies: its hosts and gateways, and what depends on them.

use std::sync::Arc;

use crate::config::crd::virtual_service::{HttpRoute, VirtualServiceSpec};
use crate::config::object::Context;
use crate::config::object::name::{self, GatewayName};
use crate::config::object::virtual_service::block;
use crate::config::path::Path;
use crate::config::problem::Problems;

/// What must be there, and what may not stand beside what.
pub(super) fn check_sections(spec: &VirtualServiceSpec, path: &Path, problems: &mut Problems) {
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        problems.error(
            path,
            "a VirtualService needs http, tls or tcp",
            "add at least one rule",
        );
    }
    if !spec.hosts.is_empty() {
        return;
    }
    for (there, name) in [
        (!spec.gateways.is_empty(), "gateways"),
        (!spec.tls.is_empty(), "tls"),
        (!spec.tcp.is_empty(), "tcp"),
    ] {
        if there {
            problems.error(
                &path.key(name),
                format!("a VirtualService without hosts is a delegate, which has no {name}"),
                "remove it, or add the hosts that it is for",
            );
        }
    }
}

/// `.` is the own namespace, which may then not be named beside it.
pub(super) fn check_export(written: &[String], own: &str, path: &Path, problems: &mut Problems) {
    let position = |wanted: &str| written.iter().position(|name| name == wanted);
    if let (Some(dot), Some(name)) = (position("."), position(own)) {
        problems.error(
            &path.index(dot.max(name)),
            format!("\".\" and \"{own}\" are the same namespace"),
            "keep one of them",
        );
    }
}

/// Checks the conditions on claims of a token, and says where they are. Nobody checks tokens here, so that a claim is there
/// never holds, as at a gateway of Istio's without a RequestAuthentication. That one is not there would always hold, also
/// for those whom it is meant to keep out, so a VirtualService that asks for that is of no use.
pub(super) fn check_claims(
    rules: &[HttpRoute],
    gateways: &[GatewayName],
    path: &Path,
    problems: &mut Problems,
) -> Vec<Path> {
    let mut claims = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        for (position, block) in rule.r#match.iter().enumerate() {
            let path = path.index(index).key("match").index(position);
            for (fields, name) in [
                (&block.headers, "headers"),
                (&block.without_headers, "withoutHeaders"),
            ] {
                for key in fields.keys().filter(|key| block::is_claim(key)) {
                    let path = path.key(name).key(key);
                    if gateways.contains(&GatewayName::Mesh) {
                        problems.error(
                            &path,
                            "claims of a token are only known at a gateway",
                            "bind the VirtualService to gateways, without \"mesh\"",
                        );
                    } else if name == "withoutHeaders" {
                        problems.unsupported(&path, "matching by claims that are not there");
                    } else {
                        claims.push(path);
                    }
                }
            }
        }
    }
    claims
}

/// Reads `gateways`; nothing written is the mesh.
pub(super) fn read_gateways(
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

/// Reads `hosts`.
pub(super) fn read_hosts(
    written: &[String],
    gateways: &[GatewayName],
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Arc<str>> {
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

//! Rules for connections that are not HTTP: `tcp` and `tls`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::crd::virtual_service::{TcpMatch, TcpRoute, TlsMatch, TlsRoute};
use crate::config::object::name::{self, covers};
use crate::config::object::virtual_service::{StreamBlock, StreamRule, block, share};
use crate::config::object::{self, Context};
use crate::config::path::Path;
use crate::config::problem::Problems;

/// Reads one of `tcp[]`.
pub(super) fn read_tcp(
    rule: TcpRoute,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> StreamRule {
    let TcpRoute { r#match, route } = rule;
    let mut blocks: Vec<StreamBlock> = r#match
        .into_iter()
        .enumerate()
        .map(|(index, block)| {
            read_tcp_block(block, context, &path.key("match").index(index), problems)
        })
        .collect();
    if blocks.is_empty() {
        blocks.push(StreamBlock::default());
    }
    StreamRule {
        blocks,
        shares: share::read_stream(route, context, &path.key("route"), problems),
    }
}

/// Reads one of `tls[]`. `hosts` are those of the VirtualService, as written and fully qualified.
pub(super) fn read_tls(
    rule: TlsRoute,
    hosts: &[&str],
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> StreamRule {
    let TlsRoute { r#match, route } = rule;
    let match_path = path.key("match");
    if r#match.is_empty() {
        problems.error(
            &match_path,
            "a tls rule needs a match with sniHosts",
            "name the hosts that clients ask for",
        );
    }
    let blocks = r#match
        .into_iter()
        .enumerate()
        .map(|(index, block)| {
            read_tls_block(block, hosts, context, &match_path.index(index), problems)
        })
        .collect();
    StreamRule {
        blocks,
        shares: share::read_stream(route, context, &path.key("route"), problems),
    }
}

fn read_tcp_block(
    block: TcpMatch,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> StreamBlock {
    let TcpMatch {
        destination_subnets,
        port,
        source_subnet,
        source_labels,
        gateways,
        source_namespace,
    } = block;
    if !source_subnet.is_empty() {
        problems.warning(
            &path.key("sourceSubnet"),
            "Istio takes sourceSubnet and does nothing with it",
            "use sourceLabels or sourceNamespace",
        );
    }
    StreamBlock {
        server_names: Vec::new(),
        subnets: read_subnets(
            &destination_subnets,
            &path.key("destinationSubnets"),
            problems,
        ),
        port: block::read_port(port, path, problems),
        client_labels: object::labels(&source_labels),
        client_namespace: block::read_namespace(&source_namespace, path, problems),
        gateways: block::read_gateways(&gateways, context, path, problems),
    }
}

fn read_tls_block(
    block: TlsMatch,
    hosts: &[&str],
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> StreamBlock {
    let TlsMatch {
        sni_hosts,
        destination_subnets,
        port,
        source_labels,
        gateways,
        source_namespace,
    } = block;
    StreamBlock {
        server_names: read_server_names(&sni_hosts, hosts, &path.key("sniHosts"), problems),
        subnets: read_subnets(
            &destination_subnets,
            &path.key("destinationSubnets"),
            problems,
        ),
        port: block::read_port(port, path, problems),
        client_labels: object::labels(&source_labels),
        client_namespace: block::read_namespace(&source_namespace, path, problems),
        gateways: block::read_gateways(&gateways, context, path, problems),
    }
}

fn read_server_names(
    written: &[String],
    hosts: &[&str],
    path: &Path,
    problems: &mut Problems,
) -> Vec<Arc<str>> {
    if written.is_empty() {
        problems.error(
            path,
            "a tls match needs sniHosts",
            "name the hosts that clients ask for",
        );
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for (index, written) in written.iter().enumerate() {
        let path = path.index(index);
        let name = written.to_ascii_lowercase();
        if name.parse::<IpAddr>().is_ok() {
            problems.warning(
                &path,
                format!("clients do not ask for an address such as \"{written}\""),
                "write the name that they ask for",
            );
        } else if !name::is_host(&name) {
            problems.error(
                &path,
                format!("\"{written}\" is no host"),
                "write a name or \"*.name\"",
            );
        } else if !hosts.iter().any(|host| covers(host, &name)) {
            problems.error(
                &path,
                format!("\"{written}\" is not among the hosts of this VirtualService"),
                "add it to hosts, or one that covers it",
            );
        }
        names.push(name.into());
    }
    names
}

fn read_subnets(written: &[String], path: &Path, problems: &mut Problems) -> Vec<IpNet> {
    let mut subnets = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let subnet = match text.contains('/') {
            true => text.parse().ok(),
            false => text.parse::<IpAddr>().ok().map(IpNet::from),
        };
        match subnet {
            Some(subnet) => subnets.push(subnet.trunc()),
            None => problems.error(
                &path.index(index),
                format!("\"{text}\" is no range of addresses"),
                "write for example \"10.1.0.0/16\" or \"fd00::/8\"",
            ),
        }
    }
    subnets
}

//! A match block of a rule: what a request must be like.

use std::sync::Arc;

use crate::config::crd::virtual_service::HttpMatch;
use crate::config::crd::{Port, StringMatch};
use crate::config::object::name::{self, GatewayName};
use crate::config::object::virtual_service::Block;
use crate::config::object::{self, Context, regex};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::PathMatch;

/// Reads one of `http[].match[]`.
pub(super) fn read(
    block: HttpMatch,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Block {
    let HttpMatch {
        name,
        uri,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        query_params,
        port,
        source_labels,
        source_namespace,
        gateways,
        ignore_uri_case,
        stat_prefix,
    } = block;
    for (there, name) in [
        (scheme.is_some(), "scheme"),
        (method.is_some(), "method"),
        (authority.is_some(), "authority"),
        (!headers.is_empty(), "headers"),
        (!without_headers.is_empty(), "withoutHeaders"),
        (!query_params.is_empty(), "queryParams"),
    ] {
        if there {
            problems.unsupported(&path.key(name), &format!("matching by {name}"));
        }
    }
    if !stat_prefix.is_empty() {
        problems.without_effect(&path.key("statPrefix"), "statPrefix");
    }
    Block {
        name: name.into(),
        uri: uri.and_then(|uri| read_uri(uri, ignore_uri_case, &path.key("uri"), problems)),
        port: read_port(port, path, problems),
        client_labels: object::labels(&source_labels),
        client_namespace: read_namespace(&source_namespace, path, problems),
        gateways: read_gateways(&gateways, context, path, problems),
    }
}

/// Reads the `port` of the block at `path`. As with proto, 0 is no port at all.
pub(super) fn read_port(port: Option<Port>, path: &Path, problems: &mut Problems) -> Option<u16> {
    let port = port.filter(|port| port.0 != 0)?;
    object::port_number(Some(port), &path.key("port"), problems)
}

/// Reads the `sourceNamespace` of the block at `path`.
pub(super) fn read_namespace(
    written: &str,
    path: &Path,
    problems: &mut Problems,
) -> Option<Arc<str>> {
    if written.is_empty() {
        return None;
    }
    if !name::is_label(written) {
        problems.error(
            &path.key("sourceNamespace"),
            format!("\"{written}\" is no namespace"),
            "write the name of one",
        );
    }
    Some(written.into())
}

/// Reads the `gateways` of the block at `path`.
pub(super) fn read_gateways(
    written: &[String],
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<GatewayName> {
    let path = path.key("gateways");
    let names = written.iter().enumerate();
    names
        .filter_map(|(index, name)| {
            GatewayName::read(name, context.namespace, &path.index(index), problems)
        })
        .collect()
}

fn read_uri(
    uri: StringMatch,
    ignore_case: bool,
    path: &Path,
    problems: &mut Problems,
) -> Option<PathMatch> {
    match uri {
        StringMatch {
            exact: Some(text),
            prefix: None,
            regex: None,
        } => Some(if ignore_case {
            PathMatch::ExactIgnoreCase(text.into())
        } else {
            PathMatch::Exact(text.into())
        }),
        StringMatch {
            exact: None,
            prefix: Some(text),
            regex: None,
        } => Some(if ignore_case {
            PathMatch::PrefixIgnoreCase(text.into())
        } else {
            PathMatch::Prefix(text.into())
        }),
        StringMatch {
            exact: None,
            prefix: None,
            regex: Some(text),
        } => regex::read(&text, &path.key("regex"), problems).map(PathMatch::Regex),
        StringMatch {
            exact: None,
            prefix: None,
            regex: None,
        } => None,
        StringMatch { .. } => {
            problems.error(
                path,
                "exact, prefix and regex exclude each other",
                "keep one of them",
            );
            None
        }
    }
}

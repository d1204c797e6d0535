//! A match block of a rule: what a request must be like.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::crd::virtual_service::{HttpMatch, Matches};
use crate::config::crd::{Port, StringMatch};
use crate::config::object::name::{self, GatewayName};
use crate::config::object::virtual_service::Block;
use crate::config::object::{self, Context, regex};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{HeaderMatch, HeaderSubject, PathMatch, TextMatch};

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
    if !stat_prefix.is_empty() {
        problems.without_effect(&path.key("statPrefix"), "statPrefix");
    }
    let mut pseudo = |written: Option<StringMatch>, name: &str| {
        // It is always there, so to be there is no condition.
        let text = read_text(&written?, &path.key(name), problems)?;
        (text != TextMatch::Present).then_some(text)
    };
    Block {
        name: name.into(),
        scheme: pseudo(scheme, "scheme"),
        method: pseudo(method, "method"),
        authority: pseudo(authority, "authority"),
        uri: uri.and_then(|uri| read_uri(uri, ignore_uri_case, &path.key("uri"), problems)),
        ignore_uri_case,
        headers: read_headers(headers, false, &path.key("headers"), problems),
        without_headers: read_headers(without_headers, true, &path.key("withoutHeaders"), problems),
        query: read_query(query_params, &path.key("queryParams"), problems),
        port: read_port(port, path, problems),
        client_labels: object::labels(&source_labels),
        client_namespace: read_namespace(&source_namespace, path, problems),
        gateways: read_gateways(&gateways, context, path, problems),
    }
}

/// Whether a name is no header's, but a claim's: `@request.auth.claims.group` or `@request.auth.claims[group]`.
pub(super) fn is_claim(name: &str) -> bool {
    name.strip_prefix("@request.auth.claims")
        .is_some_and(|rest| rest.starts_with(['.', '[']))
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

/// Reads a condition on a text; `None` where it was wrong, which has been said. An empty one is presence, and so is the
/// pattern `*`, which is no regex but a sign of Istio's.
pub(super) fn read_text(
    written: &StringMatch,
    path: &Path,
    problems: &mut Problems,
) -> Option<TextMatch> {
    match written {
        StringMatch {
            exact: None,
            prefix: None,
            regex: None,
        } => Some(TextMatch::Present),
        StringMatch {
            exact: Some(text),
            prefix: None,
            regex: None,
        } => Some(TextMatch::Exact(text.as_str().into())),
        StringMatch {
            exact: None,
            prefix: Some(text),
            regex: None,
        } => {
            if text.is_empty() {
                problems.error(
                    &path.key("prefix"),
                    "a prefix must not be empty",
                    "write {} to ask only whether it is there",
                );
            }
            Some(TextMatch::Prefix(text.as_str().into()))
        }
        StringMatch {
            exact: None,
            prefix: None,
            regex: Some(text),
        } if text == "*" => Some(TextMatch::Present),
        StringMatch {
            exact: None,
            prefix: None,
            regex: Some(text),
        } => regex::read(text, &path.key("regex"), problems).map(TextMatch::Regex),
        StringMatch { .. } => {
            several(path, problems);
            None
        }
    }
}

fn several(path: &Path, problems: &mut Problems) {
    problems.error(
        path,
        "exact, prefix and regex exclude each other",
        "keep one of them",
    );
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
            several(path, problems);
            None
        }
    }
}

fn read_headers(
    written: Matches,
    inverted: bool,
    path: &Path,
    problems: &mut Problems,
) -> BTreeMap<Arc<str>, HeaderMatch> {
    let mut headers = BTreeMap::new();
    // That a claim is missing is refused elsewhere, with the reason.
    let written = written.into_iter();
    for (name, condition) in written.filter(|(name, _)| !inverted || !is_claim(name)) {
        let path = path.key(&name);
        let subject = read_subject(&name, &path, problems);
        let value = match condition {
            Some(condition) => read_text(&condition, &path, problems),
            None if inverted => Some(TextMatch::Present),
            None => {
                no_condition(&path, problems);
                None
            }
        };
        if let (Some(subject), Some(value)) = (subject, value) {
            let header = HeaderMatch {
                subject,
                value,
                inverted,
            };
            headers.insert(name.into(), header);
        }
    }
    headers
}

fn no_condition(path: &Path, problems: &mut Problems) {
    problems.error(
        path,
        "a condition is missing",
        "write {} to ask only whether it is there",
    );
}

fn read_subject(name: &str, path: &Path, problems: &mut Problems) -> Option<HeaderSubject> {
    if is_claim(name) {
        return Some(HeaderSubject::Claim(name.into()));
    }
    let subject = HeaderSubject::named(name);
    if subject.is_none() {
        problems.error(
            path,
            format!("\"{name}\" is no header of a request"),
            "use letters, digits and hyphens, or one of :method, :path, :authority, :scheme",
        );
    }
    subject
}

fn read_query(
    written: Matches,
    path: &Path,
    problems: &mut Problems,
) -> BTreeMap<Arc<str>, TextMatch> {
    let mut query = BTreeMap::new();
    for (name, condition) in written {
        let path = path.key(&name);
        match condition {
            Some(condition) => {
                if let Some(value) = read_text(&condition, &path, problems) {
                    query.insert(name.into(), value);
                }
            }
            None => no_condition(&path, problems),
        }
    }
    query
}

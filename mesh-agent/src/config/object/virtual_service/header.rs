//! Changes of headers: `headers` of a rule and of a destination.

use std::collections::BTreeMap;

use http::HeaderName;

use crate::config::crd::virtual_service::{HeaderOperations, Headers as Written};
use crate::config::object::template;
use crate::config::object::virtual_service::Headers;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{HeaderEdit, HeaderEdits, Template};

/// Reads `headers`.
pub(super) fn read(written: Written, path: &Path, problems: &mut Problems) -> Headers {
    let Written { request, response } = written;
    let mut read = |operations: Option<HeaderOperations>, name: &str, is_request: bool| {
        let operations = operations.unwrap_or_default();
        read_operations(&operations, is_request, &path.key(name), problems)
    };
    Headers {
        request: read(request, "request", true),
        response: read(response, "response", false),
    }
}

/// Whether a header is the Host, in one of its two names.
pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn read_operations(
    written: &HeaderOperations,
    is_request: bool,
    path: &Path,
    problems: &mut Problems,
) -> HeaderEdits {
    let HeaderOperations { set, add, remove } = written;
    let mut edits = HeaderEdits::default();
    let mut authorities = Vec::new();
    for (fields, name, append) in [(set, "set", false), (add, "add", true)] {
        let path = path.key(name);
        let (authority, others) = split_authority(fields, is_request);
        authorities.extend(authority.map(|(key, value)| (path.key(key), value)));
        for (key, value) in others {
            let path = path.key(key);
            let name = read_name(key, is_request, &path, problems);
            let value = template::read(value, &path, problems);
            if let (Some(name), Some(value)) = (name, value) {
                edits
                    .edits
                    .extend(edit(name, value, append, &path, problems));
            }
        }
    }
    // What is set is stronger than what is added, and a percent sign stands for nothing here.
    if let Some((path, value)) = authorities.first() {
        edits.authority = template::read_literal(value, path, problems);
    }
    for (index, name) in remove.iter().enumerate() {
        let name = read_name(name, false, &path.key("remove").index(index), problems);
        edits.remove.extend(name);
    }
    edits
}

type Field<'f> = (&'f String, &'f String);

/// The Host apart from the others; the last one where it is there in both its names.
fn split_authority(
    fields: &BTreeMap<String, String>,
    is_request: bool,
) -> (Option<Field<'_>>, Vec<Field<'_>>) {
    let is_host = |(name, _): &Field<'_>| is_request && is_authority(name);
    let (hosts, others): (Vec<_>, Vec<_>) = fields.iter().partition(is_host);
    (hosts.last().copied(), others)
}

/// `None`, with a word, for a value that is empty: Envoy sends none.
fn edit(
    name: HeaderName,
    value: Template,
    append: bool,
    path: &Path,
    problems: &mut Problems,
) -> Option<HeaderEdit> {
    if matches!(&value, Template::Fixed(value) if value.is_empty()) {
        problems.warning(
            path,
            "an empty value changes nothing",
            "give it a value, or remove the header",
        );
        return None;
    }
    Some(HeaderEdit {
        name,
        value,
        append,
    })
}

fn read_name(
    written: &str,
    may_be_host: bool,
    path: &Path,
    problems: &mut Problems,
) -> Option<HeaderName> {
    if written.starts_with(':') || written.eq_ignore_ascii_case("host") {
        let remedy = match may_be_host {
            true => "only host and :authority can be changed",
            false => "the Host can only be set, in a request; :path by rewrite.uri",
        };
        let message = format!("\"{written}\" cannot be changed here");
        problems.error(path, message, remedy);
        return None;
    }
    match HeaderName::from_bytes(written.as_bytes()) {
        Ok(name) => Some(name),
        Err(_) => {
            problems.error(
                path,
                format!("\"{written}\" is no name of a header"),
                "use letters, digits and hyphens",
            );
            None
        }
    }
}

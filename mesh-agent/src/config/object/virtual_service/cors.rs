//! Which pages of other origins may call: `corsPolicy`.

use std::sync::Arc;

use http::HeaderName;

use crate::config::crd::virtual_service::CorsPolicy;
use crate::config::object::duration;
use crate::config::object::virtual_service::block;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Cors, TextMatch};

/// Reads `corsPolicy`.
pub(super) fn read(written: CorsPolicy, path: &Path, problems: &mut Problems) -> Cors {
    let CorsPolicy {
        allow_origin,
        allow_origins,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        unmatched_preflights,
    } = written;
    let origins_path = path.key("allowOrigins");
    let mut origins: Vec<TextMatch> = Vec::new();
    for (index, origin) in allow_origins.into_iter().enumerate() {
        let path = origins_path.index(index);
        match block::read_text(&origin, &path, problems) {
            Some(TextMatch::Present) => empty_origin(&path, problems),
            Some(TextMatch::Exact(text)) if text.is_empty() => empty_origin(&path, problems),
            origin => origins.extend(origin),
        }
    }
    if !allow_origin.is_empty() {
        problems.warning(
            &path.key("allowOrigin"),
            "allowOrigin is deprecated",
            "use allowOrigins",
        );
        if origins.is_empty() {
            origins.extend(
                allow_origin
                    .into_iter()
                    .map(|text| TextMatch::Exact(text.into())),
            );
        }
    }
    check_methods(&allow_methods, &path.key("allowMethods"), problems);
    check_names(&allow_headers, &path.key("allowHeaders"), problems);
    check_names(&expose_headers, &path.key("exposeHeaders"), problems);
    Cors {
        origins,
        methods: joined(&allow_methods),
        headers: joined(&allow_headers),
        expose: joined(&expose_headers),
        max_age: max_age.and_then(|text| read_age(&text, &path.key("maxAge"), problems)),
        credentials: allow_credentials.unwrap_or(false),
        forward_unmatched: match unmatched_preflights.as_deref() {
            None | Some("UNSPECIFIED" | "FORWARD") => true,
            Some("IGNORE") => false,
            Some(other) => {
                problems.error(
                    &path.key("unmatchedPreflights"),
                    format!("\"{other}\" is nothing to do with a preflight"),
                    "write FORWARD or IGNORE",
                );
                true
            }
        },
    }
}

fn empty_origin(path: &Path, problems: &mut Problems) {
    problems.error(
        path,
        "an origin that is allowed cannot be empty",
        "write exact, prefix or regex with a text",
    );
}

fn check_methods(written: &[String], path: &Path, problems: &mut Problems) {
    for (index, method) in written.iter().enumerate() {
        let known = matches!(
            method.as_str(),
            "GET"
                | "HEAD"
                | "POST"
                | "PUT"
                | "PATCH"
                | "DELETE"
                | "CONNECT"
                | "OPTIONS"
                | "TRACE"
                | "*"
        );
        if !known {
            problems.error(
                &path.index(index),
                format!("\"{method}\" is no method that a page can ask for"),
                "write it in capitals, for example GET, or \"*\"",
            );
        }
    }
}

fn check_names(written: &[String], path: &Path, problems: &mut Problems) {
    for (index, name) in written.iter().enumerate() {
        if name != "*" && HeaderName::from_bytes(name.as_bytes()).is_err() {
            problems.error(
                &path.index(index),
                format!("\"{name}\" is no name of a header"),
                "use letters, digits and hyphens, or \"*\"",
            );
        }
    }
}

fn read_age(text: &str, path: &Path, problems: &mut Problems) -> Option<u64> {
    let age = duration::read(text, path, problems)?;
    if age.subsec_nanos() != 0 {
        problems.error(path, "maxAge is counted in whole seconds", "round it");
    }
    Some(age.as_secs())
}

/// As it is sent: without spaces.
fn joined(list: &[String]) -> Option<Arc<str>> {
    (!list.is_empty()).then(|| list.join(",").into())
}

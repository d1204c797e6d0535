//! Conditions that fail, in words.

use std::fmt::Write;

use crate::explain::Failed;
use crate::model::{HeaderMatch, HeaderSubject, PathMatch, QueryMatch, RouteMatch, TextMatch};
use crate::route::{Mismatch, Request};

/// What was asked for and what there was.
pub(super) fn told(mismatch: &Mismatch<'_>, request: Option<&Request<'_>>) -> Failed {
    let none = || "none".to_owned();
    let failed = |condition: &str, expected: String, found: String| Failed {
        condition: condition.to_owned(),
        expected,
        found,
    };
    match mismatch {
        Mismatch::NotExported { to, found } => {
            failed("exportTo", to.join(" or "), (*found).to_owned())
        }
        Mismatch::SourceNamespace { expected, found } => failed(
            "sourceNamespace",
            (*expected).to_owned(),
            (*found).to_owned(),
        ),
        Mismatch::SourceLabel {
            key,
            expected,
            found,
        } => failed(
            &format!("sourceLabels {key}"),
            quoted(expected),
            found.map_or_else(none, quoted),
        ),
        Mismatch::Path { expected, found } => failed("uri", path(expected), (*found).to_owned()),
        Mismatch::Scheme { expected, found } => failed("scheme", text(expected), quoted(found)),
        Mismatch::Method { expected, found } => failed("method", text(expected), quoted(found)),
        Mismatch::Authority { expected, found } => {
            failed("authority", text(expected), quoted(found))
        }
        Mismatch::Header { expected } => header(expected, request),
        Mismatch::Query { expected, found } => failed(
            &format!("queryParams {}", expected.name),
            text(&expected.value),
            found.map_or_else(none, quoted),
        ),
        Mismatch::Subnet { expected, found } => {
            let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            failed(
                "destinationSubnets",
                expected.join(" or "),
                found.to_string(),
            )
        }
        Mismatch::WiderSubnet { found } => failed(
            "destinationSubnets",
            "an address that no narrower subnet has".to_owned(),
            found.to_string(),
        ),
        Mismatch::ServerName { expected, found } => {
            let found = found.map_or_else(none, ToOwned::to_owned);
            failed("sniHosts", expected.join(" or "), found)
        }
    }
}

/// All conditions of a rule on a request, in words.
pub(super) fn all(conditions: &RouteMatch) -> Vec<String> {
    let RouteMatch {
        uri,
        scheme,
        method,
        authority,
        headers,
        query,
        client: _,
    } = conditions;
    let mut all = Vec::new();
    all.extend(uri.as_ref().map(|uri| format!("uri {}", path(uri))));
    let texts = [
        ("method", method),
        ("scheme", scheme),
        ("authority", authority),
    ];
    for (name, condition) in texts {
        all.extend(
            condition
                .as_ref()
                .map(|condition| format!("{name} {}", text(condition))),
        );
    }
    for condition in headers {
        let Failed {
            condition,
            expected,
            ..
        } = header(condition, None);
        all.push(format!("{condition} {expected}"));
    }
    for QueryMatch { name, value } in query {
        all.push(format!("queryParams {name} {}", text(value)));
    }
    all
}

fn header(condition: &HeaderMatch, request: Option<&Request<'_>>) -> Failed {
    let HeaderMatch {
        subject,
        value,
        inverted,
    } = condition;
    let name = subject.name();
    let found: Vec<String> = match (request, subject) {
        (None, _) | (Some(_), HeaderSubject::Claim(_)) => Vec::new(),
        (Some(request), HeaderSubject::Method) => vec![quoted(request.method)],
        (Some(request), HeaderSubject::Authority) => vec![quoted(request.authority)],
        (Some(request), HeaderSubject::Scheme) => vec![quoted(request.scheme)],
        (Some(request), HeaderSubject::Path) => vec![quoted(request.path)],
        (Some(request), HeaderSubject::Header(name)) if *name == http::header::HOST => {
            vec![quoted(request.authority)]
        }
        (Some(request), HeaderSubject::Header(name)) => {
            let values = request.headers.get_all(name).iter();
            values
                .map(|value| quoted(&String::from_utf8_lossy(value.as_bytes())))
                .collect()
        }
    };
    let found = match found.as_slice() {
        [] => "none".to_owned(),
        values => values.join(" and "),
    };
    let (field, expected) = match (inverted, value) {
        (false, value) => ("headers", text(value)),
        (true, TextMatch::Present) => ("withoutHeaders", "none".to_owned()),
        (true, value) => ("withoutHeaders", format!("anything but {}", text(value))),
    };
    Failed {
        condition: format!("{field} {name}"),
        expected,
        found,
    }
}

/// A condition on a path, in words.
pub(super) fn path(condition: &PathMatch) -> String {
    match condition {
        PathMatch::Exact(text) => text.to_string(),
        PathMatch::Prefix(text) => format!("{text}…"),
        PathMatch::ExactIgnoreCase(text) => format!("{text} in any case"),
        PathMatch::PrefixIgnoreCase(text) => format!("{text}… in any case"),
        PathMatch::Regex(regex) => pattern(regex),
    }
}

/// A condition on a text, in words.
pub(super) fn text(condition: &TextMatch) -> String {
    match condition {
        TextMatch::Exact(text) => quoted(text),
        TextMatch::Prefix(text) => format!("\"{text}…\""),
        TextMatch::Regex(regex) => pattern(regex),
        TextMatch::Present => "any value".to_owned(),
    }
}

/// A regex as it was written: without the anchors that it was compiled with.
fn pattern(regex: &regex::Regex) -> String {
    let written = regex.as_str();
    let inner = written
        .strip_prefix(r"\A(?:")
        .and_then(|rest| rest.strip_suffix(r")\z"));
    format!("regex {}", inner.unwrap_or(written))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    // Writing to a string cannot fail.
    let _ = write!(quoted, "\"{text}\"");
    quoted
}

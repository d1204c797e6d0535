//! Paths: whether one matches, and what it is rewritten to. Pure text; nothing here knows of segments or slashes.

use crate::model::{PathMatch, PathRewrite};

/// Whether a path, without query, passes. No condition is the prefix `/`, which every path has.
pub(super) fn matches(condition: Option<&PathMatch>, path: &str) -> bool {
    match condition {
        None => true,
        Some(PathMatch::Exact(text)) => path == &**text,
        Some(PathMatch::Prefix(text)) => path.starts_with(&**text),
        Some(PathMatch::ExactIgnoreCase(text)) => path.eq_ignore_ascii_case(text),
        Some(PathMatch::PrefixIgnoreCase(text)) => starts_with_ignore_case(path, text),
        Some(PathMatch::Regex(regex)) => regex.is_match(path),
    }
}

/// The path to send in place of `path`, which passed `condition`: the text that matched is replaced. No condition is
/// the prefix `/` here too, so `/bar` rewritten to `/foo` is `/foobar`.
pub(super) fn rewrite(condition: Option<&PathMatch>, path: &str, rewrite: &PathRewrite) -> String {
    let rewrite = match rewrite {
        PathRewrite::Matched(text) => text,
        PathRewrite::Regex(regex, with) => return regex.replace_all(path, &**with).into_owned(),
    };
    let matched = match condition {
        None => usize::from(path.starts_with('/')),
        Some(PathMatch::Prefix(text) | PathMatch::PrefixIgnoreCase(text)) => text.len(),
        Some(PathMatch::Exact(_) | PathMatch::ExactIgnoreCase(_) | PathMatch::Regex(_)) => {
            path.len()
        }
    };
    let rest = path.get(matched..).unwrap_or_default();
    let mut rewritten = String::with_capacity(rewrite.len() + rest.len());
    rewritten.push_str(rewrite);
    rewritten.push_str(rest);
    rewritten
}

fn starts_with_ignore_case(path: &str, prefix: &str) -> bool {
    path.as_bytes()
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

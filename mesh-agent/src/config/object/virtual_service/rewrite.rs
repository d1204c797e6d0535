//! What a rule makes of the path and the Host: `rewrite`.

use crate::config::crd::virtual_service::{HttpRoute, RegexRewrite, Rewrite as Written};
use crate::config::object::regex;
use crate::config::object::virtual_service::{Rewrite, header};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::PathRewrite;

/// Reads `rewrite`.
pub(super) fn read(written: Written, path: &Path, problems: &mut Problems) -> Rewrite {
    let Written {
        uri,
        authority,
        uri_regex_rewrite,
    } = written;
    let new_path = match (uri.as_str(), uri_regex_rewrite) {
        ("", None) => {
            if authority.is_empty() {
                problems.error(
                    path,
                    "this rewrite rewrites nothing",
                    "add uri, uriRegexRewrite or authority",
                );
            }
            None
        }
        ("", Some(written)) => read_regex(&written, &path.key("uriRegexRewrite"), problems),
        (_, None) => Some(PathRewrite::Matched(uri.into())),
        (_, Some(_)) => {
            problems.error(
                path,
                "uri and uriRegexRewrite exclude each other",
                "keep one of them",
            );
            None
        }
    };
    Rewrite {
        path: new_path,
        authority: (!authority.is_empty()).then(|| authority.into()),
    }
}

fn read_regex(written: &RegexRewrite, path: &Path, problems: &mut Problems) -> Option<PathRewrite> {
    let RegexRewrite { r#match, rewrite } = written;
    if r#match.is_empty() || rewrite.is_empty() {
        problems.error(
            path,
            "uriRegexRewrite needs match and rewrite",
            "add what is missing",
        );
        return None;
    }
    let regex = regex::read_part(r#match, &path.key("match"), problems)?;
    let replacement = regex::read_replacement(rewrite, &regex, &path.key("rewrite"), problems)?;
    Some(PathRewrite::Regex(regex, replacement))
}

/// Where a rule says twice what the Host becomes.
pub(super) fn check_authority(rule: &HttpRoute, path: &Path, problems: &mut Problems) {
    let rewrite = rule.rewrite.as_ref();
    let rewritten = rewrite.is_some_and(|rewrite| !rewrite.authority.is_empty());
    let headers = rule.headers.as_ref();
    let Some(request) = headers.and_then(|headers| headers.request.as_ref()) else {
        return;
    };
    let mut set = false;
    for (fields, name) in [(&request.set, "set"), (&request.add, "add")] {
        let keys = fields.keys().filter(|key| header::is_authority(key));
        for key in keys {
            let path = path.key("headers").key("request").key(name).key(key);
            if rewritten {
                problems.error(
                    &path,
                    "the Host is rewritten twice",
                    "keep rewrite.authority or this",
                );
            } else if set {
                problems.warning(
                    &path,
                    "the Host is set already, and that is stronger",
                    "keep one of them",
                );
            }
            set = true;
        }
    }
}

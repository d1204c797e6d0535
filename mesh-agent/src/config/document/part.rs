//! The typed parts of a document, and the fields and values in it that do not fit.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::config::UnknownFields;
use crate::config::path::Path;
use crate::config::problem::{Problems, Severity};
use crate::config::yaml::read::{Misfit, UnknownField, camel_case, nearest, read};
use crate::config::yaml::{Node, Value};

/// The fields that every object of Istio may have.
const TOP: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// How many values of the wrong type are told of in one part of an object.
const MAX_MISFITS: usize = 20;

/// Reads the field `name` of the document. Unknown fields in it are judged by `unknown`, or nobody's business.
pub(super) fn part<T: DeserializeOwned + Default>(
    node: &Node,
    name: &str,
    problems: &mut Problems,
    unknown: Option<UnknownFields>,
) -> Option<T> {
    let Some(part) = node.get(name).filter(|part| part.value != Value::Null) else {
        return Some(T::default());
    };
    read_all(part, &Path::of(name), problems, unknown)
}

pub(super) fn whole<T: DeserializeOwned>(node: &Node, problems: &mut Problems) -> Option<T> {
    read_all(node, &Path::root(), problems, None)
}

/// Reads what stands at `root`. Where a value does not fit, reading begins anew without it, so that the author learns of
/// all such values at once.
fn read_all<T: DeserializeOwned>(
    node: &Node,
    root: &Path,
    problems: &mut Problems,
    unknown: Option<UnknownFields>,
) -> Option<T> {
    let mut rest = Cow::Borrowed(node);
    for _ in 0..MAX_MISFITS {
        match read(&rest) {
            Ok((value, fields)) => {
                if let Some(policy) = unknown {
                    for UnknownField { path, meant, .. } in fields {
                        unknown_field(&path.below(root), meant, policy, problems);
                    }
                }
                return matches!(rest, Cow::Borrowed(_)).then_some(value);
            }
            Err(Misfit { path, message, .. }) => {
                problems.error(&path.below(root), &message, remedy(&message));
                if !rest.to_mut().forget(&path) {
                    return None;
                }
            }
        }
    }
    None
}

/// What to do about a value of the wrong type. YAML takes many a word for something else than text.
fn remedy(message: &str) -> &'static str {
    let scalar = message.starts_with("is the boolean") || message.starts_with("is the number");
    if scalar && message.ends_with("expected a string") {
        "put it in quotes"
    } else {
        ""
    }
}

/// The fields beside `spec`: a `spec` with a typing error in its name would else be an empty one.
pub(super) fn check_top(node: &Node, policy: UnknownFields, problems: &mut Problems) {
    let Value::Mapping(entries) = &node.value else {
        return;
    };
    for (key, _) in entries {
        let name = camel_case(&key.name);
        if !TOP.contains(&&*name) {
            let path = Path::root().key(&key.name);
            unknown_field(&path, nearest(&name, TOP), policy, problems);
        }
    }
}

fn unknown_field(path: &Path, meant: Option<&str>, policy: UnknownFields, problems: &mut Problems) {
    let remedy = match meant {
        Some(meant) => format!("did you mean {meant}?"),
        None => "remove it".to_owned(),
    };
    let severity = match policy {
        UnknownFields::Reject => Severity::Error,
        UnknownFields::Warn => Severity::Warning,
    };
    problems.unknown_field(path, remedy, severity);
}

//! Which rules of a VirtualService can never be reached, because an earlier one takes all that they would match.

use crate::config::object::virtual_service::{Block, Rule};
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};
use crate::model::PathMatch;

/// Warns about rules and match blocks that no request gets to.
pub(super) fn check(rules: &[Rule], path: &Path, problems: &mut Problems) {
    let mut earlier: Vec<(usize, &Block)> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        for (position, block) in rule.blocks.iter().enumerate() {
            let path = match rule.blocks.len() {
                1 => path.index(index),
                _ => path.index(index).key("match").index(position),
            };
            match earlier.iter().find(|(_, other)| takes_all_of(other, block)) {
                Some((taker, _)) => {
                    let message = format!(
                        "no request gets here: http[{taker}] takes all that this would match"
                    );
                    let remedy = "move it before that rule, or remove it";
                    match rule.blocks.len() {
                        1 => problems.code(Code::Ist0130).warning(&path, message, remedy),
                        _ => problems.code(Code::Ist0131).info(&path, message, remedy),
                    }
                }
                None => earlier.push((index, block)),
            }
        }
    }
}

fn takes_all_of(wide: &Block, narrow: &Block) -> bool {
    let uri = match (&wide.uri, &narrow.uri) {
        (None, _) => true,
        (Some(wide), _) if wide.takes_any_path() => true,
        (
            Some(PathMatch::Prefix(wide)),
            Some(PathMatch::Prefix(narrow) | PathMatch::Exact(narrow)),
        ) => narrow.starts_with(&**wide),
        (Some(wide), Some(narrow)) => wide == narrow,
        (Some(_), None) => false,
    };
    let port = wide.port.is_none() || wide.port == narrow.port;
    // With gateways, the client's labels and namespace are not looked at.
    let client = if wide.gateways.is_empty() {
        let labels = wide
            .client_labels
            .iter()
            .all(|(key, value)| narrow.client_labels.get(key) == Some(value));
        let anyone = wide.client_labels.is_empty() && wide.client_namespace.is_none();
        anyone
            || (narrow.gateways.is_empty() && labels && {
                wide.client_namespace.is_none() || wide.client_namespace == narrow.client_namespace
            })
    } else {
        !narrow.gateways.is_empty()
            && narrow
                .gateways
                .iter()
                .all(|name| wide.gateways.contains(name))
    };
    uri && port && client
}

//! Which rules of a VirtualService can never be reached, because an earlier one takes all that they would match.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::object::name::GatewayName;
use crate::config::object::virtual_service::{Block, Rule, StreamBlock, StreamRule};
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};
use crate::model::{HeaderMatch, Labels, PathMatch, TextMatch};

/// Warns about rules and match blocks that no request gets to.
pub(super) fn check(rules: &[Rule], path: &Path, problems: &mut Problems) {
    let everything = [Block::default()];
    let rules = rules.iter().map(|rule| match rule.blocks.as_slice() {
        [] => &everything,
        blocks => blocks,
    });
    let section = Section {
        name: "http",
        what: "request",
        path,
    };
    section.check(rules, takes_all_of, problems);
}

/// Warns about rules and match blocks of `tcp` or `tls` that no connection gets to.
pub(super) fn check_streams(
    rules: &[StreamRule],
    name: &'static str,
    path: &Path,
    problems: &mut Problems,
) {
    let section = Section {
        name,
        what: "connection",
        path,
    };
    let rules = rules.iter().map(|rule| rule.blocks.as_slice());
    section.check(rules, stream_takes_all_of, problems);
}

/// So many blocks each one is compared with: reading a list of thousands must not take their number squared.
const COMPARED: usize = 1_000;

/// A list of rules.
struct Section<'a> {
    name: &'static str,
    what: &'static str,
    path: &'a Path,
}

impl Section<'_> {
    fn check<'b, B: 'b>(
        &self,
        rules: impl Iterator<Item = &'b [B]>,
        takes_all_of: fn(&B, &B) -> bool,
        problems: &mut Problems,
    ) {
        let mut earlier: Vec<(usize, &B)> = Vec::new();
        for (index, blocks) in rules.enumerate() {
            let mut taken = Vec::new();
            for (position, block) in blocks.iter().enumerate() {
                match earlier.iter().find(|(_, other)| takes_all_of(other, block)) {
                    Some((taker, _)) => taken.push((position, *taker)),
                    None if earlier.len() < COMPARED => earlier.push((index, block)),
                    None => {}
                }
            }
            let path = self.path.index(index);
            if taken.len() == blocks.len() {
                if let Some((_, taker)) = taken.first() {
                    self.say(Code::Ist0130, *taker, &path, problems);
                }
            } else {
                for (position, taker) in taken {
                    let path = path.key("match").index(position);
                    self.say(Code::Ist0131, taker, &path, problems);
                }
            }
        }
    }

    fn say(&self, code: Code, taker: usize, path: &Path, problems: &mut Problems) {
        let Self { name, what, .. } = self;
        let message =
            format!("no {what} gets here: {name}[{taker}] takes all that this would match");
        let remedy = "move it before that rule, or remove it";
        match code {
            Code::Ist0131 => problems.code(code).info(path, message, remedy),
            _ => problems.code(code).warning(path, message, remedy),
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
    uri && port_takes(wide.port, narrow.port)
        && text_takes(wide.scheme.as_ref(), narrow.scheme.as_ref())
        && text_takes(wide.method.as_ref(), narrow.method.as_ref())
        && text_takes(wide.authority.as_ref(), narrow.authority.as_ref())
        && headers_take(&wide.headers, &narrow.headers)
        && headers_take(&wide.without_headers, &narrow.without_headers)
        && each_takes(&wide.query, &narrow.query, |wide, narrow| {
            text_takes(Some(wide), Some(narrow))
        })
        && clients_take(wide, narrow)
}

fn stream_takes_all_of(wide: &StreamBlock, narrow: &StreamBlock) -> bool {
    let names = wide.server_names.is_empty()
        || !narrow.server_names.is_empty()
            && narrow.server_names.iter().all(|name| {
                // A wildcard takes no name from a rule that is more specific.
                wide.server_names.contains(name)
            });
    let subnets = wide.subnets.is_empty()
        || !narrow.subnets.is_empty()
            && narrow
                .subnets
                .iter()
                .all(|subnet| wide.subnets.contains(subnet));
    // Of the rules for some subnets, the narrowest wins, wherever it stands.
    let before = wide.subnets.is_empty() == narrow.subnets.is_empty()
        || wide.server_names.is_empty() && narrow.server_names.is_empty();
    let client = labels_take(&wide.client_labels, &narrow.client_labels)
        && (wide.client_namespace.is_none() || wide.client_namespace == narrow.client_namespace)
        && gateways_take(&wide.gateways, &narrow.gateways);
    names && subnets && before && port_takes(wide.port, narrow.port) && client
}

fn port_takes(wide: Option<u16>, narrow: Option<u16>) -> bool {
    wide.is_none() || wide == narrow
}

fn text_takes(wide: Option<&TextMatch>, narrow: Option<&TextMatch>) -> bool {
    let (wide, narrow) = match (wide, narrow) {
        (None, _) => return true,
        (Some(_), None) => return false,
        (Some(wide), Some(narrow)) => (wide, narrow),
    };
    match (wide, narrow) {
        (TextMatch::Present, _) => true,
        (TextMatch::Prefix(wide), TextMatch::Prefix(narrow) | TextMatch::Exact(narrow)) => {
            narrow.starts_with(&**wide)
        }
        (wide, narrow) => wide == narrow,
    }
}

fn headers_take(
    wide: &BTreeMap<Arc<str>, HeaderMatch>,
    narrow: &BTreeMap<Arc<str>, HeaderMatch>,
) -> bool {
    each_takes(wide, narrow, |wide, narrow| {
        if wide.inverted {
            wide == narrow
        } else {
            text_takes(Some(&wide.value), Some(&narrow.value))
        }
    })
}

/// Whether each condition of the wider one is there in the narrower one too, no wider.
fn each_takes<T>(
    wide: &BTreeMap<Arc<str>, T>,
    narrow: &BTreeMap<Arc<str>, T>,
    takes: impl Fn(&T, &T) -> bool,
) -> bool {
    wide.iter()
        .all(|(name, wide)| narrow.get(name).is_some_and(|narrow| takes(wide, narrow)))
}

/// With gateways, the client's labels and namespace are not looked at.
fn clients_take(wide: &Block, narrow: &Block) -> bool {
    if !wide.gateways.is_empty() {
        return gateways_take(&wide.gateways, &narrow.gateways);
    }
    let anyone = wide.client_labels.is_empty() && wide.client_namespace.is_none();
    anyone
        || narrow.gateways.is_empty()
            && labels_take(&wide.client_labels, &narrow.client_labels)
            && (wide.client_namespace.is_none() || wide.client_namespace == narrow.client_namespace)
}

fn labels_take(wide: &Labels, narrow: &Labels) -> bool {
    wide.iter()
        .all(|(key, value)| narrow.get(key) == Some(value))
}

fn gateways_take(wide: &[GatewayName], narrow: &[GatewayName]) -> bool {
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|name| wide.contains(name))
}

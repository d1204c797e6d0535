//! Delegation: the rules of a VirtualService without hosts, in the place of the rule that names it
//! (`istio-routing.md` 1.3).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::object::name::ExportTo;
use crate::config::object::virtual_service::{Action, Block, Delegate, Mirrors, Rule};
use crate::config::object::{Object, VirtualService};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};
use crate::model::{HeaderMatch, PathMatch, TextMatch};

/// A rule, and where it was written.
pub(super) struct Ruled<'a> {
    /// As it is in force: that of a delegate has taken on what the rule says that names the delegate.
    pub(super) rule: Cow<'a, Rule>,
    /// The object, `namespace/name`, and the rule's place in it.
    pub(super) origin: (Arc<str>, usize),
}

/// A VirtualService with the rules that it has once its delegates are asked.
pub(super) type Resolved<'a> = (&'a Object, &'a VirtualService, Arc<[Ruled<'a>]>);

/// VirtualServices by namespace and name, with whom they are for.
type Known<'a> = HashMap<(&'a str, &'a str), (&'a Object, &'a VirtualService, &'a ExportTo)>;

/// So many match blocks one VirtualService may get from its delegates: each of theirs goes with each of its own, and that
/// must not fill the memory.
const MOST_BLOCKS: usize = 20_000;

/// What is told of a VirtualService.
pub(super) type Tell<'t> = &'t mut dyn FnMut(&Object, Problem);

/// Resolves every VirtualService that has hosts, the oldest first. What cannot be had is left out and told.
pub(super) fn resolve<'a>(inputs: &'a Inputs, tell: Tell<'_>) -> Vec<Resolved<'a>> {
    let services = inputs.virtual_services();
    let default = inputs.mesh_config().virtual_services.as_ref();
    let known: Known<'_> = services
        .iter()
        .map(|(object, service)| {
            let id = &object.id;
            let export = service.export.or(default);
            ((&*id.namespace, &*id.name), (*object, *service, export))
        })
        .collect();
    let rooted = services
        .iter()
        .filter(|(_, service)| !service.hosts.is_empty());
    rooted
        .map(|(object, service)| {
            let rules = resolve_rules(object, service, &known, tell);
            (*object, *service, rules.into())
        })
        .collect()
}

fn resolve_rules<'a>(
    object: &Object,
    service: &'a VirtualService,
    known: &Known<'a>,
    tell: Tell<'_>,
) -> Vec<Ruled<'a>> {
    let own = title(object);
    let mut room = MOST_BLOCKS;
    let mut rules = Vec::with_capacity(service.rules.len());
    for (index, rule) in service.rules.iter().enumerate() {
        let Action::Delegate(delegate) = &rule.action else {
            rules.push(Ruled {
                rule: Cow::Borrowed(rule),
                origin: (Arc::clone(&own), index),
            });
            continue;
        };
        let path = Path::of("spec.http").index(index).key("delegate");
        let Some((other, found)) = find(object, delegate, known, &path, tell) else {
            continue;
        };
        let origin = title(other);
        for (index, theirs) in found.rules.iter().enumerate() {
            let pairs = rule.blocks.len().saturating_mul(theirs.blocks.len());
            if pairs > room {
                tell(object, too_many(other, index, &path));
                continue;
            }
            match merge(rule, delegate, theirs) {
                Ok(merged) => {
                    if loses_fault(&merged) {
                        tell(object, lost_fault(other, index, &path));
                    }
                    room = room.saturating_sub(merged.blocks.len().max(1));
                    rules.push(Ruled {
                        rule: Cow::Owned(merged),
                        origin: (Arc::clone(&origin), index),
                    });
                }
                Err(conflict) => tell(object, misfit(other, index, conflict, &path)),
            }
        }
    }
    rules
}

fn title(object: &Object) -> Arc<str> {
    format!("{}/{}", object.id.namespace, object.id.name).into()
}

/// The VirtualService that a rule of `object` names; `None`, with the reason told, where it cannot serve as a delegate.
fn find<'a>(
    object: &Object,
    delegate: &Delegate,
    known: &Known<'a>,
    path: &Path,
    tell: Tell<'_>,
) -> Option<(&'a Object, &'a VirtualService)> {
    let Delegate {
        namespace, name, ..
    } = delegate;
    let found = known.get(&(&**namespace, &**name)).copied();
    let (what, remedy, there) = match found {
        None => ("is not there", "check the name, or add it", None),
        Some((other, service, _)) if !service.hosts.is_empty() => {
            let place = other.place(&Path::of("spec.hosts"), "its hosts are here");
            (
                "has hosts and is no delegate",
                "remove its hosts",
                Some(place),
            )
        }
        Some((other, _, export)) if !export.allows(namespace, &object.id.namespace) => {
            let place = other.place(&Path::of("spec.exportTo"), "its exportTo is here");
            (
                "is not exported to this namespace",
                "widen its exportTo",
                Some(place),
            )
        }
        Some((other, service, _)) => return Some((other, service)),
    };
    let message = format!("VirtualService {namespace}/{name} {what}, so this rule does nothing");
    let problem = Problem::breach(Code::Ist0101, path, message, remedy);
    let problem = match there {
        Some(place) => problem.see(place),
        None => problem,
    };
    tell(object, problem);
    None
}

fn misfit(other: &Object, index: usize, conflict: Conflict, path: &Path) -> Problem {
    let Conflict { block, field } = conflict;
    let rule = Path::of("spec.http").index(index);
    let place = match block {
        Some(block) => rule.key("match").index(block).key(field),
        None => rule.key(field),
    };
    let message = format!(
        "http[{index}] of {} does not fit into this rule: {field} is at odds with it, so it is not used here",
        other.id
    );
    let remedy = "let the delegate match no more than this rule does";
    let problem = Problem::breach(Code::Mesh0007, path, message, remedy);
    problem.see(other.place(&place, "this does not fit"))
}

fn too_many(other: &Object, index: usize, path: &Path) -> Problem {
    let message = format!(
        "with http[{index}] of {}, delegation makes more than {MOST_BLOCKS} match blocks of this VirtualService, so it is not used here",
        other.id
    );
    let remedy = "match less often here, or in the delegate";
    Problem::breach(Code::Mesh0007, path, message, remedy)
}

/// A fault is part of sending a request on; a rule that answers has none.
fn loses_fault(rule: &Rule) -> bool {
    let answers = matches!(rule.action, Action::Redirect(_) | Action::Respond(_));
    answers && rule.fault.is_some()
}

fn lost_fault(other: &Object, index: usize, path: &Path) -> Problem {
    let message = format!(
        "http[{index}] of {} answers by itself, so fault does not apply to it",
        other.id
    );
    let remedy = "put the fault into the rules that send requests on";
    let problem = Problem::breach(Code::Mesh0007, path, message, remedy);
    let place = other.place(&Path::of("spec.http").index(index), "the rule that answers");
    problem.see(place)
}

/// What keeps a delegate's rule out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conflict {
    /// Which of its blocks.
    block: Option<usize>,
    /// The field.
    field: &'static str,
}

/// The rule of a delegate in the place of `root`, which named it.
fn merge(root: &Rule, delegate: &Delegate, theirs: &Rule) -> Result<Rule, Conflict> {
    let action = match (&theirs.action, &delegate.respond) {
        // An answer goes before a route.
        (Action::Forward(_), Some(response)) => Action::Respond(response.clone()),
        (Action::Delegate(_), _) => {
            return Err(Conflict {
                block: None,
                field: "delegate",
            });
        }
        (action, _) => action.clone(),
    };
    let or_root = |theirs: &Mirrors| Mirrors {
        target: theirs
            .target
            .clone()
            .or_else(|| root.mirrors.target.clone()),
        percentage: theirs.percentage.or(root.mirrors.percentage),
        percent: theirs.percent.or(root.mirrors.percent),
        list: match theirs.list.as_slice() {
            [] => root.mirrors.list.clone(),
            list => list.to_vec(),
        },
    };
    Ok(Rule {
        name: joined(&root.name, &theirs.name),
        blocks: merge_blocks(&root.blocks, &theirs.blocks)?,
        action,
        rewrite: theirs.rewrite.clone().or_else(|| root.rewrite.clone()),
        timeout: theirs.timeout.or(root.timeout),
        retry: theirs.retry.clone().or_else(|| root.retry.clone()),
        fault: theirs.fault.clone().or_else(|| root.fault.clone()),
        mirrors: or_root(&theirs.mirrors),
        cors: theirs.cors.clone().or_else(|| root.cors.clone()),
        headers: theirs.headers.clone().or_else(|| root.headers.clone()),
    })
}

fn joined(root: &Arc<str>, theirs: &Arc<str>) -> Arc<str> {
    match (&**root, &**theirs) {
        (_, "") => Arc::clone(root),
        ("", _) => Arc::clone(theirs),
        (root, theirs) => format!("{root}-{theirs}").into(),
    }
}

/// Each block of the delegate with each of the root's that it fits into. One that fits into none keeps the rule out.
fn merge_blocks(root: &[Block], theirs: &[Block]) -> Result<Vec<Block>, Conflict> {
    if root.is_empty() {
        return Ok(theirs.to_vec());
    }
    if theirs.is_empty() {
        return Ok(root.to_vec());
    }
    let mut merged = Vec::new();
    for (index, block) in theirs.iter().enumerate() {
        let before = merged.len();
        let mut conflict = None;
        for root in root {
            match conflicting_field(root, block) {
                Some(field) => conflict = conflict.or(Some(field)),
                None => merged.push(merge_block(root, block)),
            }
        }
        if let Some(field) = conflict.filter(|_| merged.len() == before) {
            return Err(Conflict {
                block: Some(index),
                field,
            });
        }
    }
    Ok(merged)
}

fn merge_block(root: &Block, theirs: &Block) -> Block {
    Block {
        name: joined(&root.name, &theirs.name),
        uri: theirs.uri.clone().or_else(|| root.uri.clone()),
        ignore_uri_case: theirs.ignore_uri_case,
        scheme: theirs.scheme.clone().or_else(|| root.scheme.clone()),
        method: theirs.method.clone().or_else(|| root.method.clone()),
        authority: theirs.authority.clone().or_else(|| root.authority.clone()),
        headers: union(&root.headers, &theirs.headers),
        without_headers: union(&root.without_headers, &theirs.without_headers),
        query: union(&root.query, &theirs.query),
        port: theirs.port.or(root.port),
        client_labels: union(&root.client_labels, &theirs.client_labels),
        client_namespace: theirs
            .client_namespace
            .clone()
            .or_else(|| root.client_namespace.clone()),
        gateways: match theirs.gateways.as_slice() {
            [] => root.gateways.clone(),
            gateways => gateways.to_vec(),
        },
    }
}

fn union<V: Clone>(
    root: &BTreeMap<Arc<str>, V>,
    theirs: &BTreeMap<Arc<str>, V>,
) -> BTreeMap<Arc<str>, V> {
    let all = root.iter().chain(theirs);
    all.map(|(name, value)| (Arc::clone(name), value.clone()))
        .collect()
}

/// The first field in which a delegate's block asks for something that the root's does not let through.
fn conflicting_field(root: &Block, theirs: &Block) -> Option<&'static str> {
    let texts = |root: &Option<TextMatch>, theirs: &Option<TextMatch>| {
        texts_conflict(root.as_ref().map(of_text), theirs.as_ref().map(of_text))
    };
    let ports = matches!((root.port, theirs.port), (Some(root), Some(theirs)) if root != theirs);
    let namespace =
        root.client_namespace.is_some() && root.client_namespace != theirs.client_namespace;
    let labels = theirs.client_labels.iter().any(|(key, value)| {
        let root = root.client_labels.get(key);
        root.is_some_and(|root| root != value)
    });
    let gateways = !root.gateways.is_empty()
        && !theirs
            .gateways
            .iter()
            .all(|name| root.gateways.contains(name));
    let checks = [
        (
            "uri",
            texts_conflict(
                root.uri.as_ref().map(of_path),
                theirs.uri.as_ref().map(of_path),
            ),
        ),
        ("scheme", texts(&root.scheme, &theirs.scheme)),
        ("method", texts(&root.method, &theirs.method)),
        ("authority", texts(&root.authority, &theirs.authority)),
        (
            "headers",
            maps_conflict(&root.headers, &theirs.headers, of_header),
        ),
        (
            "withoutHeaders",
            maps_conflict(&root.without_headers, &theirs.without_headers, of_header),
        ),
        (
            "queryParams",
            maps_conflict(&root.query, &theirs.query, of_text),
        ),
        (
            "ignoreUriCase",
            root.ignore_uri_case != theirs.ignore_uri_case,
        ),
        ("port", ports),
        ("sourceNamespace", namespace),
        ("sourceLabels", labels),
        ("gateways", gateways),
    ];
    checks
        .into_iter()
        .find_map(|(field, conflict)| conflict.then_some(field))
}

/// A condition on a text, as far as delegation looks at it.
#[derive(Clone, Copy)]
enum Text<'t> {
    Exact(&'t str),
    Prefix(&'t str),
    Other,
}

fn of_text(text: &TextMatch) -> Text<'_> {
    match text {
        TextMatch::Exact(text) => Text::Exact(text),
        TextMatch::Prefix(text) => Text::Prefix(text),
        TextMatch::Regex(_) | TextMatch::Present => Text::Other,
    }
}

fn of_path(path: &PathMatch) -> Text<'_> {
    match path {
        PathMatch::Exact(text) | PathMatch::ExactIgnoreCase(text) => Text::Exact(text),
        PathMatch::Prefix(text) | PathMatch::PrefixIgnoreCase(text) => Text::Prefix(text),
        PathMatch::Regex(_) => Text::Other,
    }
}

fn of_header(header: &HeaderMatch) -> Text<'_> {
    of_text(&header.value)
}

/// Only a prefix lets something more special through; a regex on either side goes with nothing on the other.
fn texts_conflict(root: Option<Text<'_>>, theirs: Option<Text<'_>>) -> bool {
    match (root, theirs) {
        (None, _) | (_, None) => false,
        (Some(Text::Exact(root)), Some(Text::Exact(theirs))) => root.is_empty() || root != theirs,
        (Some(Text::Prefix(root)), Some(Text::Prefix(theirs) | Text::Exact(theirs))) => {
            root.is_empty() || theirs.is_empty() || !theirs.starts_with(root)
        }
        (Some(_), Some(_)) => true,
    }
}

fn maps_conflict<V>(
    root: &BTreeMap<Arc<str>, V>,
    theirs: &BTreeMap<Arc<str>, V>,
    text: fn(&V) -> Text<'_>,
) -> bool {
    theirs
        .iter()
        .any(|(name, value)| texts_conflict(root.get(name).map(text), Some(text(value))))
}

#[cfg(test)]
mod tests;

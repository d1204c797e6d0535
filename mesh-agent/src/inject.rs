//! `mesh-agent inject`: asks, in a workload's manifest, for its Pods to be in the mesh, as `istioctl kube-inject` asks by
//! adding a sidecar. One label is all it takes; everything else in the text stays as it was written, comments too.
//!
//! Pure: a text becomes another. Whatever the text looks like, the outcome is read again before anyone gets it.

use std::fmt;

use crate::config::compile::ENROL;
use crate::config::yaml::{self, Location, Node, Value};

/// A text with the label in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The text.
    pub text: String,
    /// What became of each workload in it, in order.
    pub workloads: Vec<Workload>,
}

/// A workload, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Kind and name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its Pods ask for the mesh now.
    Asks,
    /// They did so before.
    Asked,
    /// They say that they do not want to be in it, and so they stay.
    Refuses,
    /// They have the network of their node, and cannot be in it.
    HostNetwork,
}

/// Why a text comes back as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// It cannot be read.
    #[error("{0}")]
    Syntax(#[from] yaml::SyntaxError),
    /// The label would not stand where it should.
    #[error(
        "line {line}: the labels of {name} are written in a way that nothing can be added to; write {ENROL}: \"true\" there by hand"
    )]
    Odd {
        /// The workload.
        name: String,
        /// Where its template begins.
        line: u32,
    },
}

/// Adds the label to the Pods of every workload of a text.
pub fn inject(text: &str) -> Result<Injected, InjectError> {
    let documents = yaml::documents(text).collect::<Result<Vec<Node>, _>>()?;
    let mut found = Vec::new();
    for document in &documents {
        templates(document, &mut found);
    }
    let lines = Lines::of(text);
    let mut edits: Vec<(usize, String)> = Vec::new();
    let mut workloads = Vec::new();
    for Template { name, node } in &found {
        let outcome = judge(node);
        if outcome == Outcome::Asks {
            let edit = edit(node, &lines);
            edits.push(edit.ok_or_else(|| odd(name, node))?);
        }
        workloads.push(Workload {
            name: name.clone(),
            outcome,
        });
    }
    let text = apply(text, edits);
    check(&text, &found)?;
    Ok(Injected { text, workloads })
}

/// A workload's template of its Pods, or a Pod.
struct Template<'a> {
    name: String,
    node: &'a Node,
}

/// Finds what makes Pods in a document.
fn templates<'a>(document: &'a Node, found: &mut Vec<Template<'a>>) {
    let text = |field: &str| document.get(field).and_then(Node::as_str);
    let kind = text("kind").map_or("", |kind| kind);
    if kind.ends_with("List") {
        if let Some(Value::Sequence(items)) = document.get("items").map(|items| &items.value) {
            items.iter().for_each(|item| templates(item, found));
        }
        return;
    }
    let path: &[&str] = match kind {
        "Pod" => &[],
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job"
        | "DeploymentConfig" => &["spec", "template"],
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        _ => return,
    };
    let node = path
        .iter()
        .try_fold(document, |node, field| node.get(field));
    let name = document
        .get("metadata")
        .and_then(|metadata| metadata.get("name")?.as_str());
    // A workload without a template is none; whoever applies it will be told.
    if let Some(node) = node {
        let name = format!("{kind} {}", name.map_or("", |name| name));
        found.push(Template { name, node });
    }
}

/// What is to become of a workload.
fn judge(template: &Node) -> Outcome {
    let metadata = template.get("metadata");
    let word = |place: &str| metadata?.get(place)?.get(ENROL);
    let words = [word("labels"), word("annotations")];
    let says = |wanted: &str| words.iter().flatten().any(|node| is(node, wanted));
    let host = template
        .get("spec")
        .and_then(|spec| spec.get("hostNetwork"));
    if says("false") {
        Outcome::Refuses
    } else if host.is_some_and(|host| host.value == Value::Bool(true)) {
        Outcome::HostNetwork
    } else if says("true") {
        Outcome::Asked
    } else {
        Outcome::Asks
    }
}

fn is(node: &Node, word: &str) -> bool {
    node.as_str().is_some_and(|text| **text == *word)
}

/// Where the label goes, and as what: into the labels if there are any, else with whatever is missing around it.
fn edit(template: &Node, lines: &Lines<'_>) -> Option<(usize, String)> {
    let own = |node: &Node| node.value != Value::Null;
    let metadata = template.get("metadata").filter(|node| own(node));
    let labels = metadata
        .and_then(|metadata| metadata.get("labels"))
        .filter(|node| own(node));
    let label = [ENROL, "true"];
    match (metadata, labels) {
        (_, Some(labels)) => into(labels, &label, lines),
        (Some(metadata), None) => into(metadata, &["labels", ENROL, "true"], lines),
        (None, None) => into(template, &["metadata", "labels", ENROL, "true"], lines),
    }
}

/// A field put first into a mapping. `words` is its name, and what is in it to the innermost value. `None` where the mapping
/// is not written out here.
fn into(mapping: &Node, words: &[&str], lines: &Lines<'_>) -> Option<(usize, String)> {
    let Value::Mapping(entries) = &mapping.value else {
        return None;
    };
    let at = lines.offset(mapping.at)?;
    if lines.text[at..].starts_with('{') {
        let comma = if entries.is_empty() { "" } else { ", " };
        return Some((at + 1, format!("{}{comma}", flow(words))));
    }
    // A block: what is put before its first key stands in the column of that.
    let (first, _) = entries.first()?;
    let at = lines.offset(first.at)?;
    let column = usize::try_from(first.at.column).ok()? - 1;
    let indent = " ".repeat(column);
    let (name, rest) = words.split_first()?;
    let field = match rest {
        [value] => format!("{name}: \"{value}\""),
        _ => {
            let mut block = format!("{name}:");
            for (depth, pair) in rest.iter().enumerate() {
                let deeper = "  ".repeat(depth + 1);
                match depth + 2 == rest.len() {
                    true => {
                        block.push_str(&format!(
                            "\n{indent}{deeper}{pair}: \"{}\"",
                            rest[depth + 1]
                        ));
                        break;
                    }
                    false => block.push_str(&format!("\n{indent}{deeper}{pair}:")),
                }
            }
            block
        }
    };
    Some((at, format!("{field}\n{indent}")))
}

/// A field as JSON and the flow style of YAML both have it.
fn flow(words: &[&str]) -> String {
    match words {
        [name, value] => format!("\"{name}\": \"{value}\""),
        [name, rest @ ..] => format!("\"{name}\": {{{}}}", flow(rest)),
        [] => String::new(),
    }
}

fn apply(text: &str, mut edits: Vec<(usize, String)>) -> String {
    edits.sort_by_key(|(at, _)| *at);
    let mut out = String::with_capacity(text.len() + 64 * edits.len());
    let mut from = 0;
    for (at, insertion) in edits {
        out.push_str(&text[from..at]);
        out.push_str(&insertion);
        from = at;
    }
    out.push_str(&text[from..]);
    out
}

/// Reads the outcome again: everything must be as before, with the label.
fn check(text: &str, before: &[Template<'_>]) -> Result<(), InjectError> {
    let documents = yaml::documents(text).collect::<Result<Vec<Node>, _>>();
    let mut now = Vec::new();
    for document in documents.iter().flatten() {
        templates(document, &mut now);
    }
    for (index, template) in before.iter().enumerate() {
        let fits = now.get(index).is_some_and(|now| {
            let settled = judge(now.node) != Outcome::Asks;
            settled && now.name == template.name && same(template.node, now.node)
        });
        if !fits {
            return Err(odd(&template.name, template.node));
        }
    }
    Ok(())
}

/// Whether two templates are the same but for the label and what it takes to hold it.
fn same(before: &Node, now: &Node) -> bool {
    plain(before) == plain(now)
}

/// What a template says, without places, without the label, and without mappings that hold nothing.
fn plain(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Integer(number) => Json::String(number.to_string()),
        Value::Float(number) => Json::String(number.to_string()),
        Value::String(text) => Json::String(text.to_string()),
        Value::Sequence(items) => items.iter().map(plain).collect(),
        Value::Mapping(entries) => {
            let fields = entries.iter().filter(|(key, _)| *key.name != *ENROL);
            let fields = fields.map(|(key, value)| (key.name.to_string(), plain(value)));
            let nothing = |value: &Json| {
                value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
            };
            Json::Object(fields.filter(|(_, value)| !nothing(value)).collect())
        }
    }
}

fn odd(name: &str, node: &Node) -> InjectError {
    InjectError::Odd {
        name: name.to_owned(),
        line: node.at.line,
    }
}

/// A text, with the beginnings of its lines.
struct Lines<'a> {
    text: &'a str,
    begins: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            begins: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// Where a place is, in bytes.
    fn offset(&self, at: Location) -> Option<usize> {
        let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
        let begin = *self.begins.get(line)?;
        let column = usize::try_from(at.column).ok()?.checked_sub(1)?;
        // A mark of the byte order is no character of the first line.
        let begin = match self.text[begin..].strip_prefix('\u{feff}') {
            Some(rest) => self.text.len() - rest.len(),
            None => begin,
        };
        let rest = &self.text[begin..];
        let mut characters = rest.char_indices().map(|(at, _)| at);
        Some(begin + characters.nth(column).unwrap_or(rest.len()))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.outcome {
            Outcome::Asks => "is in the mesh once it is applied",
            Outcome::Asked => "asked for the mesh already",
            Outcome::Refuses => "says that it does not want to be in the mesh, and stays outside",
            Outcome::HostNetwork => "has the network of its node, and stays outside the mesh",
        };
        write!(f, "{} {what}", self.name)
    }
}

#[cfg(test)]
mod tests;

//! YAML as kubectl reads it, as a tree that remembers where everything stood.
//!
//! kubectl turns YAML 1.1 into JSON before anyone looks at it, so `on` is a boolean and `0644` is octal here too; what
//! each plain scalar means is in `scalar`. Duplicate keys are errors; anchors and merge keys work, within a budget that
//! no honest manifest meets. Typed reading is in [`read`].

use std::sync::Arc;

use granit_parser::{Options, Parser, ScanError};

use crate::config::path::{Path, Step};
use crate::config::yaml::tree::Tree;

pub mod read;
mod scalar;
mod tree;

/// Where something stands in a file, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value's first character.
    pub at: Location,
    /// What it is.
    pub value: Value,
}

/// What JSON knows, with keys in written order.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing at all.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// A string.
    String(Arc<str>),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping; no key twice.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its text.
    pub name: Arc<str>,
    /// Its first character.
    pub at: Location,
}

/// Why a text is not YAML that kubectl would take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {message}", at.line, at.column)]
pub struct SyntaxError {
    /// Where reading stopped.
    pub at: Location,
    /// What is wrong there.
    pub message: String,
}

/// Reads every document of a text. As with kubectl, a line that begins with `---` ends a document whatever came before
/// it, so a document that cannot be read leaves its neighbours alone. Empty documents are left out.
pub fn documents(text: &str) -> Vec<Result<Node, SyntaxError>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    split(text)
        .into_iter()
        .flat_map(|(first_line, chunk)| parse(chunk, first_line))
        .filter(|document| !matches!(document, Ok(node) if node.value == Value::Null))
        .collect()
}

impl Node {
    /// The value under `key`, where this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries) => entries
                .iter()
                .find_map(|(name, value)| (&*name.name == key).then_some(value)),
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::Sequence(_) => None,
        }
    }

    /// The text of this node, where it is a string.
    pub fn as_str(&self) -> Option<&Arc<str>> {
        match &self.value {
            Value::String(text) => Some(text),
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Sequence(_)
            | Value::Mapping(_) => None,
        }
    }

    /// Where the value of the field at `path` stands, or as near to it as the document goes. A value that was written on
    /// a line below its name is shown by its name.
    pub fn locate(&self, path: &Path) -> Location {
        let (name, value) = self.find(path);
        match name {
            Some(name) if name.line != value.line => name,
            Some(_) | None => value,
        }
    }

    /// Where the name of the field at `path` stands, or as near to it as the document goes.
    pub fn locate_name(&self, path: &Path) -> Location {
        let (name, value) = self.find(path);
        name.unwrap_or(value)
    }

    /// The places of the last field that is there on the way of `path`: of its name, unless it is an item of a list, and
    /// of its value.
    fn find(&self, path: &Path) -> (Option<Location>, Location) {
        let mut found = (None, self);
        for step in path.steps() {
            let next = match (step, &found.1.value) {
                (Step::Key(wanted), Value::Mapping(entries)) => entries
                    .iter()
                    .find(|(key, _)| {
                        key.name == *wanted || *read::camel_case(&key.name) == **wanted
                    })
                    .map(|(key, value)| (Some(key.at), value)),
                (Step::Index(index), Value::Sequence(items)) => {
                    items.get(*index).map(|item| (None, item))
                }
                _ => None,
            };
            match next {
                Some(next) => found = next,
                None => break,
            }
        }
        (found.0, found.1.at)
    }
}

/// The chunks between `---` lines, each with the number of its first line. The `---` itself stays with the chunk that it
/// opens, because content may follow it on the same line.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut chunks = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let (mut offset, mut line) = (0, 1);
    for text_line in text.split_inclusive('\n') {
        let marker = text_line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && offset > start {
            chunks.push((first_line, &text[start..offset]));
            (start, first_line) = (offset, line);
        }
        offset += text_line.len();
        line += 1;
    }
    chunks.push((first_line, &text[start..]));
    chunks
}

fn parse(chunk: &str, first_line: u32) -> Vec<Result<Node, SyntaxError>> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut tree = Tree::new(first_line);
    let mut documents = Vec::new();
    for event in Parser::new_from_str_with_options(chunk, options) {
        let step = match event {
            Ok((event, span)) => {
                let at = location(first_line, &span.start);
                tree.take(event, at)
            }
            Err(error) => Err(scan_error(first_line, &error)),
        };
        match step {
            Ok(Some(document)) => documents.push(Ok(document)),
            Ok(None) => {}
            Err(error) => {
                documents.push(Err(error));
                break;
            }
        }
    }
    documents
}

fn location(first_line: u32, marker: &granit_parser::Marker) -> Location {
    let line = u32::try_from(marker.line()).unwrap_or(u32::MAX);
    let column = u32::try_from(marker.col()).unwrap_or(u32::MAX);
    Location {
        line: line.saturating_add(first_line).saturating_sub(1),
        column: column.saturating_add(1),
    }
}

fn scan_error(first_line: u32, error: &ScanError) -> SyntaxError {
    SyntaxError {
        at: location(first_line, error.marker()),
        message: error.info().to_string(),
    }
}

#[cfg(test)]
mod tests;

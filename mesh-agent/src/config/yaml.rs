//! YAML as kubectl reads it, as a tree that remembers where everything stood.
//!
//! kubectl turns YAML 1.1 into JSON before anyone looks at it, so `on` is a boolean and `0644` is octal here too; what
//! each plain scalar means is in `scalar`. Duplicate keys are errors; anchors and merge keys work, within a budget that
//! no honest manifest meets. Typed reading is in [`read`].

use std::sync::Arc;

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError};

use crate::config::path::{Path, Step};
use crate::config::yaml::tree::Tree;

pub mod places;
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

/// A stretch of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its first character.
    pub start: Location,
    /// The first character behind it; the same as its first one where it is empty.
    pub end: Location,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value's first character.
    pub at: Location,
    /// The first character behind it; of a mapping or a list without brackets, behind its first key or item, and of a
    /// block of text, behind its first line: enough to show what is meant.
    pub end: Location,
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
    /// The first character behind it.
    pub end: Location,
}

/// Why a text is not YAML that kubectl would take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {message}", at.line, at.column)]
pub struct SyntaxError {
    /// Where reading stopped.
    pub at: Location,
    /// The first character behind what could not be read, where the parser can tell.
    pub end: Location,
    /// What is wrong there.
    pub message: String,
}

/// Reads every document of a text. As with kubectl, a line that begins with `---` ends a document whatever came before
/// it, so a document that cannot be read leaves its neighbours alone. Empty documents are left out. Each is read when it
/// is asked for: the trees of a large file need many times its size.
pub fn documents(text: &str) -> impl Iterator<Item = Result<Node, SyntaxError>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    split(text)
        .into_iter()
        .flat_map(|(first_line, chunk)| parse(chunk, first_line))
        .filter(|document| !matches!(document, Ok(node) if node.value == Value::Null))
}

impl SyntaxError {
    fn at(at: Span, message: impl Into<String>) -> Self {
        let Span { start, end } = at;
        Self {
            at: start,
            end,
            message: message.into(),
        }
    }
}

impl Node {
    fn at(at: Span, value: Value) -> Self {
        let Span { start, end } = at;
        Self {
            at: start,
            end,
            value,
        }
    }

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
    /// a line below its name, or not at all, is shown by its name.
    pub fn locate(&self, path: &Path) -> Span {
        let (name, value) = self.find(path);
        shown(name, value)
    }

    /// Where the name of the field at `path` stands, or as near to it as the document goes.
    pub fn locate_name(&self, path: &Path) -> Span {
        let (name, value) = self.find(path);
        name.unwrap_or(value)
    }

    /// The places of the last field that is there on the way of `path`: of its name, unless it is an item of a list, and
    /// of its value.
    fn find(&self, path: &Path) -> (Option<Span>, Span) {
        let mut found = (None, self);
        for step in path.steps() {
            let next = match (step, &found.1.value) {
                (Step::Key(wanted), Value::Mapping(entries)) => entries
                    .iter()
                    .find(|(key, _)| key.is(wanted))
                    .map(|(key, value)| (Some(key.span()), value)),
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
        (found.0, found.1.span())
    }

    /// Takes the field at `path` away; with an item of a list, the field that holds the list. False where there is none.
    pub fn forget(&mut self, path: &Path) -> bool {
        let steps = path.steps();
        let is_key = |step: &Step| matches!(step, Step::Key(_));
        let Some(last) = steps.iter().rposition(is_key) else {
            return false;
        };
        let mut node = self;
        for step in &steps[..last] {
            let below = match (step, &mut node.value) {
                (Step::Key(name), Value::Mapping(entries)) => entries
                    .iter_mut()
                    .find_map(|(key, value)| key.is(name).then_some(value)),
                (Step::Index(index), Value::Sequence(items)) => items.get_mut(*index),
                _ => None,
            };
            match below {
                Some(below) => node = below,
                None => return false,
            }
        }
        let (Step::Key(name), Value::Mapping(entries)) = (&steps[last], &mut node.value) else {
            return false;
        };
        let before = entries.len();
        entries.retain(|(key, _)| !key.is(name));
        entries.len() < before
    }

    fn span(&self) -> Span {
        Span {
            start: self.at,
            end: self.end,
        }
    }
}

impl Key {
    /// Whether this is the key of a field, in either spelling.
    fn is(&self, field: &str) -> bool {
        is_field(&self.name, field)
    }

    fn span(&self) -> Span {
        Span {
            start: self.at,
            end: self.end,
        }
    }
}

/// Whether a key of this name is that of a field, in either spelling.
fn is_field(name: &str, field: &str) -> bool {
    name == field || *read::camel_case(name) == *field
}

/// The place that shows a field, of those of its name and its value.
fn shown(name: Option<Span>, value: Span) -> Span {
    match name {
        Some(name) if name.start.line != value.start.line || value.start == value.end => name,
        Some(_) | None => value,
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
        // The parser takes a lone carriage return for the end of a line as well.
        let content = text_line.trim_end_matches(['\r', '\n']);
        line += 1 + u32::try_from(content.matches('\r').count()).unwrap_or(u32::MAX);
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
                let written = place(first_line, &event, &span, chunk);
                tree.take(event, written)
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

/// Where an event's text stands. A block of text ends, for the parser, where the next thing begins.
fn place(first_line: u32, event: &Event<'_>, span: &granit_parser::Span, chunk: &str) -> Span {
    let start = location(first_line, &span.start);
    let block = matches!(
        event,
        Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..)
    );
    if !block {
        let end = location(first_line, &span.end);
        return Span { start, end };
    }
    let line = span.slice(chunk).and_then(|text| text.lines().next());
    let length = line.map_or(0, |line| line.trim_end().chars().count());
    let column = start
        .column
        .saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
    Span {
        start,
        end: Location { column, ..start },
    }
}

fn scan_error(first_line: u32, error: &ScanError) -> SyntaxError {
    let at = location(first_line, error.marker());
    let at = Span { start: at, end: at };
    SyntaxError::at(at, error.info().to_string())
}

#[cfg(test)]
mod tests;

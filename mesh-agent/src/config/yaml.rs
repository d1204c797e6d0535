//! YAML as kubectl reads it, as a tree that remembers where everything stood.
//!
//! kubectl turns YAML 1.1 into JSON before anyone looks at it, so `on` is a boolean and `0644` is octal here too; what
//! each plain scalar means is in [`scalar`]. Duplicate keys are errors; anchors and merge keys work, within a budget that
//! no honest manifest meets. Typed reading is in [`read`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Tag};

use crate::config::path::{Path, Step};

pub mod read;
mod scalar;

/// The largest number of values that the anchors and aliases of one document may copy. The rest of a document is bounded
/// by the size of its file; this is not: nine lines of YAML can ask for gigabytes.
const MAX_COPIES: usize = 200_000;

/// The deepest nesting that one document may have once its aliases are written out.
const MAX_DEPTH: usize = 96;

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

/// A document while it is being built, without recursion: nesting costs heap, never stack.
struct Tree {
    open: Vec<Open>,
    /// What aliases stand for, with the number of nodes and the depth that one more use costs.
    anchors: HashMap<usize, (Node, Size)>,
    copied: usize,
    first_line: u32,
}

#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    depth: usize,
}

/// A collection whose end has not been seen.
struct Open {
    at: Location,
    anchor: usize,
    size: Size,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<(Key, Node)>,
        seen: HashSet<Arc<str>>,
        merged: Vec<Node>,
        key: Option<Slot>,
    },
}

/// What the next value of a mapping is for.
enum Slot {
    Key(Key),
    Merge,
}

impl Tree {
    fn new(first_line: u32) -> Self {
        Self {
            open: Vec::new(),
            anchors: HashMap::new(),
            copied: 0,
            first_line,
        }
    }

    /// Takes the next event; a document that is complete comes back.
    fn take(&mut self, event: Event<'_>, at: Location) -> Result<Option<Node>, SyntaxError> {
        match event {
            Event::DocumentStart(..) => {
                *self = Self::new(self.first_line);
                Ok(None)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let value = scalar(&text, plain, tag.as_deref())
                    .map_err(|message| SyntaxError { at, message })?;
                let is_merge = plain && text == "<<";
                self.add(
                    Node { at, value },
                    Size { nodes: 1, depth: 1 },
                    anchor,
                    is_merge,
                )
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(at, anchor, Content::Sequence(Vec::new()))
            }
            Event::MappingStart(_, anchor, _) => {
                let content = Content::Mapping {
                    entries: Vec::new(),
                    seen: HashSet::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(at, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    let message = "this alias stands inside what it stands for".to_owned();
                    return Err(SyntaxError { at, message });
                };
                self.copied += size.nodes;
                if self.copied > MAX_COPIES {
                    return Err(too_large(at));
                }
                let (node, size) = (node.clone(), *size);
                self.add(Node { at, ..node }, size, 0, false)
            }
            _ => Ok(None),
        }
    }

    fn begin(
        &mut self,
        at: Location,
        anchor: usize,
        content: Content,
    ) -> Result<Option<Node>, SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        let size = Size { nodes: 1, depth: 1 };
        self.open.push(Open {
            at,
            anchor,
            size,
            content,
        });
        Ok(None)
    }

    fn end(&mut self) -> Result<Option<Node>, SyntaxError> {
        let Some(open) = self.open.pop() else {
            return Ok(None);
        };
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping {
                mut entries,
                mut seen,
                merged,
                ..
            } => {
                merge(&mut entries, &mut seen, merged)?;
                Value::Mapping(entries)
            }
        };
        self.add(Node { at: open.at, value }, open.size, open.anchor, false)
    }

    /// Puts a finished node where it belongs.
    fn add(
        &mut self,
        node: Node,
        size: Size,
        anchor: usize,
        is_merge: bool,
    ) -> Result<Option<Node>, SyntaxError> {
        if self.open.len() + size.depth > MAX_DEPTH {
            return Err(too_deep(node.at));
        }
        if anchor != 0 {
            self.copied += size.nodes;
            if self.copied > MAX_COPIES {
                return Err(too_large(node.at));
            }
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(parent) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        parent.size.nodes += size.nodes;
        parent.size.depth = parent.size.depth.max(size.depth + 1);
        match &mut parent.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping {
                entries,
                seen,
                merged,
                key,
            } => match key.take() {
                None if is_merge => *key = Some(Slot::Merge),
                None => {
                    let name = scalar::key(&node).ok_or_else(|| SyntaxError {
                        at: node.at,
                        message: "a key must be a string, a number or a boolean".to_owned(),
                    })?;
                    if !seen.insert(Arc::clone(&name)) {
                        let message = format!("key \"{name}\" stands here for the second time");
                        return Err(SyntaxError {
                            at: node.at,
                            message,
                        });
                    }
                    *key = Some(Slot::Key(Key { name, at: node.at }));
                }
                Some(Slot::Key(key)) => entries.push((key, node)),
                Some(Slot::Merge) => merged.push(node),
            },
        }
        Ok(None)
    }
}

/// Adds what `<<` brings: keys that the mapping does not have itself, from the first mapping that has them.
fn merge(
    entries: &mut Vec<(Key, Node)>,
    seen: &mut HashSet<Arc<str>>,
    merged: Vec<Node>,
) -> Result<(), SyntaxError> {
    for node in merged {
        let at = node.at;
        let mappings = match node.value {
            Value::Sequence(items) => items,
            Value::Mapping(_) => vec![node],
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::String(_) => Vec::new(),
        };
        if mappings.is_empty() {
            let message = "<< needs a mapping, or a list of mappings".to_owned();
            return Err(SyntaxError { at, message });
        }
        for mapping in mappings {
            let Value::Mapping(pairs) = mapping.value else {
                let message = "<< needs a mapping, or a list of mappings".to_owned();
                return Err(SyntaxError {
                    at: mapping.at,
                    message,
                });
            };
            for (key, value) in pairs {
                if seen.insert(Arc::clone(&key.name)) {
                    entries.push((key, value));
                }
            }
        }
    }
    Ok(())
}

fn scalar(text: &str, plain: bool, tag: Option<&Tag>) -> Result<Value, String> {
    match tag.map(|tag| (tag, tag.core_suffix())) {
        None if plain => Ok(scalar::resolve(text)),
        None | Some((_, Some("str"))) => Ok(Value::String(text.into())),
        Some((_, Some("int" | "float" | "bool" | "null"))) => Ok(scalar::resolve(text)),
        Some((tag, _)) => Err(format!("tag {} is not known here", tag.original())),
    }
}

fn too_large(at: Location) -> SyntaxError {
    SyntaxError {
        at,
        message: format!("this document copies more than {MAX_COPIES} values by its aliases"),
    }
}

fn too_deep(at: Location) -> SyntaxError {
    SyntaxError {
        at,
        message: format!("this document is nested more than {MAX_DEPTH} levels deep"),
    }
}

#[cfg(test)]
mod tests;

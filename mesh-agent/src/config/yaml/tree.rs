//! Builds the tree of one document from the parser's events, within its budget.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{Event, ScalarStyle, StructureStyle, Tag};

use crate::config::yaml::{Key, Node, Span, SyntaxError, Value, scalar};

/// The largest number of values that the anchors and aliases of one document may copy. The rest of a document is bounded
/// by the size of its file; this is not: nine lines of YAML can ask for gigabytes.
const MAX_COPIES: usize = 200_000;

/// The deepest nesting that one document may have once its aliases are written out.
const MAX_DEPTH: usize = 96;

const UNMERGEABLE: &str = "<< needs a mapping, or a list of mappings";

/// A document while it is being built, without recursion: nesting costs heap, never stack.
pub(super) struct Tree {
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
    at: Span,
    style: StructureStyle,
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
    pub(super) fn new(first_line: u32) -> Self {
        Self {
            open: Vec::new(),
            anchors: HashMap::new(),
            copied: 0,
            first_line,
        }
    }

    /// Takes the next event; a document that is complete comes back.
    pub(super) fn take(&mut self, event: Event<'_>, at: Span) -> Result<Option<Node>, SyntaxError> {
        match event {
            Event::DocumentStart(..) => {
                *self = Self::new(self.first_line);
                Ok(None)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let value = scalar(&text, plain, tag.as_deref())
                    .map_err(|message| SyntaxError::at(at, message))?;
                let is_merge = plain && text == "<<";
                self.add(
                    Node::at(at, value),
                    Size { nodes: 1, depth: 1 },
                    anchor,
                    is_merge,
                )
            }
            Event::SequenceStart(style, anchor, _) => {
                self.begin(at, style, anchor, Content::Sequence(Vec::new()))
            }
            Event::MappingStart(style, anchor, _) => {
                let content = Content::Mapping {
                    entries: Vec::new(),
                    seen: HashSet::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(at, style, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    let message = "this alias stands inside what it stands for";
                    return Err(SyntaxError::at(at, message));
                };
                self.copied += size.nodes;
                if self.copied > MAX_COPIES {
                    return Err(too_large(at));
                }
                let (value, size) = (node.value.clone(), *size);
                self.add(Node::at(at, value), size, 0, false)
            }
            _ => Ok(None),
        }
    }

    fn begin(
        &mut self,
        at: Span,
        style: StructureStyle,
        anchor: usize,
        content: Content,
    ) -> Result<Option<Node>, SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        let size = Size { nodes: 1, depth: 1 };
        self.open.push(Open {
            at,
            style,
            anchor,
            size,
            content,
        });
        Ok(None)
    }

    fn end(&mut self, at: Span) -> Result<Option<Node>, SyntaxError> {
        let Some(open) = self.open.pop() else {
            return Ok(None);
        };
        let end = match (open.style, &open.content) {
            (StructureStyle::Flow, _) => Some(at.end),
            (StructureStyle::Block, Content::Sequence(items)) => items.first().map(|item| item.end),
            (StructureStyle::Block, Content::Mapping { entries, .. }) => {
                entries.first().map(|(key, _)| key.end)
            }
        };
        let at = Span {
            start: open.at.start,
            end: end.unwrap_or(open.at.end),
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
        self.add(Node::at(at, value), open.size, open.anchor, false)
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
            return Err(too_deep(node.span()));
        }
        if anchor != 0 {
            self.copied += size.nodes;
            if self.copied > MAX_COPIES {
                return Err(too_large(node.span()));
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
                    let name = scalar::key(&node).ok_or_else(|| {
                        let message = "a key must be a string, a number or a boolean";
                        SyntaxError::at(node.span(), message)
                    })?;
                    if !seen.insert(Arc::clone(&name)) {
                        let message = format!("key \"{name}\" stands here for the second time");
                        return Err(SyntaxError::at(node.span(), message));
                    }
                    let Node { at, end, .. } = node;
                    *key = Some(Slot::Key(Key { name, at, end }));
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
        let at = node.span();
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
            return Err(SyntaxError::at(at, UNMERGEABLE));
        }
        for mapping in mappings {
            let Value::Mapping(pairs) = mapping.value else {
                return Err(SyntaxError::at(mapping.span(), UNMERGEABLE));
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

fn too_large(at: Span) -> SyntaxError {
    SyntaxError::at(
        at,
        format!("this document copies more than {MAX_COPIES} values by its aliases"),
    )
}

fn too_deep(at: Span) -> SyntaxError {
    SyntaxError::at(
        at,
        format!("this document is nested more than {MAX_DEPTH} levels deep"),
    )
}

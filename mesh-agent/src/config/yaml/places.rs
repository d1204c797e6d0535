//! Where everything in a document stands, in as few bytes as that takes: kept with every object, while its tree is not.
//!
//! A tree needs some hundred bytes for each field, and this about eight. What is written in the fields is not here, but
//! for their names.
//!
//! A node is its end and start, then, of a list or a mapping, the length of what is in it and that itself. Numbers are as
//! short as they are small, so each is relative to one nearby: lines to that of the node around, ends to their start. Most
//! values stand a colon and a space behind their key, and have no start of their own.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::config::path::{Path, Step};
use crate::config::yaml::{Key, Location, Node, Span, Value, is_field, shown};

/// Names that need not be written down, for most documents have them.
const COMMON: [&str; 40] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "creationTimestamp",
    "resourceVersion",
    "spec",
    "status",
    "ports",
    "port",
    "number",
    "protocol",
    "appProtocol",
    "targetPort",
    "clusterIP",
    "clusterIPs",
    "selector",
    "app",
    "version",
    "addressType",
    "endpoints",
    "addresses",
    "conditions",
    "ready",
    "serving",
    "terminating",
    "nodeName",
    "zone",
    "targetRef",
    "kubernetes.io/service-name",
    "hosts",
    "host",
    "http",
    "route",
    "match",
    "destination",
];

/// By name, its place among them.
static KNOWN: LazyLock<HashMap<&str, usize>> =
    LazyLock::new(|| COMMON.iter().copied().zip(0..).collect());

/// A list with so many items has a table of where each begins, so that finding the last takes no longer than the first.
const LONG: usize = 32;

/// The places of a document's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The names beside [`COMMON`], how many first; then the root.
    bytes: Box<[u8]>,
}

/// A value that stands behind its key, as in `key: value`, is so far behind it.
const BEHIND: u32 = 2;

/// What a node is, in the lowest bits of its end; above them, whether it has no start because it stands behind its key.
const SCALAR: usize = 0;
const SEQUENCE: usize = 1;
const MAPPING: usize = 2;

impl Places {
    /// Of all that is in a document. One that was not written in a file has no places, and none is kept.
    pub fn of(document: &Node) -> Self {
        let nowhere = Node {
            at: Location::default(),
            end: Location::default(),
            value: Value::Null,
        };
        let document = match document.at == nowhere.at {
            true => &nowhere,
            false => document,
        };
        let mut writer = Writer::default();
        writer.node(document, Location::default(), None);
        let mut bytes = Vec::with_capacity(writer.bytes.len() + 16);
        number(&mut bytes, writer.names.len());
        for name in &writer.names {
            number(&mut bytes, name.len());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes.extend_from_slice(&writer.bytes);
        Self {
            bytes: bytes.into(),
        }
    }

    /// As [`Node::locate`].
    pub fn locate(&self, path: &Path) -> Span {
        let (name, value) = self.find(path);
        shown(name, value)
    }

    /// As [`Node::locate_name`].
    pub fn locate_name(&self, path: &Path) -> Span {
        let (name, value) = self.find(path);
        name.unwrap_or(value)
    }

    /// As [`Node::locate`] looks for it.
    fn find(&self, path: &Path) -> (Option<Span>, Span) {
        let mut reader = Reader { bytes: &self.bytes };
        let names: Vec<&[u8]> = (0..reader.number())
            .map(|_| {
                let length = reader.number();
                reader.take(length)
            })
            .collect();
        let root = Location::default();
        let mut found = (None, reader.head(root, root));
        for step in path.steps() {
            let next = match step {
                Step::Key(wanted) if found.1.kind == MAPPING => {
                    reader.entry(wanted, &names, found.1.span.start)
                }
                Step::Index(index) if found.1.kind == SEQUENCE => {
                    let item = reader.item(*index, found.1.span.start);
                    item.map(|item| (None, item))
                }
                Step::Key(_) | Step::Index(_) => None,
            };
            match next {
                Some(next) => found = next,
                None => break,
            }
        }
        (found.0, found.1.span)
    }
}

#[derive(Default)]
struct Writer<'n> {
    bytes: Vec<u8>,
    names: Vec<&'n str>,
    places: HashMap<&'n str, usize>,
}

impl<'n> Writer<'n> {
    /// A node near another; `key` is the end of its key, where it has one.
    fn node(&mut self, node: &'n Node, near: Location, key: Option<Location>) {
        let kind = match &node.value {
            Value::Sequence(_) => SEQUENCE,
            Value::Mapping(_) => MAPPING,
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::String(_) => SCALAR,
        };
        let start = node.at;
        let behind = key.is_some_and(|key| behind(key) == start);
        self.end(kind | usize::from(behind) << 2, 3, start, node.end, 0);
        if !behind {
            self.start(start, near);
        }
        match &node.value {
            Value::Sequence(items) => {
                let begin = self.bytes.len();
                let mut table = Vec::new();
                for item in items {
                    let offset = self.bytes.len() - begin;
                    table.extend(u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes());
                    self.node(item, start, None);
                }
                if items.len() >= LONG {
                    self.insert(begin, &table);
                }
                self.measure(begin, items.len());
            }
            Value::Mapping(entries) => {
                let begin = self.bytes.len();
                for (key, value) in entries {
                    self.key(key, start);
                    self.node(value, key.at, Some(key.end));
                }
                self.measure(begin, entries.len());
            }
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::String(_) => {}
        }
    }

    fn key(&mut self, key: &'n Key, near: Location) {
        let name: &'n str = &key.name;
        let place = KNOWN.get(name).copied().unwrap_or_else(|| {
            let names = &mut self.names;
            let place = self.places.entry(name).or_insert_with(|| {
                names.push(name);
                names.len() - 1
            });
            COMMON.len() + *place
        });
        number(&mut self.bytes, place);
        // Most names are as long as they look.
        self.end(0, 0, key.at, key.end, name.len());
        self.start(key.at, near);
    }

    fn start(&mut self, at: Location, near: Location) {
        number(&mut self.bytes, signed(at.line, near.line));
        number(&mut self.bytes, at.column as usize);
    }

    /// The end, behind `low`, which has `bits`.
    fn end(&mut self, low: usize, bits: u32, start: Location, end: Location, expected: usize) {
        let other_line = end.line != start.line;
        let expected = start
            .column
            .wrapping_add(u32::try_from(expected).unwrap_or_default());
        let length = signed(end.column, expected);
        let word = (length << 1 | usize::from(other_line)) << bits | low;
        number(&mut self.bytes, word);
        if other_line {
            number(&mut self.bytes, signed(end.line, start.line));
        }
    }

    /// Puts before what was written since `begin` how many it is, and how long.
    fn measure(&mut self, begin: usize, count: usize) {
        let mut measure = Vec::new();
        number(&mut measure, count);
        number(&mut measure, self.bytes.len() - begin);
        self.insert(begin, &measure);
    }

    fn insert(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.splice(at..at, bytes.iter().copied());
    }
}

/// Reads what a [`Writer`] wrote; elsewhere it is at the end, and finds zeros.
struct Reader<'b> {
    bytes: &'b [u8],
}

#[derive(Clone, Copy)]
struct Head {
    kind: usize,
    span: Span,
}

impl<'b> Reader<'b> {
    fn number(&mut self) -> usize {
        let mut value = 0;
        let mut shift = 0;
        while let Some((byte, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if *byte < 0x80 || shift >= usize::BITS {
                break;
            }
        }
        value
    }

    fn take(&mut self, length: usize) -> &'b [u8] {
        let (taken, rest) = self.bytes.split_at(length.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    fn head(&mut self, near: Location, key: Location) -> Head {
        let word = self.number();
        let lines = self.lines(word >> 3);
        let start = match word & 4 {
            0 => self.start(near),
            _ => behind(key),
        };
        Head {
            kind: word & 3,
            span: span(start, word >> 3, lines, 0),
        }
    }

    fn key(&mut self, near: Location, name: &str) -> Span {
        let word = self.number();
        let lines = self.lines(word);
        span(self.start(near), word, lines, name.len())
    }

    fn start(&mut self, near: Location) -> Location {
        Location {
            line: unsigned(self.number(), near.line),
            column: self.number() as u32,
        }
    }

    /// How far the line of an end is from that of the start.
    fn lines(&mut self, end: usize) -> usize {
        match end & 1 {
            0 => 0,
            _ => self.number(),
        }
    }

    /// Passes over what is in a node of which the head was read.
    fn skip(&mut self, kind: usize) {
        if kind != SCALAR {
            self.number();
            let length = self.number();
            self.take(length);
        }
    }

    /// The first field of this name in a mapping of which the head was read.
    fn entry(
        &mut self,
        wanted: &str,
        names: &[&[u8]],
        near: Location,
    ) -> Option<(Option<Span>, Head)> {
        let count = self.number();
        self.number();
        for _ in 0..count {
            let place = self.number();
            let name = match place.checked_sub(COMMON.len()) {
                None => COMMON[place],
                Some(own) => std::str::from_utf8(names.get(own)?).ok()?,
            };
            let key = self.key(near, name);
            let value = self.head(key.start, key.end);
            if is_field(name, wanted) {
                return Some((Some(key), value));
            }
            self.skip(value.kind);
        }
        None
    }

    fn item(&mut self, index: usize, near: Location) -> Option<Head> {
        let count = self.number();
        self.number();
        if index >= count {
            return None;
        }
        if count < LONG {
            for _ in 0..index {
                let passed = self.head(near, near);
                self.skip(passed.kind);
            }
        } else {
            let table = self.take(count * 4);
            let offset = table.get(index * 4..index * 4 + 4)?;
            let offset = u32::from_le_bytes(offset.try_into().ok()?);
            self.take(usize::try_from(offset).ok()?);
        }
        Some(self.head(near, near))
    }
}

/// From a start and what was written of the end.
fn span(start: Location, end: usize, lines: usize, expected: usize) -> Span {
    let expected = start
        .column
        .wrapping_add(u32::try_from(expected).unwrap_or_default());
    let end = Location {
        line: unsigned(lines, start.line),
        column: unsigned(end >> 1, expected),
    };
    Span { start, end }
}

/// Where a value stands whose key ends here, usually.
fn behind(key: Location) -> Location {
    Location {
        column: key.column.saturating_add(BEHIND),
        ..key
    }
}

/// Seven bits a byte, the lowest first.
fn number(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// How far `value` is from `from`: small where they are near each other, whichever is larger.
fn signed(value: u32, from: u32) -> usize {
    let difference = value.wrapping_sub(from).cast_signed();
    (difference << 1 ^ difference >> 31).cast_unsigned() as usize
}

/// The value that is so far from `from`.
fn unsigned(distance: usize, from: u32) -> u32 {
    let distance = distance as u32;
    from.wrapping_add((distance >> 1) ^ 0_u32.wrapping_sub(distance & 1))
}

#[cfg(test)]
mod tests;

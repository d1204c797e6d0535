//! From a tree to typed values, by serde, with the place of every complaint.
//!
//! Reads as Kubernetes' and Istio's own readers do: `null` is an absent field, and field names may be written in
//! snake_case. A field that a struct does not know is noted, and reading goes on: what follows from it is the caller's
//! decision.

use std::cell::RefCell;
use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};

use crate::config::path::{Path, Step};
use crate::config::yaml::{Key, Location, Node, Value};

/// A field that no struct knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The field.
    pub path: Path,
    /// Its key.
    pub at: Location,
    /// The known field that was perhaps meant.
    pub meant: Option<&'static str>,
}

/// A value that does not fit its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The field.
    pub path: Path,
    /// Its value.
    pub at: Location,
    /// What is wrong.
    pub message: String,
}

/// Reads a `T`. The fields of `node` that `T` does not know come beside it.
pub fn read<T: DeserializeOwned>(node: &Node) -> Result<(T, Vec<UnknownField>), Misfit> {
    let unknown = RefCell::new(Vec::new());
    let reader = Reader {
        node,
        trail: None,
        unknown: &unknown,
    };
    match T::deserialize(reader) {
        Ok(value) => Ok((value, unknown.into_inner())),
        Err(error) => {
            let (path, at) = error.place.unwrap_or((Path::root(), node.at));
            let message = error.message;
            Err(Misfit { path, at, message })
        }
    }
}

/// `snake_case` as `snakeCase`.
pub fn camel_case(name: &str) -> std::borrow::Cow<'_, str> {
    if !name.contains('_') {
        return name.into();
    }
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for character in name.chars() {
        match character {
            '_' => upper = true,
            _ if std::mem::take(&mut upper) => camel.push(character.to_ascii_uppercase()),
            _ => camel.push(character),
        }
    }
    camel.into()
}

#[derive(Debug)]
struct Error {
    message: String,
    place: Option<(Path, Location)>,
}

/// The way from the root to a node, each step pointing at the one above.
#[derive(Clone, Copy)]
enum Trail<'t> {
    Key(&'t str, Option<&'t Trail<'t>>),
    Index(usize, Option<&'t Trail<'t>>),
}

#[derive(Clone, Copy)]
struct Reader<'n, 't> {
    node: &'n Node,
    trail: Option<&'t Trail<'t>>,
    unknown: &'t RefCell<Vec<UnknownField>>,
}

fn path_of(trail: Option<&Trail<'_>>) -> Path {
    let mut steps = Vec::new();
    let mut next = trail;
    while let Some(step) = next {
        match step {
            Trail::Key(key, above) => {
                steps.push(Step::Key((*key).into()));
                next = *above;
            }
            Trail::Index(index, above) => {
                steps.push(Step::Index(*index));
                next = *above;
            }
        }
    }
    steps.reverse();
    Path::from_steps(steps)
}

impl<'n, 't> Reader<'n, 't> {
    fn place(&self, mut error: Error) -> Error {
        error
            .place
            .get_or_insert_with(|| (path_of(self.trail), self.node.at));
        error
    }

    fn visit<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_i64(value),
                (_, Ok(value)) => visitor.visit_u64(value),
                _ => visitor.visit_i128(*value),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(items) => visitor.visit_seq(Items {
                reader: self,
                items: items.iter().enumerate(),
            }),
            Value::Mapping(entries) => visitor.visit_map(Entries::new(self, entries, None)),
        }
    }
}

impl<'n> Deserializer<'n> for Reader<'n, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor).map_err(|error| self.place(error))
    }

    fn deserialize_option<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'n>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Mapping(entries) => visitor
                .visit_map(Entries::new(self, entries, Some(fields)))
                .map_err(|error| self.place(error)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|error| self.place(error))
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'n>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

struct Items<'n, 't> {
    reader: Reader<'n, 't>,
    items: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
}

impl<'n> SeqAccess<'n> for Items<'n, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'n>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let trail = Trail::Index(index, self.reader.trail);
        let reader = Reader {
            node,
            trail: Some(&trail),
            unknown: self.reader.unknown,
        };
        seed.deserialize(reader)
            .map(Some)
            .map_err(|error| reader.place(error))
    }
}

struct Entries<'n, 't> {
    reader: Reader<'n, 't>,
    entries: std::slice::Iter<'n, (Key, Node)>,
    /// The fields of the struct that is read; `None` for a map, which takes any key.
    fields: Option<&'static [&'static str]>,
    value: Option<(&'n str, &'n Node)>,
}

impl<'n, 't> Entries<'n, 't> {
    fn new(
        reader: Reader<'n, 't>,
        entries: &'n [(Key, Node)],
        fields: Option<&'static [&'static str]>,
    ) -> Self {
        Self {
            reader,
            entries: entries.iter(),
            fields,
            value: None,
        }
    }

    /// The next entry that the struct wants, by its field's name. Unknown ones are noted, absent ones skipped.
    fn next_field(&mut self) -> Option<(&'n str, &'n Node)> {
        let Some(fields) = self.fields else {
            return self.entries.next().map(|(key, node)| (&*key.name, node));
        };
        for (key, node) in self.entries.by_ref() {
            let camel = camel_case(&key.name);
            match fields.iter().find(|field| **field == camel) {
                Some(_) if node.value == Value::Null => {}
                Some(field) => return Some((field, node)),
                None => self.reader.unknown.borrow_mut().push(UnknownField {
                    path: path_of(Some(&Trail::Key(&key.name, self.reader.trail))),
                    at: key.at,
                    meant: nearest(&camel, fields),
                }),
            }
        }
        None
    }
}

impl<'n> MapAccess<'n> for Entries<'n, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'n>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some((key, node)) = self.next_field() else {
            return Ok(None);
        };
        self.value = Some((key, node));
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key))
            .map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'n>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (key, node) = self
            .value
            .take()
            .ok_or_else(|| <Error as de::Error>::custom("a value was asked for before its key"))?;
        let trail = Trail::Key(key, self.reader.trail);
        let reader = Reader {
            node,
            trail: Some(&trail),
            unknown: self.reader.unknown,
        };
        seed.deserialize(reader)
            .map_err(|error| reader.place(error))
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            message: message.to_string(),
            place: None,
        }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        // serde names the Rust type, which is no news to the author of a manifest.
        let expected = match expected.as_str() {
            "a sequence" => "a list",
            "a map" => "a mapping",
            text if text.starts_with("struct ") => "a mapping",
            text => text,
        };
        Self::custom(format_args!("is {}, expected {expected}", describe(&found)))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::custom(format_args!(
            "field `{field}` is written twice, in two spellings"
        ))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl<'n> IntoDeserializer<'n, Error> for Reader<'n, '_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn describe(found: &de::Unexpected<'_>) -> String {
    match found {
        de::Unexpected::Bool(value) => format!("the boolean {value}"),
        de::Unexpected::Unsigned(value) => format!("the number {value}"),
        de::Unexpected::Signed(value) => format!("the number {value}"),
        de::Unexpected::Float(value) => format!("the number {value}"),
        de::Unexpected::Str(text) => format!("the text \"{text}\""),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a mapping".to_owned(),
        de::Unexpected::Unit => "empty".to_owned(),
        other => other.to_string(),
    }
}

/// The field whose name is at most two letters away, or the same in another case.
pub fn nearest(name: &str, fields: &'static [&'static str]) -> Option<&'static str> {
    fields
        .iter()
        .map(|field| {
            (
                distance(&name.to_ascii_lowercase(), &field.to_ascii_lowercase()),
                *field,
            )
        })
        .filter(|(distance, field)| *distance <= 2 && *distance < field.len())
        .min()
        .map(|(_, field)| field)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

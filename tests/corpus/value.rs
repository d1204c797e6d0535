//! Values as they are written in cases.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;

/// A value, or a list of them.
#[derive(Clone, Debug)]
pub struct OneOrMore<T>(pub Vec<T>);

/// A scalar of YAML as text; `LONG-50000` is so many letters.
#[derive(Clone, Debug)]
pub struct Text(pub String);

impl<T> Default for OneOrMore<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        let read = |value| serde_json::from_value(value).map_err(D::Error::custom);
        values
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let written = text(&value);
        let written = written.ok_or_else(|| D::Error::custom(format!("not a text: {value}")))?;
        let long = written.strip_prefix("LONG-").and_then(|n| n.parse().ok());
        Ok(Self(long.map_or(written, |length| "x".repeat(length))))
    }
}

/// A scalar as text.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `1.5s`, `300ms`, `2m` or `24h`.
pub fn duration(text: &str) -> Option<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

/// For a field that may be left out.
pub fn milliseconds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let written = String::deserialize(deserializer)?;
    let read = duration(&written);
    read.map(Some)
        .ok_or_else(|| D::Error::custom(format!("not a duration: {written}")))
}

//! The fields of Kubernetes' and Istio's objects, as they are written.
//!
//! Nothing is judged or converted here: a type of this folder says which fields exist and what shape they have, and no
//! other folder than `config` may see one. Every field of Istio's API is listed, so that an unknown one is a typing
//! error; of Kubernetes' core objects only what is read. Absent and `null` are the same.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, Unexpected, Visitor};

pub mod core;
pub mod destination_rule;
pub mod gateway;
pub mod mesh_config;
pub mod proxy_config;
pub mod security;
pub mod service_entry;
pub mod sidecar;
pub mod virtual_service;

/// A value that is there, whatever it is: the field is known, and what it says is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present;

/// A whole number, written as a number or, as proto's JSON allows, as a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<T>(pub T);

/// A number with a fraction, written as a number or, as proto's JSON allows, as a string.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decimal(pub f64);

/// A 16-bit port, before anyone has looked whether it is one.
pub type Port = Number<u32>;

/// `exact`, `prefix` or `regex`, one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct StringMatch {
    /// The whole text.
    pub exact: Option<String>,
    /// Its beginning.
    pub prefix: Option<String>,
    /// RE2, the whole text.
    pub regex: Option<String>,
}

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl<'de, T: TryFrom<i64>> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DecimalVisitor)
    }
}

struct DecimalVisitor;

impl Visitor<'_> for DecimalVisitor {
    type Value = Decimal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a number that large means nothing more exact"
    )]
    fn visit_i64<E: Error>(self, value: i64) -> Result<Decimal, E> {
        Ok(Decimal(value as f64))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a number that large means nothing more exact"
    )]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Decimal, E> {
        Ok(Decimal(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Decimal, E> {
        Ok(Decimal(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Decimal, E> {
        match text.parse() {
            Ok(value) => Ok(Decimal(value)),
            Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

struct NumberVisitor<T>(PhantomData<T>);

impl<T: TryFrom<i64>> Visitor<'_> for NumberVisitor<T> {
    type Value = Number<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only a number that fits nothing signed gets here with an unsigned type, so one wording serves both.
        if T::try_from(-1).is_ok() {
            f.write_str("a whole number")
        } else {
            f.write_str("a whole number that is not negative")
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        T::try_from(value)
            .map(Number)
            .map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Err(E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked by the comparison beside it"
    )]
    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        if value.fract() == 0.0 && value.abs() < 1e15 {
            self.visit_i64(value as i64)
        } else {
            Err(E::invalid_value(Unexpected::Float(value), &self))
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        match text.parse() {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

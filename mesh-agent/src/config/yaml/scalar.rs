//! What a plain scalar means to kubectl: YAML 1.1, as sigs.k8s.io/yaml resolves it.

use std::sync::Arc;

use crate::config::yaml::{Node, Value};

/// The value of a scalar without quotes.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if number {
        let digits = text.replace('_', "");
        if let Some(integer) = integer(&digits) {
            return Value::Integer(integer);
        }
        if let Some(float) = float(&digits) {
            return Value::Float(float);
        }
    }
    Value::String(text.into())
}

/// A key's text: JSON knows strings alone, so numbers and booleans become what they print as.
pub(super) fn key(node: &Node) -> Option<Arc<str>> {
    match &node.value {
        Value::String(text) => Some(Arc::clone(text)),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Integer(value) => Some(value.to_string().into()),
        Value::Float(value) => Some(value.to_string().into()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
    }
}

/// Decimal, `0x`, `0o`, `0b`, and octal by a leading zero. `0089` is none of these, and so a float.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some(two) if two.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    let value = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

fn float(text: &str) -> Option<f64> {
    match text {
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    // Rust reads `+inf` and `1e5` as Go does, but `infinity` and `nan` are strings in YAML.
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'))
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_takes_them_for() {
        let cases = [
            ("yes", Value::Bool(true)),
            ("On", Value::Bool(true)),
            ("n", Value::Bool(false)),
            ("oN", Value::String("oN".into())),
            ("~", Value::Null),
            ("80", Value::Integer(80)),
            ("+80", Value::Integer(80)),
            ("-1", Value::Integer(-1)),
            ("0644", Value::Integer(0o644)),
            ("0o17", Value::Integer(15)),
            ("0x1F", Value::Integer(31)),
            ("0b11", Value::Integer(3)),
            ("1_000", Value::Integer(1000)),
            ("0089", Value::Float(89.0)),
            ("1.5", Value::Float(1.5)),
            (".5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            ("1.2.3", Value::String("1.2.3".into())),
            ("10.0.0.1/8", Value::String("10.0.0.1/8".into())),
            ("5s", Value::String("5s".into())),
            (
                "2024-01-02T03:04:05Z",
                Value::String("2024-01-02T03:04:05Z".into()),
            ),
            ("190:20:30", Value::String("190:20:30".into())),
            ("-", Value::String("-".into())),
            ("+-1", Value::String("+-1".into())),
            (".inf", Value::Float(f64::INFINITY)),
            ("inf", Value::String("inf".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }
}

//! Values of headers that are made for one request: they share pieces of memory, so that hardly any needs an allocation.

use std::cell::RefCell;
use std::fmt::{self, Write};

use bytes::BytesMut;
use http::HeaderValue;

/// Makes them; one for each worker.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Texts(RefCell<BytesMut>);

/// How large the pieces are. One goes when the last value in it does, and is used again where that is so by the time it
/// is full.
const PIECE: usize = 4096;

const DIGITS: &str = "0123456789";

/// How many digits a number has at most.
pub(super) const LONGEST: usize = 20;

/// The digits of a number.
pub(super) fn decimal(number: u64, room: &mut [u8; LONGEST]) -> &[u8] {
    let mut rest = number;
    let mut begin = LONGEST;
    loop {
        begin -= 1;
        room[begin] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &room[begin..];
        }
    }
}

impl Texts {
    /// The value that these make one after another; `None` where a header cannot carry it.
    pub(in crate::proxy) fn joined(&self, parts: &[&[u8]]) -> Option<HeaderValue> {
        let length = parts.iter().map(|part| part.len()).sum();
        let mut memory = self.memory(length);
        for part in parts {
            memory.extend_from_slice(part);
        }
        HeaderValue::from_maybe_shared(memory.split().freeze()).ok()
    }

    /// Likewise of what is written so.
    pub(in crate::proxy) fn written(&self, text: fmt::Arguments<'_>) -> Option<HeaderValue> {
        let mut memory = self.memory(64);
        // Memory grows as it must, and nothing that is written here fails by itself.
        let _ = memory.write_fmt(text);
        HeaderValue::from_maybe_shared(memory.split().freeze()).ok()
    }

    /// The value of a number.
    pub(in crate::proxy) fn number(&self, number: u64) -> HeaderValue {
        if let Ok(small) = usize::try_from(number)
            && let Some(digit) = DIGITS.get(small..=small)
        {
            return HeaderValue::from_static(digit);
        }
        let written = self.joined(&[decimal(number, &mut [0; LONGEST])]);
        written.unwrap_or_else(|| HeaderValue::from(number))
    }

    fn memory(&self, length: usize) -> std::cell::RefMut<'_, BytesMut> {
        let mut memory = self.0.borrow_mut();
        if memory.capacity() < length {
            memory.reserve(length.max(PIECE));
        }
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_was_said() {
        let texts = Texts::default();
        let mut made = Vec::new();
        for number in (0..1500).chain([u64::MAX]) {
            let joined = texts.joined(&[b"a", b"", number.to_string().as_bytes(), b"/*"]);
            made.push((number, texts.number(number), joined.unwrap()));
        }
        for (number, value, joined) in made {
            assert_eq!(value, number.to_string());
            assert_eq!(joined, format!("a{number}/*"));
        }
        let long = "x".repeat(3 * PIECE);
        assert_eq!(texts.joined(&[long.as_bytes()]).unwrap(), long);
        assert_eq!(texts.written(format_args!("{long}")).unwrap(), long);
        assert_eq!(texts.joined(&[b"a\nb"]), None);
        assert_eq!(texts.joined(&[b"a"]).unwrap(), "a");
        assert_eq!(texts.joined(&[]).unwrap(), "");
    }
}

//! Request paths in their plain form, so that two spellings of one path cannot be routed differently.
//!
//! Istio's default (`BASE`): dot segments are resolved, `\` becomes `/`, and percent-encoded characters that need no
//! encoding are decoded, and bytes beyond ASCII encoded. `%2F` and `%5C` stay, and so do doubled slashes.

use std::borrow::Cow;

/// The plain form of `path`, which has no query. `None` where there is none: a NUL in it.
pub fn normalize(path: &str) -> Option<Cow<'_, str>> {
    let bytes = path.as_bytes();
    let plain = !bytes.iter().enumerate().any(|(i, b)| {
        matches!(b, b'%' | b'\\' | 0x80..) || (*b == b'.' && i > 0 && bytes[i - 1] == b'/')
    });
    if plain || !path.starts_with('/') {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(bytes)?;
    Some(Cow::Owned(resolve_dots(&decoded)))
}

fn decode(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let code = match (byte, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h * 16 + l),
            _ => None,
        };
        match (byte, code) {
            (_, Some(0)) => return None,
            (_, Some(code)) => {
                rest = &after[2..];
                if is_unreserved(code) {
                    out.push(char::from(code));
                } else {
                    out.push('%');
                    out.push(char::from(after[0]));
                    out.push(char::from(after[1]));
                }
            }
            (b'\\', None) => out.push('/'),
            (byte, None) if byte.is_ascii() => out.push(char::from(byte)),
            (byte, None) => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(out)
}

/// RFC 3986, 5.2.4.
fn resolve_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut words = path.split('/').skip(1).peekable();
    while let Some(word) = words.next() {
        let last = words.peek().is_none();
        match word {
            "." | ".." => {
                if word == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            word => segments.push(word),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(normalize(path).as_deref(), expected, "{path}");
    }

    #[test]
    fn one_spelling_for_each_path() {
        check("/", Some("/"));
        check("/a//b", Some("/a//b"));
        check("/a/./b", Some("/a/b"));
        check("/a/../b", Some("/b"));
        check("/a/..", Some("/"));
        check("/..", Some("/"));
        check("/../../a", Some("/a"));
        check("/a/.", Some("/a/"));
        check("/a/%2e%2E/b", Some("/b"));
        check("/%61dmin", Some("/admin"));
        check("/a%2Fb", Some("/a%2Fb"));
        check("/a%2fb", Some("/a%2fb"));
        check("/a%5cb", Some("/a%5cb"));
        check("/a\\b", Some("/a/b"));
        check("/a\\..\\b", Some("/b"));
        check("/a%", Some("/a%"));
        check("/a%zz", Some("/a%zz"));
        check("/a%00", None);
        check("/.hidden/x.y", Some("/.hidden/x.y"));
        check("/ä", Some("/%C3%A4"));
        check("*", Some("*"));
    }
}

//! Request paths in their plain form, so that two spellings of one path cannot be routed differently.
//!
//! Istio's default (`BASE`): dot segments are resolved, `\` becomes `/`, and percent-encoded characters that need no
//! encoding are decoded, and what a path must not have as it is encoded. `%2F` and `%5C` stay, and so do doubled slashes.

use std::borrow::Cow;

/// The plain form of `path`, which has no query. `None` where there is none: a NUL in it.
pub fn normalize(path: &str) -> Option<Cow<'_, str>> {
    let bytes = path.as_bytes();
    let plain = !bytes.iter().enumerate().any(|(i, b)| {
        matches!(b, b'%' | b'\\') || is_encoded(*b) || (*b == b'.' && i > 0 && bytes[i - 1] == b'/')
    });
    if plain || !path.starts_with('/') {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(without_parameters(path).as_bytes())?;
    Some(Cow::Owned(resolve_dots(&decoded)))
}

/// Takes from dot segments what some servers take for a parameter and do not look at: `/..;x/` is `/../` to them. As with
/// Envoy, this goes by the path as it was written.
fn without_parameters(path: &str) -> Cow<'_, str> {
    if !path.contains("/.;") && !path.contains("/..;") {
        return Cow::Borrowed(path);
    }
    let segments = path
        .split('/')
        .map(|segment| match segment.split_once(';') {
            Some((dots @ ("." | ".."), _)) => dots,
            _ => segment,
        });
    Cow::Owned(segments.collect::<Vec<_>>().join("/"))
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
            (byte, None) if is_encoded(byte) => out.push_str(&format!("%{byte:02X}")),
            (byte, None) => out.push(char::from(byte)),
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

/// What must not stand in a path as it is, and is let through by many.
fn is_encoded(byte: u8) -> bool {
    matches!(
        byte,
        b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80..
    )
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
        check("/a\"{b}|^c", Some("/a%22%7Bb%7D%7C%5Ec"));
        check("/[a]'b!$&()*+,;=:@~", Some("/[a]'b!$&()*+,;=:@~"));
        check("/a/..;/b", Some("/b"));
        check("/a/..;x=y;z/b", Some("/b"));
        check("/a/.;/b", Some("/a/b"));
        check("/a/..;", Some("/"));
        check("/a/...;/b", Some("/a/...;/b"));
        check("/a/%2e%2e;/b", Some("/a/..;/b"));
        check("/a\\..;\\b", Some("/a/..;/b"));
        check("/a;x/../b", Some("/b"));
        check("*", Some("*"));
    }
}

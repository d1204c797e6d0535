//! RE2's regular expressions, for Rust's engine.
//!
//! The two agree on nearly everything, so a pattern is only rewritten where they do not: RE2 takes `[` in a class and a
//! brace that counts nothing as themselves, knows `\Q...\E`, and takes any escaped punctuation as itself.

use regex::Regex;

use crate::config::path::Path;
use crate::config::problem::Problems;

/// Longer ones are refused by Istio too.
const MAX_LENGTH: usize = 1024;

/// Reads a pattern that must match the whole of a text.
pub fn read(pattern: &str, path: &Path, problems: &mut Problems) -> Option<Regex> {
    if pattern.is_empty() {
        problems.error(
            path,
            "a regex must not be empty",
            "write \".*\" to match everything",
        );
        return None;
    }
    if pattern.len() > MAX_LENGTH {
        let length = pattern.len();
        problems.error(
            path,
            format!("a regex of {length} bytes is too long"),
            format!("keep it below {MAX_LENGTH}"),
        );
        return None;
    }
    match Regex::new(&format!(r"\A(?:{})\z", translate(pattern))) {
        Ok(regex) => Some(regex),
        Err(error) => {
            // The first lines of the engine's message draw the pattern; the last one says what is wrong with it.
            let text = error.to_string();
            let reason = text
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            problems.error(
                path,
                format!("\"{pattern}\" is no regex: {reason}"),
                "write it in RE2's syntax",
            );
            None
        }
    }
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    let mut in_class = false;
    while let Some(character) = rest.chars().next() {
        let after = &rest[character.len_utf8()..];
        rest = after;
        match character {
            '\\' => rest = escape(after, &mut out),
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                // A bracket that comes first is a member of the class.
                if let Some(next) = rest.strip_prefix('^') {
                    out.push('^');
                    rest = next;
                }
                if let Some(next) = rest.strip_prefix(']') {
                    out.push_str(r"\]");
                    rest = next;
                }
            }
            '[' if after.starts_with(':') && after.contains(":]") => {
                let end = after.find(":]").map_or(0, |end| end + 2);
                out.push('[');
                out.push_str(&after[..end]);
                rest = &after[end..];
            }
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(character);
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            '{' if !in_class && !counts(after) => out.push_str(r"\{"),
            _ => out.push(character),
        }
    }
    out
}

/// Writes what stands behind a backslash and returns the rest.
fn escape<'p>(after: &'p str, out: &mut String) -> &'p str {
    if let Some(quoted) = after.strip_prefix('Q') {
        let (literal, rest) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
        out.push_str(&regex::escape(literal));
        return rest;
    }
    let Some(character) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    if matches!(character, '<' | '>') {
        // Rust's engine reads these two as the edges of words.
        out.push(character);
    } else {
        out.push('\\');
        out.push(character);
    }
    &after[character.len_utf8()..]
}

/// Whether what follows `{` makes it a repetition: `3}`, `3,}`, `3,5}`.
fn counts(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else {
        return false;
    };
    let (low, high) = inside.split_once(',').unwrap_or((inside, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> Option<bool> {
        let mut problems = Problems::default();
        let regex = read(pattern, &Path::root(), &mut problems)?;
        Some(regex.is_match(text))
    }

    #[test]
    fn a_regex_matches_the_whole_text_as_re2_reads_it() {
        let cases = [
            ("/v[0-9]+", "/v12", Some(true)),
            ("/v[0-9]+", "/v12/x", Some(false)),
            ("/a|/b", "/b", Some(true)),
            ("/a|/b", "/bc", Some(false)),
            ("(?i)/a", "/A", Some(true)),
            ("[[]", "[", Some(true)),
            ("[a&&b]+", "a&b", Some(true)),
            ("[]a]+", "]a", Some(true)),
            ("[^]a]+", "b", Some(true)),
            ("[[:digit:]]+", "42", Some(true)),
            ("{a}", "{a}", Some(true)),
            ("a{2}", "aa", Some(true)),
            ("a{2,}", "aaa", Some(true)),
            (r"\Qa.b\E.", "a.bc", Some(true)),
            (r"\Qa.b\E", "axb", Some(false)),
            (r"\<a\>", "<a>", Some(true)),
            (r"\d+\.html", "1.html", Some(true)),
            ("(?=a)", "a", None),
            (r"(a)\1", "aa", None),
            ("(", "(", None),
            ("", "", None),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
        assert_eq!(matches(&"a".repeat(1025), "a"), None);
    }
}

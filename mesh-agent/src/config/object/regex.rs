//! RE2's regular expressions, for Rust's engine.
//!
//! The two agree on nearly everything, so a pattern is only rewritten where they do not: RE2 takes `[` in a class and a
//! brace that counts nothing as themselves, knows `\Q...\E`, takes any escaped punctuation as itself, and means ASCII by
//! `\d`, `\s`, `\w` and `\b`.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::config::path::Path;
use crate::config::problem::Problems;

/// Longer ones are refused by Istio too.
const MAX_LENGTH: usize = 1024;

/// How much memory a compiled pattern may take: enough for what people write, and not for what means harm.
const MAX_SIZE: usize = 4 << 20;

/// Reads a pattern that must match the whole of a text.
pub fn read(pattern: &str, path: &Path, problems: &mut Problems) -> Option<Regex> {
    compile(
        pattern,
        |pattern| format!(r"\A(?:{pattern})\z"),
        path,
        problems,
    )
}

/// Reads a pattern that is looked for anywhere in a text.
pub fn read_part(pattern: &str, path: &Path, problems: &mut Problems) -> Option<Regex> {
    compile(pattern, |pattern| pattern, path, problems)
}

/// Reads what takes the place of a match of `regex`: `\1` stands for its first group. Comes as Rust's engine has it.
pub fn read_replacement(
    text: &str,
    regex: &Regex,
    path: &Path,
    problems: &mut Problems,
) -> Option<Arc<str>> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '$' => out.push_str("$$"),
            '\\' => match characters.next() {
                Some('\\') => out.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = usize::from(digit as u8 - b'0');
                    if group >= regex.captures_len() {
                        let message = format!("the pattern has no group {group}");
                        let remedy = "put what is meant into parentheses, or name another group";
                        problems.error(path, message, remedy);
                        return None;
                    }
                    out.push_str(&format!("${{{group}}}"));
                }
                Some(_) | None => {
                    let message = format!("a backslash in \"{text}\" stands before no digit");
                    problems.error(path, message, "write \\\\ for a literal backslash");
                    return None;
                }
            },
            _ => out.push(character),
        }
    }
    Some(out.into())
}

fn compile(
    pattern: &str,
    whole: impl Fn(String) -> String,
    path: &Path,
    problems: &mut Problems,
) -> Option<Regex> {
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
            format!("write {MAX_LENGTH} at most"),
        );
        return None;
    }
    let compiled = RegexBuilder::new(&whole(translate(pattern)))
        .size_limit(MAX_SIZE)
        .build();
    match compiled {
        Ok(regex) => Some(regex),
        Err(regex::Error::CompiledTooBig(_)) => {
            problems.error(
                path,
                format!("\"{pattern}\" takes too much memory"),
                "repeat less in it",
            );
            None
        }
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
            '\\' => rest = escape(after, in_class, &mut out),
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
fn escape<'p>(after: &'p str, in_class: bool, out: &mut String) -> &'p str {
    if let Some(quoted) = after.strip_prefix('Q') {
        let (literal, rest) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
        out.push_str(&regex::escape(literal));
        return rest;
    }
    let Some(character) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    match character {
        // Rust's engine reads these two as the edges of words.
        '<' | '>' => out.push(character),
        // Rust's engine means all of Unicode by these.
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        's' => out.push_str(r"[\t\n\f\r ]"),
        'S' => out.push_str(r"[^\t\n\f\r ]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'b' if !in_class => out.push_str(r"(?-u:\b)"),
        'B' if !in_class => out.push_str(r"(?-u:\B)"),
        _ => {
            out.push('\\');
            out.push(character);
        }
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
            (r"\d", "\u{663}", Some(false)),
            (r"[\d-]+", "1-2", Some(true)),
            (r"[^\d]+", "1", Some(false)),
            (r"[\D]+", "ab", Some(true)),
            (r"[\Wx]+", "x-\u{e9}", Some(true)),
            (r"\w+", "\u{e9}", Some(false)),
            (r"\S+\s", "a\u{b}", Some(false)),
            (r"\S+\s\S+", "a b", Some(true)),
            (r"a\b.", "a\u{e9}", Some(true)),
            (r"a\B.", "ab", Some(true)),
            (r".\W.", "a\u{e9}b", Some(true)),
            ("a.b", "a\nb", Some(false)),
            ("a$", "a\n", Some(false)),
            (r"(\w{1,1000}){1,1000}", "a", None),
            ("(?=a)", "a", None),
            (r"(a)\1", "aa", None),
            ("(", "(", None),
            ("", "", None),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
        assert_eq!(matches(&"a".repeat(1024), &"a".repeat(1024)), Some(true));
        assert_eq!(matches(&"a".repeat(1025), "a"), None);
    }

    #[test]
    fn a_replacement_names_groups_by_number() {
        let cases = [
            ("/(a)(b)?", r"/\2\1", "/x/ab/ac", Some("/x/ba/ac")),
            ("b+", "<\\0>", "abbbcb", Some("a<bbb>c<b>")),
            ("b", "$1${0}$$", "abc", Some("a$1${0}$$c")),
            ("b", r"\\1", "b", Some(r"\1")),
            ("(b)", r"\11", "b", Some("b1")),
            ("b", r"\1", "b", None),
            ("b", r"\x", "b", None),
            ("b", "\\", "b", None),
        ];
        for (pattern, replacement, text, expected) in cases {
            let mut problems = Problems::default();
            let path = Path::root();
            let regex = read_part(pattern, &path, &mut problems).expect("it is a regex");
            let replacement = read_replacement(replacement, &regex, &path, &mut problems);
            assert_eq!(problems.is_empty(), expected.is_some());
            let found = replacement.map(|with| regex.replace_all(text, &*with).into_owned());
            assert_eq!(found.as_deref(), expected, "{pattern} in {text}");
        }
    }
}

//! The lines of manifests, for showing them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The longest line, in bytes, that is shown as it is. JSON without line breaks has lines of megabytes.
const LONG: usize = 2_000;

/// How many characters of a longer one are shown.
const WINDOW: usize = 100;

/// How many of these stand before the offending text.
const LEAD: usize = 40;

/// The most lines of one place that are shown.
const LINES: u32 = 6;

/// Files, read when they are first asked for.
pub(super) struct Sources<R> {
    read: R,
    files: HashMap<PathBuf, Option<Source>>,
}

/// A text and where its lines begin.
struct Source {
    text: String,
    lines: Vec<Range<usize>>,
}

/// A stretch of a file, as it was said to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) end_line: u32,
    pub(super) end_column: u32,
}

/// Lines of a file, and what of them is underlined, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) text: String,
    pub(super) marked: Range<usize>,
    /// Whether something is missing before the marked text, so that its place in the file cannot be told from here.
    pub(super) cut: bool,
}

impl<R: Fn(&Path) -> Option<String>> Sources<R> {
    pub(super) fn new(read: R) -> Self {
        Self {
            read,
            files: HashMap::new(),
        }
    }

    /// The lines of a place; none where the file cannot be read, or has become another one.
    pub(super) fn excerpt(&mut self, file: &Path, place: Place) -> Option<Excerpt> {
        if !self.files.contains_key(file) {
            let source = (self.read)(file).map(Source::new);
            self.files.insert(file.to_path_buf(), source);
        }
        self.files.get(file)?.as_ref()?.excerpt(place)
    }
}

impl Source {
    fn new(text: String) -> Self {
        let text = match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        };
        let lines = lines(&text);
        Self { text, lines }
    }

    fn excerpt(&self, place: Place) -> Option<Excerpt> {
        let first = self.line(place.line)?;
        let start = byte_of(first, place.column);
        if place.end_line <= place.line {
            let end = byte_of(first, place.end_column).max(start);
            return Some(window(first, start..end));
        }
        // A long one is shown by its beginning.
        let last = place.end_line.min(place.line + LINES - 1);
        let Excerpt {
            mut text,
            marked,
            cut,
        } = window(first, start..first.trim_end().len().max(start));
        let start = marked.start;
        let mut end = marked.end;
        for number in place.line + 1..=last {
            let line = self.line(number)?;
            text.push('\n');
            let whole = number < place.end_line;
            let marked = if whole {
                line.trim_end().len()
            } else {
                byte_of(line, place.end_column)
            };
            let shown = beginning(line, LONG);
            end = text.len() + marked.min(shown.len());
            text.push_str(shown);
        }
        Some(Excerpt {
            text,
            marked: start..end,
            cut,
        })
    }

    fn line(&self, number: u32) -> Option<&str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.lines.get(index).map(|line| &self.text[line.clone()])
    }
}

/// Lines without what ends them: a line feed, a carriage return, or both.
fn lines(text: &str) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let pair = *byte == b'\r' && bytes.get(at + 1) == Some(&b'\n');
        if matches!(byte, b'\n' | b'\r') && !pair {
            let end = if *byte == b'\n' && at > start && bytes[at - 1] == b'\r' {
                at - 1
            } else {
                at
            };
            lines.push(start..end);
            start = at + 1;
        }
    }
    lines.push(start..text.len());
    lines
}

/// Where a column, counted in characters from 1, begins in a line.
fn byte_of(line: &str, column: u32) -> usize {
    let before = usize::try_from(column).map_or(usize::MAX, |column| column.saturating_sub(1));
    let found = line.char_indices().nth(before);
    found.map_or(line.len(), |(at, _)| at)
}

/// At most so many characters of a line.
fn beginning(line: &str, characters: usize) -> &str {
    let end = line.char_indices().nth(characters);
    end.map_or(line, |(at, _)| &line[..at])
}

/// The part of a long line that is around what is marked.
fn window(line: &str, marked: Range<usize>) -> Excerpt {
    if line.len() <= LONG {
        return Excerpt {
            text: line.to_owned(),
            marked,
            cut: false,
        };
    }
    let before = line[..marked.start].char_indices().rev().nth(LEAD);
    let (from, dots) = before.map_or((0, ""), |(at, _)| (at, "..."));
    let shown = beginning(&line[from..], WINDOW);
    let more = if from + shown.len() < line.len() {
        "..."
    } else {
        ""
    };
    let place = |at: usize| dots.len() + (at - from).min(shown.len());
    Excerpt {
        marked: place(marked.start)..place(marked.end),
        text: format!("{dots}{shown}{more}"),
        cut: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str, place: (u32, u32, u32, u32)) -> Option<(String, String)> {
        let mut sources = Sources::new(|_: &Path| Some(text.to_owned()));
        let (line, column, end_line, end_column) = place;
        let place = Place {
            line,
            column,
            end_line,
            end_column,
        };
        let Excerpt { text, marked, .. } = sources.excerpt(Path::new("x"), place)?;
        let marked = text[marked].to_owned();
        Some((text, marked))
    }

    #[test]
    fn the_marked_text_is_what_line_and_column_say() {
        let cases = [
            ("a: b\nc: d\n", (2, 4, 2, 5), "c: d", "d"),
            ("\u{feff}a: b", (1, 4, 1, 5), "a: b", "b"),
            ("a: b\r\nc: d\r\n", (2, 4, 2, 5), "c: d", "d"),
            ("a: b\rc: d\re: f", (3, 1, 3, 2), "e: f", "e"),
            ("\r\n\r\na", (3, 1, 3, 2), "a", "a"),
            ("é界: 😀 x", (1, 7, 1, 8), "é界: 😀 x", "x"),
            ("a: b", (1, 4, 1, 4), "a: b", ""),
            ("a: b", (1, 9, 1, 12), "a: b", ""),
            ("a: [b,\n c] \nd", (1, 4, 2, 4), "a: [b,\n c] ", "[b,\n c]"),
        ];
        for (text, place, shown, marked) in cases {
            let expected = Some((shown.to_owned(), marked.to_owned()));
            assert_eq!(excerpt(text, place), expected, "{text:?}");
        }
    }

    #[test]
    fn a_place_that_is_not_there_is_not_shown() {
        assert_eq!(excerpt("a: b\n", (3, 1, 3, 2)), None);
        assert_eq!(excerpt("a: b\n", (0, 0, 0, 0)), None);
        assert_eq!(excerpt("a: [\n", (1, 4, 4, 2)), None);
    }

    #[test]
    fn long_lines_and_long_places_are_cut() {
        let line = format!("{}MARK{}", "é".repeat(100_000), "x".repeat(100_000));
        let (shown, marked) = excerpt(&line, (1, 100_001, 1, 100_005)).expect("it is there");
        assert_eq!(marked, "MARK");
        assert_eq!(shown.chars().count(), WINDOW + 6);
        assert!(shown.starts_with("...é") && shown.ends_with("x..."));

        let (shown, marked) = excerpt(&line, (1, 100_001, 1, 200_000)).expect("it is there");
        assert!(marked.starts_with("MARKxx") && shown.chars().count() == WINDOW + 6);

        let text = format!("a: [\n{}]\n", "  x,\n".repeat(50));
        let (shown, marked) = excerpt(&text, (1, 4, 52, 2)).expect("it is there");
        assert_eq!(shown.lines().count(), LINES as usize);
        assert!(marked.starts_with("[\n"));
    }
}

//! Looks at the heads of requests for what hyper keeps to itself. Where both `content-length` and `transfer-encoding` say
//! how long a body is, hyper takes the latter and closes the connection afterwards, which is right; a server that took
//! the former would see another request in the body, so it is better not to let such a request in. And what hyper
//! refuses it refuses as bad, where Envoy says that the version is too old, or the encoding unknown.

use memchr::memchr;

/// Follows the bytes of one head, however they are cut.
#[derive(Debug)]
pub(super) struct HeadScan {
    state: State,
    /// The beginning of a header's line up to the colon, or of what `transfer-encoding` says, lower case; of the first
    /// line the word that is being read.
    word: [u8; LONGEST],
    length: usize,
    /// Of the first line.
    words: Words,
    lengths: u32,
    encodings: u32,
    /// One of them was not `chunked`.
    strange: bool,
}

/// What the first line says.
#[derive(Clone, Copy, Debug, Default)]
struct Words {
    count: u32,
    /// The second is a path.
    path: bool,
    /// The last is HTTP/1.1, or another version of HTTP.
    version: Option<bool>,
}

/// What hyper has no word for, or another one than Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Oddity {
    /// Another version of HTTP than 1.1.
    Version,
    /// A body in another encoding than `chunked`, or in several.
    Encoding,
    /// It says more than once how long the body is.
    Ambiguous,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first line.
    Before,
    /// Within the first line.
    First,
    /// Within a line's first bytes.
    Name,
    /// Within what `transfer-encoding` says.
    Encoding,
    /// Behind what of a line matters.
    Rest,
    /// Behind the empty line.
    Over,
}

const LENGTH: &[u8] = b"content-length";
const ENCODING: &[u8] = b"transfer-encoding";
const LONGEST: usize = ENCODING.len();

impl HeadScan {
    pub(super) fn new() -> Self {
        Self {
            state: State::Before,
            word: [0; LONGEST],
            length: 0,
            words: Words::default(),
            lengths: 0,
            encodings: 0,
            strange: false,
        }
    }

    /// What is odd about the head so far; the gravest, where there are several.
    pub(super) fn oddity(&self) -> Option<Oddity> {
        let Words {
            count,
            path,
            version,
        } = self.words;
        let complete = !matches!(self.state, State::Before | State::First);
        match version {
            Some(false) if complete && count == 3 => return Some(Oddity::Version),
            // HTTP/0.9 has no third word.
            None if complete && count == 2 && path => return Some(Oddity::Version),
            Some(_) | None => {}
        }
        if self.lengths > 1 || self.lengths > 0 && self.encodings > 0 {
            return Some(Oddity::Ambiguous);
        }
        (self.strange || self.encodings > 1).then_some(Oddity::Encoding)
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            match self.state {
                State::Over => return,
                State::Rest => match memchr(b'\n', rest) {
                    None => return,
                    Some(end) => {
                        self.begin_line();
                        rest = &rest[end + 1..];
                    }
                },
                State::Before if matches!(byte, b'\r' | b'\n') => rest = after,
                State::Before => match memchr(b'\n', rest) {
                    None => self.state = State::First,
                    // As nearly always, it is there as a whole.
                    Some(end) => {
                        self.words = Words::of(&rest[..end]);
                        self.begin_line();
                        rest = &rest[end + 1..];
                    }
                },
                State::First => {
                    self.take_first(byte);
                    rest = after;
                }
                State::Name => {
                    self.take(byte);
                    rest = after;
                }
                State::Encoding => {
                    self.take_encoding(byte);
                    rest = after;
                }
            }
        }
    }

    fn begin_line(&mut self) {
        self.state = State::Name;
        self.length = 0;
    }

    fn take_first(&mut self, byte: u8) {
        match byte {
            b' ' | b'\r' | b'\n' => {
                if self.length > 0 {
                    let word = &self.word[..self.length.min(LONGEST)];
                    self.words.count += 1;
                    self.words.path |= self.words.count == 2 && word[0] == b'/';
                    self.words.version = version(word);
                    self.length = 0;
                }
                if byte == b'\n' {
                    self.begin_line();
                }
            }
            byte => {
                if let Some(place) = self.word.get_mut(self.length) {
                    *place = byte;
                }
                self.length += 1;
            }
        }
    }

    fn take(&mut self, byte: u8) {
        match byte {
            b'\n' if self.length == 0 => self.state = State::Over,
            b'\n' => self.begin_line(),
            b'\r' => {}
            b':' => {
                self.state = State::Rest;
                match &self.word[..self.length] {
                    LENGTH => self.lengths += 1,
                    ENCODING => {
                        self.encodings += 1;
                        self.state = State::Encoding;
                        self.length = 0;
                    }
                    _ => {}
                }
            }
            byte if self.length < LONGEST => {
                self.word[self.length] = byte.to_ascii_lowercase();
                self.length += 1;
                // Hardly any name begins so: there is no need to look at more of it.
                if self.length == 1 && !matches!(self.word[0], b'c' | b't') {
                    self.state = State::Rest;
                }
            }
            _ => self.state = State::Rest,
        }
    }

    fn take_encoding(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                let said = &self.word[..self.length.min(LONGEST)];
                self.strange |= said.trim_ascii() != b"chunked";
                self.begin_line();
            }
            b' ' | b'\t' if self.length == 0 => {}
            b'\r' => {}
            byte => {
                if let Some(place) = self.word.get_mut(self.length) {
                    *place = byte.to_ascii_lowercase();
                }
                self.length += 1;
            }
        }
    }
}

impl Words {
    /// What a whole line says, of which no more is looked at than must be.
    fn of(line: &[u8]) -> Self {
        let line = line.trim_ascii();
        let space = |byte: &u8| *byte == b' ';
        let (Some(first), Some(last)) = (line.iter().position(space), line.iter().rposition(space))
        else {
            return Self {
                count: 1,
                ..Self::default()
            };
        };
        let version = version(&line[last + 1..]);
        let count = match version {
            Some(false) => line.split(space).filter(|word| !word.is_empty()).count() as u32,
            _ if first == last => 2,
            _ => 3,
        };
        Self {
            count,
            path: line.get(first + 1) == Some(&b'/'),
            version,
        }
    }
}

/// Whether a word is HTTP/1.1; `None` where it is no version of HTTP at all.
fn version(word: &[u8]) -> Option<bool> {
    match word.strip_prefix(b"HTTP/")? {
        b"1.1" => Some(true),
        [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, expected: Option<Oddity>) {
        for cut in [1, 2, 3, 7, 1000] {
            let mut scan = HeadScan::new();
            for part in head.as_bytes().chunks(cut) {
                scan.feed(part);
            }
            assert_eq!(scan.oddity(), expected, "{head:?} in parts of {cut}");
        }
    }

    const FIRST: &str = "POST /content-length:transfer-encoding: HTTP/1.1\r\n";
    const CONTENT_LENGTH: &str = "Content-Length: 5\r\n";
    const CHUNKED: &str = "TRANSFER-encoding:chunked\r\n";

    #[test]
    fn sees_two_lengths() {
        let (first, length, encoding) = (FIRST, CONTENT_LENGTH, CHUNKED);
        let ambiguous = Some(Oddity::Ambiguous);
        check(&format!("{first}{length}{encoding}\r\n"), ambiguous);
        check(&format!("\r\n\n{first}{length}{encoding}\r\n"), ambiguous);
        check(&format!("{first}{length}{length}\r\n"), ambiguous);
        check(
            &format!("{first}Host: a\r\n{encoding}X: y\r\n{length}\r\n"),
            ambiguous,
        );
        check(
            &format!("{first}Content-Length: 5\nTransfer-Encoding: chunked\n\n"),
            ambiguous,
        );
        check(&format!("\r\n{first}\r\n"), None);
        check(&format!("{first}{length}\r\n{encoding}\r\n"), None);
        check(&format!("{first}{encoding}\r\n{length}\r\n"), None);
        check(&format!("{first}{length}x-{encoding}\r\n"), None);
        check(
            &format!("{first}{length}transfer-encodings: 1\r\n\r\n"),
            None,
        );
        check(&format!("{first}{length}x: {encoding}\r\n"), None);
    }

    #[test]
    fn sees_strange_encodings() {
        let encoding = Some(Oddity::Encoding);
        for strange in [
            "",
            "identity",
            "gzip, chunked",
            "chunked, chunked",
            "chunkedd",
        ] {
            check(
                &format!("{FIRST}Transfer-Encoding: {strange}\r\n\r\n"),
                encoding,
            );
        }
        check(&format!("{FIRST}{CHUNKED}{CHUNKED}\r\n"), encoding);
        check(
            &format!("{FIRST}Transfer-Encoding: \t Chunked \t\r\n\r\n"),
            None,
        );
    }

    #[test]
    fn sees_other_versions() {
        let version = Some(Oddity::Version);
        let host = "\r\nHost: a\r\n\r\n";
        for other in ["HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", ""] {
            check(&format!("GET / {other}{host}"), version);
            check(&format!("GET / {other}"), None);
        }
        for none in [
            "http/1.0",
            "HTTP/1.1x",
            "HTTP/1.10",
            "FOO",
            "HTTP/1.1",
            "a HTTP/1.0",
        ] {
            check(&format!("GET / {none}{host}"), None);
        }
        check("HELO there\r\n\r\n", None);
        check("HTTP/1.0\r\n\r\n", None);
    }
}

//! Looks at the heads of requests for what hyper keeps to itself: that both `content-length` and `transfer-encoding` say
//! how long a body is. hyper takes the latter and closes the connection afterwards, which is right; a server that took
//! the former would see another request in the body, so it is better not to let such a request in.

/// Follows the bytes of one head, however they are cut.
#[derive(Debug)]
pub(super) struct HeadScan {
    state: State,
    /// The beginning of the line, lower case.
    name: [u8; LONGEST],
    length: usize,
    has_length: bool,
    has_encoding: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within a line's first bytes.
    Name,
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
            state: State::Name,
            name: [0; LONGEST],
            length: 0,
            has_length: false,
            has_encoding: false,
        }
    }

    /// Whether the head so far has both.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.has_length && self.has_encoding
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            match self.state {
                State::Over => return,
                State::Rest => match rest.iter().position(|byte| *byte == b'\n') {
                    None => return,
                    Some(end) => {
                        self.begin_line();
                        rest = &rest[end + 1..];
                    }
                },
                State::Name => {
                    self.take(byte);
                    rest = after;
                }
            }
        }
    }

    fn begin_line(&mut self) {
        self.state = State::Name;
        self.length = 0;
    }

    fn take(&mut self, byte: u8) {
        match byte {
            b'\n' if self.length == 0 => self.state = State::Over,
            b'\n' => self.begin_line(),
            b'\r' => {}
            b':' => {
                let name = &self.name[..self.length];
                self.has_length |= name == LENGTH;
                self.has_encoding |= name == ENCODING;
                self.state = State::Rest;
            }
            byte if self.length < LONGEST => {
                self.name[self.length] = byte.to_ascii_lowercase();
                self.length += 1;
                // Hardly any name begins so: there is no need to look at more of it.
                if self.length == 1 && !matches!(self.name[0], b'c' | b't') {
                    self.state = State::Rest;
                }
            }
            _ => self.state = State::Rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, ambiguous: bool) {
        for cut in [1, 2, 3, 7, 1000] {
            let mut scan = HeadScan::new();
            for part in head.as_bytes().chunks(cut) {
                scan.feed(part);
            }
            assert_eq!(scan.is_ambiguous(), ambiguous, "{head:?} in parts of {cut}");
        }
    }

    #[test]
    fn sees_both() {
        let first = "POST /content-length:transfer-encoding: HTTP/1.1\r\n";
        let length = "Content-Length: 5\r\n";
        let encoding = "TRANSFER-encoding:chunked\r\n";
        check(&format!("{first}{length}{encoding}\r\n"), true);
        check(
            &format!("{first}Host: a\r\n{encoding}X: y\r\n{length}\r\n"),
            true,
        );
        check(&format!("\r\n{first}\r\n"), false);
        check(&format!("{first}{length}\r\n{encoding}\r\n"), false);
        check(&format!("{first}{encoding}\r\n{length}\r\n"), false);
        check(&format!("{first}{encoding}{encoding}\r\n"), false);
        check(&format!("{first}{length}x-{encoding}\r\n"), false);
        check(
            &format!("{first}{length}transfer-encodings: 1\r\n\r\n"),
            false,
        );
        check(&format!("{first}{length}x: {encoding}\r\n"), false);
        check(
            &format!("{first}Content-Length: 5\nTransfer-Encoding: chunked\n\n"),
            true,
        );
    }
}

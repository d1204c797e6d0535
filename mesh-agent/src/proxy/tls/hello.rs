//! The first message of a TLS client (RFC 8446, 4.1.2), as far as it decides over who answers: the name of the server
//! that is asked for, and the protocols that are offered.

/// What a client says first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) struct ClientHello {
    /// The server's name, lower case; `None` where none is asked for, or what is no name.
    pub(in crate::proxy) server_name: Option<String>,
    /// What may be spoken, in the client's order.
    pub(in crate::proxy) protocols: Vec<Vec<u8>>,
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// The whole message.
    Complete(ClientHello),
    /// The beginning of one.
    Incomplete,
    /// One that is longer than any that is read.
    TooLong,
    /// Something else.
    Other,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const PROTOCOLS: u16 = 16;

/// Longer ones are nobody's, and Envoy's library reads none either. Keys that withstand quantum computers take two kilobytes.
const LIMIT: usize = 16 * 1024;

/// Reads a client's first bytes.
pub(super) fn read(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut records = Bytes(bytes);
    loop {
        if let Some(hello) = whole(&message) {
            return hello;
        }
        match records.0 {
            [] => return Hello::Incomplete,
            [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
            _ => return Hello::Other,
        }
        // A message may be cut into records as its sender likes.
        let Some(header) = records.take(5) else {
            return Hello::Incomplete;
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > LIMIT {
            return Hello::Other;
        }
        let part = records.take(length.min(records.0.len()));
        message.extend_from_slice(part.unwrap_or_default());
    }
}

/// What a message is, once that can be told.
fn whole(message: &[u8]) -> Option<Hello> {
    let (&kind, rest) = message.split_first()?;
    if kind != CLIENT_HELLO {
        return Some(Hello::Other);
    }
    let (length, rest) = rest.split_at_checked(3)?;
    let length = length
        .iter()
        .fold(0, |length, &byte| length << 8 | usize::from(byte));
    if length > LIMIT {
        return Some(Hello::TooLong);
    }
    let body = rest.get(..length)?;
    Some(parse(body).map_or(Hello::Other, Hello::Complete))
}

fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut body = Bytes(body);
    let (_version, _random) = (body.take(2)?, body.take(32)?);
    let (_session, _ciphers, _compressions) = (body.list8()?, body.list16()?, body.list8()?);
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = body.list16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let mut content = extensions.list16()?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(content.list16()?),
            PROTOCOLS => {
                let mut names = content.list16()?;
                while !names.0.is_empty() {
                    hello.protocols.push(names.list8()?.0.to_vec());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut list: Bytes<'_>) -> Option<String> {
    let kind = list.take(1)?;
    let name = list.list16()?.0;
    let name = name.strip_suffix(b".").unwrap_or(name);
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    if kind != [0] || name.is_empty() || name.len() > 253 || !name.iter().all(fits) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(name.to_ascii_lowercase())
}

/// Bytes that are still to be read.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What stands behind its length.
    fn list8(&mut self) -> Option<Bytes<'a>> {
        let length = self.take(1)?[0];
        self.take(usize::from(length)).map(Bytes)
    }

    /// What stands behind its length.
    fn list16(&mut self) -> Option<Bytes<'a>> {
        let length = self.number16()?;
        self.take(usize::from(length)).map(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's first message, with these extensions.
    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        message
    }

    /// The same in records of so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in message.chunks(size) {
            bytes.extend([HANDSHAKE, 3, 1]);
            bytes.extend((part.len() as u16).to_be_bytes());
            bytes.extend(part);
        }
        bytes
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let length = name.len() as u16;
        let mut extension = vec![0, 0];
        extension.extend((length + 5).to_be_bytes());
        extension.extend((length + 3).to_be_bytes());
        extension.push(0);
        extension.extend(length.to_be_bytes());
        extension.extend(name);
        extension
    }

    const PROTOCOLS_H2_HTTP1: &[u8] = b"\x00\x10\x00\x0e\x00\x0c\x02h2\x08http/1.1";

    fn check(bytes: &[u8], server_name: Option<&str>, protocols: &[&str]) {
        let expected = ClientHello {
            server_name: server_name.map(str::to_owned),
            protocols: protocols
                .iter()
                .map(|name| name.as_bytes().to_vec())
                .collect(),
        };
        assert_eq!(read(bytes), Hello::Complete(expected));
    }

    #[test]
    fn a_client_names_a_server_and_protocols() {
        let both = [named(b"A.Example"), PROTOCOLS_H2_HTTP1.to_vec()].concat();
        for size in [1, 3, 50, 16_384] {
            let bytes = records(&message(&both), size);
            check(&bytes, Some("a.example"), &["h2", "http/1.1"]);
            // Whatever comes behind it does not matter.
            check(
                &[bytes, vec![20, 3, 3, 0, 1, 1]].concat(),
                Some("a.example"),
                &["h2", "http/1.1"],
            );
        }
        check(&records(&message(&[]), 99), None, &[]);
        check(
            &records(&message(&named(b"a.example.")), 99),
            Some("a.example"),
            &[],
        );
        for nonsense in [&b"a b"[..], b"", b".", b"\xff\xfe", b"a\0b", b"a/b"] {
            check(&records(&message(&named(nonsense)), 99), None, &[]);
        }
    }

    #[test]
    fn every_beginning_of_it_is_waited_on() {
        let bytes = records(&message(&named(b"a.example")), 20);
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), Hello::Incomplete, "{length} bytes");
        }
    }

    #[test]
    fn what_is_something_else_is_seen_at_once() {
        for bytes in [
            &b"G"[..],
            b"SSH-2.0",
            b"\x80\x2e\x01\x03\x01",         // SSL 2
            b"\x16\x02",                     // no version of TLS
            b"\x16\x03\x01\x00\x00",         // an empty record
            b"\x16\x03\x01\xff\xff",         // a record that is too long
            b"\x16\x03\x01\x00\x04\x02",     // a server's message
            b"\x15\x03\x01\x00\x02\x02\x28", // an alert
        ] {
            assert_eq!(read(bytes), Hello::Other, "{bytes:?}");
        }
        assert_eq!(
            read(b"\x16\x03\x01\x00\x04\x01\x00\x40\x01"),
            Hello::TooLong
        );
        let mut torn = records(&message(&named(b"a.example")), 999);
        // The length of the list of names.
        let length = torn.len() - 14;
        torn[length] = 0xff;
        assert_eq!(read(&torn), Hello::Other);
    }

    #[test]
    fn nothing_brings_it_down() {
        let whole = records(
            &message(&[named(b"a.b"), PROTOCOLS_H2_HTTP1.to_vec()].concat()),
            30,
        );
        for at in 0..whole.len() {
            for value in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = read(&changed);
            }
        }
    }
}

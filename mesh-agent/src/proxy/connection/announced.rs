//! The PROXY protocol, heard: what who stands before a gateway says of a connection before anything else
//! (`gatewayTopology.proxyProtocol`, haproxy.org's `proxy-protocol.txt`). What is said to servers is in
//! `upstream/announce.rs`.
//!
//! Nothing behind the announcement is read, so that what follows is the client's from the first byte on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// From and to.
type Ends = (SocketAddr, SocketAddr);

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;

/// Stream sockets of IPv4 and IPv6, and whatever it may be.
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Reads an announcement. `None`: it says nothing of the client, as where the proxy asks for itself.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Ends>> {
    let mut first = [0; SIGNATURE.len()];
    stream.read_exact(&mut first).await?;
    if &first == SIGNATURE {
        return read_header(stream).await;
    }
    if !first.starts_with(b"PROXY ") {
        return Err(wrong("it begins otherwise"));
    }
    let mut line = first.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST_LINE {
            return Err(wrong("its line has no end"));
        }
        line.push(stream.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    let line = str::from_utf8(&line).map_err(|_| wrong("its line is no text"))?;
    parse_line(line).ok_or_else(|| wrong("its line cannot be understood"))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Version 1, without its end.
fn parse_line(line: &str) -> Option<Option<Ends>> {
    let mut words = line.split(' ');
    let (_, family) = (words.next()?, words.next()?);
    if family == "UNKNOWN" {
        return Some(None);
    }
    let mut word = || words.next();
    let (from, to, from_port, to_port) = (word()?, word()?, word()?, word()?);
    if word().is_some() {
        return None;
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let from = SocketAddr::new(address(from)?, port(from_port)?);
    let to = SocketAddr::new(address(to)?, port(to_port)?);
    Some(Some((plain(from), plain(to))))
}

/// Digits alone, and no zeros before them.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    (digits && plain).then(|| text.parse().ok())?
}

/// Version 2, behind its signature.
async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Ends>> {
    let [command, family, high, low] = {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        head
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let ask = match command {
        0x20 => UNSPECIFIED,
        0x21 => family,
        _ => {
            return Err(wrong(
                "it is of a version or for a purpose that nobody knows",
            ));
        }
    };
    let needed = match ask {
        UNSPECIFIED => 0,
        TCP4 => 12,
        TCP6 => 36,
        _ => return Err(wrong("it is for what is not TCP")),
    };
    if length < needed {
        return Err(wrong("it is too short for its addresses"));
    }
    let mut addresses = [0; 36];
    let addresses = &mut addresses[..needed];
    stream.read_exact(addresses).await?;
    // What else is said there is said to nobody here.
    let rest = (length - needed) as u64;
    let mut behind = stream.take(rest);
    if tokio::io::copy(&mut behind, &mut tokio::io::sink()).await? < rest {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(ends(addresses))
}

fn ends(addresses: &[u8]) -> Option<Ends> {
    let (from, rest) = address(addresses, addresses.len())?;
    let (to, ports) = address(rest, addresses.len())?;
    let port = |at: usize| Some(u16::from_be_bytes([*ports.get(at)?, *ports.get(at + 1)?]));
    let from = SocketAddr::new(from, port(0)?);
    let to = SocketAddr::new(to, port(2)?);
    Some((plain(from), plain(to)))
}

/// The address that `bytes` begin with, of a family whose both ends take `whole`, and what is behind it.
fn address(bytes: &[u8], whole: usize) -> Option<(IpAddr, &[u8])> {
    match whole {
        12 => {
            let (octets, rest) = bytes.split_first_chunk::<4>()?;
            Some((IpAddr::from(*octets), rest))
        }
        36 => {
            let (octets, rest) = bytes.split_first_chunk::<16>()?;
            Some((IpAddr::from(*octets), rest))
        }
        _ => None,
    }
}

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ProxyProtocol;
    use crate::proxy::upstream::announce::announcement;

    /// What is heard, and what is left for the client to have said.
    fn hear(said: &[u8]) -> (Result<Option<Ends>, String>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut rest = said;
        let heard = runtime.block_on(read(&mut rest));
        (heard.map_err(|error| error.to_string()), rest.to_vec())
    }

    #[test]
    fn what_is_announced_is_heard() {
        for (from, to) in [
            ("10.0.0.1:4660", "10.0.0.2:443"),
            ("[fd00::1]:4660", "[fd00::2]:443"),
            ("10.0.0.1:0", "10.0.0.2:65535"),
        ] {
            let ends: Ends = (from.parse().unwrap(), to.parse().unwrap());
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let mut said = announcement(version, ends.0, ends.1);
                said.extend(b"GET / HTTP/1.1");
                let heard = hear(&said);
                assert_eq!(heard, (Ok(Some(ends)), b"GET / HTTP/1.1".to_vec()));
            }
        }
        let mapped = hear(b"PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 1 2\r\n").0;
        let plain = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        assert_eq!(mapped, Ok(Some(plain)));
    }

    fn header(rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], rest].concat()
    }

    #[test]
    fn who_asks_for_himself_is_himself() {
        for said in [
            b"PROXY UNKNOWN\r\nx".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nx".to_vec(),
            header(b"\x20\0\0\0x"),
            // A LOCAL of any family, whatever it carries.
            header(b"\x20\x11\0\x02abx"),
            header(b"\x21\0\0\x03abcx"),
        ] {
            assert_eq!(hear(&said), (Ok(None), b"x".to_vec()), "{said:?}");
        }
    }

    #[test]
    fn what_else_a_header_has_is_left_out() {
        let said = header(b"\x21\x11\0\x10\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02\x04\0\x01\0x");
        let ends = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        assert_eq!(hear(&said), (Ok(Some(ends)), b"x".to_vec()));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("PROXY TCP4 {}", "1".repeat(200));
        for said in [
            &b""[..],
            b"PROXY TCP4",
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"proxy TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY  TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
            b"PROXY TCP4 fd00::1 fd00::2 1 2\r\n",
            b"PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.256 10.0.0.2 1 2\r\n",
            b"PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1\xff 10.0.0.2 1 2\r\n",
            long.as_bytes(),
            &header(b"\x11\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02"),
            &header(b"\x22\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02"),
            &header(b"\x21\x12\0\x0c\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02"),
            &header(b"\x21\x31\0\x0c\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02"),
            &header(b"\x21\x11\0\x0b\x0a\0\0\x01\x0a\0\0\x02\0\x01\0"),
            &header(b"\x21\x21\0\x0c\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02"),
            &header(b"\x21\x11\xff\xff\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02"),
        ] {
            let text = String::from_utf8_lossy(said);
            assert!(hear(said).0.is_err(), "{text:?} was taken");
        }
    }
}

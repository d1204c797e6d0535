//! The PROXY protocol: what is said to a server before anything else, so that it knows for whom the connection is
//! (`proxyProtocol`, haproxy.org's `proxy-protocol.txt`).

use std::net::{IpAddr, SocketAddr};

use crate::model::ProxyProtocol;

/// The announcement of a connection that `from` has opened to `to`.
pub(in crate::proxy) fn announcement(
    version: ProxyProtocol,
    from: SocketAddr,
    to: SocketAddr,
) -> Vec<u8> {
    let (from, to) = one_family(from, to);
    match version {
        ProxyProtocol::V1 => line(from, to).into_bytes(),
        ProxyProtocol::V2 => header(from, to),
    }
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, and a connection that is carried for somebody else.
const PROXIED: u8 = 0x21;

/// Stream sockets of IPv4 and IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

fn line(from: SocketAddr, to: SocketAddr) -> String {
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        from.ip(),
        to.ip(),
        from.port(),
        to.port()
    )
}

fn header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::new();
    for address in [from.ip(), to.ip()] {
        match address {
            IpAddr::V4(address) => addresses.extend(address.octets()),
            IpAddr::V6(address) => addresses.extend(address.octets()),
        }
    }
    addresses.extend(from.port().to_be_bytes());
    addresses.extend(to.port().to_be_bytes());
    let family = if from.is_ipv4() { TCP4 } else { TCP6 };
    let mut header = SIGNATURE.to_vec();
    header.extend([PROXIED, family, 0, addresses.len() as u8]);
    header.extend(addresses);
    header
}

/// Both addresses in the plain form of one family. Where they are of two, IPv4 is dressed up as IPv6.
fn one_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (from, to) = (plain(from), plain(to));
    if from.is_ipv4() == to.is_ipv4() {
        return (from, to);
    }
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (wide(from), wide(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &str, to: &str, text: &str, binary: &[u8]) {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let said = announcement(ProxyProtocol::V1, from, to);
        assert_eq!(String::from_utf8(said).unwrap(), text);
        let expected = [&b"\r\n\r\n\0\r\nQUIT\n"[..], binary].concat();
        assert_eq!(announcement(ProxyProtocol::V2, from, to), expected);
    }

    #[test]
    fn says_who_and_where_to_in_text_and_in_bytes() {
        check(
            "10.0.0.1:4660",
            "10.0.0.2:443",
            "PROXY TCP4 10.0.0.1 10.0.0.2 4660 443\r\n",
            b"\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x12\x34\x01\xbb",
        );
        check(
            "[fd00::1]:4660",
            "[fd00::2]:443",
            "PROXY TCP6 fd00::1 fd00::2 4660 443\r\n",
            b"\x21\x21\0\x24\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x12\x34\x01\xbb",
        );
        check(
            "[::ffff:10.0.0.1]:1",
            "[fd00::2]:2",
            "PROXY TCP6 ::ffff:10.0.0.1 fd00::2 1 2\r\n",
            b"\x21\x21\0\x24\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\x01\0\x02",
        );
    }
}

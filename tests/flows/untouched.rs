//! Flows that no mode may touch: UDP, ICMP, and the ports that belong to the proxy itself.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::{OUTSIDE_V4, OUTSIDE_V6, Pod};
use socket2::{Domain, Protocol, Socket, Type};

use super::Facts;
use super::names::name;
use super::scene::Scene;
use super::talk::{connect, failure, read_introduction};
use crate::servers::Server;

const WAIT: Duration = Duration::from_secs(3);
const RESERVED: [u16; 4] = [15008, 15090, 15021, 15020];

/// Rows 23: an app that listens on the proxy's ports is reached directly.
pub fn reserved_ports(scene: &Scene) -> Result<Facts> {
    let _servers = RESERVED
        .iter()
        .map(|port| Server::echo(&scene.app, "app", *port))
        .collect::<Result<Vec<_>>>()?;
    from_outside(scene)
}

/// Row 23 where nobody listens: the refusal is the pod's own.
pub fn reserved_ports_closed(scene: &Scene) -> Result<Facts> {
    from_outside(scene)
}

/// Over both families, whose answers must be the same.
fn from_outside(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    for port in RESERVED {
        let seen4 = reached(scene, SocketAddr::new(scene.app.ipv4.into(), port))?;
        let seen6 = reached(scene, SocketAddr::new(scene.app.ipv6.into(), port))?;
        let seen = match seen4 == seen6 {
            true => seen4,
            false => format!("{seen4}/{seen6}"),
        };
        facts.note(port.to_string(), seen);
    }
    Ok(facts)
}

/// Who answers the machine outside there, and whether it sees it.
fn reached(scene: &Scene, target: SocketAddr) -> Result<String> {
    let mut stream = match scene.world.outside().run(|| connect(target, |_| Ok(())))? {
        Ok(stream) => stream,
        Err(e) => return Ok(failure(&e)),
    };
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(b"hello\n")?;
    let own = name(stream.local_addr()?.ip());
    let mut said = Facts::default();
    read_introduction(&mut BufReader::new(stream), &mut said)?;
    let way = if said.get("seen") == own {
        "direct"
    } else {
        "through the agent"
    };
    Ok(format!("{},{way}", said.get("who")))
}

/// Row 29. The ports are those that TCP is steered by, and DNS.
pub fn udp_and_icmp(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let (client, outside) = (&scene.client, scene.world.outside());
    for (key, from, to, address) in [
        ("udp-out4", client, outside, IpAddr::from(OUTSIDE_V4)),
        ("udp-out6", client, outside, OUTSIDE_V6.into()),
        ("udp-in4", outside, &scene.app, scene.app.ipv4.into()),
        ("udp-in6", outside, &scene.app, scene.app.ipv6.into()),
    ] {
        let mut seen = BTreeSet::new();
        for port in [53, 80, 5300, 15001, 15006] {
            let target = SocketAddr::new(address, port);
            seen.insert(udp(from, to, target).with_context(|| format!("UDP to {target}"))?);
        }
        facts.note(key, seen.into_iter().collect::<Vec<_>>().join("+"));
    }
    for (key, from, address) in [
        ("icmp-out4", client, IpAddr::from(OUTSIDE_V4)),
        ("icmp-out6", client, OUTSIDE_V6.into()),
        ("icmp-in4", outside, scene.app.ipv4.into()),
        ("icmp-in6", outside, scene.app.ipv6.into()),
    ] {
        facts.note(key, ping(from, address)?);
    }
    Ok(facts)
}

/// Sends a datagram and has it answered; returns whom the server saw.
fn udp(from: &Pod, to: &Pod, target: SocketAddr) -> Result<String> {
    let server = to.run(|| UdpSocket::bind(target))??;
    let client = from.run(|| UdpSocket::bind(any_like(target.ip())))??;
    server.set_read_timeout(Some(WAIT))?;
    client.set_read_timeout(Some(WAIT))?;
    client.send_to(b"ask", target)?;
    let mut buffer = [0; 16];
    let (length, peer) = server.recv_from(&mut buffer).context("the request")?;
    server.send_to(&buffer[..length], peer)?;
    let (length, answerer) = client.recv_from(&mut buffer).context("the answer")?;
    if &buffer[..length] != b"ask" || answerer != target {
        return Ok(format!("an answer from {answerer}"));
    }
    Ok(name(peer.ip()))
}

/// One echo request.
fn ping(from: &Pod, address: IpAddr) -> Result<String> {
    let (domain, protocol, request, reply) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = from.run(|| Socket::new(domain, Type::RAW, Some(protocol)))??;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut packet = [request, 0, 0, 0, 0x4d, 0x45, 0, 1];
    if address.is_ipv4() {
        // Of ICMPv6 the kernel writes the checksum.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    socket.send_to(&packet, &SocketAddr::new(address, 0).into())?;
    // A raw socket hears everything of its protocol, neighbour discovery too.
    for _ in 0..20 {
        let mut buffer = [0; 256];
        let length = match (&socket).read(&mut buffer) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e).context("waiting for the echo"),
        };
        // Only IPv4 hands the header of its packet over as well.
        let skip = if address.is_ipv4() { 20 } else { 0 };
        if let Some(packet) = buffer[..length].get(skip..skip + 8)
            && packet[0] == reply
            && packet[4..] == [0x4d, 0x45, 0, 1]
        {
            return Ok("echoed".to_owned());
        }
    }
    Ok("no echo".to_owned())
}

fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn any_like(address: IpAddr) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    }
}

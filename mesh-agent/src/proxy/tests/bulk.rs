//! Much at once over connections that are relayed: through pipes and by copying, nothing may be lost, added or moved.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::fakes::*;
use crate::model::Protocol;
use crate::proxy::record::Flag;

const MIB: usize = 1024 * 1024;

/// Bytes that are nowhere alike.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; count];
    rng.fill(&mut bytes);
    bytes
}

/// Writes in pieces of all sizes, then the end.
fn write_in_pieces(mut stream: &TcpStream, bytes: &[u8], largest: usize) {
    let mut rng = fastrand::Rng::with_seed(bytes.len() as u64);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.usize(1..=largest).min(rest.len()));
        stream.write_all(piece).unwrap();
        rest = after;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// The head of a response, and not a byte more.
fn head(mut stream: &TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Both ways at once.
fn exchange(stream: &TcpStream, seed: u64, count: usize, largest: usize) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(|| write_in_pieces(stream, &bytes(seed, count), largest));
        read_all(stream)
    })
}

fn plan(splice: bool, server: &Server) -> Plan {
    let mut plan = Plan::outbound(Protocol::Tcp, &[server.address]);
    plan.settings.splice = splice;
    plan
}

#[test]
fn everything_arrives_in_order_both_ways() {
    for (largest, count) in [(700, MIB), (30_000, 8 * MIB), (MIB, 24 * MIB)] {
        for splice in [true, false] {
            let server = Server::start(move |client| {
                let heard = exchange(&client.stream, 2, count, largest);
                assert!(heard == bytes(1, count), "the server heard something else");
                client.note("as sent");
            });
            let mesh = plan(splice, &server).start();
            let client = mesh.client();
            let heard = exchange(&client.stream, 1, count, largest);
            assert!(heard == bytes(2, count), "the client heard something else");
            eventually(|| server.heard() == ["as sent"]);
            eventually(|| mesh.stats().outbound.relayed == 1);
            let stats = mesh.stats();
            let carried = (stats.outbound.received, stats.outbound.sent);
            assert_eq!(carried, (count as u64, count as u64));
            assert!(stats.flags.is_empty(), "{:?}", stats.flags);
        }
    }
}

#[test]
fn chatter_after_much_is_answered_at_once() {
    let server = Server::start(|client| {
        let much = client.exactly(8 * MIB).len();
        client.send(format!("{much}\n"));
        while let Some(line) = client.until("\n") {
            client.send(line);
        }
    });
    let mesh = plan(true, &server).start();
    let mut client = mesh.client();
    client.send(vec![b'x'; 8 * MIB]);
    assert_eq!(client.until("\n").unwrap(), format!("{}\n", 8 * MIB));
    for line in ["a\n", "bc\n", "d\n"] {
        client.send(line);
        assert_eq!(client.until("\n").unwrap(), line);
    }
}

#[test]
fn urgent_data_is_no_end() {
    let server = Server::start(|client| {
        let heard = client.rest().unwrap();
        client.note(&heard.matches('x').count().to_string());
    });
    let mesh = plan(true, &server).start();
    let client = mesh.client();
    for _ in 0..4 {
        (&client.stream).write_all(&vec![b'x'; 2 * MIB]).unwrap();
        let urgent = SockRef::from(&client.stream).send_out_of_band(b"!");
        assert_eq!(urgent.unwrap(), 1);
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
    // The urgent byte itself is not carried, and never was; what is around it is.
    eventually(|| server.heard() == [(8 * MIB).to_string()]);
    assert!(mesh.stats().flags.is_empty());
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    let stalled = Server::start(|client| {
        thread::sleep(Duration::from_millis(800));
        let heard = client.rest().unwrap().len();
        client.note(&heard.to_string());
    });
    let mesh = plan(true, &stalled).start();
    let slow = mesh.client();
    slow.stream.set_nonblocking(true).unwrap();
    let piece = vec![b'x'; MIB];
    let (mut sent, deadline) = (0, Instant::now() + Duration::from_millis(400));
    while Instant::now() < deadline {
        match (&slow.stream).write(&piece) {
            Ok(n) => sent += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    // What two pairs of sockets hold, and a pipe.
    assert!(sent < 64 * MIB, "{sent} bytes went to nobody");
    slow.stream.set_nonblocking(false).unwrap();
    slow.stream.shutdown(Shutdown::Write).unwrap();
    eventually(|| stalled.heard() == [sent.to_string()]);
}

#[test]
fn a_reset_in_the_middle_is_a_reset() {
    let (sender, ended) = std::sync::mpsc::channel();
    let server = Server::start(move |client| {
        assert_eq!(client.exactly(4 * MIB).len(), 4 * MIB);
        client.send("seen");
        sender.send(client.rest()).unwrap();
    });
    let mesh = plan(true, &server).start();
    let mut client = mesh.client();
    client.send(vec![b'x'; 4 * MIB]);
    assert_eq!(client.exactly(4), "seen");
    SockRef::from(&client.stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let seen = ended.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(seen, Err(ErrorKind::ConnectionReset));
    mesh.expect_flag(Flag::ClientClosed);
}

#[test]
fn what_was_upgraded_carries_as_much() {
    const COUNT: usize = 8 * MIB;
    let server = Server::start(|client| {
        head(&client.stream);
        client.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
        );
        let heard = exchange(&client.stream, 4, COUNT, 100_000);
        assert!(heard == bytes(3, COUNT), "the server heard something else");
        client.note("as sent");
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let head = head(&client.stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let heard = exchange(&client.stream, 3, COUNT, 100_000);
    assert!(heard == bytes(4, COUNT), "the client heard something else");
    eventually(|| server.heard() == ["as sent"]);
}

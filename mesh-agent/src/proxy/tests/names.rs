//! Clusters whose endpoints are names.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use super::fakes::Plan;
use super::fakes::*;
use crate::model::*;
use crate::proxy::dns::DnsFiles;
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

/// A name server for one name, whose answers hold for a second.
struct Names {
    files: tempfile::TempDir,
    addresses: Arc<Mutex<Option<Vec<Ipv4Addr>>>>,
}

impl Names {
    fn start(addresses: Option<Vec<Ipv4Addr>>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let files = tempfile::tempdir().unwrap();
        let conf = format!("nameserver {}\n", socket.local_addr().unwrap());
        std::fs::write(files.path().join("resolv.conf"), conf).unwrap();
        let addresses = Arc::new(Mutex::new(addresses));
        let said = Arc::clone(&addresses);
        std::thread::spawn(move || {
            let mut space = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut space) {
                let question = &space[..length];
                // Silence where there is nothing to say.
                let Some(addresses) = said.lock().unwrap().clone() else {
                    continue;
                };
                let ours = question[12..].starts_with(b"\x03web\x07example\0\0\x01");
                let records: Vec<_> = addresses
                    .iter()
                    .filter(|_| ours)
                    .map(|at| (1, 1, at.octets().to_vec()))
                    .collect();
                let answer = crate::proxy::dns::tests_answer(question, 0, &records);
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { files, addresses }
    }

    fn plan(&self, port: u16, every_address: bool) -> Plan {
        let mut plan = Plan::outbound(Protocol::Http, &[]);
        plan.settings.names = DnsFiles {
            resolv_conf: self.files.path().join("resolv.conf"),
            hosts: self.files.path().join("hosts"),
        };
        plan.discovery = Discovery::Dns {
            names: vec![NamedEndpoint {
                name: "web.example".into(),
                port,
                labels: None,
                locality: None,
                weight: 1,
            }],
            every_address,
        };
        plan
    }
}

/// Servers at several addresses of the loopback, on one port.
fn servers(count: u8) -> (Vec<Server>, u16) {
    'port: loop {
        let first = Server::saying("0");
        let port = first.address.port();
        let mut servers = vec![first];
        for n in 1..count {
            let at = SocketAddr::from(([127, 0, 0, n + 1], port));
            match Server::try_start_at(at, &n.to_string()) {
                Some(server) => servers.push(server),
                None => continue 'port,
            }
        }
        return (servers, port);
    }
}

fn loopback(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

#[test]
fn every_address_is_an_endpoint_or_one_of_them() {
    let (servers, port) = servers(3);
    let all = vec![loopback(2), loopback(1), loopback(3)];
    let names = Names::start(Some(all));
    let mesh = names.plan(port, true).start();
    for _ in 0..60 {
        mesh.ask(GET);
    }
    assert!(servers.iter().all(|server| !server.heard().is_empty()));
    let mesh = names.plan(port, false).start();
    for _ in 0..20 {
        assert!(mesh.ask(GET).ends_with('1'));
    }
}

#[test]
fn answers_change() {
    let (_servers, port) = servers(2);
    let names = Names::start(Some(vec![loopback(1)]));
    let mesh = names.plan(port, true).start();
    assert!(mesh.ask(GET).ends_with('0'));
    *names.addresses.lock().unwrap() = Some(vec![loopback(2)]);
    eventually(|| mesh.ask(GET).ends_with('1'));
}

#[test]
fn a_first_request_waits_for_the_answer() {
    let (_servers, port) = servers(1);
    let names = Names::start(None);
    let mesh = names.plan(port, true).start();
    let mut client = mesh.client();
    client.send(GET);
    std::thread::sleep(std::time::Duration::from_millis(100));
    *names.addresses.lock().unwrap() = Some(vec![loopback(1)]);
    assert!(client.response().ends_with('0'));
}

#[test]
fn nothing_is_no_healthy_upstream() {
    let names = Names::start(Some(Vec::new()));
    let mesh = names.plan(80, true).start();
    let answer = mesh.ask(GET);
    assert!(answer.ends_with("\r\n\r\nno healthy upstream"), "{answer}");
    mesh.expect_flag(Flag::NoEndpoint);
}

#[test]
fn relayed_connections_need_names_too() {
    let server = Server::start(|client| {
        client.send("hello");
    });
    let names = Names::start(Some(vec![loopback(1)]));
    let mut plan = names.plan(server.address.port(), true);
    plan.protocol = Protocol::Tcp;
    plan.cluster_protocol = Protocol::Tcp;
    assert_eq!(plan.start().client().rest().unwrap(), "hello");
}

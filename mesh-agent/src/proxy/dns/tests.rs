//! Names over time: a server that says what a test wants, and a clock that jumps.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use super::*;
use crate::proxy::dns::message::tests::answer;

const A: u16 = 1;
const AAAA: u16 = 28;

/// What is said about a name: a code, and records of `(type, ttl, address)`.
type Said = (u8, Vec<(u16, u32, Vec<u8>)>);

/// A name server, over UDP and TCP.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    says: Rc<RefCell<HashMap<&'static str, Said>>>,
    asked: Rc<RefCell<Vec<String>>>,
    silent: Rc<RefCell<bool>>,
}

impl Server {
    async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = Self {
            address: udp.local_addr().unwrap(),
            says: Rc::default(),
            asked: Rc::default(),
            silent: Rc::default(),
        };
        let answering = server.clone();
        spawn_local(async move {
            let mut space = [0; 512];
            loop {
                let (length, from) = udp.recv_from(&mut space).await.unwrap();
                let mut said = answering.answer(&space[..length]);
                if *answering.silent.borrow() {
                    continue;
                }
                if said.len() > 512 {
                    said.truncate(length);
                    said[2] |= 2;
                    said[7] = 0;
                }
                udp.send_to(&said, from).await.unwrap();
            }
        });
        let answering = server.clone();
        spawn_local(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut question).await.unwrap();
                let said = answering.answer(&question);
                stream.write_u16(said.len() as u16).await.unwrap();
                stream.write_all(&said).await.unwrap();
            }
        });
        server
    }

    /// The answer to a question, whose kind picks among the records.
    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let mut name = String::new();
        let mut at = 12;
        while question[at] > 0 {
            let end = at + 1 + usize::from(question[at]);
            let dot = if name.is_empty() { "" } else { "." };
            name += dot;
            name += std::str::from_utf8(&question[at + 1..end]).unwrap();
            at = end;
        }
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        if kind == A {
            self.asked.borrow_mut().push(name.clone());
        }
        match self.says.borrow().get(name.as_str()) {
            None => answer(question, 3, &[]),
            Some((code, records)) => {
                let records: Vec<_> = records
                    .iter()
                    .filter(|record| record.0 == kind)
                    .cloned()
                    .collect();
                answer(question, *code, &records)
            }
        }
    }

    fn says(&self, name: &'static str, said: Said) {
        self.says.borrow_mut().insert(name, said);
    }

    fn asked(&self) -> usize {
        self.asked.borrow().len()
    }
}

fn v4(ttl: u32, last: u8) -> (u16, u32, Vec<u8>) {
    (A, ttl, vec![10, 0, 0, last])
}

struct World {
    server: Server,
    resolver: Arc<Resolver>,
    _files: tempfile::TempDir,
}

/// Runs a test whose time passes only while nothing else happens.
fn test<F: Future<Output = ()>>(conf: &str, test: impl FnOnce(World) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let server = Server::start().await;
        let files = tempfile::tempdir().unwrap();
        let paths = DnsFiles {
            resolv_conf: files.path().join("resolv.conf"),
            hosts: files.path().join("hosts"),
        };
        let conf = format!("nameserver {}\n{conf}", server.address);
        std::fs::write(&paths.resolv_conf, conf).unwrap();
        std::fs::write(&paths.hosts, "192.0.2.1 listed.example\n").unwrap();
        test(World {
            server,
            resolver: Arc::new(Resolver::new(paths)),
            _files: files,
        })
        .await;
    });
}

async fn last_octets(name: &Name) -> Vec<u8> {
    name.answered().await;
    name.answer().v4.iter().map(|at| at.octets()[3]).collect()
}

/// Lets so many seconds pass, needing the name all the while.
async fn pass(name: &Name, seconds: u64) {
    for _ in 0..seconds {
        sleep(Duration::from_secs(1)).await;
        name.serial();
    }
}

#[test]
fn answers_hold_as_long_as_they_say() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        server.says("web.example", (0, vec![v4(30, 1), v4(20, 2)]));
        let name = resolver.name(&"web.example".into());
        assert_eq!(name.serial(), 0);
        assert_eq!(last_octets(&name).await, [1, 2]);
        let serial = name.serial();
        server.says("web.example", (0, vec![v4(30, 3)]));
        pass(&name, 19).await;
        assert_eq!(last_octets(&name).await, [1, 2]);
        pass(&name, 2).await;
        assert_eq!(last_octets(&name).await, [3]);
        assert!(name.serial() > serial);
        // The same answer again is no change.
        let (serial, asked) = (name.serial(), server.asked());
        pass(&name, 31).await;
        assert_eq!(name.serial(), serial);
        assert_eq!(server.asked(), asked + 1);
    });
}

#[test]
fn all_who_need_a_name_share_it() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        server.says(
            "web.example",
            (0, vec![v4(60, 1), (AAAA, 60, vec![0xfd; 16])]),
        );
        let names = [(); 3].map(|()| resolver.name(&"web.example".into()));
        for name in &names {
            assert_eq!(last_octets(name).await, [1]);
            assert_eq!(name.answer().v6.len(), 1);
        }
        assert_eq!(server.asked(), 1);
    });
}

#[test]
fn what_was_known_outlives_a_failure() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        server.says("web.example", (0, vec![v4(10, 1)]));
        let name = resolver.name(&"web.example".into());
        assert_eq!(last_octets(&name).await, [1]);
        // The server fails, and then it is silent: both are worth another question a minute later.
        server.says("web.example", (2, Vec::new()));
        pass(&name, 30).await;
        assert_eq!(last_octets(&name).await, [1]);
        *server.silent.borrow_mut() = true;
        pass(&name, 80).await;
        assert_eq!(last_octets(&name).await, [1]);
        *server.silent.borrow_mut() = false;
        server.says("web.example", (0, vec![v4(10, 2)]));
        pass(&name, 80).await;
        assert_eq!(last_octets(&name).await, [2]);
        // That there is nothing is an answer, though.
        server.says("web.example", (3, Vec::new()));
        pass(&name, 11).await;
        assert_eq!(last_octets(&name).await, [0; 0]);
    });
}

#[test]
fn a_name_without_any_answer_is_asked_for_sooner() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        server.says("web.example", (2, Vec::new()));
        let name = resolver.name(&"web.example".into());
        pass(&name, 2).await;
        assert_eq!(name.serial(), 0);
        server.says("web.example", (0, vec![v4(10, 1)]));
        let begin = Instant::now();
        assert_eq!(last_octets(&name).await, [1]);
        assert!(begin.elapsed() < Duration::from_secs(4));
    });
}

#[test]
fn no_time_to_live_is_a_minute() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        server.says("web.example", (0, vec![v4(0, 1)]));
        let name = resolver.name(&"web.example".into());
        last_octets(&name).await;
        pass(&name, 59).await;
        assert_eq!(server.asked(), 1);
        pass(&name, 2).await;
        assert_eq!(server.asked(), 2);
    });
}

#[test]
fn nobody_is_asked_for_what_nobody_needs() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        server.says("web.example", (0, vec![v4(10, 1)]));
        let name = resolver.name(&"web.example".into());
        last_octets(&name).await;
        sleep(Duration::from_secs(400)).await;
        let asked = server.asked();
        assert!(asked < 40, "{asked}");
        sleep(Duration::from_secs(400)).await;
        assert_eq!(server.asked(), asked);
        // Whoever needs it then waits for it again.
        assert!(!name.is_kept());
        let again = resolver.name(&"web.example".into());
        assert_eq!(again.serial(), 0);
        assert_eq!(last_octets(&again).await, [1]);
    });
}

#[test]
fn some_names_need_no_server() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        for (name, expected) in [
            ("10.0.0.9", "10.0.0.9"),
            ("fd00::9", "fd00::9"),
            ("listed.example", "192.0.2.1"),
        ] {
            let name = resolver.name(&name.into());
            name.answered().await;
            let Answer { v4, v6, .. } = name.answer();
            let all: Vec<String> = v4
                .iter()
                .map(ToString::to_string)
                .chain(v6.iter().map(ToString::to_string))
                .collect();
            assert_eq!(all, [expected]);
        }
        assert_eq!(server.asked(), 0);
    });
}

#[test]
fn searches() {
    test(
        "search a.example b.example\noptions ndots:2",
        |world| async move {
            let World {
                server,
                resolver,
                _files,
            } = world;
            server.says("web.b.example", (0, vec![v4(10, 1)]));
            let name = resolver.name(&"web".into());
            assert_eq!(last_octets(&name).await, [1]);
            assert_eq!(*server.asked.borrow(), ["web.a.example", "web.b.example"]);
            let nobody = resolver.name(&"x.y.z".into());
            assert_eq!(last_octets(&nobody).await, [0; 0]);
        },
    );
}

#[test]
fn long_answers_come_over_tcp() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        let many = (0..100).map(|last| v4(10, last)).collect();
        server.says("web.example", (0, many));
        let name = resolver.name(&"web.example".into());
        assert_eq!(last_octets(&name).await.len(), 100);
    });
}

#[test]
fn another_server_is_asked_where_one_is_silent() {
    test("", |world| async move {
        let World {
            server,
            resolver,
            _files,
        } = world;
        let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let conf = format!(
            "nameserver {}\nnameserver {}\n",
            deaf.local_addr().unwrap(),
            server.address
        );
        std::fs::write(&resolver.files.resolv_conf, conf).unwrap();
        server.says("web.example", (0, vec![v4(10, 1)]));
        let name = resolver.name(&"web.example".into());
        assert_eq!(last_octets(&name).await, [1]);
    });
}

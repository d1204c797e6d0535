//! TLS towards servers, and what is said before it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::fakes::Plan;
use super::fakes::*;
use super::secure::*;
use crate::certificate::fixture::{Authority, self_signed};
use crate::model::*;
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

/// Why is in the log.
const REFUSED: &str = "reset reason: remote connection failure";

fn client_tls(verification: Option<Verification>) -> ClientTls {
    ClientTls {
        certificate: None,
        verification,
        server_name: None,
        bears_host: true,
    }
}

fn outbound(endpoints: &[SocketAddr], tls: ClientTls) -> Plan {
    let mut plan = Plan::outbound(Protocol::Http, endpoints);
    plan.policy.tls = Some(Arc::new(tls));
    plan
}

#[test]
fn a_server_must_be_who_was_asked_for() {
    let (authority, stranger) = (Authority::new("servers"), Authority::new("others"));
    let check =
        |names: &[&str], change: &dyn Fn(&mut ClientTls), host: &str, expected: Option<&str>| {
            let server = TlsServer::saying(&authority.issue(names), &Serving::default(), "ok");
            let mut tls = client_tls(Some(signed_by(&authority)));
            change(&mut tls);
            let mut plan = outbound(&[server.address], tls);
            plan.known = true;
            let mesh = plan.start();
            let response = mesh.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            match expected {
                Some(name) => {
                    assert!(response.ends_with("ok"), "{names:?} {host}: {response}");
                    let heard = &server.heard()[0];
                    assert_eq!(
                        heard.name.as_deref(),
                        Some(name).filter(|name| !name.is_empty())
                    );
                    assert_eq!(heard.protocol, None);
                }
                None => {
                    assert!(
                        response.starts_with("HTTP/1.1 503 "),
                        "{names:?} {host}: {response}"
                    );
                    assert!(response.ends_with(REFUSED), "{response}");
                    mesh.expect_flag(Flag::RetriesExhausted);
                }
            }
        };
    check(&["web"], &|_| {}, "web", Some("web"));
    check(&["web"], &|_| {}, "web:8080", Some("web"));
    check(&["other"], &|_| {}, "web", None);
    let sni = |name: &'static str| {
        move |tls: &mut ClientTls| {
            tls.server_name = Some(name.into());
            tls.bears_host = false;
        }
    };
    check(&["a.example"], &sni("a.example"), "web", Some("a.example"));
    check(
        &["*.w.example"],
        &sni("a.w.example"),
        "web",
        Some("a.w.example"),
    );
    // A name that is written is asked for, and nobody has said that the certificate bears it.
    check(&["web"], &sni("a.example"), "web", Some("a.example"));
    let names = |name: &'static str| {
        move |tls: &mut ClientTls| {
            tls.verification.as_mut().unwrap().names = vec!["x".into(), name.into()];
            tls.bears_host = false;
        }
    };
    check(&["a.example"], &names("a.example"), "web", Some("web"));
    check(&["web"], &names("a.example"), "web", None);
    check(
        &["web"],
        &|tls| tls.verification = Some(signed_by(&stranger)),
        "web",
        None,
    );
    check(
        &["other"],
        &|tls| tls.verification = None,
        "web",
        Some("web"),
    );
    // An authority of the system's has not signed it.
    check(
        &["web"],
        &|tls| tls.verification.as_mut().unwrap().roots = None,
        "web",
        None,
    );
}

#[test]
fn a_server_that_has_signed_for_itself_is_trusted_by_its_certificate() {
    let issued = self_signed(&["web"]);
    let trusted = |pem: &str| Verification {
        roots: Some(Credential::Given(Arc::new(TrustRoots {
            authorities: pem.as_bytes().to_vec(),
            revoked: None,
        }))),
        names: Vec::new(),
        hashes: Vec::new(),
        keys: Vec::new(),
    };
    let server = TlsServer::saying(&issued, &Serving::default(), "ok");
    let mesh = outbound(&[server.address], client_tls(Some(trusted(&issued.chain)))).start();
    assert!(mesh.ask(GET).ends_with("ok"));
    let other = self_signed(&["web"]);
    let mesh = outbound(&[server.address], client_tls(Some(trusted(&other.chain)))).start();
    assert!(mesh.ask(GET).ends_with(REFUSED));
}

#[test]
fn a_client_shows_its_certificate_to_who_asks() {
    let authority = Authority::new("all");
    let (web, own) = (authority.issue(&["web"]), authority.issue(&["client"]));
    let serving = Serving {
        clients: Some(authority.pem.clone()),
        ..Serving::default()
    };
    let server = TlsServer::saying(&web, &serving, "ok");
    let with = |certificate| ClientTls {
        certificate,
        ..client_tls(Some(signed_by(&authority)))
    };
    let pair = Credential::Given(Arc::new(own.pair()));
    let mesh = outbound(&[server.address], with(Some(pair))).start();
    assert!(mesh.ask(GET).ends_with("ok"));
    assert!(server.heard()[0].peer);
    // TLS 1.3 clients learn of it after they have spoken.
    let mesh = outbound(&[server.address], with(None)).start();
    let response = mesh.ask(GET);
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    let missing = Credential::Missing("there is no Secret a/b".into());
    let mesh = outbound(&[server.address], with(Some(missing))).start();
    let response = mesh.ask(GET);
    assert!(response.ends_with(REFUSED), "{response}");
}

#[test]
fn what_is_no_tls_is_told_as_such() {
    let plain = Server::start(|client| {
        client.exactly(1);
        client.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let mesh = outbound(&[plain.address], client_tls(None)).start();
    let response = mesh.ask(GET);
    assert!(response.ends_with(REFUSED), "{response}");
    // A server that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut plan = outbound(&[silent.local_addr().unwrap()], client_tls(None));
    plan.policy.pool.connect_timeout = Duration::from_millis(100);
    let response = plan.start().ask(GET);
    assert!(
        response.ends_with("reset reason: connection timeout"),
        "{response}"
    );
}

#[test]
fn connections_are_kept_for_the_same_name_alone() {
    let authority = Authority::new("servers");
    let issued = authority.issue(&["web", "web.default.svc.cluster.local"]);
    let server = TlsServer::saying(&issued, &Serving::default(), "ok");
    let mesh = outbound(&[server.address], client_tls(Some(signed_by(&authority)))).start();
    for _ in 0..3 {
        assert!(mesh.ask(GET).ends_with("ok"));
    }
    assert_eq!(server.accepted(), 1);
    // The same settings from another world are the same.
    mesh.replace(&outbound(
        &[server.address],
        client_tls(Some(signed_by(&authority))),
    ));
    assert!(mesh.ask(GET).ends_with("ok"));
    assert_eq!(server.accepted(), 1);
    mesh.replace(&outbound(&[server.address], client_tls(None)));
    assert!(mesh.ask(GET).ends_with("ok"));
    assert_eq!(server.accepted(), 2);
}

#[test]
fn http2_is_offered_where_it_is_spoken() {
    let issued = self_signed(&["web"]);
    for (protocol, offered) in [(Protocol::Http, None), (Protocol::Http2, Some("h2"))] {
        let serving = Serving {
            protocols: &["h2"],
            ..Serving::default()
        };
        let server = TlsServer::start(&issued, &serving, |client, heard| {
            let mut preface = [0; 24];
            let _ = client.read_exact(&mut preface);
            heard(String::from_utf8_lossy(&preface).into_owned());
        });
        let mut plan = outbound(&[server.address], client_tls(None));
        plan.cluster_protocol = protocol;
        let mesh = plan.start();
        let _ = mesh.ask(GET);
        if let Some(offered) = offered {
            let heard = &server.heard()[0];
            assert_eq!(heard.protocol.as_deref(), Some(offered));
            assert_eq!(heard.request, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        } else {
            // It offers only what it will not have.
            assert_eq!(server.heard(), []);
        }
    }
}

#[test]
fn relayed_connections_get_tls_as_well() {
    let authority = Authority::new("servers");
    // There is no Host that it could have to bear.
    let issued = authority.issue(&["database.example"]);
    let server = TlsServer::start(&issued, &Serving::default(), |client, heard| {
        let mut bytes = [0; 5];
        client.read_exact(&mut bytes).unwrap();
        heard(String::from_utf8_lossy(&bytes).into_owned());
        client.write_all(b"world").unwrap();
        client.conn.send_close_notify();
        let _ = client.flush();
    });
    let ask = |change: &dyn Fn(&mut ClientTls)| {
        let mut tls = client_tls(Some(signed_by(&authority)));
        change(&mut tls);
        let mut plan = outbound(&[server.address], tls);
        (plan.protocol, plan.cluster_protocol) = (Protocol::Tcp, Protocol::Tcp);
        let mesh = plan.start();
        let mut client = mesh.client();
        client.send("hello");
        client.rest()
    };
    assert_eq!(ask(&|_| {}), Ok("world".to_owned()));
    assert_eq!(server.heard()[0].name.as_deref(), None);
    assert_eq!(server.heard()[0].request, "hello");
    let sni = |name: &'static str| move |tls: &mut ClientTls| tls.server_name = Some(name.into());
    assert_eq!(ask(&sni("database.example")), Ok("world".to_owned()));
    assert_eq!(ask(&sni("other.example")), Ok("world".to_owned()));
    assert_eq!(server.heard()[2].name.as_deref(), Some("other.example"));
    let reset = Err(std::io::ErrorKind::ConnectionReset);
    let names = |tls: &mut ClientTls| {
        tls.verification.as_mut().unwrap().names = vec!["other.example".into()];
    };
    assert_eq!(ask(&names), reset);
}

#[test]
fn clients_are_announced_before_all_else() {
    let endings = Arc::<std::sync::atomic::AtomicUsize>::default();
    let ending = Arc::clone(&endings);
    let seen = Server::start(move |client| {
        while client.until("\r\n\r\n").is_some_and(|head| {
            client.note(&head);
            true
        }) {
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
        ending.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    });
    let mut plan = Plan::outbound(Protocol::Http, &[seen.address]);
    plan.policy.proxy_protocol = Some(ProxyProtocol::V1);
    let mesh = plan.start();
    let mut first = mesh.client();
    first.send(GET);
    assert!(first.response().ends_with("ok"));
    first.send(GET);
    assert!(first.response().ends_with("ok"));
    assert!(mesh.ask(GET).ends_with("ok"));
    let heard = seen.heard();
    let line = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
        first.stream.local_addr().unwrap().port(),
        mesh.address.port()
    );
    assert!(heard[0].starts_with(&format!("{line}GET / ")), "{heard:?}");
    assert!(heard[1].starts_with("GET / "), "{heard:?}");
    // Another client is announced on a connection of its own.
    assert!(
        heard[2].starts_with("PROXY TCP4 ") && !heard[2].starts_with(&line),
        "{heard:?}"
    );
    assert_eq!(seen.accepted(), 2);
    // Once a client is gone, nobody has any use for the connection that it was announced on.
    let ended = || endings.load(std::sync::atomic::Ordering::SeqCst);
    eventually(|| ended() == 1);
    drop(first);
    eventually(|| ended() == 2);
}

#[test]
fn clients_are_announced_before_a_handshake_too() {
    let serving = Serving {
        before: 28,
        ..Serving::default()
    };
    let server = TlsServer::saying(&self_signed(&["web"]), &serving, "ok");
    let mut plan = outbound(&[server.address], client_tls(None));
    plan.policy.proxy_protocol = Some(ProxyProtocol::V2);
    let mesh = plan.start();
    assert!(mesh.ask(GET).ends_with("ok"));
    let before = server.heard()[0].before.clone();
    assert!(
        before.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01"),
        "{before:?}"
    );
    assert_eq!(before[26..], mesh.address.port().to_be_bytes());
}

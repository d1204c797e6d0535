//! TLS at a gateway: who answers to which name, what is agreed on, and what is asked of clients.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fakes::Plan;
use super::fakes::*;
use super::secure::*;
use crate::certificate::fixture::{Authority, Issued, self_signed};
use crate::certificate::{fingerprint, key_pin};
use crate::model::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

/// A gateway with these servers for HTTPS, each of which has the route.
fn gateway(server: &Server, servers: Vec<(&'static str, Vec<&'static str>, ServerTls)>) -> Plan {
    let listener = move || {
        let servers = servers.iter().map(|(name, hosts, tls)| SecureServer {
            name: (*name).into(),
            hosts: hosts.iter().map(|&host| host.into()).collect(),
            tls: Termination::Here(
                Arc::new(tls.clone()),
                Inside::Http(table_of(forward_to(None))),
            ),
        });
        GatewayListener::Secure(servers.collect::<Vec<_>>().into())
    };
    let mut plan = Plan::gateway(&[server.address]);
    plan.listener = Some(Box::new(listener));
    plan.settings.handshake_timeout = Duration::from_millis(400);
    plan
}

fn one(server: &Server, tls: ServerTls) -> Plan {
    gateway(server, vec![("one", vec!["a.example"], tls)])
}

/// The value of a header that a server has heard.
fn header<'t>(request: &'t str, name: &str) -> Option<&'t str> {
    let line = request
        .lines()
        .find(|line| line.to_lowercase().starts_with(&format!("{name}: ")))?;
    line.split_once(": ").map(|(_, value)| value)
}

#[test]
fn each_name_has_its_server() {
    let app = Server::saying("ok");
    let issued: Vec<Issued> = ["a.example", "b.example", "w.example", "any"]
        .iter()
        .map(|&name| self_signed(&[name]))
        .collect();
    let mesh = gateway(
        &app,
        vec![
            ("a", vec!["a.example"], simple(&issued[0])),
            ("b", vec!["b.example", "x.w.example"], simple(&issued[1])),
            ("w", vec!["*.w.example"], simple(&issued[2])),
        ],
    )
    .start();
    for (name, expected) in [
        ("a.example", 0),
        ("A.EXAMPLE", 0),
        ("b.example", 1),
        ("x.w.example", 1),
        ("y.w.example", 2),
        ("z.y.w.example", 2),
    ] {
        let mut client = Asking::of(name).connect(mesh.address).unwrap();
        assert_eq!(shown(&client), issued[expected].der, "{name}");
        assert!(ask(&mut client, GET).unwrap().ends_with("ok"), "{name}");
        // A Host that another server has is not this one's.
        let other = ask(&mut client, "GET / HTTP/1.1\r\nhost: other\r\n\r\n").unwrap();
        assert!(other.starts_with("HTTP/1.1 404"), "{other}");
    }
    let heard = app.heard();
    assert_eq!(header(&heard[0], "x-forwarded-proto"), Some("https"));
    for name in [Some("c.example"), Some("w.example"), None] {
        let asking = Asking {
            name,
            ..Asking::default()
        };
        let error = asking.connect(mesh.address).map(drop).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionReset,
            "{name:?}: {error}"
        );
    }
    let any = gateway(&app, vec![("any", vec!["*"], simple(&issued[3]))]).start();
    for name in [Some("c.example"), None] {
        let asking = Asking {
            name,
            ..Asking::default()
        };
        assert!(asking.ask(any.address, GET).unwrap().ends_with("ok"));
    }
}

#[test]
fn who_does_not_begin_a_handshake_is_reset() {
    let app = Server::saying("ok");
    let mesh = one(&app, simple(&self_signed(&["a.example"]))).start();
    let mut plain = mesh.client();
    plain.send(GET);
    assert_eq!(plain.rest(), Err(ErrorKind::ConnectionReset));
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut slow = mesh.client();
        slow.send(beginning);
        let begin = Instant::now();
        assert_eq!(slow.rest(), Err(ErrorKind::ConnectionReset));
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_millis(350) && took < Duration::from_secs(2),
            "{took:?}"
        );
    }
    // One that begins well and then is silent.
    let config = Arc::new(Asking::of("a.example").config());
    let name = "a.example".try_into().unwrap();
    let mut begun = rustls::ClientConnection::new(config, name).unwrap();
    let mut stream = TcpStream::connect(mesh.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    begun.write_tls(&mut stream).unwrap();
    let begin = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(begin.elapsed() < Duration::from_secs(2));
    eventually(|| mesh.stats().gateway.closed == 4);
}

#[test]
fn protocols_are_agreed_on_where_there_is_something_in_common() {
    let app = Server::saying("ok");
    let mesh = one(&app, simple(&self_signed(&["a.example"]))).start();
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["http/1.0", "http/1.1"], Some("http/1.1")),
        (&["spdy/3"], None),
        (&[], None),
    ] {
        let asking = Asking {
            protocols: offered,
            ..Asking::of("a.example")
        };
        let mut client = asking.connect(mesh.address).unwrap();
        let found = client.conn.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(found.as_deref(), agreed.map(str::as_bytes), "{offered:?}");
        if agreed != Some("h2") {
            assert!(
                ask(&mut client, GET).unwrap().ends_with("ok"),
                "{offered:?}"
            );
        }
    }
}

#[tokio::test]
async fn http2_is_spoken_where_it_was_agreed_on() {
    use http_body_util::{BodyExt, Empty};
    let app = Server::saying("ok");
    let mesh = one(&app, simple(&self_signed(&["a.example"]))).start();
    let asking = Asking {
        protocols: &["h2"],
        ..Asking::of("a.example")
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(asking.config()));
    let stream = tokio::net::TcpStream::connect(mesh.address).await.unwrap();
    let name = "a.example".try_into().unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://web/x")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "ok");
    // The app has it in what it is declared to speak.
    assert!(app.heard()[0].starts_with("GET /x HTTP/1.1\r\n"));
}

#[test]
fn versions_and_ciphers_are_those_of_the_server() {
    use rustls::version::{TLS12, TLS13};
    let app = Server::saying("ok");
    let issued = self_signed(&["a.example"]);
    let check = |change: &dyn Fn(&mut ServerTls), only, expected: Option<&str>| {
        let mut tls = simple(&issued);
        change(&mut tls);
        let mesh = one(&app, tls).start();
        let asking = Asking {
            only: Some(only),
            ..Asking::of("a.example")
        };
        let found = asking.connect(mesh.address).ok().map(|client| {
            let suite = client.conn.negotiated_cipher_suite().unwrap().suite();
            format!("{suite:?}")
        });
        match expected {
            None => assert_eq!(found, None),
            Some(expected) => assert!(found.as_deref().unwrap().contains(expected), "{found:?}"),
        }
    };
    check(&|_| {}, &TLS12, Some("TLS_ECDHE"));
    check(&|_| {}, &TLS13, Some("TLS13_"));
    check(&|tls| tls.min_version = TlsVersion::V1_3, &TLS12, None);
    check(&|tls| tls.max_version = TlsVersion::V1_2, &TLS13, None);
    for (name, suite) in [
        (
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ),
        (
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        ),
        (
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        ),
    ] {
        check(
            &|tls| tls.cipher_suites = vec![name.into()],
            &TLS12,
            Some(suite),
        );
        check(
            &|tls| tls.cipher_suites = vec![name.into()],
            &TLS13,
            Some("TLS13_"),
        );
    }
    // The certificate's key is not RSA.
    let rsa = "ECDHE-RSA-AES128-GCM-SHA256";
    check(&|tls| tls.cipher_suites = vec![rsa.into()], &TLS12, None);
}

/// What a client with this certificate gets: the response, or the alert.
fn answer(mesh: &Mesh, shows: Option<&Issued>) -> Result<String, String> {
    let asking = Asking {
        shows,
        ..Asking::of("a.example")
    };
    let asked = asking
        .ask(mesh.address, GET)
        .map_err(|error| error.to_string());
    asked.map(|response| response[..12].to_owned())
}

#[test]
fn clients_show_a_certificate_where_it_is_asked_for() {
    let app = Server::saying("ok");
    let issued = self_signed(&["a.example"]);
    let (authority, stranger) = (Authority::new("clients"), Authority::new("others"));
    let known = authority.issue(&["client.example"]);
    let foreign = stranger.issue(&["client.example"]);
    let with = |clients| ServerTls {
        clients,
        ..simple(&issued)
    };
    let ok = || Ok("HTTP/1.1 200".to_owned());
    let required = one(
        &app,
        with(ClientAuthentication::Required(signed_by(&authority))),
    )
    .start();
    assert_eq!(answer(&required, Some(&known)), ok());
    let alert = |mesh: &Mesh, shows: Option<&Issued>, expected: &str| {
        let error = answer(mesh, shows).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    alert(&required, None, "CertificateRequired");
    alert(&required, Some(&foreign), "UnknownCA");
    let optional = one(
        &app,
        with(ClientAuthentication::Optional(signed_by(&authority))),
    )
    .start();
    assert_eq!(answer(&optional, Some(&known)), ok());
    assert_eq!(answer(&optional, None), ok());
    alert(&optional, Some(&foreign), "UnknownCA");
    let heard = app.heard();
    let shown = header(&heard[0], "x-forwarded-client-cert").unwrap();
    assert!(
        shown.starts_with(&format!("Hash={};Cert=\"", fingerprint(&known.der))),
        "{shown}"
    );
    assert!(
        shown.ends_with(";Subject=\"CN=client.example\";URI=;DNS=client.example"),
        "{shown}"
    );
    assert_eq!(header(&heard[2], "x-forwarded-client-cert"), None);
    // What a client says of itself does not count, whether it has shown something or not.
    let forged = "GET / HTTP/1.1\r\nhost: web\r\nx-forwarded-client-cert: By=me\r\nx-forwarded-proto: http\r\n\r\n";
    Asking::of("a.example")
        .ask(optional.address, forged)
        .unwrap();
    let heard = app.heard();
    assert_eq!(header(&heard[3], "x-forwarded-client-cert"), None);
    assert_eq!(header(&heard[3], "x-forwarded-proto"), Some("https"));
}

#[test]
fn certificates_of_clients_are_what_is_written() {
    let app = Server::saying("ok");
    let issued = self_signed(&["a.example"]);
    let authority = Authority::new("clients");
    let client = authority.issue_as(&["client.example", "*.wild.example"], |params| {
        let uri = "spiffe://cluster.local/ns/a/sa/b".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        let address = "10.0.0.9".parse().unwrap();
        params
            .subject_alt_names
            .push(rcgen::SanType::IpAddress(address));
    });
    let details = crate::certificate::details(&client.der).unwrap();
    let (hash, pin) = (
        fingerprint(&client.der),
        key_pin(details.subject_public_key_info),
    );
    let check = |change: &dyn Fn(&mut Verification), good: bool| {
        let mut verification = signed_by(&authority);
        change(&mut verification);
        let shown = format!(
            "{:?}",
            (
                &verification.names,
                &verification.hashes,
                &verification.keys
            )
        );
        let tls = ServerTls {
            clients: ClientAuthentication::Required(verification),
            ..simple(&issued)
        };
        let found = answer(&one(&app, tls).start(), Some(&client));
        assert_eq!(found.is_ok(), good, "{shown}: {found:?}");
    };
    let names = |name: &'static str| {
        move |check: &mut Verification| check.names = vec!["x".into(), name.into()]
    };
    for name in [
        "client.example",
        "spiffe://cluster.local/ns/a/sa/b",
        "10.0.0.9",
        "y.wild.example",
    ] {
        check(&names(name), true);
    }
    for name in [
        "other.example",
        "spiffe://cluster.local/ns/a/sa",
        "z.y.wild.example",
        "10.0.0.8",
    ] {
        check(&names(name), false);
    }
    check(
        &|check| check.hashes = vec!["00".repeat(32).into(), hash.as_str().into()],
        true,
    );
    check(&|check| check.hashes = vec!["00".repeat(32).into()], false);
    check(&|check| check.keys = vec![pin.as_str().into()], true);
    check(&|check| check.keys = vec![key_pin(b"").into()], false);
    // Either of them will do.
    check(
        &|check| {
            check.hashes = vec!["00".repeat(32).into()];
            check.keys = vec![pin.as_str().into()];
        },
        true,
    );
    let pem = &authority.pem;
    let revoke = |list: String| {
        move |check: &mut Verification| {
            check.roots = Some(Credential::Given(Arc::new(TrustRoots {
                authorities: pem.clone().into_bytes(),
                revoked: Some(list.clone().into_bytes()),
            })));
        }
    };
    check(&revoke(authority.revoke(&[])), true);
    check(&revoke(authority.revoke(&[&client])), false);
}

#[test]
fn a_certificate_that_is_an_authority_itself_is_believed() {
    let app = Server::saying("ok");
    let issued = self_signed(&["a.example"]);
    let client = self_signed(&["client.example"]);
    let old = self_signed_until_yesterday();
    for (shows, good) in [(&client, true), (&old, false)] {
        let verification = Verification {
            roots: Some(Credential::Given(Arc::new(TrustRoots {
                authorities: shows.chain.clone().into_bytes(),
                revoked: None,
            }))),
            names: Vec::new(),
            hashes: Vec::new(),
            keys: Vec::new(),
        };
        let tls = ServerTls {
            clients: ClientAuthentication::Required(verification),
            ..simple(&issued)
        };
        let found = answer(&one(&app, tls).start(), Some(shows));
        assert_eq!(found.is_ok(), good, "{found:?}");
    }
}

fn self_signed_until_yesterday() -> Issued {
    let yesterday = std::time::SystemTime::now() - Duration::from_secs(24 * 3600);
    // Signed by an authority of the same kind, which is all the same here: it is the one that is trusted.
    Authority::new("old").issue_as(&["client.example"], |params| {
        params.not_after = yesterday.into();
    })
}

#[test]
fn a_server_without_a_certificate_fails_alone() {
    let app = Server::saying("ok");
    let good = simple(&self_signed(&["b.example"]));
    let missing = ServerTls {
        certificates: vec![Credential::Missing("there is no Secret a/b".into())],
        ..good.clone()
    };
    let servers = vec![
        ("a", vec!["a.example"], missing),
        ("b", vec!["b.example"], good),
    ];
    let mesh = gateway(&app, servers).start();
    let error = Asking::of("a.example")
        .connect(mesh.address)
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(Asking::of("b.example").ask(mesh.address, GET).is_ok());
}

#[test]
fn a_new_certificate_is_for_new_connections() {
    let app = Server::saying("ok");
    let (old, new) = (self_signed(&["a.example"]), self_signed(&["a.example"]));
    let mesh = one(&app, simple(&old)).start();
    let mut early = Asking::of("a.example").connect(mesh.address).unwrap();
    // The same settings again are the same.
    mesh.replace(&one(&app, simple(&old)));
    let again = Asking::of("a.example").connect(mesh.address).unwrap();
    mesh.replace(&one(&app, simple(&new)));
    let late = Asking::of("a.example").connect(mesh.address).unwrap();
    assert_eq!(
        (shown(&early), shown(&again), shown(&late)),
        (old.der.clone(), old.der, new.der)
    );
    assert!(ask(&mut early, GET).unwrap().ends_with("ok"));
}

#[test]
fn files_are_read_again_when_they_change_and_kept_where_they_break() {
    let app = Server::saying("ok");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let write = |issued: &Issued| {
        for (name, text) in [("c", &issued.chain), ("k", &issued.key)] {
            std::fs::write(path("new"), text).unwrap();
            std::fs::rename(path("new"), path(name)).unwrap();
        }
    };
    let (old, new) = (self_signed(&["a.example"]), self_signed(&["a.example"]));
    let tls = ServerTls {
        certificates: vec![Credential::Files(vec![path("c"), path("k")])],
        ..simple(&old)
    };
    let mesh = one(&app, tls).start();
    let now = || {
        Asking::of("a.example")
            .connect(mesh.address)
            .map(|client| shown(&client))
    };
    assert_eq!(now().unwrap_err().kind(), ErrorKind::ConnectionReset);
    write(&old);
    eventually(|| now().is_ok_and(|shown| shown == old.der));
    std::fs::write(path("k"), "broken").unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(now().unwrap(), old.der);
    write(&new);
    eventually(|| now().is_ok_and(|shown| shown == new.der));
    for name in ["c", "k"] {
        std::fs::remove_file(path(name)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(now().unwrap(), new.der);
}

#[test]
fn clients_that_come_again_resume_and_are_still_known() {
    let app = Server::saying("ok");
    let authority = Authority::new("clients");
    let known = authority.issue(&["client.example"]);
    let tls = ServerTls {
        clients: ClientAuthentication::Required(signed_by(&authority)),
        ..simple(&self_signed(&["a.example"]))
    };
    let mesh = one(&app, tls).start();
    let asking = Asking {
        shows: Some(&known),
        ..Asking::of("a.example")
    };
    let config = Arc::new(asking.config());
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let name = "a.example".try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = TcpStream::connect(mesh.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        connection.complete_io(&mut stream).unwrap();
        let mut client = rustls::StreamOwned::new(connection, stream);
        assert!(ask(&mut client, GET).unwrap().ends_with("ok"));
        kinds.push(client.conn.handshake_kind().unwrap());
    }
    assert_eq!(
        kinds,
        [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]
    );
    for request in app.heard() {
        let shown = header(&request, "x-forwarded-client-cert").unwrap();
        assert!(shown.contains("Subject=\"CN=client.example\""), "{shown}");
    }
}

#[test]
fn draining_says_farewell_over_tls_too() {
    let app = Server::saying("ok");
    let mut mesh = one(&app, simple(&self_signed(&["a.example"]))).start();
    let mut client = Asking::of("a.example").connect(mesh.address).unwrap();
    assert!(ask(&mut client, GET).unwrap().ends_with("ok"));
    let handle = mesh.handle.take().unwrap();
    let drained = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(handle.drain(Duration::from_secs(5)));
    });
    std::thread::sleep(Duration::from_millis(100));
    let last = ask(&mut client, GET).unwrap();
    assert!(last.contains("connection: close\r\n"), "{last}");
    // A proper end, and not just one of TCP.
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    let _ = client.flush();
    drained.join().unwrap();
}

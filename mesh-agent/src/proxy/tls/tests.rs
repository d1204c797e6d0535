//! Tests of the settings of handshakes: names of ciphers, names of servers, and when settings are made anew.

use std::time::Instant;

use super::*;
use crate::certificate::fixture::self_signed;
use crate::model::{ClientAuthentication, ClientTls, ServerTls};

#[test]
fn each_name_of_a_cipher_is_one_cipher() {
    for name in [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ] {
        let found = provider(&[name.into()]).cipher_suites;
        let old: Vec<_> = found
            .iter()
            .filter(|suite| suite.version() == &TLS12)
            .collect();
        assert_eq!(old.len(), 1, "{name}: {found:?}");
        assert_eq!(found.len(), 4, "{name}: those of TLS 1.3 stay");
    }
    assert_eq!(
        provider(&[]).cipher_suites.len(),
        certificate::provider().cipher_suites.len()
    );
}

#[test]
fn servers_are_asked_for_by_host() {
    let tls = |server_name: Option<&str>| {
        Arc::new(ClientTls {
            certificate: None,
            verification: None,
            server_name: server_name.map(Into::into),
            bears_host: true,
        })
    };
    let name = |upstream: Option<Upstream>| upstream.map(|tls| tls.name().to_str().into_owned());
    let cases = [
        (None, "Web.Example", Some("web.example")),
        (None, "web.example:8080", Some("web.example")),
        (None, "web.example.", Some("web.example")),
        (None, "10.0.0.1:80", Some("10.0.0.1")),
        (None, "[fd00::1]:80", Some("fd00::1")),
        (None, "", None),
        (None, "a b", None),
        (Some("sni.example"), "web.example", Some("sni.example")),
        (Some("sni.example"), "", Some("sni.example")),
    ];
    for (written, host, expected) in cases {
        let found = name(Upstream::for_host(&tls(written), host));
        assert_eq!(found.as_deref(), expected, "{written:?} {host}");
    }
    let found = name(Upstream::for_relay(&tls(Some("sni.example"))));
    assert_eq!(found.as_deref(), Some("sni.example"));
    // An address is never asked for.
    let found = name(Upstream::for_relay(&tls(None)));
    assert_eq!(found.as_deref(), Some("0.0.0.0"));
}

#[test]
fn the_same_settings_are_made_once() {
    let configs = Configs::default();
    let issued = self_signed(&["a.example"]);
    let settings = || {
        Arc::new(ServerTls {
            certificates: vec![Credential::Given(Arc::new(issued.pair()))],
            clients: ClientAuthentication::None,
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
            cipher_suites: Vec::new(),
        })
    };
    let hello = ClientHello::default();
    let (name, one) = ("one".into(), settings());
    let get = |tls: &Arc<ServerTls>| configs.servers.get(&name, tls).unwrap().config(&hello);
    let first = get(&one);
    assert!(Arc::ptr_eq(&first, &get(&one)));
    assert!(Arc::ptr_eq(&first, &get(&settings())));
    let other = Arc::new(ServerTls {
        min_version: TlsVersion::V1_3,
        ..ServerTls::clone(&one)
    });
    assert!(!Arc::ptr_eq(&first, &get(&other)));

    let client = |server_name: &str| {
        let tls = Arc::new(ClientTls {
            certificate: None,
            verification: None,
            server_name: Some(server_name.into()),
            bears_host: false,
        });
        Upstream::for_host(&tls, "web").unwrap()
    };
    let get = |tls: &Upstream, offer| configs.clients.get(tls, offer).unwrap();
    let first = get(&client("a"), Offer::Http1);
    assert!(Arc::ptr_eq(&first, &get(&client("a"), Offer::Http1)));
    assert!(!Arc::ptr_eq(&first, &get(&client("a"), Offer::Http2)));
    assert!(!Arc::ptr_eq(&first, &get(&client("b"), Offer::Http1)));
    assert!(client("a") == client("a") && client("a") != client("b"));
}

/// A client must not get a long wait by sending a byte at a time.
#[test]
fn slow_beginnings_cost_little() {
    let mut bytes = vec![22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb];
    bytes.extend(vec![0; 16_000]);
    let begin = Instant::now();
    for length in (0..bytes.len()).step_by(16) {
        assert!(matches!(hello::read(&bytes[..length]), Hello::Incomplete));
    }
    assert!(begin.elapsed().as_secs() < 2);
}

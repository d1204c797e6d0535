//! Tests of Gateways as written.

use super::*;
use crate::config::crd::gateway::GatewaySpec;
use crate::config::fixture::istio;
use crate::config::problem::Severity;
use crate::config::yaml::{self, read::read};
use crate::model::TlsVersion;

const HTTP: &str = "port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']";
const HTTPS: &str = "port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*']";

fn gateway(servers: &str) -> (Gateway, Vec<String>) {
    let text = istio("Gateway", "ns/g", &format!("{{servers: {servers}}}"));
    let document = yaml::documents(&text).next().unwrap().unwrap();
    let (spec, unknown) = read::<GatewaySpec>(document.get("spec").unwrap()).unwrap();
    assert_eq!(unknown, Vec::new());
    let mut problems = Problems::default();
    let gateway = Gateway::read(spec, "ns", &mut problems);
    let usable = !problems.unusable();
    let complaints = problems
        .into_iter()
        .map(|problem| {
            // `E` is an object that is rejected, `-` a part of it that is.
            let level = match problem.severity {
                Severity::Error if usable => "-",
                Severity::Error => "E",
                Severity::Warning => "W",
                Severity::Info => "I",
            };
            let path = problem.path.to_string().replace("spec.servers", "");
            format!("{level} {path}: {}", problem.message)
        })
        .collect();
    (gateway, complaints)
}

/// The complaints about a server for HTTPS with this `tls`, and the `tls` as understood.
fn tls(written: &str) -> (Option<Tls>, Vec<String>) {
    let (mut gateway, complaints) = gateway(&format!("[{{{HTTPS}, tls: {{{written}}}}}]"));
    let tls = gateway
        .servers
        .pop()
        .and_then(|server| match server.service {
            ServerKind::Https(tls) => Some(tls),
            _ => None,
        });
    let complaints = complaints
        .iter()
        .map(|complaint| complaint.replace(" [0].tls", " "))
        .collect();
    (tls, complaints)
}

#[test]
fn servers_are_checked_as_istio_does() {
    let check = |servers: &str, expected: &[&str]| {
        assert_eq!(gateway(servers).1, expected, "{servers}");
    };
    let http = "port: {number: 80, name: http, protocol: HTTP}";
    check("[]", &["E : a Gateway needs at least one server"]);
    check(
        &format!("[{{{http}}}]"),
        &["E [0].hosts: a server needs hosts"],
    );
    check(
        &format!("[{{{http}, hosts: [short]}}]"),
        &["E [0].hosts[0]: \"short\" is no host of a Gateway"],
    );
    check(
        &format!("[{{{http}, hosts: ['a*.example.com', '_/a.b']}}]"),
        &[
            "E [0].hosts[0]: \"a*.example.com\" is no host of a Gateway",
            "E [0].hosts[1]: \"_/a.b\" does not begin with a namespace",
        ],
    );
    check(
        &format!("[{{{HTTP}}}, {{{HTTP}}}]"),
        &["E [1].port.name: two ports are named \"http\""],
    );
    check("[{hosts: ['*']}]", &["E [0].port: a server needs a port"]);
    check(
        "[{port: {protocol: HTTP, targetPort: 8080}, hosts: ['*']}]",
        &[
            "E [0].port.name: a port needs a name",
            "E [0].port.targetPort: Istio does not take targetPort",
            "E [0].port.number: a port number is missing",
        ],
    );
    check(
        "[{port: {number: 65536, name: a, protocol: SPDY}, hosts: ['*']}]",
        &[
            "E [0].port.protocol: \"SPDY\" is no protocol of a server",
            "E [0].port.number: 65536 is no port number",
        ],
    );
    check(
        &format!("[{{{HTTPS}}}]"),
        &["E [0].tls: a server for HTTPS or TLS needs tls"],
    );
    check(
        &format!("[{{{HTTP}, tls: {{mode: SIMPLE}}}}]"),
        &["E [0].tls: tls on a server for plain HTTP"],
    );
    check(
        "[{port: {number: 1, name: a, protocol: TCP}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: a}}]",
        &["E [0].tls: tls on a server for neither HTTPS nor TLS"],
    );
    check(
        &format!("[{{{HTTP}, bind: nowhere}}]"),
        &["E [0].bind: \"nowhere\" is no IP address"],
    );
    check(
        &format!("[{{{HTTP}, defaultEndpoint: '127.0.0.1:80'}}]"),
        &["W [0].defaultEndpoint: Istio does not use defaultEndpoint"],
    );
    // What is not served leaves the other servers alone.
    for (server, what) in [
        (
            format!("{HTTP}, bind: 'unix:///tmp/a'"),
            "bind: a unix socket",
        ),
        (
            format!("{HTTPS}, tls: {{mode: ISTIO_MUTUAL}}"),
            "tls.mode: ISTIO_MUTUAL",
        ),
        (
            format!("{HTTPS}, tls: {{mode: AUTO_PASSTHROUGH}}"),
            "tls.mode: AUTO_PASSTHROUGH",
        ),
        (
            "port: {number: 53, name: dns, protocol: UDP}, hosts: ['*']".to_owned(),
            "port.protocol: a server for UDP",
        ),
    ] {
        let other = "port: {number: 81, name: other, protocol: HTTP}, hosts: ['*']";
        let (gateway, complaints) = gateway(&format!("[{{{server}}}, {{{other}}}]"));
        let expected = format!("- [0].{what} is not supported yet, so this server is not served");
        assert_eq!((gateway.servers.len(), complaints), (1, vec![expected]));
    }
}

#[test]
fn protocols_say_what_a_server_does() {
    let tls = "tls: {mode: SIMPLE, serverCertificate: a, privateKey: b}";
    let check = |protocol: &str, rest: &str, kind: fn(&ServerKind) -> bool| {
        let port = format!("port: {{number: 1, name: a, protocol: {protocol}}}, hosts: ['*']");
        let (gateway, complaints) = gateway(&format!("[{{{port}, {rest}}}]"));
        assert_eq!(complaints, Vec::<String>::new(), "{protocol} {rest}");
        let kinds: Vec<_> = gateway
            .servers
            .iter()
            .map(|server| kind(&server.service))
            .collect();
        assert_eq!(kinds, [true], "{protocol} {rest}: {:?}", gateway.servers);
    };
    for protocol in ["HTTP", "http", "HTTP2", "GRPC", "GRPC-WEB", "grpc-web"] {
        check(protocol, "", |kind| {
            *kind
                == ServerKind::Http {
                    https_redirect: false,
                }
        });
    }
    check("HTTP", "tls: {httpsRedirect: true}", |kind| {
        *kind
            == ServerKind::Http {
                https_redirect: true,
            }
    });
    for protocol in ["TCP", "MONGO", "Redis", "MYSQL"] {
        check(protocol, "", |kind| *kind == ServerKind::Tcp);
    }
    check("HTTPS", tls, |kind| matches!(kind, ServerKind::Https(_)));
    check("TLS", tls, |kind| matches!(kind, ServerKind::Tls(_)));
    for protocol in ["HTTPS", "TLS"] {
        check(protocol, "tls: {}", |kind| *kind == ServerKind::Passthrough);
        check(protocol, "tls: {mode: PASSTHROUGH}", |kind| {
            *kind == ServerKind::Passthrough
        });
    }
}

#[test]
fn a_server_has_an_address_and_hosts_of_namespaces() {
    let (gateway, complaints) = gateway(
        "[{port: {number: 80, name: a, protocol: HTTP}, bind: 'fd00::1', hosts: ['*/A.com', './b.com', 'x/*.c.com', '*']}]",
    );
    assert_eq!(complaints, Vec::<String>::new());
    let server = &gateway.servers[0];
    assert_eq!(server.bind, Some("fd00::1".parse().unwrap()));
    let hosts = server
        .hosts
        .iter()
        .map(|host| (host.namespace.as_deref(), &*host.host));
    assert_eq!(
        hosts.collect::<Vec<_>>(),
        [
            (None, "a.com"),
            (Some("ns"), "b.com"),
            (Some("x"), "*.c.com"),
            (None, "*")
        ]
    );
}

#[test]
fn certificates_come_from_one_source() {
    let check =
        |written: &str, expected: &[&str]| assert_eq!(tls(written).1, expected, "{written}");
    check("mode: SIMPLE, credentialName: a", &[]);
    check("mode: SIMPLE, credentialNames: [a, b]", &[]);
    check("mode: SIMPLE, serverCertificate: a, privateKey: b", &[]);
    check(
        "mode: SIMPLE, tlsCertificates: [{serverCertificate: a, privateKey: b}]",
        &[],
    );
    check("mode: MUTUAL, credentialName: a", &[]);
    check(
        "mode: OPTIONAL_MUTUAL, serverCertificate: a, privateKey: b, caCertificates: c, caCrl: d",
        &[],
    );
    check(
        "mode: SIMPLE",
        &[
            "E .serverCertificate: SIMPLE needs a certificate and its key",
            "E .privateKey: SIMPLE needs a certificate and its key",
        ],
    );
    check(
        "mode: SIMPLE, tlsCertificates: [{serverCertificate: a}]",
        &["E .tlsCertificates[0].privateKey: SIMPLE needs a certificate and its key"],
    );
    check(
        "mode: MUTUAL, serverCertificate: a, privateKey: b",
        &["E .caCertificates: MUTUAL needs to know who signs the certificates of clients"],
    );
    check(
        "mode: SIMPLE, credentialName: a, credentialNames: [b]",
        &["E : certificates come from more than one source"],
    );
    check(
        "mode: SIMPLE, credentialName: a, serverCertificate: b, privateKey: c",
        &["E : certificates come from more than one source"],
    );
    check(
        "mode: MUTUAL, credentialName: a, caCrl: b",
        &["E .caCrl: caCrl goes with caCertificates alone"],
    );
    check(
        "mode: MUTUAL, serverCertificate: a, privateKey: b, caCertificates: c, caCertCredentialName: d",
        &[
            "W .caCertCredentialName: caCertCredentialName goes with credentialName, and has no effect beside files",
        ],
    );
    check(
        "mode: MUTUAL, caCertificates: c, tlsCertificates: [{serverCertificate: a, privateKey: b, caCertificates: d}]",
        &[
            "W .tlsCertificates[0].caCertificates: clients are checked by the server's own caCertificates, and this has no effect",
        ],
    );
    check(
        "mode: MUTUAL, credentialName: other/a",
        &["E .credentialName: \"other/a\" is no name of a Secret"],
    );
    check(
        "mode: ISTIO_MUTUAL, credentialName: a",
        &[
            "E : ISTIO_MUTUAL takes the mesh's own certificates and no others",
            "E .mode: ISTIO_MUTUAL is not supported yet, so this server is not served",
        ],
    );
    check(
        "mode: PASSTHROUGH, credentialName: a",
        &["W : PASSTHROUGH leaves the TLS as it is, and uses no certificates"],
    );
    check(
        "mode: DOUBLE",
        &["E .mode: \"DOUBLE\" is no mode of a server's TLS"],
    );
    check(
        "mode: SIMPLE, credentialName: a, httpsRedirect: true",
        &["W .httpsRedirect: httpsRedirect is for servers for HTTP, and has no effect on this one"],
    );
}

#[test]
fn versions_and_ciphers_are_those_that_can_be_had() {
    let check =
        |written: &str, expected: Option<(TlsVersion, TlsVersion, &[&str])>, said: &[&str]| {
            let (tls, complaints) = tls(&format!("mode: SIMPLE, credentialName: a, {written}"));
            assert_eq!(complaints, said, "{written}");
            let found = tls.as_ref().map(|tls| {
                let suites = tls
                    .cipher_suites
                    .iter()
                    .map(|name| &**name)
                    .collect::<Vec<_>>();
                (tls.min_version, tls.max_version, suites)
            });
            assert_eq!(
                found,
                expected.map(|(min, max, suites)| (min, max, suites.to_vec()))
            );
        };
    use TlsVersion::{V1_2, V1_3};
    check("", Some((V1_2, V1_3, &[])), &[]);
    check("minProtocolVersion: TLSV1_3", Some((V1_3, V1_3, &[])), &[]);
    check("maxProtocolVersion: TLSV1_2", Some((V1_2, V1_2, &[])), &[]);
    check(
        "minProtocolVersion: TLS_AUTO, maxProtocolVersion: TLS_AUTO",
        Some((V1_2, V1_3, &[])),
        &[],
    );
    check(
        "minProtocolVersion: TLSV1_0",
        Some((V1_2, V1_3, &[])),
        &[
            "W .minProtocolVersion: versions before TLS 1.2 are not spoken, so clients need at least that",
        ],
    );
    let none = "- .maxProtocolVersion: no version of TLS is left that could be spoken, so this server is not served";
    check("maxProtocolVersion: TLSV1_1", None, &[none]);
    check(
        "minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2",
        None,
        &[none],
    );
    check(
        "minProtocolVersion: SSLV3",
        None,
        &["E .minProtocolVersion: \"SSLV3\" is no version of TLS"],
    );
    let suite = "ECDHE-RSA-AES256-GCM-SHA384";
    check(
        &format!("cipherSuites: [{suite}]"),
        Some((V1_2, V1_3, &[suite])),
        &[],
    );
    check(
        &format!("cipherSuites: [{suite}, {suite}, AES128-SHA, NONE]"),
        Some((V1_2, V1_3, &[suite])),
        &[
            &format!("W .cipherSuites[1]: \"{suite}\" stands here twice"),
            "W .cipherSuites[2]: AES128-SHA is not spoken: it protects too little",
            "W .cipherSuites[3]: \"NONE\" is no cipher suite that Istio knows, and has no effect",
        ],
    );
    let old = "W .cipherSuites[0]: AES128-SHA is not spoken: it protects too little";
    check(
        "cipherSuites: [AES128-SHA]",
        Some((V1_3, V1_3, &[])),
        &[old],
    );
    check(
        "cipherSuites: [AES128-SHA], maxProtocolVersion: TLSV1_2",
        None,
        &[
            "W .cipherSuites[0]: AES128-SHA is not spoken: it protects too little",
            "- .cipherSuites: none of these can be had, so this server is not served",
        ],
    );
}

#[test]
fn clients_are_checked_as_written() {
    let check = |written: &str, authorities: Authorities| {
        let (tls, complaints) = tls(written);
        assert_eq!(complaints, Vec::<String>::new(), "{written}");
        let (Clients::Required(check) | Clients::Optional(check)) = tls.unwrap().clients else {
            panic!("{written}: asks nothing of clients");
        };
        assert_eq!(check.authorities, authorities, "{written}");
        check
    };
    let at = |field: &str| Path::of("spec.servers").index(0).key("tls").key(field);
    let secret = |name: &str, path| Authorities::Secret(name.into(), path);
    check(
        "mode: MUTUAL, credentialName: a",
        secret("a", at("credentialName")),
    );
    check(
        "mode: MUTUAL, credentialName: 'kubernetes://a'",
        secret("a", at("credentialName")),
    );
    check(
        "mode: MUTUAL, credentialNames: [a, b]",
        secret("a", at("credentialNames").index(0)),
    );
    check(
        "mode: OPTIONAL_MUTUAL, credentialName: a, caCertCredentialName: b",
        secret("b", at("caCertCredentialName")),
    );
    check(
        "mode: MUTUAL, serverCertificate: a, privateKey: b, caCertificates: c, caCrl: d",
        Authorities::Files(vec!["c".into(), "d".into()]),
    );
    let hash = "AB:".repeat(31) + "cd";
    let pin = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
    let found = check(
        &format!(
            "mode: MUTUAL, credentialName: a, subjectAltNames: [x], verifyCertificateHash: ['{hash}'], verifyCertificateSpki: ['{pin}']"
        ),
        secret("a", at("credentialName")),
    );
    assert_eq!(found.names, ["x".into()]);
    assert_eq!(found.hashes, [("ab".repeat(31) + "cd").into()]);
    assert_eq!(found.keys, [pin.into()]);
    let (_, complaints) = tls(
        "mode: MUTUAL, credentialName: a, verifyCertificateHash: [abc], verifyCertificateSpki: [abc]",
    );
    assert_eq!(
        complaints,
        [
            "E .verifyCertificateHash[0]: \"abc\" is not a SHA-256 in hexadecimal",
            "E .verifyCertificateSpki[0]: \"abc\" is not a SHA-256 in base64",
        ]
    );
    let (must, complaints) = tls("mode: OPTIONAL_MUTUAL, credentialName: a, subjectAltNames: [x]");
    assert!(matches!(must.unwrap().clients, Clients::Required(_)));
    assert_eq!(
        complaints,
        [
            "W .mode: clients must show a certificate all the same, as in Istio: there are names or digests that it must have"
        ]
    );
    let (any, complaints) = tls("mode: MUTUAL, credentialName: a, insecureSkipVerify: true");
    assert!(any.unwrap().any_client);
    assert_eq!(
        complaints,
        [
            "W .insecureSkipVerify: certificates of clients are not verified: whatever they show is let in"
        ]
    );
    let (any, complaints) =
        tls("mode: SIMPLE, credentialName: a, subjectAltNames: [x], caCertCredentialName: b");
    assert_eq!(any.unwrap().clients, Clients::Anyone);
    assert_eq!(
        complaints,
        [
            "W .subjectAltNames: subjectAltNames has no effect: with SIMPLE no client is asked for a certificate",
            "W .caCertCredentialName: caCertCredentialName has no effect: with SIMPLE no client is asked for a certificate",
        ]
    );
}

//! Tests of Secrets as written.

use super::*;
use crate::certificate::fixture::{Authority, self_signed};

fn read(kind: &str, data: &[(&str, &str)], string_data: &[(&str, &str)]) -> (Secret, Vec<String>) {
    let entries = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
            .collect()
    };
    let body = SecretBody {
        r#type: kind.to_owned(),
        data: entries(data),
        string_data: entries(string_data),
    };
    let mut problems = Problems::default();
    let secret = Secret::read(body, &mut problems);
    let messages = problems
        .into_iter()
        .map(|problem| format!("{}: {}", problem.path, problem.message))
        .collect();
    (secret, messages)
}

#[test]
fn has_a_certificate_under_either_name() {
    let issued = self_signed(&["a.example"]);
    let (chain, key) = (
        BASE64_STANDARD.encode(&issued.chain),
        BASE64_STANDARD.encode(&issued.key),
    );
    let (chain, key) = (chain.as_str(), key.as_str());
    let folded = format!("{}\n {}", &chain[..64], &chain[64..]);
    let expected = Some(Arc::new(issued.pair()));
    let check = |kind: &str, data: &[(&str, &str)], text: &[(&str, &str)]| {
        let (secret, complaints) = read(kind, data, text);
        assert_eq!(
            (secret.certificate, complaints),
            (expected.clone(), Vec::new()),
            "{kind}"
        );
    };
    check(
        "kubernetes.io/tls",
        &[("tls.crt", chain), ("tls.key", key)],
        &[],
    );
    check(
        "kubernetes.io/tls",
        &[("tls.crt", &folded), ("tls.key", key)],
        &[],
    );
    check("Opaque", &[("tls.crt", chain), ("tls.key", key)], &[]);
    check("Opaque", &[("cert", chain), ("key", key)], &[]);
    check("", &[], &[("cert", &issued.chain), ("key", &issued.key)]);
    check(
        "mine",
        &[("tls.crt", "broken"), ("tls.key", key)],
        &[("tls.crt", &issued.chain)],
    );
    // What somebody else put there under a name that means nothing.
    check(
        "",
        &[
            ("cert", "YQ=="),
            ("key", "YQ=="),
            ("tls.crt", chain),
            ("tls.key", key),
        ],
        &[],
    );
    // As cert-manager writes it where it knows no authority.
    check(
        "kubernetes.io/tls",
        &[("tls.crt", chain), ("tls.key", key), ("ca.crt", "")],
        &[],
    );
}

#[test]
fn has_authorities_under_either_name() {
    let authority = Authority::new("one");
    let list = authority.revoke(&[]);
    let check = |text: &[(&str, &str)], revoked: Option<&str>| {
        let (secret, complaints) = read("Opaque", &[], text);
        let expected = TrustRoots {
            authorities: authority.pem.clone().into_bytes(),
            revoked: revoked.map(|list| list.as_bytes().to_vec()),
        };
        assert_eq!(
            secret.authorities.as_deref(),
            Some(&expected),
            "{complaints:?}"
        );
        assert_eq!(complaints, Vec::<String>::new());
    };
    check(&[("ca.crt", &authority.pem)], None);
    check(
        &[("ca.crt", &authority.pem), ("ca.crl", &list)],
        Some(&list),
    );
    check(&[("cacert", &authority.pem), ("crl", &list)], Some(&list));
}

#[test]
fn complains_of_what_is_broken_and_never_shows_it() {
    let (one, other) = (self_signed(&["a.example"]), self_signed(&["b.example"]));
    let check = |kind: &str, text: &[(&str, &str)], expected: &str| {
        let (_, complaints) = read(kind, &[], text);
        assert_eq!(complaints, [format!("data: {expected}")]);
        for (_, value) in text.iter().filter(|(_, value)| value.len() > 4) {
            assert!(!complaints[0].contains(value), "{complaints:?}");
        }
    };
    check(
        "kubernetes.io/tls",
        &[],
        "tls.crt and tls.key is of no use: they are missing or empty",
    );
    check(
        "kubernetes.io/tls",
        &[("tls.crt", &one.chain), ("tls.key", &other.key)],
        "tls.crt is of no use: the key does not belong to the certificate",
    );
    check(
        "Opaque",
        &[("cert", &one.chain), ("key", "secret")],
        "cert is of no use: the key has no block that begins with -----BEGIN PRIVATE KEY-----",
    );
    check(
        "Opaque",
        &[("ca.crt", &one.chain.replace("END", "ENDE"))],
        "ca.crt is of no use: it is not PEM: a block in it is broken",
    );
    let (_, complaints) = read(
        "kubernetes.io/tls",
        &[("tls.crt", "%"), ("tls.key", "%")],
        &[],
    );
    assert_eq!(
        complaints[0],
        "data: tls.crt is of no use: it is not base64"
    );
}

#[test]
fn leaves_alone_what_is_not_about_tls() {
    let authority = Authority::new("cluster");
    for (kind, text) in [
        ("Opaque", vec![("key", "abc"), ("user", "me")]),
        ("Opaque", vec![("cert", "abc"), ("key", "abc")]),
        ("Opaque", vec![("ca.crt", "abc")]),
        (
            "kubernetes.io/service-account-token",
            vec![("ca.crt", &*authority.pem)],
        ),
    ] {
        let (secret, complaints) = read(kind, &[], &text);
        assert_eq!((secret.certificate, secret.authorities), (None, None));
        assert_eq!(complaints, Vec::<String>::new(), "{kind} {text:?}");
    }
}

#[test]
fn tells_of_a_certificate_that_is_not_good_for_long() {
    let authority = Authority::new("one");
    let now = SystemTime::now();
    let check = |from: i64, to: i64, expected: &str| {
        let at = |days: i64| {
            let span = std::time::Duration::from_secs(days.unsigned_abs() * 24 * 3600 + 600);
            if days < 0 { now - span } else { now + span }
        };
        let issued = authority.issue_as(&["a.example"], |params| {
            params.not_before = at(from).into();
            params.not_after = at(to).into();
        });
        let text = [("tls.crt", &*issued.chain), ("tls.key", &*issued.key)];
        let (secret, complaints) = read("kubernetes.io/tls", &[], &text);
        assert!(secret.certificate.is_some());
        assert_eq!(complaints.join(" "), expected);
    };
    check(-1, 20, "");
    check(-1, 13, "data: the certificate expires in 13 days");
    check(-1, 1, "data: the certificate expires in 24 hours");
    check(-9, -2, "data: the certificate has expired");
    check(
        3,
        90,
        "data: the certificate is not valid yet; it will be in 3 days",
    );
}

//! Tests of what certificates say, and of what of them is of use.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
    date_time_ymd,
};

use super::*;

fn signed(params: &CertificateParams) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

fn pair(chain: &str, key: &str) -> Certificate {
    Certificate {
        chain: chain.as_bytes().to_vec(),
        key: key.as_bytes().to_vec(),
    }
}

#[test]
fn reads_what_a_certificate_says() {
    let mut params =
        CertificateParams::new(vec!["a.example".into(), "*.b.example".into()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in [
        (DnType::CountryName, "DE"),
        (DnType::OrganizationName, "Müller, Söhne <+>"),
        (DnType::OrganizationalUnitName, "# 1 "),
        (DnType::CommonName, "client"),
        (
            DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]),
            "a@b.example",
        ),
        (DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99_999]), "x"),
    ] {
        params.distinguished_name.push(kind, value);
    }
    params.not_before = date_time_ymd(1998, 2, 28);
    params.not_after = date_time_ymd(2052, 3, 1);
    params.subject_alt_names.extend([
        SanType::URI("spiffe://cluster.local/ns/a/sa/b".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::IpAddress("fd00::1".parse().unwrap()),
        SanType::Rfc822Name("a@b.example".try_into().unwrap()),
    ]);
    let (certificate, key) = signed(&params);
    let read = details(certificate.der()).unwrap();
    assert_eq!(
        read.subject,
        r"1.3.6.1.4.1.99999=#0C0178,emailAddress=a@b.example,CN=client,OU=\# 1\ ,O=M\C3\BCller\, S\C3\B6hne \<\+\>,C=DE"
    );
    assert_eq!(
        (read.not_before, read.not_after),
        (888_624_000, 2_592_864_000)
    );
    assert_eq!(read.names, ["a.example", "*.b.example"]);
    assert_eq!(read.uris, ["spiffe://cluster.local/ns/a/sa/b"]);
    assert_eq!(read.addresses.len(), 2);
    assert_eq!(read.mails, ["a@b.example"]);
    let key = rcgen::PublicKeyData::subject_public_key_info(&key);
    assert_eq!(read.subject_public_key_info, key);
}

#[test]
fn whatever_is_no_certificate_says_nothing() {
    let (certificate, _) = signed(&CertificateParams::new(vec!["a.example".into()]).unwrap());
    let whole = certificate.der().to_vec();
    for length in 0..whole.len() {
        assert_eq!(details(&whole[..length]), None, "{length} bytes");
    }
    // No byte can bring it down, whatever comes of it.
    for at in 0..whole.len() {
        for value in [0, 0x7f, 0x80, 0x84, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            let _ = details(&changed);
        }
    }
}

#[test]
fn a_key_must_be_the_certificates_own() {
    let params = CertificateParams::new(vec!["a.example".into()]).unwrap();
    let (one, key) = signed(&params);
    let (_, other) = signed(&params);
    let (certificate, key) = (one.pem(), key.serialize_pem());
    let check = |chain: &str, key: &str, expected: Result<usize, Unfit>| {
        let found = key_pair(&pair(chain, key)).map(|pair| pair.cert.len());
        assert_eq!(found, expected, "{chain} {key}");
    };
    check(&certificate, &key, Ok(1));
    check(
        &format!("text before\n{certificate}{certificate}"),
        &key,
        Ok(2),
    );
    check(&certificate, &other.serialize_pem(), Err(Unfit::OtherKey));
    check("", &key, Err(Unfit::NoCertificate));
    check("hello", &key, Err(Unfit::NoCertificate));
    check(&certificate, "", Err(Unfit::NoKey));
    check(&certificate, &certificate, Err(Unfit::NoKey));
    check(
        &certificate.replace("END CERT", "END CART"),
        &key,
        Err(Unfit::BrokenPem),
    );
    let nonsense = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    check(nonsense, &key, Err(Unfit::BrokenCertificate));
    let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    check(&certificate, &encrypted, Err(Unfit::EncryptedKey));
    let unknown = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    check(&certificate, unknown, Err(Unfit::UnknownKey));
}

#[test]
fn authorities_come_with_what_they_revoked() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let (authority, key) = signed(&params);
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2054, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::from_params(&params, &key)).unwrap();
    let check = |authorities: &str, revoked: Option<&str>, expected: Result<usize, Unfit>| {
        let pem = TrustRoots {
            authorities: authorities.as_bytes().to_vec(),
            revoked: revoked.map(|text| text.as_bytes().to_vec()),
        };
        let read = super::authorities(&pem).map(|read| read.revoked.len());
        assert_eq!(read, expected);
    };
    check(&authority.pem(), None, Ok(0));
    check(&authority.pem(), Some(&list.pem().unwrap()), Ok(1));
    check(&authority.pem(), Some(""), Err(Unfit::BrokenRevocations));
    check("", None, Err(Unfit::NoCertificate));
}

#[test]
fn digests_and_pem_are_those_of_openssl() {
    let (certificate, _) = signed(&CertificateParams::new(vec!["a.example".into()]).unwrap());
    assert_eq!(
        to_pem(certificate.der()),
        certificate.pem().replace("\r\n", "\n")
    );
    assert_eq!(
        fingerprint(b"abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        key_pin(b"abc"),
        "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
    );
}

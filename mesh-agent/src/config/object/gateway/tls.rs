//! `servers[].tls` of a Gateway: what a server shows, what it asks of clients, and what it takes.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::config::crd::gateway::{ServerTls, TlsCertificate};
use crate::config::object::gateway::left_out;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::TlsVersion;

/// TLS that the gateway opens.
#[derive(Debug, PartialEq, Eq)]
pub struct Tls {
    /// What is shown.
    pub certificates: Certificates,
    /// What is asked of clients.
    pub clients: Clients,
    /// `minProtocolVersion`.
    pub min_version: TlsVersion,
    /// `maxProtocolVersion`.
    pub max_version: TlsVersion,
    /// `cipherSuites`; those that can be had, or all.
    pub cipher_suites: Vec<Arc<str>>,
}

/// Where the certificates come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Certificates {
    /// `credentialName` or `credentialNames`, each with the place where it was written.
    Secrets(Vec<(Arc<str>, Path)>),
    /// Pairs of certificate and key.
    Files(Vec<[PathBuf; 2]>),
}

/// What is asked of clients.
#[derive(Debug, PartialEq, Eq)]
pub enum Clients {
    /// Nothing.
    Anyone,
    /// A certificate, if they have one.
    Optional(ClientCheck),
    /// A certificate.
    Required(ClientCheck),
}

/// What a client's certificate must be.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientCheck {
    /// Who must have signed it.
    pub authorities: Authorities,
    /// `subjectAltNames`.
    pub names: Vec<Arc<str>>,
    /// `verifyCertificateHash`, plain and in lower case.
    pub hashes: Vec<Arc<str>>,
    /// `verifyCertificateSpki`.
    pub keys: Vec<Arc<str>>,
}

/// Where authorities come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Authorities {
    /// A Secret: this one with `-cacert` behind its name where there is such, else this one; and where it was written.
    Secret(Arc<str>, Path),
    /// Authorities and, where there is a second one, what they revoked.
    Files(Vec<PathBuf>),
}

/// Who opens the TLS.
pub(super) enum Mode {
    Passthrough,
    Open(Tls),
}

/// Names of cipher suites for TLS 1.2, as OpenSSL and Istio have them, that can be had.
const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Those that Istio knows beside them. None of them keeps a secret once the server's key is known, or ever did.
const OLD_CIPHER_SUITES: [&str; 9] = [
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// `None` where the server cannot be served.
pub(super) fn read(tls: ServerTls, path: &Path, problems: &mut Problems) -> Option<Mode> {
    if tls.https_redirect {
        problems.warning(
            &path.key("httpsRedirect"),
            "httpsRedirect is for servers for HTTP, and has no effect on this one",
            "put it on the server of the plain port",
        );
    }
    match tls.mode.as_str() {
        "" | "PASSTHROUGH" => {
            warn_of_certificates(&tls, path, problems);
            return Some(Mode::Passthrough);
        }
        "AUTO_PASSTHROUGH" => {
            warn_of_certificates(&tls, path, problems);
            left_out(problems, &path.key("mode"), "AUTO_PASSTHROUGH");
            return None;
        }
        "ISTIO_MUTUAL" => {
            if !tls.credential_name.is_empty() || has_certificates(&tls) {
                problems.error(
                    path,
                    "ISTIO_MUTUAL takes the mesh's own certificates and no others",
                    "remove them, or use MUTUAL",
                );
            }
            left_out(problems, &path.key("mode"), "ISTIO_MUTUAL");
            return None;
        }
        "SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL" => {}
        other => {
            problems.error(
                &path.key("mode"),
                format!("\"{other}\" is no mode of a server's TLS"),
                "write SIMPLE, MUTUAL, OPTIONAL_MUTUAL or PASSTHROUGH",
            );
            return None;
        }
    }
    open(tls, path, problems).map(Mode::Open)
}

fn open(tls: ServerTls, path: &Path, problems: &mut Problems) -> Option<Tls> {
    check_sources(&tls, path, problems);
    if tls.insecure_skip_verify && tls.mode != "SIMPLE" {
        let path = path.key("insecureSkipVerify");
        left_out(problems, &path, "insecureSkipVerify");
        return None;
    }
    let certificates = read_certificates(&tls, path, problems);
    let min_version = read_version(&tls.min_protocol_version, TlsVersion::V1_2);
    let max_version = read_version(&tls.max_protocol_version, TlsVersion::V1_3);
    let (min_version, max_version) =
        check_versions(&tls, min_version, max_version, path, problems)?;
    let cipher_suites = read_ciphers(&tls.cipher_suites, &path.key("cipherSuites"), problems);
    if cipher_suites.is_empty() && !tls.cipher_suites.is_empty() && max_version < TlsVersion::V1_3 {
        problems.left_out(
            &path.key("cipherSuites"),
            "none of these can be had, so this server is not served",
            "the Gateway's other servers are not affected",
        );
        return None;
    }
    let check = read_check(&tls, path, problems);
    let clients = match tls.mode.as_str() {
        "MUTUAL" => Clients::Required(check?),
        "OPTIONAL_MUTUAL" => Clients::Optional(check?),
        _ => Clients::Anyone,
    };
    Some(Tls {
        certificates,
        clients,
        min_version,
        // Suites for TLS 1.2 of which none can be had leave 1.3, which has its own.
        cipher_suites,
        max_version,
    })
}

/// Whether there are certificates in it that are not named by `credentialName`.
fn has_certificates(tls: &ServerTls) -> bool {
    !tls.server_certificate.is_empty()
        || !tls.private_key.is_empty()
        || !tls.ca_certificates.is_empty()
        || !tls.tls_certificates.is_empty()
        || !tls.credential_names.is_empty()
}

fn warn_of_certificates(tls: &ServerTls, path: &Path, problems: &mut Problems) {
    if !tls.credential_name.is_empty() || !tls.ca_crl.is_empty() || has_certificates(tls) {
        problems.warning(
            path,
            "PASSTHROUGH leaves the TLS as it is, and uses no certificates",
            "remove them, or write the mode SIMPLE",
        );
    }
}

/// Istio's rules on where certificates may come from.
fn check_sources(tls: &ServerTls, path: &Path, problems: &mut Problems) {
    let files = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    let sources = [
        files,
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    if sources.iter().filter(|source| **source).count() > 1 {
        problems.error(
            path,
            "certificates come from more than one source",
            "keep one of credentialName, credentialNames, tlsCertificates, and serverCertificate with privateKey",
        );
    }
    let credential = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    let mode = &tls.mode;
    if credential {
        // What files would have to be there for is in the Secret.
    } else if tls.tls_certificates.is_empty() {
        let needed = [
            ("serverCertificate", &tls.server_certificate),
            ("privateKey", &tls.private_key),
        ];
        for (field, value) in needed {
            check_file(value, mode, &path.key(field), problems);
        }
    } else {
        if tls.tls_certificates.len() > 2 {
            problems.warning(
                &path.key("tlsCertificates"),
                "clients get one of two certificates at most: one with an RSA key, one with an ECDSA key",
                "keep one of each",
            );
        }
        for (index, pair) in tls.tls_certificates.iter().enumerate() {
            let path = path.key("tlsCertificates").index(index);
            check_file(
                &pair.server_certificate,
                mode,
                &path.key("serverCertificate"),
                problems,
            );
            check_file(&pair.private_key, mode, &path.key("privateKey"), problems);
        }
    }
    if mode != "SIMPLE" && !credential && tls.ca_certificates.is_empty() {
        problems.error(
            &path.key("caCertificates"),
            format!("{mode} needs to know who signs the certificates of clients"),
            "add caCertificates, or use credentialName",
        );
    }
    if !tls.ca_crl.is_empty() && (credential || mode == "SIMPLE") {
        problems.error(
            &path.key("caCrl"),
            "caCrl goes with caCertificates alone",
            "put the list into the Secret, as ca.crl, or remove it",
        );
    }
}

fn check_file(value: &str, mode: &str, path: &Path, problems: &mut Problems) {
    if value.is_empty() {
        problems.error(
            path,
            format!("{mode} needs a certificate and its key"),
            "add it, or use credentialName",
        );
    }
}

fn read_certificates(tls: &ServerTls, path: &Path, problems: &mut Problems) -> Certificates {
    let mut secrets = Vec::new();
    if !tls.credential_name.is_empty() {
        let path = path.key("credentialName");
        secrets.extend(secret(&tls.credential_name, path, problems));
    }
    for (index, name) in tls.credential_names.iter().enumerate() {
        let path = path.key("credentialNames").index(index);
        secrets.extend(secret(name, path, problems));
    }
    if !tls.credential_name.is_empty() || !tls.credential_names.is_empty() {
        return Certificates::Secrets(secrets);
    }
    let pair = |certificate: &str, key: &str| [certificate.into(), key.into()];
    Certificates::Files(match tls.tls_certificates.as_slice() {
        [] => vec![pair(&tls.server_certificate, &tls.private_key)],
        pairs => pairs
            .iter()
            .map(|written| {
                let TlsCertificate {
                    server_certificate,
                    private_key,
                    // Clients are checked by the server's own `caCertificates`.
                    ca_certificates: _,
                } = written;
                pair(server_certificate, private_key)
            })
            .collect(),
    })
}

/// The name of a Secret of the gateway pod's namespace, with the place where it was written.
fn secret(written: &str, path: Path, problems: &mut Problems) -> Option<(Arc<str>, Path)> {
    let name = secret_name(written);
    if name.is_none() {
        problems.error(
            &path,
            format!("\"{written}\" is no name of a Secret"),
            "name a Secret that is in the namespace of the gateway's pods",
        );
    }
    Some((name?.into(), path))
}

fn secret_name(written: &str) -> Option<&str> {
    let name = written.strip_prefix("kubernetes://").unwrap_or(written);
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

fn read_version(written: &str, automatic: TlsVersion) -> Option<Version> {
    Some(match written {
        "" | "TLS_AUTO" => Version::Served(automatic),
        "TLSV1_0" | "TLSV1_1" => Version::Old,
        "TLSV1_2" => Version::Served(TlsVersion::V1_2),
        "TLSV1_3" => Version::Served(TlsVersion::V1_3),
        _ => return None,
    })
}

/// A version that was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Before 1.2.
    Old,
    Served(TlsVersion),
}

/// `None` where no version is left.
fn check_versions(
    tls: &ServerTls,
    min: Option<Version>,
    max: Option<Version>,
    path: &Path,
    problems: &mut Problems,
) -> Option<(TlsVersion, TlsVersion)> {
    let fields = [
        ("minProtocolVersion", &tls.min_protocol_version, min),
        ("maxProtocolVersion", &tls.max_protocol_version, max),
    ];
    for (field, written, version) in fields {
        if version.is_none() {
            problems.error(
                &path.key(field),
                format!("\"{written}\" is no version of TLS"),
                "write TLSV1_2 or TLSV1_3",
            );
        }
    }
    let min = match min? {
        Version::Served(version) => version,
        Version::Old => {
            problems.warning(
                &path.key("minProtocolVersion"),
                "versions before TLS 1.2 are not spoken, so clients need at least that",
                "write TLSV1_2",
            );
            TlsVersion::V1_2
        }
    };
    match max? {
        Version::Served(max) if min <= max => Some((min, max)),
        Version::Served(_) | Version::Old => {
            problems.left_out(
                &path.key("maxProtocolVersion"),
                "no version of TLS is left that could be spoken, so this server is not served",
                "write TLSV1_3",
            );
            None
        }
    }
}

fn read_ciphers(written: &[String], path: &Path, problems: &mut Problems) -> Vec<Arc<str>> {
    let mut seen = HashSet::new();
    let mut read = Vec::new();
    for (index, name) in written.iter().enumerate() {
        let path = path.index(index);
        if !seen.insert(name) {
            let message = format!("\"{name}\" stands here twice");
            problems.warning(&path, message, "name each suite once");
        } else if CIPHER_SUITES.contains(&name.as_str()) {
            read.push(name.as_str().into());
        } else if OLD_CIPHER_SUITES.contains(&name.as_str()) {
            problems.warning(
                &path,
                format!("{name} is not spoken: it protects too little"),
                "remove it; clients that have nothing better cannot be served",
            );
        } else {
            problems.warning(
                &path,
                format!("\"{name}\" is no cipher suite that Istio knows, and has no effect"),
                "write names such as ECDHE-ECDSA-AES128-GCM-SHA256",
            );
        }
    }
    read
}

/// `None` where what is asked for can never be had.
fn read_check(tls: &ServerTls, path: &Path, problems: &mut Problems) -> Option<ClientCheck> {
    let authorities = read_authorities(tls, path, problems)?;
    let hashes = digests(
        &tls.verify_certificate_hash,
        &path.key("verifyCertificateHash"),
        "a SHA-256 in hexadecimal",
        problems,
        |text| {
            let text = text.replace(':', "").to_ascii_lowercase();
            let fits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            fits.then_some(text)
        },
    );
    let keys = digests(
        &tls.verify_certificate_spki,
        &path.key("verifyCertificateSpki"),
        "a SHA-256 in base64",
        problems,
        |text| {
            let digest = BASE64_STANDARD.decode(text).ok()?;
            (digest.len() == 32).then(|| text.to_owned())
        },
    );
    Some(ClientCheck {
        authorities,
        names: tls
            .subject_alt_names
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
        hashes,
        keys,
    })
}

fn read_authorities(tls: &ServerTls, path: &Path, problems: &mut Problems) -> Option<Authorities> {
    let first = tls.credential_names.first();
    let (name, path) = match (&*tls.ca_cert_credential_name, &*tls.credential_name, first) {
        (_, "", None) => {
            let files = [&tls.ca_certificates, &tls.ca_crl];
            let written = files.into_iter().filter(|file| !file.is_empty());
            return Some(Authorities::Files(written.map(PathBuf::from).collect()));
        }
        ("", "", Some(name)) => (secret_name(name)?, path.key("credentialNames").index(0)),
        ("", name, _) => (secret_name(name)?, path.key("credentialName")),
        (name, _, _) => {
            let (name, path) = secret(name, path.key("caCertCredentialName"), problems)?;
            return Some(Authorities::Secret(name, path));
        }
    };
    Some(Authorities::Secret(name.into(), path))
}

fn digests(
    written: &[String],
    path: &Path,
    kind: &str,
    problems: &mut Problems,
    read: impl Fn(&str) -> Option<String>,
) -> Vec<Arc<str>> {
    let mut digests = Vec::new();
    for (index, text) in written.iter().enumerate() {
        match read(text) {
            Some(digest) => digests.push(digest.into()),
            None => problems.error(
                &path.index(index),
                format!("\"{text}\" is not {kind}"),
                "write the digest as openssl shows it",
            ),
        }
    }
    digests
}

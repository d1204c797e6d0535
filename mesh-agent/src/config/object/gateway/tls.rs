//! `servers[].tls` of a Gateway: what a server shows, what it asks of clients, and what it takes.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::config::crd::gateway::ServerTls;
use crate::config::object::gateway::left_out;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::TlsVersion;

mod offer;
mod source;

/// TLS that the gateway opens.
#[derive(Debug, PartialEq, Eq)]
pub struct Tls {
    /// What is shown.
    pub certificates: Certificates,
    /// What is asked of clients.
    pub clients: Clients,
    /// `insecureSkipVerify`.
    pub any_client: bool,
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

/// `None` where the server cannot be served.
pub(super) fn read(tls: &ServerTls, path: &Path, problems: &mut Problems) -> Option<Mode> {
    if tls.https_redirect {
        problems.warning(
            &path.key("httpsRedirect"),
            "httpsRedirect is for servers for HTTP, and has no effect on this one",
            "put it on the server of the plain port",
        );
    }
    match tls.mode.as_str() {
        "" | "PASSTHROUGH" => {
            warn_of_certificates(tls, path, problems);
            return Some(Mode::Passthrough);
        }
        "AUTO_PASSTHROUGH" => {
            warn_of_certificates(tls, path, problems);
            left_out(problems, &path.key("mode"), "AUTO_PASSTHROUGH");
            return None;
        }
        "ISTIO_MUTUAL" => {
            if !tls.credential_name.is_empty() || has_certificates(tls) {
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

fn open(tls: &ServerTls, path: &Path, problems: &mut Problems) -> Option<Tls> {
    source::check(tls, path, problems);
    warn_of_skipping(tls, path, problems);
    let certificates = source::read_certificates(tls, path, problems);
    let (min_version, max_version) = offer::read_versions(tls, path, problems)?;
    let ciphers = offer::read_ciphers(&tls.cipher_suites, &path.key("cipherSuites"), problems);
    let (min_version, cipher_suites) = match ciphers {
        Some(suites) => (min_version, suites),
        // TLS 1.3 has suites of its own.
        None if max_version == TlsVersion::V1_3 => (TlsVersion::V1_3, Vec::new()),
        None => {
            problems.left_out(
                &path.key("cipherSuites"),
                "none of these can be had, so this server is not served",
                "the Gateway's other servers are not affected",
            );
            return None;
        }
    };
    let check = read_check(tls, path, problems);
    let clients = match tls.mode.as_str() {
        "MUTUAL" => Clients::Required(check?),
        "OPTIONAL_MUTUAL" => optional(check?, tls, path, problems),
        _ => Clients::Anyone,
    };
    Some(Tls {
        certificates,
        clients,
        any_client: tls.insecure_skip_verify,
        min_version,
        max_version,
        cipher_suites,
    })
}

/// Of what is written and changes nothing, or more than it seems.
fn warn_of_skipping(tls: &ServerTls, path: &Path, problems: &mut Problems) {
    let asks = tls.mode != "SIMPLE";
    if tls.insecure_skip_verify && asks {
        problems.warning(
            &path.key("insecureSkipVerify"),
            "certificates of clients are not verified: whatever they show is let in",
            "remove it, unless whoever gets the requests looks at x-forwarded-client-cert",
        );
    }
    let checks = [
        ("insecureSkipVerify", tls.insecure_skip_verify),
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        (
            "verifyCertificateSpki",
            !tls.verify_certificate_spki.is_empty(),
        ),
        (
            "verifyCertificateHash",
            !tls.verify_certificate_hash.is_empty(),
        ),
        (
            "caCertCredentialName",
            !tls.ca_cert_credential_name.is_empty(),
        ),
    ];
    for (field, written) in checks {
        if written && !asks {
            problems.warning(
                &path.key(field),
                format!("{field} has no effect: with SIMPLE no client is asked for a certificate"),
                "write MUTUAL or OPTIONAL_MUTUAL, or remove it",
            );
        }
    }
}

/// Who asks for names or digests gets no client without a certificate: so it is with Envoy, whatever the mode is called.
fn optional(check: ClientCheck, tls: &ServerTls, path: &Path, problems: &mut Problems) -> Clients {
    let asks = !check.names.is_empty() || !check.hashes.is_empty() || !check.keys.is_empty();
    if !asks || tls.insecure_skip_verify {
        return Clients::Optional(check);
    }
    problems.warning(
        &path.key("mode"),
        "clients must show a certificate all the same, as in Istio: there are names or digests that it must have",
        "write MUTUAL, or remove subjectAltNames, verifyCertificateSpki and verifyCertificateHash",
    );
    Clients::Required(check)
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

/// `None` where what is asked for can never be had.
fn read_check(tls: &ServerTls, path: &Path, problems: &mut Problems) -> Option<ClientCheck> {
    let authorities = source::read_authorities(tls, path, problems)?;
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

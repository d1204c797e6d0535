//! Where certificates and authorities come from: files, or Secrets of the gateway pod's namespace.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::crd::gateway::{ServerTls, TlsCertificate};
use crate::config::object::gateway::tls::{Authorities, Certificates};
use crate::config::path::Path;
use crate::config::problem::Problems;

/// Istio's rules on where certificates may come from.
pub(super) fn check(tls: &ServerTls, path: &Path, problems: &mut Problems) {
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
            if !pair.ca_certificates.is_empty() {
                problems.warning(
                    &path.key("caCertificates"),
                    "clients are checked by the server's own caCertificates, and this has no effect",
                    "put it beside tlsCertificates",
                );
            }
        }
    }
    if mode != "SIMPLE" && !credential && tls.ca_certificates.is_empty() {
        problems.error(
            &path.key("caCertificates"),
            format!("{mode} needs to know who signs the certificates of clients"),
            "add caCertificates, or use credentialName",
        );
    }
    if !tls.ca_cert_credential_name.is_empty() && !credential && mode != "SIMPLE" {
        problems.warning(
            &path.key("caCertCredentialName"),
            "caCertCredentialName goes with credentialName, and has no effect beside files",
            "use credentialName, or remove it",
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

pub(super) fn read_certificates(
    tls: &ServerTls,
    path: &Path,
    problems: &mut Problems,
) -> Certificates {
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

pub(super) fn read_authorities(
    tls: &ServerTls,
    path: &Path,
    problems: &mut Problems,
) -> Option<Authorities> {
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

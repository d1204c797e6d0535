//! `tls` of a traffic policy: how connections to the endpoints are secured.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::crd::destination_rule::Tls as Written;
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};

/// `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// `DISABLE`, or no mode: plain text. So is `ISTIO_MUTUAL`, for this mesh has no certificates of its own.
    Disable,
    /// `SIMPLE` and `MUTUAL`.
    Originate(TlsOrigin),
}

/// How TLS is opened to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOrigin {
    /// `MUTUAL`: a certificate is shown.
    pub mutual: bool,
    /// Where certificates and authorities are.
    pub material: KeyMaterial,
    /// `insecureSkipVerify`: any server will do.
    pub any_server: bool,
    /// `subjectAltNames`.
    pub names: Vec<Arc<str>>,
    /// `sni`.
    pub server_name: Option<Arc<str>>,
}

/// Where certificates and authorities are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyMaterial {
    /// In files of the machine.
    Files {
        /// `clientCertificate` and `privateKey`.
        certificate: Option<(PathBuf, PathBuf)>,
        /// `caCertificates`; `None` is the operating system's list.
        authorities: Option<PathBuf>,
        /// `caCrl`.
        revoked: Option<PathBuf>,
    },
    /// `credentialName`: in this Secret of the client's namespace.
    Secret(Arc<str>),
}

/// Reads `tls`. `for_some`: the rule has a `workloadSelector`.
pub(super) fn read(written: Written, for_some: bool, path: &Path, problems: &mut Problems) -> Tls {
    let mutual = match written.mode.as_deref() {
        None | Some("DISABLE") => {
            check_disabled(&written, path, problems);
            return Tls::Disable;
        }
        Some("SIMPLE") => false,
        Some("MUTUAL") => true,
        Some("ISTIO_MUTUAL") => {
            check_istio_mutual(&written, path, problems);
            return Tls::Disable;
        }
        Some(other) => {
            problems.error(
                &path.key("mode"),
                format!("\"{other}\" is no tls mode"),
                "write DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL",
            );
            return Tls::Disable;
        }
    };
    check_verification(&written, for_some, path, problems);
    let Written {
        mode: _,
        client_certificate,
        private_key,
        ca_certificates,
        credential_name,
        subject_alt_names,
        sni,
        insecure_skip_verify,
        ca_crl,
    } = written;
    let file = |name: String| (!name.is_empty()).then(|| PathBuf::from(name));
    let material = if credential_name.is_empty() {
        if !ca_crl.is_empty() && matches!(ca_certificates.as_str(), "" | "system") {
            problems.unsupported(&path.key("caCrl"), "a caCrl without caCertificates");
        }
        if mutual {
            check_certificate(&client_certificate, &private_key, path, problems);
        }
        KeyMaterial::Files {
            certificate: mutual.then(|| (client_certificate.into(), private_key.into())),
            // Istio's word for the operating system's list.
            authorities: file(ca_certificates).filter(|file| file.as_os_str() != "system"),
            revoked: file(ca_crl),
        }
    } else {
        let beside = [client_certificate, private_key, ca_certificates, ca_crl];
        check_credential(&credential_name, &beside, path, problems);
        KeyMaterial::Secret(credential_name.into())
    };
    Tls::Originate(TlsOrigin {
        mutual,
        material,
        any_server: insecure_skip_verify,
        names: subject_alt_names.into_iter().map(Into::into).collect(),
        server_name: (!sni.is_empty()).then(|| sni.into()),
    })
}

/// A block without a mode turns TLS off, which is easily overlooked where the rest of it speaks of TLS.
fn check_disabled(written: &Written, path: &Path, problems: &mut Problems) {
    let speaks = has_files(written)
        || !written.subject_alt_names.is_empty()
        || !written.sni.is_empty()
        || written.insecure_skip_verify;
    if written.mode.is_none() && speaks {
        problems.warning(
            path,
            "without a mode this turns TLS off, and connections are in plain text",
            "add mode: SIMPLE or MUTUAL",
        );
    }
}

/// The rest of the rule is too much to lose over this: without it, routes to its subsets would lead nowhere.
fn check_istio_mutual(written: &Written, path: &Path, problems: &mut Problems) {
    problems.code(Code::Mesh0001).warning(
        &path.key("mode"),
        "mTLS between pods (tls mode ISTIO_MUTUAL) is not supported yet, and connections are in plain text",
        "write DISABLE to say so, or MUTUAL with certificates of your own where the server speaks TLS",
    );
    if has_files(written) {
        problems.error(
            path,
            "tls mode ISTIO_MUTUAL brings its own certificates",
            "remove the certificates, or write MUTUAL",
        );
    }
}

fn check_verification(written: &Written, for_some: bool, path: &Path, problems: &mut Problems) {
    let Written {
        ca_certificates,
        credential_name,
        subject_alt_names,
        insecure_skip_verify,
        ..
    } = written;
    let simple = written.mode.as_deref() == Some("SIMPLE");
    let named = !credential_name.is_empty();
    let useless = !ca_certificates.is_empty() || !subject_alt_names.is_empty() || simple && named;
    if *insecure_skip_verify && useless {
        problems.error(
            &path.key("insecureSkipVerify"),
            "insecureSkipVerify verifies nothing, and yet there is something to verify by",
            "remove it, or remove caCertificates, subjectAltNames and credentialName",
        );
    }
    if named {
        if !for_some {
            problems.warning(
                &path.key("credentialName"),
                "a credentialName is for gateways: pods connect in plain text, in Istio too",
                "add a workloadSelector to have it for pods",
            );
        }
    } else if ca_certificates.is_empty() {
        let message = if *insecure_skip_verify {
            "the server is not verified at all"
        } else {
            "without caCertificates the server is verified by the operating system's list alone"
        };
        problems.warning(path, message, "add caCertificates");
    }
}

fn check_certificate(certificate: &str, key: &str, path: &Path, problems: &mut Problems) {
    for (file, name) in [(certificate, "clientCertificate"), (key, "privateKey")] {
        if file.is_empty() {
            problems.error(
                &path.key(name),
                format!("tls mode MUTUAL needs {name}"),
                "add the file's name, or use credentialName",
            );
        }
    }
}

fn check_credential(name: &str, beside: &[String], path: &Path, problems: &mut Problems) {
    let path = path.key("credentialName");
    if beside.iter().any(|file| !file.is_empty()) {
        problems.error(
            &path,
            "credentialName cannot stand beside files",
            "keep either the one or the others",
        );
    }
    if name.contains("://") {
        problems.unsupported(&path, "a credentialName that is no Secret's name");
    }
}

fn has_files(written: &Written) -> bool {
    let Written {
        client_certificate,
        private_key,
        ca_certificates,
        credential_name,
        ca_crl,
        ..
    } = written;
    [
        client_certificate,
        private_key,
        ca_certificates,
        credential_name,
        ca_crl,
    ]
    .iter()
    .any(|name| !name.is_empty())
}

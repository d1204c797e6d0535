//! `tls` of a traffic policy: how connections to the endpoints are secured.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::crd::destination_rule::Tls as Written;
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};

/// `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// `DISABLE`, no mode, or `ISTIO_MUTUAL`, for which there are no certificates: plain text.
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

/// What Istio takes before the name of a Secret.
const KUBERNETES: &str = "kubernetes://";

/// Reads `tls`. `for_some`: the rule has a `workloadSelector`. `unverified` is the code of a server that is not compared
/// with an authority, which is another one for a port than for all of them.
pub(super) fn read(
    written: Written,
    for_some: bool,
    unverified: Code,
    path: &Path,
    problems: &mut Problems,
) -> Tls {
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
    check_verification(&written, path, problems);
    if !written.credential_name.is_empty() {
        if !for_some {
            problems.warning(
                &path.key("credentialName"),
                "a credentialName is for gateways: pods connect in plain text, in Istio too",
                "add a workloadSelector to have it for pods",
            );
        }
    } else if written.ca_certificates.is_empty() {
        let message = if written.insecure_skip_verify {
            "the server is not verified at all"
        } else {
            "without caCertificates the server is verified by the operating system's list alone"
        };
        let remedy = "add caCertificates";
        problems.code(unverified).warning(path, message, remedy);
    }
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
        // `system` is Istio's word for the operating system's list.
        let authorities = file(ca_certificates).filter(|file| file.as_os_str() != "system");
        if !ca_crl.is_empty() && authorities.is_none() {
            problems.unsupported_part(
                &path.key("caCrl"),
                "a caCrl without caCertificates",
                "certificates that were revoked are taken",
            );
        }
        if mutual {
            check_certificate(&client_certificate, &private_key, path, problems);
        }
        KeyMaterial::Files {
            certificate: mutual.then(|| (client_certificate.into(), private_key.into())),
            revoked: file(ca_crl).filter(|_| authorities.is_some()),
            authorities,
        }
    } else {
        let beside = [client_certificate, private_key, ca_certificates, ca_crl];
        check_credential(&credential_name, &beside, path, problems);
        let name = credential_name.strip_prefix(KUBERNETES);
        KeyMaterial::Secret(name.unwrap_or(&credential_name).into())
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

/// Nearly every manifest that comes from a mesh with certificates has this, and its subsets and limits must not be lost for
/// it: the proxies on both sides would take the TLS off again, so the apps see the same without it.
fn check_istio_mutual(written: &Written, path: &Path, problems: &mut Problems) {
    problems.code(Code::Mesh0001).warning(
        &path.key("mode"),
        "the traffic is not encrypted: this mesh has no certificates of its own, so ISTIO_MUTUAL sends plain text",
        "write DISABLE to say that plain text is meant, or SIMPLE or MUTUAL for servers that open TLS themselves",
    );
    if has_files(written) {
        problems.error(
            path,
            "tls mode ISTIO_MUTUAL brings its own certificates",
            "remove the certificates, or write MUTUAL",
        );
    }
}

fn check_verification(written: &Written, path: &Path, problems: &mut Problems) {
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
    if name
        .strip_prefix(KUBERNETES)
        .unwrap_or(name)
        .contains("://")
    {
        // No Secret can have the name, so nobody connects without what it stands for.
        problems.unsupported_part(
            &path,
            "a credentialName that is no Secret's name",
            "gateways cannot connect",
        );
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

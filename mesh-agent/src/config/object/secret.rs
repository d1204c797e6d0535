//! A Secret, as far as it is about TLS: a certificate with its key, and authorities.
//!
//! What is in it gets into no message: complaints are about its entries by name, and all stand at `data`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::certificate;
use crate::config::crd::core::SecretBody;
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};
use crate::model::{Certificate, TrustRoots};

/// A Secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Secret {
    /// `tls.crt` and `tls.key`, or `cert` and `key`; the key is known to belong to the certificate.
    pub certificate: Option<Arc<Certificate>>,
    /// `ca.crt` and `ca.crl`, or `cacert` and `crl`.
    pub authorities: Option<Arc<TrustRoots>>,
    /// The names of its entries, for who looks for others.
    pub entries: Vec<Arc<str>>,
}

/// The entries of a certificate and of authorities: certificate, key, authorities, revoked. Istio looks for the first
/// kind before it looks for the second.
const NAMES: [[&str; 4]; 2] = [
    ["cert", "key", "cacert", "crl"],
    ["tls.crt", "tls.key", "ca.crt", "ca.crl"],
];

/// A certificate that is still good for less than this is told of.
const SOON: i64 = 14 * 24 * 3600;

type Entries = BTreeMap<String, Vec<u8>>;

impl Secret {
    /// Reads it. Where it is about TLS and of no use for that, it is not put in force.
    pub fn read(body: SecretBody, problems: &mut Problems) -> Self {
        let SecretBody {
            r#type,
            data,
            string_data,
        } = body;
        let mut secret = Self {
            certificate: None,
            authorities: None,
            entries: data
                .keys()
                .chain(string_data.keys().filter(|name| !data.contains_key(*name)))
                .map(|name| name.as_str().into())
                .collect(),
        };
        let declared = r#type == "kubernetes.io/tls";
        // Istio takes any type but these, which a cluster has many of.
        if r#type != "kubernetes.io/service-account-token" && r#type != "helm.sh/release.v1" {
            let entries = decode(&data, &string_data, problems);
            secret.certificate = read_certificate(&entries, declared, problems);
            secret.authorities = read_authorities(&entries, problems);
        }
        secret
    }
}

/// The entries that are about TLS and not empty. `stringData` is stronger.
fn decode(
    data: &BTreeMap<String, Option<String>>,
    string_data: &BTreeMap<String, Option<String>>,
    problems: &mut Problems,
) -> Entries {
    let mut entries = Entries::new();
    for name in NAMES.as_flattened() {
        let bytes = match (string_data.get(*name), data.get(*name)) {
            (Some(Some(text)), _) => text.clone().into_bytes(),
            (None | Some(None), Some(Some(text))) => {
                let text: String = text.split_ascii_whitespace().collect();
                match BASE64_STANDARD.decode(text) {
                    Ok(bytes) => bytes,
                    Err(_) => {
                        complain(problems, name, "it is not base64");
                        continue;
                    }
                }
            }
            (_, _) => continue,
        };
        if !bytes.is_empty() {
            entries.insert((*name).to_owned(), bytes);
        }
    }
    entries
}

fn read_certificate(
    entries: &Entries,
    declared: bool,
    problems: &mut Problems,
) -> Option<Arc<Certificate>> {
    for [chain, key, ..] in NAMES {
        let (Some(pem), Some(key)) = (entries.get(chain), entries.get(key)) else {
            continue;
        };
        // Anything may be called `key`.
        if !declared && !certificate::is_pem(pem) && !certificate::is_pem(key) {
            continue;
        }
        let read = Certificate {
            chain: pem.clone(),
            key: key.clone(),
        };
        match certificate::key_pair(&read) {
            Ok(pair) => {
                check_validity(&pair.cert[0], problems);
                return Some(Arc::new(read));
            }
            Err(unfit) => {
                complain(problems, chain, &unfit.to_string());
                return None;
            }
        }
    }
    if declared {
        complain(problems, "tls.crt and tls.key", "they are missing or empty");
    }
    None
}

fn read_authorities(entries: &Entries, problems: &mut Problems) -> Option<Arc<TrustRoots>> {
    for [_, _, authorities, revoked] in NAMES {
        let Some(pem) = entries.get(authorities) else {
            continue;
        };
        if !certificate::is_pem(pem) {
            continue;
        }
        let read = TrustRoots {
            authorities: pem.clone(),
            revoked: entries.get(revoked).cloned(),
        };
        match certificate::authorities(&read) {
            Ok(_) => return Some(Arc::new(read)),
            Err(unfit) => {
                complain(problems, authorities, &unfit.to_string());
                return None;
            }
        }
    }
    None
}

fn check_validity(der: &[u8], problems: &mut Problems) {
    let Some(details) = certificate::details(der) else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    });
    let path = Path::of("data");
    let remedy = "renew it; clients turn away from a certificate that is not valid";
    let left = details.not_after - now;
    if left < 0 {
        let message = "the certificate has expired";
        problems
            .code(Code::Mesh0005)
            .left_out(&path, message, remedy);
    } else if left < SOON {
        let message = format!("the certificate expires in {}", in_words(left));
        problems
            .code(Code::Mesh0005)
            .warning(&path, message, remedy);
    } else if details.not_before > now {
        let after = in_words(details.not_before - now);
        let message = format!("the certificate is not valid yet; it will be in {after}");
        problems.code(Code::Mesh0005).warning(&path, message, "");
    }
}

fn in_words(seconds: i64) -> String {
    match (seconds / 3600 / 24, seconds / 3600) {
        (0, 0..=1) => "less than two hours".to_owned(),
        (0 | 1, hours) => format!("{hours} hours"),
        (days, _) => format!("{days} days"),
    }
}

fn complain(problems: &mut Problems, entry: &str, what: &str) {
    problems.code(Code::Ist0161).error(
        &Path::of("data"),
        format!("{entry} is of no use: {what}"),
        "put PEM into it: the certificate with its chain, and its key without a password",
    );
}

#[cfg(test)]
mod tests;

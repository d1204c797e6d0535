//! Which versions of TLS and which cipher suites a server takes.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::crd::gateway::ServerTls;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::TlsVersion;

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

/// The lowest and the highest; `None` where no version is left.
pub(super) fn read_versions(
    tls: &ServerTls,
    path: &Path,
    problems: &mut Problems,
) -> Option<(TlsVersion, TlsVersion)> {
    let min = read_version(&tls.min_protocol_version, TlsVersion::V1_2);
    let max = read_version(&tls.max_protocol_version, TlsVersion::V1_3);
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

/// Those that can be had; none is all of them. `None` where some are wanted and none of these can be had.
pub(super) fn read_ciphers(
    written: &[String],
    path: &Path,
    problems: &mut Problems,
) -> Option<Vec<Arc<str>>> {
    let mut seen = HashSet::new();
    let mut read = Vec::new();
    let mut old = false;
    for (index, name) in written.iter().enumerate() {
        let path = path.index(index);
        if !seen.insert(name) {
            let message = format!("\"{name}\" stands here twice");
            problems.warning(&path, message, "name each suite once");
        } else if CIPHER_SUITES.contains(&name.as_str()) {
            read.push(name.as_str().into());
        } else if OLD_CIPHER_SUITES.contains(&name.as_str()) {
            old = true;
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
    (!read.is_empty() || !old).then_some(read)
}

//! What a hop removes from headers. Hardly any message has much of it, and to ask for each of those names takes longer than
//! to look through all that a message has.

use http::header::{CONNECTION, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue};

use crate::proxy::http::headers::{DECORATOR, INTERNAL, ORIGINAL_HOST, ORIGINAL_PATH, REQUEST_ID};

/// Telemetry labels of Istio's proxies.
pub(super) static PEER_METADATA: [HeaderName; 2] = [
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
];

/// With these a client would steer the proxy. Envoy lets clients that are internal do so; since 1.36 none is, unless it is
/// told which addresses are.
pub(super) static CLIENT_CONTROL: [HeaderName; 11] = [
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
];

/// What else a request from outside the mesh must not bring along.
pub(super) static EDGE_ONLY: [HeaderName; 5] = [
    DECORATOR,
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    ORIGINAL_PATH,
    ORIGINAL_HOST,
];

/// What nobody may bring along.
pub(super) static INTERNAL_ONLY: [HeaderName; 3] = [
    INTERNAL,
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
];

/// What concerns one connection alone, besides `connection`.
static HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Which headers a message has of those that are seldom there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// `connection`.
    connection: bool,
    /// One of [`HOP_BY_HOP`].
    hop_by_hop: bool,
    /// [`CLIENT_CERT`].
    pub(super) certificate: bool,
    /// One of [`CLIENT_CONTROL`] or [`INTERNAL_ONLY`].
    pub(super) steering: bool,
    /// One of [`EDGE_ONLY`].
    pub(super) edge: bool,
    /// [`DECORATOR`] or one of [`PEER_METADATA`].
    pub(super) mesh: bool,
}

/// Removes what concerns one connection alone. `te: trailers` stays with requests: it is a promise about the client.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap, seen: Seen, request: bool) {
    if seen.connection {
        let values = headers
            .get_all(CONNECTION)
            .iter()
            .map(HeaderValue::as_bytes);
        // Mostly there is one, and it is all that is said.
        let values = values.filter(|value| !is_usual_option(value));
        let options = values.flat_map(|value| value.split(|&b| b == b','));
        let named: Vec<HeaderName> = options
            .map(<[u8]>::trim_ascii)
            .filter(|option| !is_usual_option(option))
            .filter_map(|option| HeaderName::from_bytes(option).ok())
            .filter(may_be_named)
            .collect();
        headers.remove(CONNECTION);
        remove_all(headers, &named);
    }
    if !seen.hop_by_hop {
        return;
    }
    let trailers = request
        && headers.get_all(TE).iter().any(|value| {
            value
                .as_bytes()
                .split(|&b| b == b',')
                .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
    remove_all(headers, &HOP_BY_HOP);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether an option of `connection` names no header, or one that is removed anyway. Nearly every one does, and need not
/// be made a name for that.
fn is_usual_option(option: &[u8]) -> bool {
    let usual = ["close", "keep-alive", "upgrade", "te"];
    let mut usual = usual.iter().map(|option| option.as_bytes());
    usual.any(|usual| option.eq_ignore_ascii_case(usual))
}

impl Seen {
    /// Looks through all names once: to ask for each of those that are seldom there takes much longer.
    pub(super) fn among(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => seen.connection = true,
                "keep-alive" | "proxy-connection" | "http2-settings" | "te"
                | "transfer-encoding" | "upgrade" => seen.hop_by_hop = true,
                "x-forwarded-client-cert" => seen.certificate = true,
                other if other.starts_with("x-envoy-") => {
                    seen.mesh |= *name == DECORATOR || PEER_METADATA.contains(name);
                    seen.edge |= EDGE_ONLY.contains(name);
                    seen.steering |= CLIENT_CONTROL.contains(name) || INTERNAL_ONLY.contains(name);
                }
                _ => {}
            }
        }
        seen
    }
}

/// A client must not have us drop by name what servers trust us to have set. `te` is looked at for itself.
fn may_be_named(name: &HeaderName) -> bool {
    let name = name.as_str();
    !(name == HOST.as_str()
        || name == TE.as_str()
        || name == "close"
        || name == "content-length"
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-envoy-")
        || name == REQUEST_ID.as_str())
}

/// Removes whatever there is of these.
pub(super) fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http::headers::CLIENT_CERT;

    #[test]
    fn whatever_is_removed_is_seen() {
        let check = |names: &[HeaderName], sees: fn(Seen) -> bool| {
            for name in names {
                let mut headers = HeaderMap::new();
                headers.insert("x-other", HeaderValue::from_static("1"));
                headers.insert("x-envoyed", HeaderValue::from_static("1"));
                assert!(!sees(Seen::among(&headers)), "without {name}");
                headers.append(name, HeaderValue::from_static("1"));
                assert!(sees(Seen::among(&headers)), "{name}");
            }
        };
        check(&[CONNECTION], |seen| seen.connection);
        check(&HOP_BY_HOP, |seen| seen.hop_by_hop);
        check(&[CLIENT_CERT], |seen| seen.certificate);
        check(&CLIENT_CONTROL, |seen| seen.steering);
        check(&INTERNAL_ONLY, |seen| seen.steering);
        check(&EDGE_ONLY, |seen| seen.edge);
        check(&[DECORATOR], |seen| seen.mesh);
        check(&PEER_METADATA, |seen| seen.mesh);
    }

    #[test]
    fn what_a_connection_names_goes_with_it() {
        let check = |connection: &[&'static str], gone: &[&str]| {
            let names = ["keep-alive", "te", "x-a", "x-b", "host", "x-forwarded-for"];
            let mut headers = HeaderMap::new();
            for name in names {
                headers.insert(name, HeaderValue::from_static("trailers"));
            }
            for value in connection {
                headers.append(CONNECTION, HeaderValue::from_static(value));
            }
            let seen = Seen::among(&headers);
            strip_hop_by_hop(&mut headers, seen, true);
            let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            let stays =
                |name: &&str| *name == "te" || *name != "keep-alive" && !gone.contains(name);
            let mut expected: Vec<_> = names.into_iter().filter(stays).collect();
            left.sort_unstable();
            expected.sort_unstable();
            assert_eq!(left, expected, "{connection:?}");
        };
        check(&[], &[]);
        check(&["keep-alive"], &[]);
        check(&["Close, TE"], &[]);
        check(&["x-a"], &["x-a"]);
        check(&["keep-alive , X-B", "x-a,,upgrade"], &["x-a", "x-b"]);
        check(&["host, x-forwarded-for, a b"], &[]);
    }
}

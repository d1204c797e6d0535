//! What a handshake has shown of a client.

use std::fmt::Write;

use http::HeaderValue;
use rustls::{ProtocolVersion, ServerConnection};

use crate::certificate::{self, Details};

/// What is known of the TLS of a connection.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct TlsFacts {
    /// The name that the client asked for.
    pub(in crate::proxy) server_name: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub(in crate::proxy) version: &'static str,
    /// What the client has shown; `None` where that is nothing.
    pub(in crate::proxy) peer: Option<Peer>,
}

/// A client's certificate.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Peer {
    /// Its holder, as RFC 2253 writes it.
    pub(in crate::proxy) subject: String,
    /// Its URIs, with commas between them.
    pub(in crate::proxy) uris: String,
    /// `x-forwarded-client-cert`; `None` where it has something in it that no header can have.
    pub(in crate::proxy) forwarded: Option<HeaderValue>,
}

impl TlsFacts {
    /// What a handshake has come to. `by` are the URIs of the server's own certificate.
    pub(in crate::proxy) fn of(connection: &ServerConnection, by: &[String]) -> Self {
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            server_name: connection.server_name().map(str::to_owned),
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            peer: leaf.and_then(|leaf| Peer::of(leaf, by)),
        }
    }
}

impl Peer {
    fn of(der: &[u8], by: &[String]) -> Option<Self> {
        let details = certificate::details(der)?;
        let forwarded = forwarded(der, &details, by);
        Some(Self {
            uris: details.uris.join(","),
            forwarded: HeaderValue::from_str(&forwarded).ok(),
            subject: details.subject,
        })
    }
}

/// As Istio has Envoy write it at a gateway: `By`, `Hash`, `Cert`, `Subject`, `URI`, `DNS`.
fn forwarded(der: &[u8], details: &Details<'_>, by: &[String]) -> String {
    let mut text = String::new();
    for uri in by {
        // Writing to a String cannot fail.
        let _ = write!(text, "By={uri};");
    }
    let pem = certificate::to_pem(der);
    let _ = write!(
        text,
        "Hash={};Cert=\"{}\";Subject=\"{}\"",
        certificate::fingerprint(der),
        encoded(&pem),
        details.subject,
    );
    match details.uris.as_slice() {
        // The key is there even where it has nothing to say.
        [] => text.push_str(";URI="),
        uris => {
            for uri in uris {
                let _ = write!(text, ";URI={uri}");
            }
        }
    }
    for name in &details.names {
        let _ = write!(text, ";DNS={name}");
    }
    text
}

/// What a URL would mistake for something else, of PEM alone.
fn encoded(pem: &str) -> String {
    let mut text = String::with_capacity(pem.len() * 5 / 4);
    for char in pem.chars() {
        match char {
            '\n' => text.push_str("%0A"),
            ' ' => text.push_str("%20"),
            '+' => text.push_str("%2B"),
            '/' => text.push_str("%2F"),
            '=' => text.push_str("%3D"),
            _ => text.push(char),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::fixture::Authority;

    #[test]
    fn a_certificate_is_forwarded_as_envoy_does() {
        let authority = Authority::new("clients");
        let client = authority.issue_as(&["client.example"], |params| {
            let uri = "spiffe://cluster.local/ns/a/sa/b".try_into().unwrap();
            params.subject_alt_names.push(rcgen::SanType::URI(uri));
        });
        let by = vec!["spiffe://cluster.local/ns/edge/sa/gw".to_owned()];
        let peer = Peer::of(&client.der, &by).unwrap();
        assert_eq!(peer.subject, "CN=client.example");
        assert_eq!(peer.uris, "spiffe://cluster.local/ns/a/sa/b");
        let value = peer.forwarded.unwrap();
        let parts: Vec<&str> = value.to_str().unwrap().split(';').collect();
        assert_eq!(parts.len(), 6);
        assert_eq!(parts[0], "By=spiffe://cluster.local/ns/edge/sa/gw");
        assert_eq!(
            parts[1],
            format!("Hash={}", certificate::fingerprint(&client.der))
        );
        assert!(parts[2].starts_with("Cert=\"-----BEGIN%20CERTIFICATE-----%0AMII"));
        assert!(parts[2].ends_with("-----END%20CERTIFICATE-----%0A\""));
        assert_eq!(parts[3], "Subject=\"CN=client.example\"");
        assert_eq!(parts[4], "URI=spiffe://cluster.local/ns/a/sa/b");
        assert_eq!(parts[5], "DNS=client.example");
    }

    #[test]
    fn a_certificate_without_uris_has_the_key_all_the_same() {
        let client = Authority::new("clients").issue(&["client"]);
        let value = Peer::of(&client.der, &[]).unwrap().forwarded.unwrap();
        let text = value.to_str().unwrap();
        assert!(text.starts_with("Hash="), "{text}");
        assert!(
            text.ends_with(";Subject=\"CN=client\";URI=;DNS=client"),
            "{text}"
        );
    }
}

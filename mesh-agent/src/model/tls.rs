//! TLS as configured: what a gateway's server shows and asks for, and what a client of an endpoint does.

use std::path::PathBuf;
use std::sync::Arc;

/// Where key material comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential<T> {
    /// From the manifests: a Secret.
    Given(Arc<T>),
    /// From files of the machine that uses it, read again when they change.
    Files(Vec<PathBuf>),
    /// Named, and not to be had: why. Handshakes fail until it is.
    Missing(Arc<str>),
}

/// A certificate with its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The chain, the leaf first.
    pub chain: Vec<u8>,
    /// The private key. Never shown.
    pub key: Vec<u8>,
}

/// Authorities, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoots {
    /// Their certificates.
    pub authorities: Vec<u8>,
    /// Revoked certificates: `caCrl`.
    pub revoked: Option<Vec<u8>>,
}

/// `servers[].tls` of a Gateway, for a server that opens the TLS itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// What it shows; the files are chain and key. Several are of different key kinds.
    pub certificates: Vec<Credential<Certificate>>,
    /// What it asks of clients.
    pub clients: ClientAuthentication,
    /// `minProtocolVersion`; 1.2 by default.
    pub min_version: TlsVersion,
    /// `maxProtocolVersion`; 1.3 by default.
    pub max_version: TlsVersion,
    /// `cipherSuites`, in OpenSSL's names; empty is the default list.
    pub cipher_suites: Vec<Arc<str>>,
}

/// Whether clients must show a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// `SIMPLE`.
    None,
    /// `OPTIONAL_MUTUAL`: one that is shown must be good.
    Optional(Verification),
    /// `MUTUAL`.
    Required(Verification),
}

/// What a peer's certificate must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Who must have signed it; `None` is the operating system's list. The files are authorities and, where there is a
    /// second one, revoked certificates.
    pub roots: Option<Credential<TrustRoots>>,
    /// `subjectAltNames`, one of which it must bear; empty asks for none.
    pub names: Vec<Arc<str>>,
    /// `verifyCertificateHash`, lower-case hexadecimal SHA-256 of the certificate; empty asks for none.
    pub hashes: Vec<Arc<str>>,
    /// `verifyCertificateSpki`, base64 of the SHA-256 of its public key; empty asks for none.
    pub keys: Vec<Arc<str>>,
}

/// `trafficPolicy.tls` of mode SIMPLE or MUTUAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// What is shown to a server that asks: MUTUAL.
    pub certificate: Option<Credential<Certificate>>,
    /// What the server's certificate must be; `None` for `insecureSkipVerify`.
    pub verification: Option<Verification>,
    /// `sni`; `None`: the Host of the request. What is relayed has none, and asks for no name.
    pub server_name: Option<Arc<str>>,
    /// Whether the certificate must bear the Host of the request: where the rule says neither `sni` nor
    /// `subjectAltNames`. A name that is written is asked for and not looked for.
    pub bears_host: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// `TLSV1_2`.
    V1_2,
    /// `TLSV1_3`.
    V1_3,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

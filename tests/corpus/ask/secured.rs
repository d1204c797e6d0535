//! The client's end of TLS. It believes every server: which certificate is shown is for cases to say.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_agent::certificate;
use mesh_agent::model::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, ResolvesClientCert};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::PATIENCE;
use crate::corpus::keys::keys;
use crate::corpus::request::{OverTls, Request};

/// What came of a handshake.
#[derive(Clone, Debug, Default)]
pub struct Handshake {
    /// The server's certificate, by the name that it has in `keys`.
    pub shown: String,
    /// By ALPN, or `none`.
    pub agreed: String,
    /// Such as `1.3`.
    pub version: String,
}

/// A connection, open or in TLS.
#[derive(Debug)]
pub enum Line {
    Plain(TcpStream),
    Secured(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    /// Shakes hands where the request says so.
    pub fn open(mut stream: TcpStream, request: &Request) -> Result<(Self, Option<Handshake>)> {
        let Some(over) = &request.over_tls else {
            return Ok((Self::Plain(stream), None));
        };
        let (config, name) = settings(over, request)?;
        let mut session = ClientConnection::new(config, name)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).context("shaking hands")?;
        }
        let handshake = Handshake::of(&session);
        let mut line = Self::Secured(Box::new(StreamOwned::new(session, stream)));
        if request.closed {
            line.wait_for_the_end()?;
        }
        Ok((line, Some(handshake)))
    }

    /// In TLS 1.3 a client is told that it was refused after its own part of the handshake. What it would say before it
    /// knows could turn that into a reset.
    fn wait_for_the_end(&mut self) -> Result<()> {
        self.socket()
            .set_read_timeout(Some(Duration::from_secs(1)))?;
        match self.read(&mut [0]) {
            Ok(0) => bail!("the connection was closed"),
            Ok(_) => bail!("the server spoke first"),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Ok(self.socket().set_read_timeout(Some(PATIENCE))?)
            }
            Err(e) => Err(e).context("waiting for the end"),
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secured(stream) => &stream.sock,
        }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Secured(stream) => stream.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Secured(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secured(stream) => stream.flush(),
        }
    }
}

impl Handshake {
    /// Of one that is over.
    pub fn of(session: &ClientConnection) -> Self {
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let agreed = session.alpn_protocol();
        let version = session.protocol_version();
        Self {
            shown: leaf.map_or("none", |leaf| keys().name_of(leaf)).to_owned(),
            agreed: agreed.map_or("none".into(), |name| {
                String::from_utf8_lossy(name).into_owned()
            }),
            version: version.map_or(String::new(), |version| {
                format!("{version:?}").replace("TLSv", "").replace('_', ".")
            }),
        }
    }
}

/// How to shake hands, and what to ask for.
pub fn settings(
    over: &OverTls,
    request: &Request,
) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let provider = Arc::new(certificate::provider());
    let versions = match over.version.as_ref().map(|version| version.0.as_str()) {
        None => vec![&TLS12, &TLS13],
        Some("1.2") => vec![&TLS12],
        Some("1.3") => vec![&TLS13],
        Some(other) => bail!("{other} is no version of TLS"),
    };
    let verifier = Arc::new(Anyone(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(match &over.shows {
            Some(name) => Arc::new(SingleCertAndKey::from(pair(name)?)),
            None => Arc::new(Nothing) as Arc<dyn ResolvesClientCert>,
        });
    let usual = if request.http2 { "h2" } else { "http/1.1" };
    config.alpn_protocols = match &over.alpn {
        Some(names) => names.iter().map(|name| name.as_bytes().to_vec()).collect(),
        None if request.tcp => Vec::new(),
        None => vec![usual.as_bytes().to_vec()],
    };
    let name = over.sni.as_deref().unwrap_or(request.name());
    config.enable_sni = !name.is_empty();
    let name = if name.is_empty() { "nobody" } else { name };
    Ok((Arc::new(config), ServerName::try_from(name.to_owned())?))
}

/// A certificate with its key.
pub fn pair(name: &str) -> Result<CertifiedKey> {
    let pem = |kind: &str| anyhow::Ok(keys().pem(&format!("{name}.{kind}"))?.as_bytes().to_vec());
    Ok(certificate::key_pair(&Certificate {
        chain: pem("pem")?,
        key: pem("key")?,
    })?)
}

#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

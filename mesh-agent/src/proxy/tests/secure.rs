//! What the tests of TLS stand on: clients and servers of TLS that say and take single bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};

use crate::certificate::fixture::{Authority, Issued};
use crate::certificate::{self, key_pair};
use crate::model::*;

/// A client of TLS that believes any server.
#[derive(Clone, Default)]
pub(super) struct Asking<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) protocols: &'a [&'a str],
    pub(super) shows: Option<&'a Issued>,
    pub(super) only: Option<&'static rustls::SupportedProtocolVersion>,
}

/// A client's end after the handshake.
pub(super) type Secured = StreamOwned<ClientConnection, TcpStream>;

impl<'a> Asking<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        Self {
            name: Some(name),
            ..Self::default()
        }
    }

    /// Shakes hands, up to the server's last word of it.
    pub(super) fn connect(&self, address: SocketAddr) -> io::Result<Secured> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        self.over(stream)
    }

    pub(super) fn over(&self, mut stream: TcpStream) -> io::Result<Secured> {
        let name = match self.name {
            Some(name) => ServerName::try_from(name.to_owned()).unwrap(),
            // Nobody is asked for by an address.
            None => ServerName::try_from("127.0.0.1").unwrap(),
        };
        let mut connection = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        connection.complete_io(&mut stream)?;
        Ok(StreamOwned::new(connection, stream))
    }

    pub(super) fn config(&self) -> ClientConfig {
        let versions = match self.only {
            Some(version) => vec![version],
            None => vec![&rustls::version::TLS12, &rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(certificate::provider()))
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let pair = key_pair(&issued.pair()).unwrap();
                builder
                    .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)))
            }
        };
        config.alpn_protocols = self
            .protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config
    }

    /// One request on a connection of its own: the whole response.
    pub(super) fn ask(&self, address: SocketAddr, request: &str) -> io::Result<String> {
        let mut client = self.connect(address)?;
        ask(&mut client, request)
    }
}

/// One request: head and sized body of the response.
pub(super) fn ask(client: &mut Secured, request: &str) -> io::Result<String> {
    client.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        text.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&text).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    client.read_exact(&mut body)?;
    text.extend(body);
    Ok(String::from_utf8(text).unwrap())
}

/// The certificate that a server has shown.
pub(super) fn shown(client: &Secured) -> Vec<u8> {
    client.conn.peer_certificates().unwrap()[0].to_vec()
}

/// A server of TLS that serves each connection on a thread of its own.
pub(super) struct TlsServer {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// What a server knows of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// What came before the handshake.
    pub(super) before: Vec<u8>,
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    /// Whether a certificate was shown.
    pub(super) peer: bool,
    pub(super) request: String,
}

/// How a server of TLS is.
#[derive(Clone, Default)]
pub(super) struct Serving {
    /// Who must have signed the certificates of clients.
    pub(super) clients: Option<String>,
    pub(super) protocols: &'static [&'static str],
    /// So many bytes come before the handshake.
    pub(super) before: usize,
}

impl TlsServer {
    /// Answers each request with this body.
    pub(super) fn saying(issued: &Issued, serving: &Serving, body: &'static str) -> Self {
        Self::start(issued, serving, move |client, heard| {
            while let Some(request) = head(client) {
                heard(request);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                if client.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    pub(super) fn start(
        issued: &Issued,
        serving: &Serving,
        serve: impl Fn(&mut StreamOwned<ServerConnection, TcpStream>, &dyn Fn(String))
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, heard) = (
            Arc::<AtomicUsize>::default(),
            Arc::<Mutex<Vec<Heard>>>::default(),
        );
        let config = Arc::new(server_config(issued, serving));
        let before = serving.before;
        let (count, list, serve) = (Arc::clone(&accepted), Arc::clone(&heard), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let (config, list, serve) =
                    (Arc::clone(&config), Arc::clone(&list), Arc::clone(&serve));
                let mut stream = stream.unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                std::thread::spawn(move || {
                    let mut before = vec![0; before];
                    if stream.read_exact(&mut before).is_err() {
                        return;
                    }
                    let mut connection = ServerConnection::new(config).unwrap();
                    if connection.complete_io(&mut stream).is_err() {
                        return;
                    }
                    let known = Heard {
                        before,
                        name: connection.server_name().map(str::to_owned),
                        protocol: connection
                            .alpn_protocol()
                            .map(|name| String::from_utf8_lossy(name).into_owned()),
                        peer: connection.peer_certificates().is_some(),
                        request: String::new(),
                    };
                    let note = |request| {
                        let known = known.clone();
                        list.lock().unwrap().push(Heard { request, ..known });
                    };
                    serve(&mut StreamOwned::new(connection, stream), &note);
                });
            }
        });
        Self {
            address,
            accepted,
            heard,
        }
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

fn head(client: &mut impl Read) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

pub(super) fn server_config(issued: &Issued, serving: &Serving) -> ServerConfig {
    let provider = Arc::new(certificate::provider());
    let verifier = match &serving.clients {
        None => rustls::server::WebPkiClientVerifier::no_client_auth(),
        Some(authority) => {
            let read = certificate::authorities(&TrustRoots {
                authorities: authority.clone().into_bytes(),
                revoked: None,
            });
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(read.unwrap().certificates);
            rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                Arc::clone(&provider),
            )
            .build()
            .unwrap()
        }
    };
    let pair = key_pair(&issued.pair()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
    config.alpn_protocols = serving
        .protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    config
}

/// The settings of a server that shows this to everybody.
pub(super) fn simple(issued: &Issued) -> ServerTls {
    ServerTls {
        certificates: vec![Credential::Given(Arc::new(issued.pair()))],
        clients: ClientAuthentication::None,
        any_client: false,
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        cipher_suites: Vec::new(),
    }
}

/// What a certificate must be: signed by this authority.
pub(super) fn signed_by(authority: &Authority) -> Verification {
    Verification {
        roots: Some(Credential::Given(Arc::new(TrustRoots {
            authorities: authority.pem.clone().into_bytes(),
            revoked: None,
        }))),
        names: Vec::new(),
        hashes: Vec::new(),
        keys: Vec::new(),
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Anyone;

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
        let algorithms = certificate::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = certificate::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        certificate::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

//! Servers that speak HTTP/2, and servers in TLS.

use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Version;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_agent::certificate;
use mesh_agent::model::TrustRoots;
use mesh_tests::Pod;
use rustls::server::ServerConnection;
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Book, Seen};
use crate::corpus::ask::secured::pair;
use crate::corpus::case::Family;
use crate::corpus::keys::keys;
use crate::corpus::scenery::{HTTP2, SECURE, SECURE_MUTUAL, SECURE_TCP};
use crate::servers::{Background, any};

/// The servers of one pod, on a thread.
#[derive(Debug)]
pub struct Modern(#[expect(dead_code, reason = "they stop when it is dropped")] Background);

/// What is served at a port.
#[derive(Clone)]
enum Served {
    /// HTTP/2 in the clear.
    Http2,
    /// HTTP by ALPN.
    Secured(TlsAcceptor),
    /// A line, answered by a line.
    Line(TlsAcceptor),
}

/// Who serves.
#[derive(Clone)]
struct Servant {
    who: String,
    book: Book,
    peer: u16,
    family: Family,
    tls: Vec<(String, String)>,
}

impl Modern {
    pub fn start(pod: &Pod, book: &Book) -> Result<Self> {
        let mut listeners = Vec::new();
        for (port, served) in [
            (HTTP2, Served::Http2),
            (SECURE, Served::Secured(acceptor(false)?)),
            (SECURE_MUTUAL, Served::Secured(acceptor(true)?)),
            (SECURE_TCP, Served::Line(acceptor(false)?)),
        ] {
            let listener = pod
                .run(|| TcpListener::bind(any(port)))?
                .with_context(|| format!("listening on {port}"))?;
            listener.set_nonblocking(true)?;
            listeners.push((listener, served));
        }
        let (who, book) = (pod.name.clone(), book.clone());
        Background::start(move || async move {
            for (listener, served) in listeners {
                let servant = Servant {
                    who: who.clone(),
                    book: book.clone(),
                    peer: 0,
                    family: Family::default(),
                    tls: Vec::new(),
                };
                tokio::spawn(async move {
                    let result = accept(listener, &served, &servant).await;
                    eprintln!("a server ended: {result:?}");
                });
            }
            pending::<()>().await;
        })
        .map(Self)
    }
}

/// Shows `server`; clients may show a certificate that `ca` has signed, or must.
fn acceptor(mutual: bool) -> Result<TlsAcceptor> {
    let provider = Arc::new(certificate::provider());
    let authorities = certificate::authorities(&TrustRoots {
        authorities: keys().pem("ca.pem")?.as_bytes().to_vec(),
        revoked: None,
    })?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.certificates);
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let verifier = match mutual {
        true => verifier.build()?,
        false => verifier.allow_unauthenticated().build()?,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair("server")?)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, served: &Served, servant: &Servant) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, peer): (TcpStream, SocketAddr) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (served, mut servant) = (served.clone(), servant.clone());
        servant.peer = peer.port();
        servant.family = Family::of(&stream.local_addr()?);
        tokio::spawn(async move {
            match served {
                Served::Http2 => serve(stream, true, servant).await,
                Served::Secured(acceptor) => {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    servant.tls = facts(stream.get_ref().1);
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(stream, http2, servant).await;
                }
                Served::Line(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        servant.tls = facts(stream.get_ref().1);
                        // Its client knows how it ended.
                        let _ = introduce(stream, &servant).await;
                    }
                }
            }
        });
    }
}

fn facts(session: &ServerConnection) -> Vec<(String, String)> {
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let alpn = session
        .alpn_protocol()
        .map(|name| String::from_utf8_lossy(name).into_owned());
    [
        ("sni", session.server_name().map(str::to_owned)),
        ("alpn", alpn),
        ("shown", leaf.map(|leaf| keys().name_of(leaf).to_owned())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

/// Answers the first bytes with its name and what it knows of the handshake, then waits for the end.
async fn introduce(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    servant: &Servant,
) -> io::Result<()> {
    let mut buffer = [0; 4096];
    if stream.read(&mut buffer).await? > 0 {
        let mut line = format!("secured {} {}", servant.who, servant.family.name());
        for (name, value) in &servant.tls {
            line += &format!(" {name}={value}");
        }
        stream.write_all((line + "\n").as_bytes()).await?;
        stream.flush().await?;
        while stream.read(&mut buffer).await? > 0 {}
    }
    stream.shutdown().await
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    servant: Servant,
) {
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| answer(request, servant.clone()));
    // How it ended is its client's business.
    let _ = match http2 {
        true => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await
        }
        false => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .await
        }
    };
}

async fn answer(
    request: hyper::Request<Incoming>,
    servant: Servant,
) -> Result<hyper::Response<Full<Bytes>>, h2::Error> {
    let (head, body) = request.into_parts();
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let scheme = head.uri.scheme_str().map(str::to_owned);
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .chain(scheme.map(|scheme| (":scheme".to_owned(), scheme)))
        .collect();
    let body = body.collect().await.map(|body| body.to_bytes());
    let body = body.map_err(|_| h2::Error::from(h2::Reason::CANCEL))?;
    let path = head.uri.path_and_query().map(ToString::to_string);
    let authority = head.uri.authority().map(ToString::to_string);
    let host = authority.or_else(|| super::header(&headers, "host").map(str::to_owned));
    let reply = servant.book.note(Seen {
        pod: servant.who.clone(),
        method: head.method.to_string(),
        path: path.unwrap_or_default(),
        host: host.unwrap_or_default(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        version: match head.version {
            Version::HTTP_2 => "http2",
            _ => "http1",
        },
        peer: servant.peer,
        family: servant.family,
        tls: servant.tls,
    });
    if let Some(delay) = reply.delay {
        tokio::time::sleep(delay).await;
    }
    if reply.refuse {
        return Err(h2::Reason::REFUSED_STREAM.into());
    }
    if reply.close {
        return Err(h2::Reason::INTERNAL_ERROR.into());
    }
    let mut response = hyper::Response::builder()
        .status(reply.status.unwrap_or(200))
        .header("server", "backend")
        .header("x-pod", &servant.who);
    for (name, values) in &reply.headers {
        for value in &values.0 {
            response = response.header(name, &value.0);
        }
    }
    let body = reply.body.unwrap_or_else(|| format!("{}\n", servant.who));
    response
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| h2::Reason::INTERNAL_ERROR.into())
}

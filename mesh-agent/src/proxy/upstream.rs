//! Connections to servers: where they are opened, from which address, how long it may take, and what comes before what
//! the client has to say: an announcement, a handshake.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, Error as TlsError};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::model::Keepalive;
use crate::netns::NetNs;
use crate::proxy::stream::Stream;
use crate::proxy::tls::{self, Offer, Unusable, Upstream};
use crate::sys::socket::{self, Reach, Source};

pub(super) mod announce;
pub(super) mod circuit;
pub(super) mod clusters;
pub(super) mod health;
pub(super) mod host;
pub(super) mod lease;
pub(super) mod pool;

/// What comes between the opening of a connection and what the client has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Before {
    /// The PROXY protocol's bytes; empty for none.
    pub(super) announcement: Vec<u8>,
    /// A handshake.
    pub(super) tls: Option<Upstream>,
}

/// Opens the sockets of a pod or a gateway.
#[derive(Debug)]
pub(super) enum Connector {
    /// Inside a pod's network namespace, exempt from steering.
    Pod(Arc<NetNs>),
    /// In the agent's own namespace, from whatever address routing gives: gateways.
    Plain,
    /// As `Plain`, with other addresses in the place of some: a test's network.
    #[cfg(test)]
    Moved(std::collections::HashMap<SocketAddr, SocketAddr>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The kernel said so.
    #[error("connecting to {address}")]
    Refused {
        /// Where to.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("connecting to {address} took too long")]
    Timeout {
        /// Where to.
        address: SocketAddr,
    },
    /// The server is there, and no handshake came about.
    #[error("the handshake with {address}: {why}")]
    Tls {
        /// Where to.
        address: SocketAddr,
        /// As Envoy words it.
        why: String,
    },
}

impl Before {
    /// Says it on a fresh connection.
    pub(super) async fn say(
        &self,
        mut stream: Stream,
        configs: &tls::Configs,
        offer: Offer,
        address: SocketAddr,
    ) -> Result<Stream, ConnectError> {
        if !self.announcement.is_empty() {
            let written = stream.write_all(&self.announcement).await;
            written.map_err(|source| ConnectError::Refused { address, source })?;
        }
        let Some(tls) = &self.tls else {
            return Ok(stream);
        };
        let failed = |why| ConnectError::Tls { address, why };
        let config = configs.clients.get(tls, offer);
        let config = config.map_err(|error: Unusable| failed(format!("TLS_error: {error}")))?;
        let connecting = TlsConnector::from(config).connect(tls.name(), stream);
        match connecting.await {
            Ok(stream) => Ok(Stream::tls(stream)),
            Err(error) => Err(failed(tls_error(&error))),
        }
    }
}

/// Why a handshake failed, in the words of Envoy's TLS where it has some.
fn tls_error(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let openssl = match inner {
        Some(TlsError::InvalidCertificate(_)) => {
            "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"
        }
        Some(TlsError::InvalidMessage(_)) => {
            "268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER"
        }
        Some(TlsError::AlertReceived(AlertDescription::HandshakeFailure)) => {
            "268436496:SSL routines:OPENSSL_internal:SSLV3_ALERT_HANDSHAKE_FAILURE"
        }
        Some(TlsError::AlertReceived(AlertDescription::CertificateRequired)) => {
            "268436572:SSL routines:OPENSSL_internal:TLSV1_ALERT_CERTIFICATE_REQUIRED"
        }
        Some(other) => return format!("TLS_error: {other}"),
        None => return format!("TLS_error: {error}"),
    };
    format!("TLS_error:|{openssl}:TLS_error_end")
}

/// Has the kernel ask now and then whether a silent server is still there.
pub(super) fn keep_alive(stream: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
    let Keepalive {
        probes,
        time,
        interval,
    } = keepalive;
    let mut wanted = socket2::TcpKeepalive::new();
    if let Some(time) = time {
        wanted = wanted.with_time(time);
    }
    if let Some(interval) = interval {
        wanted = wanted.with_interval(interval);
    }
    if let Some(probes) = probes {
        wanted = wanted.with_retries(probes);
    }
    socket2::SockRef::from(stream).set_tcp_keepalive(&wanted)
}

impl Connector {
    /// Opens a connection.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        source: Source,
        reach: Reach,
        limit: Duration,
    ) -> Result<TcpStream, ConnectError> {
        match timeout(limit, self.open(address, source, reach)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(ConnectError::Refused { address, source }),
            Err(_) => Err(ConnectError::Timeout { address }),
        }
    }

    /// Which address its connections to `destination` have; `None` where that is nobody's pod's, or no route leads there.
    pub(super) fn source_towards(&self, destination: SocketAddr) -> Option<IpAddr> {
        match self {
            Self::Pod(netns) => socket::source_towards(netns, destination).ok(),
            Self::Plain => None,
            #[cfg(test)]
            Self::Moved(_) => Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
        }
    }

    async fn open(
        &self,
        address: SocketAddr,
        source: Source,
        reach: Reach,
    ) -> io::Result<TcpStream> {
        match self {
            Self::Pod(netns) => {
                let socket = socket::upstream(netns, address, source, reach)?;
                TcpSocket::from_std_stream(socket.into())
                    .connect(address)
                    .await
            }
            Self::Plain => plain(address).await,
            #[cfg(test)]
            Self::Moved(moved) => plain(moved.get(&address).copied().unwrap_or(address)).await,
        }
    }
}

async fn plain(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

impl ConnectError {
    /// The reason in Envoy's words, without the kernel's number; `None` for the time-out.
    pub(super) fn cause(&self) -> Option<String> {
        match self {
            Self::Refused { source, .. } => {
                let text = source.to_string();
                let text = text.split(" (os error").next().unwrap_or_default();
                Some(format!("delayed connect error: {text}"))
            }
            Self::Timeout { .. } => None,
            Self::Tls { why, .. } => Some(why.clone()),
        }
    }
}

//! Connections to servers: where they are opened, from which address, and how long it may take.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::netns::NetNs;
use crate::sys::socket::{self, Source};

pub(super) mod circuit;
pub(super) mod clusters;
pub(super) mod health;
pub(super) mod lease;
pub(super) mod pool;

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
}

impl Connector {
    /// Opens a connection.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        source: Source,
        limit: Duration,
    ) -> Result<TcpStream, ConnectError> {
        match timeout(limit, self.open(address, source)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(ConnectError::Refused { address, source }),
            Err(_) => Err(ConnectError::Timeout { address }),
        }
    }

    async fn open(&self, address: SocketAddr, source: Source) -> io::Result<TcpStream> {
        match self {
            Self::Pod(netns) => {
                let socket = socket::upstream(netns, address, source)?;
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
    /// The kernel's words without its number, as Envoy reports them; `None` for the time-out.
    pub(super) fn cause(&self) -> Option<String> {
        match self {
            Self::Refused { source, .. } => {
                let text = source.to_string();
                Some(match text.find(" (os error") {
                    Some(end) => text[..end].to_owned(),
                    None => text,
                })
            }
            Self::Timeout { .. } => None,
        }
    }
}

//! How servers are reached on behalf of a connection: which endpoint, from which address, and what is said first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use crate::model::{AppAddress, Cluster, Discovery, SourceMode};
use crate::proxy::connection::Connection;
use crate::proxy::record::Hop;
use crate::proxy::site::{Choice, Who};
use crate::proxy::tls::Upstream;
use crate::proxy::upstream::Before;
use crate::proxy::upstream::announce::announcement;
use crate::proxy::upstream::clusters::Known;
use crate::proxy::upstream::pool::Key;
use crate::sys::socket::Source;

impl Connection {
    /// Which endpoint of a cluster takes a request, or the connection.
    pub(in crate::proxy) fn endpoint(
        &self,
        cluster: &Cluster,
        known: Option<&Known>,
        choice: Choice<'_>,
    ) -> Option<SocketAddr> {
        // A headless Service's client has chosen its pod by name; a gateway's has not.
        match cluster.discovery {
            Discovery::Headless if self.hop == Hop::Outbound => Some(self.destination),
            Discovery::Original => Some(self.destination),
            Discovery::Listed | Discovery::Headless | Discovery::Dns { .. } => {
                self.site.endpoint(cluster, known, choice)
            }
        }
    }

    /// A connection to where this one was headed.
    pub(in crate::proxy) fn key(&self, address: SocketAddr) -> Key {
        Key {
            address,
            source: self.source(),
            lane: 0,
            before: None,
        }
    }

    /// A connection to an endpoint of a cluster, for requests with this Host. `None` where the cluster wants TLS and the
    /// Host is not a name.
    pub(in crate::proxy) fn key_of(
        &self,
        cluster: &Cluster,
        address: SocketAddr,
        host: &str,
    ) -> Option<Key> {
        let tls = cluster.policy.tls.as_ref();
        let tls = tls.map(|tls| Upstream::for_host(tls, host).ok_or(()));
        Some(self.key_before(cluster, address, tls.transpose().ok()?))
    }

    pub(super) fn key_before(
        &self,
        cluster: &Cluster,
        address: SocketAddr,
        tls: Option<Upstream>,
    ) -> Key {
        let announced = cluster.policy.proxy_protocol;
        let announcement = announced.map_or_else(Vec::new, |version| {
            self.announced.set(true);
            announcement(version, self.peer, self.destination)
        });
        let before = (tls.is_some() || !announcement.is_empty())
            .then(|| Rc::new(Before { announcement, tls }));
        Key {
            before,
            ..self.key(address)
        }
    }

    /// Where the connection was headed; of one that came in, where the pod's app listens for what was headed there.
    pub(in crate::proxy) fn headed_for(&self) -> SocketAddr {
        let there = self.destination;
        let loopback = || match there {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        match self.app() {
            AppAddress::Dialled => there,
            AppAddress::Loopback(port) => SocketAddr::new(loopback(), port),
            AppAddress::Pod(port) => SocketAddr::new(there.ip(), port),
        }
    }

    fn app(&self) -> AppAddress {
        match self.hop {
            Hop::Inbound => self.site.app(self.destination.port()),
            Hop::Outbound | Hop::Gateway => AppAddress::Dialled,
        }
    }

    /// From which address servers are connected to.
    pub(in crate::proxy) fn source(&self) -> Source {
        match (&self.site.who, self.hop) {
            // A foreign address has no way back over the loopback device.
            (Who::Pod { .. }, Hop::Inbound) if matches!(self.app(), AppAddress::Loopback(_)) => {
                Source::Sidecar
            }
            (Who::Pod { source, .. }, Hop::Inbound) => match source {
                SourceMode::Sidecar => Source::Sidecar,
                SourceMode::Preserve => Source::Client(self.peer.ip()),
            },
            (Who::Pod { .. } | Who::Gateway { .. }, _) => Source::Pod,
        }
    }
}

//! Connections that are relayed: where they go, by which server they ask for, and how long they may last.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::proxy::connection::{Connection, tunnel};
use crate::proxy::record::{Flag, Hop, Record};
use crate::proxy::respond::Failure;
use crate::proxy::site::Choice;
use crate::proxy::stream::Stream;
use crate::proxy::tcp::Tunnel;
use crate::proxy::tls::{self, Offer, Upstream};
use crate::proxy::upstream::ConnectError;
use crate::proxy::upstream::circuit::Permit;
use crate::proxy::upstream::health::Outcome;
use crate::proxy::upstream::pool::Load;
use crate::route::{Flow, Relaying, StreamDecision, StreamScope, hash_of_source};

/// Where a relayed connection goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// To an endpoint of the cluster.
    Cluster(Relaying),
    /// Where the client meant it to go.
    Original,
    /// Nowhere: it is ended.
    Nowhere,
}

/// How long a relayed connection may last.
struct Limits {
    /// Without a byte.
    idle: Duration,
    /// In all.
    whole: Option<Duration>,
}

/// An open connection to a server.
pub(super) struct Server {
    pub(super) stream: Stream,
    address: SocketAddr,
    load: Load,
    /// Leave for the connection, where its cluster has a limit.
    place: Option<Permit>,
}

impl Connection {
    /// Where a connection goes that is not HTTP.
    pub(super) fn target(&self, scope: &StreamScope, server_name: Option<&str>) -> Target {
        let flow = Flow {
            destination: self.destination,
            server_name,
        };
        match self.site.route_stream(scope, &flow) {
            StreamDecision::Forward(relaying) => Target::Cluster(relaying),
            StreamDecision::Passthrough => Target::Original,
            StreamDecision::Refuse => Target::Nowhere,
        }
    }

    pub(super) async fn connect(&self, target: &Target) -> Result<Server, Failure> {
        let mut place = None;
        let (address, connected) = match target {
            Target::Cluster(Relaying { cluster, conduct }) => {
                let known = self.site.known(cluster);
                if let Some(known) = &known {
                    place = Some(known.connection().ok_or(Failure::Overflow)?);
                }
                let resolving = self.site.resolve(cluster, known.as_ref());
                let resolved = resolving.endpoints().await;
                let choice = Choice {
                    hash: hash_of_source(&conduct.policy, self.peer.ip()),
                    resolved: resolved.as_deref(),
                    ..Choice::default()
                };
                let address = self
                    .endpoint(cluster, known.as_deref(), choice)
                    .ok_or(Failure::NoEndpoint)?;
                let tls = cluster.policy.tls.as_ref();
                let tls = tls.and_then(Upstream::for_relay);
                let key = self.key_before(cluster, address, tls);
                let pool = &cluster.policy.pool;
                let connected = self.site.connect(&key, pool, Offer::Nothing).await;
                if let Some(known) = &known {
                    known.report(address, Outcome::of_connecting(&connected));
                }
                let connected = match (connected, &conduct.policy.tunnel) {
                    (Ok(stream), Some(through)) => {
                        tunnel::dig(stream, through, address, pool.connect_timeout).await
                    }
                    (connected, _) => connected,
                };
                (address, connected)
            }
            Target::Original => {
                let address = self.headed_for();
                let known = match self.hop {
                    Hop::Inbound => self.site.known_app(self.destination.port()),
                    Hop::Outbound | Hop::Gateway => None,
                };
                if let Some(known) = &known {
                    place = Some(known.connection().ok_or(Failure::Overflow)?);
                }
                let policy = known.map(|known| known.policy());
                let pool = policy.as_ref().map(|policy| &policy.pool);
                let source = self.source();
                let reach = self.site.reach(address.ip(), false);
                let connected = self.site.connect_beyond(address, source, reach, pool).await;
                (address, connected)
            }
            Target::Nowhere => return Err(Failure::NoEndpoint),
        };
        let stream = connected.map_err(|error: ConnectError| Failure::Connect {
            cause: error.cause(),
        })?;
        Ok(Server {
            stream,
            address,
            load: self.site.pool.busy(address),
            place,
        })
    }

    /// Decides over a connection that is not HTTP, once it is known which server its client asks for where that matters.
    pub(super) async fn route_and_relay(&self, mut client: Stream, scope: &StreamScope) {
        let server_name = match self.site.needs_server_name(scope) {
            false => None,
            true => match self.asked_for(&mut client).await {
                Ok(server_name) => server_name,
                Err(error) => {
                    tracing::debug!(%error, peer = %self.peer, destination = %self.destination, "a connection ended before it was known where it should go");
                    client.reset_on_close();
                    return;
                }
            },
        };
        let target = self.target(scope, server_name.as_deref());
        self.relay(client, &target, None).await;
    }

    /// The server that the client asks for in its TLS. A client that says nothing for a while asks for none: its server may
    /// be one that speaks first.
    async fn asked_for(&self, client: &mut Stream) -> io::Result<Option<String>> {
        let limit = self.site.worker.settings.handshake_timeout;
        let asked = tokio::select! {
            biased;
            asked = timeout(limit, tls::peek(client)) => asked,
            () = self.site.farewell() => return Err(io::ErrorKind::TimedOut.into()),
        };
        match asked {
            Ok(hello) => Ok(hello?.and_then(|hello| hello.server_name)),
            Err(_) => Ok(None),
        }
    }

    /// Relays the connection. A server that refuses looks to the client as close to a refusal as can be: a reset.
    pub(super) async fn relay(&self, client: Stream, target: &Target, open: Option<Server>) {
        let mut record = self.relay_record(target);
        let upstream = match open {
            Some(upstream) => upstream,
            None => match self.connect(target).await {
                Ok(upstream) => upstream,
                Err(failure) => {
                    tracing::debug!(?failure, destination = %self.destination, "no server to relay to");
                    client.reset_on_close();
                    failure.note(&mut record);
                    record.complete();
                    return;
                }
            },
        };
        if let Some(line) = record.line() {
            line.upstream = Some(upstream.address);
        }
        let (_load, _place) = (upstream.load, upstream.place);
        let Limits { idle, whole } = self.relay_limits(target);
        let end = whole.and_then(|whole| Instant::now().checked_add(whole));
        Tunnel::new(
            client,
            upstream.stream,
            &self.site.worker.pipes,
            idle,
            record,
        )
        .until(end, Flag::Duration)
        .run()
        .await;
    }

    /// How long a relayed connection may be silent, and how long it may be at all.
    fn relay_limits(&self, target: &Target) -> Limits {
        let settings = &self.site.worker.settings;
        match target {
            Target::Cluster(relaying) => {
                let pool = &relaying.conduct.policy.pool;
                Limits {
                    idle: match pool.tcp_idle_timeout {
                        Duration::ZERO => Duration::MAX,
                        idle => idle,
                    },
                    whole: pool.max_connection_duration,
                }
            }
            Target::Original | Target::Nowhere => Limits {
                idle: settings.idle_timeout,
                whole: None,
            },
        }
    }

    fn relay_record(&self, target: &Target) -> Record {
        let mut record = Record::relay(&self.site.worker.counters, self.hop);
        if let Some(line) = record.line() {
            line.peer = Some(self.peer);
            line.destination = Some(self.destination);
            line.protocol = "TCP";
            line.cluster = match target {
                Target::Cluster(relaying) => relaying.cluster.key.to_string(),
                Target::Original => self.passthrough_name().to_owned(),
                Target::Nowhere => "BlackHoleCluster".to_owned(),
            };
        }
        record
    }
}

//! A request that is about to leave: where it goes, and what its server is to see.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::request::Parts;
use http::uri::Authority;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use crate::model::{Cluster, Protocol, RouteAction, UpstreamHttp};
use crate::proxy::connection::Connection;
use crate::proxy::http::ahead::Ahead;
use crate::proxy::http::decide;
use crate::proxy::http::exchange::Progress;
use crate::proxy::http::finish::Finish;
use crate::proxy::http::gate::Gate;
use crate::proxy::http::headers::{self, RequestFacts, Upgrade};
use crate::proxy::http::request::Arrived;
use crate::proxy::http::retry::Tries;
use crate::proxy::http::rewrite::{Rewriting, address_head, frame_head};
use crate::proxy::http::spare::Spare;
use crate::proxy::http::timeout::Timeouts;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::record::Record;
use crate::proxy::respond::{Asker, Failure};
use crate::proxy::upstream::clusters::Known;
use crate::proxy::upstream::pool::Version;
use crate::route::{self, Forwarding};

/// A request on its way.
pub(in crate::proxy) struct Outgoing {
    /// What the server is to see, as long as it may be sent, or sent again.
    pub(super) head: Option<Parts>,
    /// The head that was sent, where it may have to be sent again.
    pub(super) spare: Option<Spare>,
    pub(super) body: RequestBody,
    pub(super) gate: Option<Arc<Gate>>,
    /// Where informational responses go.
    pub(super) ahead: Option<Ahead>,
    pub(super) upgrade: Option<Box<(Upgrade, OnUpgrade)>>,
    pub(super) asker: Asker,
    pub(super) facts: RequestFacts,
    pub(super) goal: Goal,
    /// What is remembered of where it goes.
    pub(super) known: Option<Rc<Known>>,
    /// What its endpoint is chosen by, where the cluster takes a hash.
    pub(super) hash: Option<u64>,
    pub(super) version: Version,
    pub(super) tries: Tries,
    pub(super) timeouts: Timeouts,
    pub(super) finish: Option<Finish>,
    /// What mirrors get.
    pub(super) copies: Vec<Outgoing>,
    pub(super) started: Instant,
    pub(super) progress: Progress,
}

/// Where a request goes.
pub(super) enum Goal {
    /// To an endpoint of the cluster.
    Cluster(Arc<Cluster>),
    /// Where the connection was headed.
    Original,
}

impl Outgoing {
    /// A request to the pod's own application.
    pub(super) fn to_app(
        connection: &Connection,
        arrived: Arrived,
        protocol: Protocol,
        record: &mut Record,
    ) -> Result<Self, Failure> {
        if let Some(line) = record.line() {
            line.cluster = format!("inbound|{}||", connection.destination.port());
        }
        let port = connection.destination.port();
        let version = match protocol {
            _ if connection.site.app_speaks_as_client(port) => client_version(&arrived),
            Protocol::Http2 => Version::Http2,
            Protocol::Auto => client_version(&arrived),
            Protocol::Http | Protocol::Tls | Protocol::Tcp | Protocol::Udp => Version::Http1,
        };
        // Whoever declares gRPC speaks it, and its ports are not told from others of HTTP/2.
        let tries = Tries::inbound(protocol == Protocol::Http2 && arrived.asker.is_grpc());
        let mut outgoing = Self::unchanged(arrived, version, tries)?;
        outgoing.known = connection.site.known_app(port);
        Ok(outgoing)
    }

    /// A request to where its connection was headed.
    pub(super) fn passthrough(
        connection: &Connection,
        arrived: Arrived,
        record: &mut Record,
    ) -> Result<Self, Failure> {
        if let Some(line) = record.line() {
            line.cluster = connection.passthrough_name().to_owned();
        }
        let version = client_version(&arrived);
        Self::unchanged(arrived, version, Tries::none())
    }

    fn unchanged(arrived: Arrived, version: Version, tries: Tries) -> Result<Self, Failure> {
        let path = arrived.plain.clone();
        let authority = arrived.authority.clone();
        let mut outgoing = Self::new(arrived, Goal::Original, version, tries);
        outgoing.address(&authority, path.as_deref())?;
        Ok(outgoing)
    }

    /// A request that a route sends to a cluster, with all the changes that it makes.
    pub(super) fn forward(
        connection: &Rc<Connection>,
        mut arrived: Arrived,
        forwarding: Forwarding,
        finish: &mut Finish,
        record: &mut Record,
    ) -> Result<Self, Failure> {
        let route = Arc::clone(&finish.route);
        let RouteAction::Forward(forward) = &route.action else {
            // The mesh's own way out for what nobody knows has no other.
            return Err(Failure::NoRoute);
        };
        if let Some(line) = record.line() {
            line.cluster = forwarding.cluster.key.to_string();
        }
        let hash = hash_of(connection, &arrived, &forwarding, finish);
        let grpc = arrived.asker.is_grpc();
        let timeouts = Timeouts::of(forward, &arrived.head.headers, grpc);
        let tries = Tries::of(forward.retry.clone());
        let texts = &connection.site.worker.texts;
        headers::mark_request(&mut arrived.head.headers, &forwarding.cluster.key, texts);
        headers::set_attempt(&mut arrived.head.headers, 1, texts);
        timeouts.tell(&mut arrived.head.headers, Duration::ZERO, texts);
        let rewriting = Rewriting {
            connection,
            forward,
            forwarding: &forwarding,
            route: &route.name,
            flags: record.flags(),
        };
        let (path, authority) = rewriting.apply(&mut arrived)?;
        let client = client_version(&arrived);
        let version = version_for(&forwarding.cluster, client);
        let known = connection.site.known(&forwarding.cluster);
        let goal = Goal::Cluster(forwarding.cluster);
        let mut outgoing = Self::new(arrived, goal, version, tries);
        outgoing.timeouts = timeouts;
        outgoing.known = known;
        outgoing.hash = hash;
        outgoing.address(&authority, path.as_deref())?;
        // A connection that ceases to be HTTP cannot be copied.
        if !forwarding.mirrors.is_empty() && outgoing.upgrade.is_none() {
            let mirrors = forwarding.mirrors.into_iter();
            outgoing.copies = mirrors
                .map(|mirror| {
                    let version = version_for(&mirror, client);
                    outgoing.copy(connection, mirror, version, &authority, path.as_deref())
                })
                .collect::<Result<_, _>>()?;
        }
        if let Some(head) = &outgoing.head {
            finish.keep(head);
        }
        Ok(outgoing)
    }

    /// With what is to be done to its response.
    pub(super) fn finished_by(mut self, finish: Finish) -> Self {
        self.finish = Some(finish);
        self
    }

    fn new(arrived: Arrived, goal: Goal, version: Version, tries: Tries) -> Self {
        Self {
            head: Some(arrived.head),
            spare: None,
            body: arrived.body,
            gate: arrived.gate,
            ahead: arrived.ahead,
            // HTTP/2 has no such change of protocol.
            version: match arrived.upgrade {
                Some(_) => Version::Http1,
                None => version,
            },
            upgrade: arrived.upgrade,
            asker: arrived.asker,
            facts: arrived.facts,
            goal,
            known: None,
            hash: None,
            tries,
            timeouts: Timeouts::default(),
            finish: None,
            copies: Vec::new(),
            started: arrived.started,
            progress: Progress::default(),
        }
    }

    /// Gives the head the form that the server is to see.
    fn address(&mut self, authority: &Authority, path: Option<&str>) -> Result<(), Failure> {
        let Some(head) = &mut self.head else {
            return Ok(());
        };
        if let Some(asked) = &self.upgrade {
            headers::set_upgrade(&mut head.headers, asked.0.clone());
        } else {
            frame_head(head, self.version, &self.body);
        }
        address_head(head, self.version, self.facts.scheme, authority, path)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.asker.is_grpc()
    }

    /// The same request for a mirror, with a copy of the body.
    fn copy(
        &self,
        connection: &Connection,
        mirror: Arc<Cluster>,
        version: Version,
        authority: &Authority,
        path: Option<&str>,
    ) -> Result<Self, Failure> {
        let mut head = self.head.clone();
        let body = self.body.copy();
        if let Some(head) = &mut head {
            let texts = &connection.site.worker.texts;
            frame_head(head, version, &body);
            headers::mark_copy(&mut head.headers, connection.site.address(), texts);
            address_head(head, version, self.facts.scheme, authority, path)?;
        }
        Ok(Self {
            head,
            spare: None,
            body,
            known: connection.site.known(&mirror),
            hash: None,
            gate: None,
            ahead: None,
            upgrade: None,
            asker: self.asker,
            facts: self.facts,
            goal: Goal::Cluster(mirror),
            version,
            tries: Tries::none(),
            timeouts: self.timeouts,
            finish: None,
            copies: Vec::new(),
            started: self.started,
            progress: Progress::default(),
        })
    }
}

/// The hash of a request, where the cluster's balancer takes one. Where it is that of a cookie which the client lacks,
/// the response gives it to it.
fn hash_of(
    connection: &Connection,
    arrived: &Arrived,
    forwarding: &Forwarding,
    finish: &mut Finish,
) -> Option<u64> {
    if forwarding.hash.is_empty() {
        return None;
    }
    let request = decide::request(connection, arrived);
    route::hash_of(&forwarding.hash, &request, |cookie| {
        let value = cookie.value(connection.peer, connection.destination);
        finish
            .cookies
            .extend(HeaderValue::try_from(cookie.header(&value)));
        route::hash_of_text(&value)
    })
}

/// The protocol that the client speaks.
fn client_version(arrived: &Arrived) -> Version {
    match arrived.head.version {
        http::Version::HTTP_2 => Version::Http2,
        _ => Version::Http1,
    }
}

/// What the servers of a cluster are spoken to in. Where nobody declared it, in what the client speaks.
fn version_for(cluster: &Cluster, client: Version) -> Version {
    match (cluster.policy.http, cluster.protocol) {
        (UpstreamHttp::Http2, _) | (UpstreamHttp::AsDeclared, Protocol::Http2) => Version::Http2,
        (UpstreamHttp::AsClient, _) | (UpstreamHttp::AsDeclared, Protocol::Auto) => client,
        (
            UpstreamHttp::AsDeclared,
            Protocol::Http | Protocol::Tls | Protocol::Tcp | Protocol::Udp,
        ) => Version::Http1,
    }
}

//! One request on its way: what its server is to see, how often it is tried, and how its response comes back.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, sleep};

use crate::model::{Cluster, Protocol, RouteAction, UpstreamHttp};
use crate::proxy::connection::Connection;
use crate::proxy::http::attempt::{Failed, Tried};
use crate::proxy::http::body::Body;
use crate::proxy::http::finish::{Finish, Given};
use crate::proxy::http::gate::Gate;
use crate::proxy::http::headers::{self, RequestFacts};
use crate::proxy::http::request::Arrived;
use crate::proxy::http::retry::{Outcome, Tries};
use crate::proxy::http::rewrite::{Rewriting, address_head};
use crate::proxy::http::timeout::{Deadline, Timeouts};
use crate::proxy::http::upgrade;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::record::{Flag, Hop, Record};
use crate::proxy::respond::{self, Asker, Failure};
use crate::proxy::stream::Busy;
use crate::proxy::upstream::pool::{Lease, Version};
use crate::route::Forwarding;

/// A request on its way.
pub(super) struct Outgoing {
    /// What the server is to see; none while a try has it.
    head: Option<Parts>,
    pub(super) body: RequestBody,
    pub(super) gate: Option<Arc<Gate>>,
    upgrade: Option<(HeaderValue, OnUpgrade)>,
    asker: Asker,
    facts: RequestFacts,
    pub(super) goal: Goal,
    pub(super) version: Version,
    pub(super) tries: Tries,
    pub(super) timeouts: Timeouts,
    finish: Option<Finish>,
    /// What mirrors get.
    copies: Vec<Outgoing>,
    pub(super) started: Instant,
    /// Tries so far.
    attempts: u32,
    /// Which server the last of them went to.
    endpoint: Option<SocketAddr>,
    /// What the end of the tries was due to, besides their failure.
    ended_by: Option<Flag>,
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
        let version = match protocol {
            Protocol::Http2 => Version::Http2,
            Protocol::Auto => client_version(&arrived),
            Protocol::Http | Protocol::Tls | Protocol::Tcp | Protocol::Udp => Version::Http1,
        };
        // Whoever declares gRPC speaks it, and its ports are not told from others of HTTP/2.
        let tries = Tries::inbound(protocol == Protocol::Http2 && arrived.asker.is_grpc());
        let tries = tries.with(&arrived.control);
        Self::unchanged(arrived, version, tries)
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
        let path = arrived.path.clone();
        let authority = arrived.authority.clone();
        let mut outgoing = Self::new(arrived, Goal::Original, version, tries);
        outgoing.address(&authority, &path)?;
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
        let RouteAction::Forward(forward) = &finish.route.action else {
            // The mesh's own way out for what nobody knows has no other.
            return Err(Failure::NoRoute);
        };
        if let Some(line) = record.line() {
            line.cluster = forwarding.cluster.key.to_string();
        }
        let grpc = arrived.asker.is_grpc();
        let timeouts = Timeouts::of(forward, &arrived.control, &arrived.head.headers, grpc);
        let tries = Tries::of(forward.retry.clone()).with(&arrived.control);
        headers::mark_request(&mut arrived.head.headers, &forwarding.cluster.key);
        headers::set_attempt(&mut arrived.head.headers, 1);
        timeouts.tell(&mut arrived.head.headers, std::time::Duration::ZERO);
        let rewriting = Rewriting {
            connection,
            forward,
            forwarding: &forwarding,
            route: &finish.route.name,
            flags: record.flags(),
        };
        let (path, authority) = rewriting.apply(&mut arrived)?;
        let client = client_version(&arrived);
        let version = version_for(&forwarding.cluster, client);
        let goal = Goal::Cluster(forwarding.cluster);
        let mut outgoing = Self::new(arrived, goal, version, tries);
        outgoing.timeouts = timeouts;
        outgoing.address(&authority, &path)?;
        // A connection that ceases to be HTTP cannot be copied.
        if !forwarding.mirrors.is_empty() && outgoing.upgrade.is_none() {
            let own = connection.site.address();
            let mirrors = forwarding.mirrors.into_iter();
            outgoing.copies = mirrors
                .map(|mirror| {
                    let version = version_for(&mirror, client);
                    outgoing.copy(mirror, version, own, &authority, &path)
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
            body: arrived.body,
            gate: arrived.gate,
            // HTTP/2 has no such change of protocol.
            version: match arrived.upgrade {
                Some(_) => Version::Http1,
                None => version,
            },
            upgrade: arrived.upgrade,
            asker: arrived.asker,
            facts: arrived.facts,
            goal,
            tries,
            timeouts: Timeouts::default(),
            finish: None,
            copies: Vec::new(),
            started: Instant::now(),
            attempts: 0,
            endpoint: None,
            ended_by: None,
        }
    }

    /// Gives the head the form that the server is to see.
    fn address(&mut self, authority: &Authority, path: &str) -> Result<(), Failure> {
        let Some(head) = &mut self.head else {
            return Ok(());
        };
        if let Some((protocol, _)) = &self.upgrade {
            headers::set_upgrade(&mut head.headers, protocol.clone());
        }
        address_head(head, self.version, authority, path)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.asker.is_grpc()
    }

    /// Sends the request until there is a response, or the route's timeout, and makes of it what the client is to see.
    pub(super) async fn exchange(
        &mut self,
        connection: &Rc<Connection>,
        mut record: Record,
        busy: Busy,
    ) -> Response<Body> {
        for copy in std::mem::take(&mut self.copies) {
            copy.mirror(connection);
        }
        let mut deadline = Deadline::after(self.timeouts.whole, self.started);
        let body = self.body.watch();
        let sent = {
            let mut sending = pin!(self.send(connection));
            poll_fn(|cx| {
                if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                    return Poll::Ready(sent);
                }
                deadline.poll(cx, &body).map(|()| Err(Failure::Timeout))
            })
            .await
        };
        if let Some(line) = record.line() {
            line.upstream = self.endpoint;
            line.attempts = self.attempts;
        }
        if let Some(flag) = self.ended_by {
            record.flag(flag);
        }
        match sent {
            Ok((response, lease)) => {
                self.respond(connection, response, lease, deadline, record, busy)
            }
            Err(failure) => self.fail(connection, &failure, record),
        }
    }

    /// The same request for a mirror, with a copy of the body.
    fn copy(
        &self,
        mirror: Arc<Cluster>,
        version: Version,
        own: Option<IpAddr>,
        authority: &Authority,
        path: &str,
    ) -> Result<Self, Failure> {
        let mut head = self.head.clone();
        if let Some(head) = &mut head {
            headers::mark_copy(&mut head.headers, own);
            address_head(head, version, authority, path)?;
        }
        Ok(Self {
            head,
            body: self.body.copy(),
            gate: None,
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
            attempts: 0,
            endpoint: None,
            ended_by: None,
        })
    }

    /// Sends the request until there is a response or no more hope.
    pub(super) async fn send(
        &mut self,
        connection: &Rc<Connection>,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut tried = Vec::new();
        loop {
            // A try gives it back where another one is possible.
            let mut head = self.head.take().ok_or(Failure::Closed)?;
            self.attempts += 1;
            if self.attempts > 1 && matches!(self.goal, Goal::Cluster(_)) {
                headers::set_attempt(&mut head.headers, self.attempts);
                let elapsed = self.body.since_end(self.started);
                self.timeouts.tell(&mut head.headers, elapsed);
            }
            let result = self.attempt(connection, head, &tried).await;
            let wanted = match &result {
                Ok(Tried { response, .. }) => self.tries.want(Outcome::Answered {
                    status: response.status(),
                    headers: response.headers(),
                }),
                Err(Failed { failure, begun, .. }) => self.tries.want(Outcome::Failed {
                    failure,
                    begun: *begun,
                }),
            };
            let again = match result {
                Ok(mut answered) if wanted && self.may_try_again(answered.spare.is_some()) => {
                    self.endpoint = Some(answered.lease.address());
                    let spare = answered.spare.take();
                    answered.discard(&self.body);
                    spare
                }
                Ok(answered) => {
                    self.body.release();
                    self.endpoint = Some(answered.lease.address());
                    return Ok((answered.response, answered.lease));
                }
                Err(failed) => {
                    self.endpoint = failed.address.or(self.endpoint);
                    if !wanted || !self.may_try_again(failed.again.is_some()) {
                        return Err(failed.failure);
                    }
                    failed.again
                }
            };
            self.head = again;
            if self.tries.avoid_previous() {
                tried.extend(self.endpoint);
            }
            let worker = &connection.site.worker;
            worker.counters.retries.add(1);
            sleep(worker.back_off(self.attempts, self.tries.backoff())).await;
        }
    }

    /// Whether a try that calls for another one gets it.
    fn may_try_again(&mut self, possible: bool) -> bool {
        if !possible || !self.body.can_repeat() {
            return false;
        }
        if !self.tries.allow(self.attempts) {
            self.ended_by = Some(Flag::RetriesExhausted);
            return false;
        }
        true
    }

    /// Makes a server's response what the client is to see.
    fn respond(
        &mut self,
        connection: &Rc<Connection>,
        mut response: Response<Incoming>,
        lease: Lease,
        deadline: Deadline,
        mut record: Record,
        busy: Busy,
    ) -> Response<Body> {
        record.status(response.status());
        let switched = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| headers::wanted_upgrade(response.headers()))
            .flatten();
        let server_side = hyper::upgrade::on(&mut response);
        let (mut head, incoming) = response.into_parts();
        head.extensions.clear();
        headers::receive_response(
            &mut head.headers,
            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
        if let Some(finish) = &self.finish {
            let given = Given {
                endpoint: self.endpoint,
                status: Some(head.status),
                flags: record.flags(),
            };
            finish.edit(&mut head.headers, connection, given);
        }
        let operation = match connection.hop {
            Hop::Inbound => connection.site.operation(connection.destination.port()),
            Hop::Outbound | Hop::Gateway => None,
        };
        let hop = connection.hop;
        headers::send_response(&mut head.headers, hop, self.facts, operation.as_deref());
        if let (Some(protocol), Some((_, client_side))) = (switched, self.upgrade.take()) {
            headers::set_upgrade(&mut head.headers, protocol);
            record.complete();
            let limit = self.timeouts.whole.map(|whole| self.started + whole);
            upgrade::spawn(connection, client_side, server_side, lease, limit);
            return Response::from_parts(head, Body::Empty);
        }
        let upload = std::mem::replace(&mut self.body, RequestBody::Empty);
        let body = Body::upstream(incoming, lease, upload, deadline, record, busy);
        Response::from_parts(head, body)
    }

    /// Answers in the place of a server.
    fn fail(
        &self,
        connection: &Connection,
        failure: &Failure,
        mut record: Record,
    ) -> Response<Body> {
        record.flag(failure.flag());
        self.body.bar();
        let given = Given {
            endpoint: self.endpoint,
            status: None,
            flags: record.flags(),
        };
        let retried = self.attempts > 1;
        let response = respond::failure(failure, retried, self.asker, |headers| {
            if let Some(finish) = &self.finish {
                finish.edit(headers, connection, given);
            }
        });
        record.status(response.status());
        record.complete();
        response
    }
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

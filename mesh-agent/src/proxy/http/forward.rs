//! One request on its way: to which server, over which connection, how often it is tried, and how its response
//! comes back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, sleep, sleep_until};

use crate::model::{Cluster, Protocol, Route, RouteAction};
use crate::proxy::connection::{Connection, Scope};
use crate::proxy::http::body::Body;
use crate::proxy::http::headers::{self, RequestFacts};
use crate::proxy::http::rewrite::{address_head, rewrite};
use crate::proxy::http::upgrade;
use crate::proxy::http::upload::{Gate, RequestBody};
use crate::proxy::record::{Hop, Record};
use crate::proxy::respond::Failure;
use crate::proxy::stream::Busy;
use crate::proxy::upstream::pool::{Key, Lease, Version};
use crate::route::{self, Act, Decision, Forwarding, Reply};

/// A request that was decided over.
pub(super) struct Outgoing {
    head: Parts,
    body: RequestBody,
    gate: Option<Arc<Gate>>,
    upgrade: Option<(HeaderValue, OnUpgrade)>,
    facts: RequestFacts,
    goal: Goal,
    version: Version,
    retries: u32,
    timeout: Option<Duration>,
    started: Instant,
    attempts: u32,
}

/// Where a request goes.
enum Goal {
    /// To an endpoint of the cluster.
    Cluster(Arc<Cluster>),
    /// Where the connection was headed.
    Original,
}

/// A response, and what it came over.
pub(super) struct Exchanged {
    response: Response<Incoming>,
    lease: Lease,
    outgoing: Box<Remainder>,
}

/// What is left of a request when its response is here.
struct Remainder {
    body: RequestBody,
    upgrade: Option<OnUpgrade>,
    facts: RequestFacts,
    timeout: Option<Duration>,
    started: Instant,
    attempts: u32,
}

/// How a try ended that brought no response.
struct Failed {
    failure: Failure,
    /// No server has seen the request, and here it is for another try.
    again: Option<Parts>,
    address: std::net::SocketAddr,
}

/// Retries of an inbound hop: an app that is just being restarted (`istio-routing.md` 1.5).
const INBOUND_RETRIES: u32 = 2;

impl Outgoing {
    /// Decides over a request, and makes its head what the server is to see.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one request, each of which is consumed here"
    )]
    pub(super) fn decide(
        connection: &Rc<Connection>,
        mut head: Parts,
        body: RequestBody,
        gate: Option<Arc<Gate>>,
        upgrade: Option<(HeaderValue, OnUpgrade)>,
        facts: RequestFacts,
        authority: Authority,
        path: &str,
        record: &mut Record,
    ) -> Result<Self, Failure> {
        let client_version = match head.version {
            http::Version::HTTP_2 => Version::Http2,
            _ => Version::Http1,
        };
        let decided = decide(connection, &head, authority.as_str(), path)?;
        note(connection, &decided, record);
        let mut outgoing = Self {
            goal: Goal::Original,
            version: client_version,
            retries: 0,
            timeout: None,
            started: Instant::now(),
            attempts: 0,
            facts,
            gate,
            upgrade: None,
            body,
            head: Request::new(()).into_parts().0,
        };
        let (path, authority) = match decided {
            Decided::App(protocol) => {
                outgoing.version = version_for(protocol, client_version);
                outgoing.retries = INBOUND_RETRIES;
                (path.to_owned(), authority)
            }
            Decided::Passthrough => (path.to_owned(), authority),
            Decided::Forward(route, forwarding) => {
                if let RouteAction::Forward(forward) = &route.action {
                    outgoing.retries = forward.retry.attempts;
                    outgoing.timeout = forward.timeout;
                }
                let rewritten = rewrite(&mut head, &forwarding, outgoing.timeout, path, authority)?;
                outgoing.version = version_for(forwarding.cluster.protocol, client_version);
                outgoing.goal = Goal::Cluster(forwarding.cluster);
                rewritten
            }
        };
        if let Some((protocol, on_upgrade)) = upgrade {
            // HTTP/2 has no such change of protocol.
            outgoing.version = Version::Http1;
            headers::set_upgrade(&mut head.headers, protocol.clone());
            outgoing.upgrade = Some((protocol, on_upgrade));
        }
        address_head(&mut head, outgoing.version, &authority, &path)?;
        outgoing.head = head;
        Ok(outgoing)
    }

    /// Sends the request until there is a response, or the route's timeout.
    pub(super) async fn exchange(self, connection: &Rc<Connection>) -> Result<Exchanged, Failure> {
        let Some(timeout) = self.timeout else {
            return self.send(connection).await;
        };
        let body = self.body.clone();
        let expired = async move {
            body.ended().await;
            sleep(timeout).await;
        };
        tokio::select! {
            biased;
            sent = self.send(connection) => sent,
            () = expired => Err(Failure::Timeout),
        }
    }

    async fn send(mut self, connection: &Rc<Connection>) -> Result<Exchanged, Failure> {
        let worker = &connection.site.worker;
        let mut tried = Vec::new();
        let mut head = std::mem::replace(&mut self.head, Request::new(()).into_parts().0);
        loop {
            self.attempts += 1;
            if matches!(connection.hop, Hop::Outbound | Hop::Gateway)
                && let Goal::Cluster(_) = self.goal
            {
                headers::set_attempt(&mut head.headers, self.attempts);
            }
            let failed = match self.attempt(connection, head, &tried).await {
                Ok((response, lease)) => return Ok(self.exchanged(response, lease)),
                Err(failed) => failed,
            };
            match failed.again {
                Some(again) if self.attempts <= self.retries => {
                    head = again;
                    tried.push(failed.address);
                    worker.counters.retries.add(1);
                    sleep(worker.back_off(self.attempts)).await;
                }
                Some(_) | None => return Err(failed.failure.after_retries(self.attempts > 1)),
            }
        }
    }

    /// One try. A kept connection that turns out to be closed is replaced by a fresh one within the same try.
    async fn attempt(
        &self,
        connection: &Rc<Connection>,
        head: Parts,
        tried: &[std::net::SocketAddr],
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let address = match &self.goal {
            Goal::Original => Some(connection.destination),
            Goal::Cluster(cluster) => connection.endpoint(cluster, tried),
        };
        let Some(address) = address else {
            return Err(Failed {
                failure: Failure::NoEndpoint,
                again: None,
                address: connection.destination,
            });
        };
        let key = Key {
            address,
            source: connection.source(),
        };
        let mut head = head;
        let mut fresh = false;
        loop {
            let failed = |failure, again| Failed {
                failure,
                again,
                address,
            };
            let idempotent = head.method.is_idempotent();
            let mut lease = match self.obtain(connection, key, fresh, idempotent).await {
                Ok(lease) => lease,
                Err(failure) => return Err(failed(failure, Some(head))),
            };
            let may_repeat = match self.version {
                // The server may refuse the stream, which says that it has not looked at it.
                Version::Http2 => {
                    self.body.keep();
                    true
                }
                Version::Http1 => lease.is_reused() && idempotent,
            };
            let spare = may_repeat.then(|| head.clone());
            let error = match lease.send(self.request(head)).await {
                Ok(response) => {
                    self.body.release();
                    return Ok((response, lease));
                }
                Err(error) => error,
            };
            let (failure, unseen) = self.judge(error, spare, idempotent);
            match (unseen, &failure) {
                (Some(unsent), Failure::Closed) if lease.is_reused() && !fresh => {
                    fresh = true;
                    head = unsent;
                }
                (Some(unsent), Failure::Reset { refused: true, .. }) => {
                    return Err(failed(failure, Some(unsent)));
                }
                (_, _) => return Err(failed(failure, None)),
            }
        }
    }

    fn request(&self, head: Parts) -> Request<RequestBody> {
        let mut request = Request::from_parts(head, self.body.clone());
        if let Some(gate) = &self.gate {
            match self.version {
                Version::Http1 => {
                    let gate = Arc::clone(gate);
                    hyper::ext::on_informational(&mut request, move |response| {
                        if response.status() == StatusCode::CONTINUE {
                            gate.open();
                        }
                    });
                }
                Version::Http2 => gate.open(),
            }
        }
        request
    }

    /// A connection to the server: one that is kept, or a fresh one.
    async fn obtain(
        &self,
        connection: &Rc<Connection>,
        key: Key,
        fresh: bool,
        idempotent: bool,
    ) -> Result<Lease, Failure> {
        let site = &connection.site;
        let limits = site.limits();
        if !fresh && !idempotent {
            // Lets the connections' own tasks see an end that has arrived: this request could not be sent twice.
            tokio::task::yield_now().await;
        }
        if !fresh && let Some(lease) = site.pool.reuse(key, self.version, limits).await {
            return Ok(lease);
        }
        let opening = match self.version {
            Version::Http1 => None,
            Version::Http2 => Some(site.pool.opening(key)),
        };
        let _opening = match &opening {
            None => None,
            Some(opening) => {
                let guard = opening.lock().await;
                if let Some(lease) = site.pool.reuse(key, self.version, limits).await {
                    return Ok(lease);
                }
                Some(guard)
            }
        };
        let connected: super::Boxed<_> = match &self.goal {
            Goal::Original => {
                let site = Rc::clone(site);
                Box::pin(async move { site.connect_beyond(key.address, key.source).await })
            }
            Goal::Cluster(_) => {
                let site = Rc::clone(site);
                Box::pin(async move { site.connect(key.address, key.source).await })
            }
        };
        let stream = connected.await.map_err(|error| Failure::Connect {
            cause: error.cause(),
            retried: false,
        })?;
        site.pool
            .adopt(stream, key, self.version, limits)
            .await
            .map_err(|error| Failure::of(&error))
    }

    /// What an error means, and the request, where it is certain or harmless that a server may see it (again).
    fn judge(
        &self,
        mut error: TrySendError<Request<RequestBody>>,
        spare: Option<Parts>,
        idempotent: bool,
    ) -> (Failure, Option<Parts>) {
        if self.body.has_failed() {
            return (Failure::ClientClosed, None);
        }
        if let Some(unsent) = error.take_message() {
            let (mut head, _) = unsent.into_parts();
            head.extensions.clear();
            return (Failure::Closed, Some(head));
        }
        let failure = Failure::of(error.error());
        let harmless = match failure {
            Failure::Reset { refused: true, .. } => true,
            // It may have done its work before the connection ended.
            Failure::Closed => idempotent,
            _ => false,
        };
        (failure, spare.filter(|_| harmless && self.body.rewind()))
    }

    fn exchanged(self, response: Response<Incoming>, lease: Lease) -> Exchanged {
        Exchanged {
            response,
            lease,
            outgoing: Box::new(Remainder {
                body: self.body,
                upgrade: self.upgrade.map(|(_, on_upgrade)| on_upgrade),
                facts: self.facts,
                timeout: self.timeout,
                started: self.started,
                attempts: self.attempts,
            }),
        }
    }
}

impl Exchanged {
    /// Makes the response what the client is to see.
    pub(super) fn into_response(
        self,
        connection: &Rc<Connection>,
        mut record: Record,
        busy: Busy,
    ) -> Response<Body> {
        let Self {
            mut response,
            lease,
            outgoing,
        } = self;
        record.status(response.status());
        if let Some(line) = record.line() {
            line.upstream = Some(lease.address());
            line.attempts = outgoing.attempts;
        }
        let switched = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| headers::wanted_upgrade(response.headers()))
            .flatten();
        let server_side = hyper::upgrade::on(&mut response);
        let (mut head, incoming) = response.into_parts();
        head.extensions.clear();
        let operation = match connection.hop {
            Hop::Inbound => connection.site.operation(connection.destination.port()),
            Hop::Outbound | Hop::Gateway => None,
        };
        let took = outgoing.started.elapsed().as_millis() as u64;
        headers::send_response(
            &mut head.headers,
            connection.hop,
            took,
            outgoing.facts,
            operation.as_deref(),
        );
        if let (Some(protocol), Some(client_side)) = (switched, outgoing.upgrade) {
            headers::set_upgrade(&mut head.headers, protocol);
            record.complete();
            upgrade::spawn(connection, client_side, server_side, lease);
            return Response::from_parts(head, Body::Empty);
        }
        let deadline = outgoing.timeout.map(|timeout| {
            Box::pin(sleep_until(
                outgoing.body.ended_at(outgoing.started) + timeout,
            ))
        });
        let body = Body::upstream(incoming, lease, outgoing.body, deadline, record, busy);
        Response::from_parts(head, body)
    }
}

/// What becomes of a request.
enum Decided {
    Forward(Arc<Route>, Forwarding),
    Passthrough,
    App(Protocol),
}

fn decide(
    connection: &Connection,
    head: &Parts,
    authority: &str,
    path: &str,
) -> Result<Decided, Failure> {
    let scope = match &connection.scope {
        Scope::Routed(scope) => scope,
        Scope::App(protocol) => return Ok(Decided::App(*protocol)),
        Scope::Relayed => return Ok(Decided::Passthrough),
    };
    let scheme = head.headers.get("x-forwarded-proto");
    let request = route::Request {
        authority,
        path,
        query: head.uri.query(),
        method: head.method.as_str(),
        scheme: scheme
            .and_then(|scheme| scheme.to_str().ok())
            .unwrap_or("http"),
        headers: &head.headers,
        source: connection.peer.ip(),
    };
    match connection.site.decide(scope, &request) {
        Decision::Routed(routed) => match routed.act {
            Act::Forward(forwarding) => Ok(Decided::Forward(routed.route, forwarding)),
            Act::NoCluster(_) => Err(Failure::NoCluster),
            Act::Redirect(_) | Act::Respond => Err(Failure::NoRoute),
        },
        // A gateway has no original destination to pass anything to.
        Decision::Passthrough if connection.hop == Hop::Gateway => Err(Failure::NoRoute),
        Decision::Passthrough => Ok(Decided::Passthrough),
        Decision::Reply(Reply::NoRoute) => Err(Failure::NoRoute),
        Decision::Reply(Reply::Refused | Reply::Https(_)) => Err(Failure::NoRoute),
    }
}

fn note(connection: &Connection, decided: &Decided, record: &mut Record) {
    let Some(line) = record.line() else {
        return;
    };
    match decided {
        Decided::Forward(route, forwarding) => {
            line.route = Some(Arc::clone(&route.name));
            line.cluster = forwarding.cluster.key.to_string();
        }
        Decided::Passthrough => line.cluster = connection.passthrough_name().to_owned(),
        Decided::App(_) => {
            line.cluster = format!("inbound|{}||", connection.destination.port());
        }
    }
}

/// What a server is spoken to in. Where nobody declared it, in what the client speaks.
fn version_for(protocol: Protocol, client: Version) -> Version {
    match protocol {
        Protocol::Http2 => Version::Http2,
        Protocol::Auto => client,
        Protocol::Http | Protocol::Tls | Protocol::Tcp | Protocol::Udp => Version::Http1,
    }
}

//! One try of a request: an endpoint, a connection to it, and what came of it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::header::HOST;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use crate::model::Endpoints;
use crate::proxy::connection::Connection;
use crate::proxy::http::ahead;
use crate::proxy::http::forward::{Goal, Outgoing};
use crate::proxy::http::headers;
use crate::proxy::http::spare::{Spare, Spares};
use crate::proxy::http::timeout::Deadline;
use crate::proxy::http::timers::Timers;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::respond::Failure;
use crate::proxy::site::{Choice, Resolving};
use crate::proxy::upstream::lease::Lease;
use crate::proxy::upstream::pool::{Key, Version};
use crate::route::Tried;

/// A try that brought no response.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// Whether a server may have seen some of the request.
    pub(super) begun: bool,
}

type SendError = TrySendError<Request<RequestBody>>;

impl Outgoing {
    /// One try. A kept connection that turns out to be closed is replaced by a fresh one within the same try. Where the
    /// request may be sent again, its head is there afterwards.
    pub(super) async fn attempt(
        &mut self,
        connection: &Rc<Connection>,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let unbegun = |failure| Failed {
            failure,
            begun: false,
        };
        let resolved = self.resolve(connection).endpoints().await;
        let address = self.choose(connection, resolved.as_deref());
        let address = address.ok_or_else(|| unbegun(Failure::NoEndpoint))?;
        self.progress.endpoint = Some(address);
        let key = self.key(connection, address);
        let key = key.ok_or_else(|| unbegun(Failure::no_server_name()))?;
        let idempotent = |head: &Parts| head.method.is_idempotent();
        let idempotent = self.head.as_ref().is_some_and(idempotent);
        let keep = self
            .tries
            .may_want_after_sending(self.version, self.is_grpc());
        let mut fresh = false;
        loop {
            let obtained = self.obtain(connection, &key, fresh, idempotent).await;
            let mut lease = obtained.map_err(unbegun)?;
            if keep {
                self.body.keep();
            }
            // The server may be closing a kept connection this very moment.
            let replaceable = lease.is_reused() && !fresh;
            let spare = keep || replaceable && idempotent;
            let Some(request) = self.request(spare, &connection.site.worker.spares) else {
                return Err(unbegun(Failure::Closed));
            };
            self.progress.under_way = true;
            let sent = self
                .send_once(&mut lease, request, &connection.site.worker.timers)
                .await;
            self.progress.under_way = false;
            let Failed { failure, begun } = match sent {
                None => Failed {
                    failure: Failure::Timeout,
                    begun: true,
                },
                Some(Ok(response)) if !self.is_framed(&response) => Failed {
                    failure: Failure::UpstreamProtocol,
                    begun: true,
                },
                Some(Ok(response)) => return Ok((response, lease)),
                Some(Err(error)) => self.judge(error),
            };
            // What a server has seen it may have done before the connection ended.
            let again = !begun || idempotent && self.tries.may_repeat();
            let closed = failure == Failure::Closed && again;
            if !(replaceable && closed && self.has_head() && self.body.can_repeat()) {
                return Err(Failed { failure, begun });
            }
            fresh = true;
        }
    }

    /// Whether it is clear how long a response is; HTTP/2 says it by itself.
    fn is_framed(&self, response: &Response<Incoming>) -> bool {
        self.version == Version::Http2 || headers::is_framed(response.status(), response.headers())
    }

    fn resolve(&self, connection: &Connection) -> Resolving {
        match &self.goal {
            Goal::Original => Resolving::Listed,
            Goal::Cluster(cluster) => connection.site.resolve(cluster, self.known.as_ref()),
        }
    }

    /// The server for a try.
    fn choose(&self, connection: &Connection, resolved: Option<&Endpoints>) -> Option<SocketAddr> {
        match &self.goal {
            Goal::Original => Some(connection.headed_for()),
            Goal::Cluster(cluster) => {
                let choice = Choice {
                    hash: self.hash,
                    tried: Tried {
                        endpoints: &self.progress.tried,
                        tiers: self.tries.avoid_previous_priorities(),
                    },
                    resolved,
                };
                connection.endpoint(cluster, self.known.as_deref(), choice)
            }
        }
    }

    /// What its connection must be like. `None` where the cluster wants TLS and the Host is no name to ask for.
    fn key(&self, connection: &Connection, address: SocketAddr) -> Option<Key> {
        let key = match &self.goal {
            Goal::Original => connection.key(address),
            Goal::Cluster(cluster) => {
                let host = self.head.as_ref().map_or("", host_of);
                connection.key_of(cluster, address, host)?
            }
        };
        Some(Key {
            lane: self.known.as_ref().map_or(0, |known| known.lane()),
            ..key
        })
    }

    /// Sends the request and waits for the beginning of a response, as long as a try may take.
    async fn send_once(
        &self,
        lease: &mut Lease,
        request: Request<RequestBody>,
        timers: &Rc<Timers>,
    ) -> Option<Result<Response<Incoming>, SendError>> {
        let limit = self.timeouts.per_try;
        let began = match limit {
            Some(_) => Instant::now(),
            None => self.started,
        };
        let mut deadline = Deadline::after(limit, began, timers);
        let said = lease.said();
        if let Some(said) = &said {
            said.begin(self.ahead.is_some());
        }
        let mut sending = pin!(lease.send(request));
        let sent = poll_fn(|cx| {
            let sent = sending.as_mut().poll(cx);
            if let (Some(ahead), Some(said)) = (&self.ahead, &said) {
                ahead.pass(said, cx);
            }
            if let Poll::Ready(sent) = sent {
                return Poll::Ready(Some(sent));
            }
            deadline.poll(cx, &self.body).map(|()| None)
        })
        .await;
        if let Some(said) = said {
            said.end();
        }
        sent
    }

    /// The request to send. `spare`: its head stays, for another try.
    fn request(&mut self, spare: bool, spares: &Rc<Spares>) -> Option<Request<RequestBody>> {
        self.take_back_head();
        let head = self.head.take()?;
        if spare {
            self.spare = Some(Spare::of(&head, spares));
        }
        let mut request = Request::from_parts(head, self.body.for_try());
        match (self.version, &self.gate) {
            (Version::Http1, gate) => ahead::listen(gate.as_ref(), &mut request),
            (Version::Http2, Some(gate)) => gate.open(),
            (Version::Http2, None) => {}
        }
        Some(request)
    }

    /// Whether there is a head to send.
    pub(super) fn has_head(&self) -> bool {
        self.head.is_some() || self.spare.is_some()
    }

    /// Has the head ready that was kept for another try.
    pub(super) fn take_back_head(&mut self) {
        if let Some(spare) = self.spare.take()
            && self.head.is_none()
        {
            self.head = Some(spare.head());
        }
    }

    /// What an error means. A head that no server has seen comes back.
    fn judge(&mut self, mut error: SendError) -> Failed {
        let unsent = error.take_message();
        let begun = unsent.is_none();
        let failure = match &unsent {
            _ if self.body.has_failed() => Failure::ClientClosed,
            Some(_) => Failure::Closed,
            None => Failure::of(error.error()),
        };
        if let Some(unsent) = unsent {
            let (mut head, _) = unsent.into_parts();
            head.extensions.clear();
            self.head = Some(head);
        }
        Failed { failure, begun }
    }
}

/// The Host that a server is to see.
fn host_of(head: &Parts) -> &str {
    let host = || head.headers.get(HOST)?.to_str().ok();
    let authority = head.uri.authority().map(|authority| authority.as_str());
    authority.or_else(host).unwrap_or_default()
}

//! One try of a request: an endpoint, a connection to it, and what came of it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::HOST;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use crate::proxy::connection::Connection;
use crate::proxy::http::Boxed;
use crate::proxy::http::forward::{Goal, Outgoing};
use crate::proxy::http::timeout::Deadline;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::respond::Failure;
use crate::proxy::tls::Offer;
use crate::proxy::upstream::pool::{Key, Lease, Version};

/// A try that brought a response.
pub(super) struct Tried {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    /// The request, where it may be sent once more.
    pub(super) spare: Option<Parts>,
}

/// A try that brought none.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// Whether a server may have seen some of the request.
    pub(super) begun: bool,
    /// The request, where it may be sent once more.
    pub(super) again: Option<Parts>,
    /// Which server was tried; none where there is none.
    pub(super) address: Option<SocketAddr>,
}

type SendError = TrySendError<Request<RequestBody>>;

impl Tried {
    /// Nobody wants the response: its connection is kept where it is at its end, and ended otherwise.
    pub(super) fn discard(self, body: &RequestBody) {
        let Self {
            response, lease, ..
        } = self;
        if http_body::Body::is_end_stream(response.body()) && body.is_done() {
            lease.give_back();
        }
    }
}

impl Outgoing {
    /// One try. A kept connection that turns out to be closed is replaced by a fresh one within the same try.
    pub(super) async fn attempt(
        &self,
        connection: &Rc<Connection>,
        mut head: Parts,
        tried: &[SocketAddr],
    ) -> Result<Tried, Failed> {
        let address = match &self.goal {
            Goal::Original => Some(connection.destination),
            Goal::Cluster(cluster) => connection.endpoint(cluster, tried),
        };
        let failed = |failure, begun, again| Failed {
            failure,
            begun,
            again,
            address,
        };
        let Some(address) = address else {
            return Err(failed(Failure::NoEndpoint, false, None));
        };
        let key = match &self.goal {
            Goal::Original => Some(connection.key(address)),
            Goal::Cluster(cluster) => connection.key_of(cluster, address, host_of(&head)),
        };
        let Some(key) = key else {
            return Err(failed(Failure::no_server_name(), false, None));
        };
        let idempotent = head.method.is_idempotent();
        let keep = self
            .tries
            .may_want_after_sending(self.version, self.is_grpc());
        let mut fresh = false;
        loop {
            let mut lease = match self.obtain(connection, &key, fresh, idempotent).await {
                Ok(lease) => lease,
                Err(failure) => return Err(failed(failure, false, Some(head))),
            };
            if keep {
                self.body.keep();
            }
            // The server may be closing a kept connection this very moment.
            let replaceable = lease.is_reused() && !fresh;
            let spare = (keep || replaceable && idempotent).then(|| head.clone());
            let error = match self.send_once(&mut lease, head).await {
                Some(Ok(response)) => {
                    return Ok(Tried {
                        response,
                        lease,
                        spare,
                    });
                }
                Some(Err(error)) => error,
                None => return Err(failed(Failure::Timeout, true, spare)),
            };
            match self.judge(error) {
                (failure, _) if failure == Failure::ClientClosed => {
                    return Err(failed(failure, true, None));
                }
                (_, Some(unsent)) if replaceable => {
                    fresh = true;
                    head = unsent;
                }
                (failure, Some(unsent)) => return Err(failed(failure, false, Some(unsent))),
                // It may have done its work before the connection ended.
                (Failure::Closed, None) if replaceable && idempotent && self.body.can_repeat() => {
                    let Some(spare) = spare else {
                        return Err(failed(Failure::Closed, true, None));
                    };
                    fresh = true;
                    head = spare;
                }
                (failure, None) => return Err(failed(failure, true, spare)),
            }
        }
    }

    /// Sends the request and waits for the beginning of a response, as long as a try may take.
    async fn send_once(
        &self,
        lease: &mut Lease,
        head: Parts,
    ) -> Option<Result<Response<Incoming>, SendError>> {
        let mut deadline = Deadline::after(self.timeouts.per_try, Instant::now());
        let mut sending = pin!(lease.send(self.request(head)));
        poll_fn(|cx| {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(Some(sent));
            }
            deadline.poll(cx, &self.body).map(|()| None)
        })
        .await
    }

    fn request(&self, head: Parts) -> Request<RequestBody> {
        let mut request = Request::from_parts(head, self.body.for_try());
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
        key: &Key,
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
        let connected: Boxed<_> = match &self.goal {
            Goal::Original => {
                let (site, key) = (Rc::clone(site), key.clone());
                Box::pin(async move { site.connect_beyond(key.address, key.source).await })
            }
            Goal::Cluster(cluster) => {
                let (site, key, policy) =
                    (Rc::clone(site), key.clone(), Arc::clone(&cluster.policy));
                let offer = match self.version {
                    Version::Http1 => Offer::Http1,
                    Version::Http2 => Offer::Http2,
                };
                Box::pin(async move { site.connect(&key, &policy.pool, offer).await })
            }
        };
        let stream = connected.await.map_err(|error| Failure::Connect {
            cause: error.cause(),
        })?;
        site.pool
            .adopt(stream, key, self.version, limits)
            .await
            .map_err(|error| Failure::of(&error))
    }

    /// What an error means, and the request, where no server has seen it.
    fn judge(&self, mut error: SendError) -> (Failure, Option<Parts>) {
        if self.body.has_failed() {
            return (Failure::ClientClosed, None);
        }
        match error.take_message() {
            Some(unsent) => {
                let (mut head, _) = unsent.into_parts();
                head.extensions.clear();
                (Failure::Closed, Some(head))
            }
            None => (Failure::of(error.error()), None),
        }
    }
}

/// The Host that a server is to see.
fn host_of(head: &Parts) -> &str {
    let host = || head.headers.get(HOST)?.to_str().ok();
    let authority = head.uri.authority().map(|authority| authority.as_str());
    authority.or_else(host).unwrap_or_default()
}

//! A connection for one request, with the leave to use it.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use crate::proxy::http::ahead::Said;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::upstream::circuit::Permit;
use crate::proxy::upstream::host::{Host, Past};
use crate::proxy::upstream::pool::Load;

/// A connection for one request.
#[derive(Debug)]
pub(in crate::proxy) struct Lease {
    sender: Sender,
    host: Rc<Host>,
    past: Past,
    /// Somebody used the connection before.
    reused: bool,
    _load: Option<Load>,
    permits: [Option<Permit>; 2],
}

#[derive(Debug)]
pub(super) enum Sender {
    Http1(Line),
    Http2 {
        sender: http2::SendRequest<RequestBody>,
        _stream: Load,
        _next: Next,
    },
}

/// A connection that takes one request at a time.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) said: Arc<Said>,
}

/// A request that was handed to its connection's task.
enum Sent<A, B> {
    Http1(A),
    Http2(B),
}

/// Calls the next in line once the stream before it is free: fields end in their order.
#[derive(Debug)]
pub(super) struct Next(pub(super) Rc<Host>);

impl Lease {
    pub(super) fn new(sender: Sender, host: &Rc<Host>, past: Past, reused: bool) -> Self {
        Self {
            sender,
            host: Rc::clone(host),
            past,
            reused,
            _load: None,
            permits: [None, None],
        }
    }

    /// Counts as a load on the server from now on, and holds leave for the request.
    pub(in crate::proxy) fn begin(&mut self, load: Load, permit: Option<Permit>) {
        self._load = Some(load);
        self.permits[0] = permit;
    }

    /// Holds leave for the retry that the request is.
    pub(in crate::proxy) fn hold(&mut self, retry: Option<Permit>) {
        self.permits[1] = retry;
    }

    /// Whether the connection served before, so that the server may be closing it this very moment.
    pub(in crate::proxy) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(in crate::proxy) fn address(&self) -> SocketAddr {
        self.host.address()
    }

    /// What the server says ahead of its response, where its protocol lets it.
    pub(in crate::proxy) fn said(&self) -> Option<Arc<Said>> {
        match &self.sender {
            Sender::Http1(line) => Some(Arc::clone(&line.said)),
            Sender::Http2 { .. } => None,
        }
    }

    /// Sends a request. The future holds no more of it than it must.
    pub(in crate::proxy) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        let sent = match &mut self.sender {
            Sender::Http1(line) => Sent::Http1(line.sender.try_send_request(request)),
            Sender::Http2 { sender, .. } => Sent::Http2(sender.try_send_request(request)),
        };
        async move {
            match sent {
                Sent::Http1(sent) => sent.await,
                Sent::Http2(sent) => sent.await,
            }
        }
    }

    /// Puts the connection back for the next request.
    pub(in crate::proxy) fn give_back(self) {
        if let Sender::Http1(line) = self.sender {
            self.host.give_back(line, self.past);
        }
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        self.0.call_next();
    }
}

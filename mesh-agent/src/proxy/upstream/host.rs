//! Connections to one server that can be used for one another, and the requests that wait for them.
//!
//! Where a cluster allows only so many connections, requests wait here for their turn: a connection that becomes free is
//! handed to the one that has waited longest, and one that ends lets it open another.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::proxy::http::ahead::{Heard, Said};
use crate::proxy::http::upload::RequestBody;
use crate::proxy::http::{HEAD_LIMIT, PIECE};
use crate::proxy::stream::Stream;
use crate::proxy::upstream::circuit::Permit;
use crate::proxy::upstream::lease::{Lease, Line, Next, Sender};
use crate::proxy::upstream::pool::{Limits, Load, LocalExecutor, Version};

/// The connections that can be used for one another.
#[derive(Debug)]
pub(in crate::proxy) struct Host {
    address: SocketAddr,
    version: Version,
    pub(super) limits: Cell<Limits>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Shared>>,
    /// Whoever holds this opens the HTTP/2 connection that others then share.
    opening: tokio::sync::Mutex<()>,
    /// How many there are, those that are being opened included.
    open: Cell<u32>,
    waiting: RefCell<VecDeque<oneshot::Sender<Turn>>>,
}

/// What becomes of a request that has waited.
#[derive(Debug)]
enum Turn {
    /// It has this connection.
    Idle(Idle),
    /// It may look again.
    Again,
}

#[derive(Debug)]
pub(super) struct Idle {
    pub(super) line: Line,
    pub(super) since: Instant,
    pub(super) past: Past,
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<u32>>,
    used: Instant,
    past: Past,
}

/// What a connection has behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    opened: Instant,
    requests: u32,
}

/// A request that waits for its turn.
struct Waiting<'a> {
    host: &'a Host,
    told: oneshot::Receiver<Turn>,
}

/// A connection that is open, or about to be. Others may take its place once this is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Place {
    host: Weak<Host>,
    _permit: Option<Permit>,
}

impl Host {
    pub(super) fn new(address: SocketAddr, version: Version, limits: Limits) -> Self {
        Self {
            address,
            version,
            limits: Cell::new(limits),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: tokio::sync::Mutex::default(),
            open: Cell::new(0),
            waiting: RefCell::default(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connection that was used last, if it still lives `now`.
    pub(in crate::proxy) async fn reuse(self: &Rc<Self>, now: Instant) -> Option<Lease> {
        match self.version {
            Version::Http1 => loop {
                let idle = self.idle.borrow_mut().pop()?;
                if let Some(lease) = self.revive(idle, now).await {
                    return Some(lease);
                }
            },
            Version::Http2 => self.join(),
        }
    }

    /// A kept connection, unless it has ended or outlived its time.
    async fn revive(self: &Rc<Self>, idle: Idle, now: Instant) -> Option<Lease> {
        let limits = self.limits.get();
        let Idle {
            mut line,
            since,
            past,
        } = idle;
        let idle_for = now.saturating_duration_since(since);
        if line.sender.is_closed() || idle_for >= limits.idle_for || past.is_over(limits) {
            return None;
        }
        // The connection's task may still be tidying up after its last exchange.
        if !line.sender.is_ready() && line.sender.ready().await.is_err() {
            return None;
        }
        Some(Lease::new(Sender::Http1(line), self, past.one_more(), true))
    }

    /// A stream on a connection that others use too.
    fn join(self: &Rc<Self>) -> Option<Lease> {
        let limits = self.limits.get();
        let mut connections = self.shared.borrow_mut();
        connections.retain(|connection| {
            !connection.sender.is_closed() && !connection.past.is_over(limits)
        });
        // A server that allows fewer makes the rest wait in line.
        let connection = connections
            .iter_mut()
            .find(|connection| connection.streams.get() < limits.streams)?;
        connection.used = Instant::now();
        connection.past = connection.past.one_more();
        let sender = Sender::Http2 {
            sender: connection.sender.clone(),
            _stream: Load::new(&connection.streams),
            _next: Next(Rc::clone(self)),
        };
        Some(Lease::new(sender, self, connection.past, true))
    }

    /// Waits until nobody else opens a connection that could be shared; `None` where none can.
    pub(in crate::proxy) async fn opening(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.version {
            Version::Http1 => None,
            Version::Http2 => Some(self.opening.lock().await),
        }
    }

    /// Whether there is no connection at all, so that nobody could hand one over.
    pub(in crate::proxy) fn has_none(&self) -> bool {
        self.open.get() == 0
    }

    /// Takes the place of a connection that is about to be opened.
    pub(in crate::proxy) fn place(self: &Rc<Self>, permit: Option<Permit>) -> Place {
        self.open.set(self.open.get() + 1);
        Place {
            host: Rc::downgrade(self),
            _permit: permit,
        }
    }

    /// Waits for a connection that becomes free. `None` where it is time to look again.
    pub(in crate::proxy) async fn wait(self: &Rc<Self>) -> Option<Lease> {
        let (turn, told) = oneshot::channel();
        self.waiting.borrow_mut().push_back(turn);
        let mut waiting = Waiting { host: self, told };
        match (&mut waiting.told).await {
            Ok(Turn::Idle(idle)) => self.revive(idle, Instant::now()).await,
            Ok(Turn::Again) | Err(_) => None,
        }
    }

    /// Speaks HTTP over a fresh connection.
    pub(in crate::proxy) async fn adopt(
        self: &Rc<Self>,
        stream: Stream,
        place: Place,
    ) -> hyper::Result<Lease> {
        let address = self.address;
        let past = Past {
            opened: Instant::now(),
            requests: 1,
        };
        let sender = match self.version {
            Version::Http1 => {
                let said = Arc::<Said>::default();
                let (sender, connection) = http1::Builder::new()
                    .max_buf_size(PIECE)
                    .max_header_size(HEAD_LIMIT)
                    // Old servers fold long headers, and Envoy lets them.
                    .allow_obsolete_multiline_headers_in_responses(true)
                    .handshake(TokioIo::new(Heard::new(stream, Arc::clone(&said))))
                    .await?;
                tokio::task::spawn_local(async move {
                    let _place = place;
                    if let Err(error) = connection.with_upgrades().await {
                        tracing::debug!(%error, %address, "a server's connection ended badly");
                    }
                });
                Sender::Http1(Line { sender, said })
            }
            Version::Http2 => {
                let (sender, connection) = http2::Builder::new(LocalExecutor)
                    .timer(TokioTimer::new())
                    .adaptive_window(true)
                    .keep_alive_interval(Duration::from_secs(30))
                    .keep_alive_timeout(Duration::from_secs(10))
                    .max_header_list_size(60 * 1024)
                    .handshake(TokioIo::new(stream))
                    .await?;
                tokio::task::spawn_local(async move {
                    let _place = place;
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, %address, "a server's connection ended badly");
                    }
                });
                let streams = Rc::default();
                let stream = Load::new(&streams);
                self.shared.borrow_mut().push(Shared {
                    sender: sender.clone(),
                    streams,
                    used: Instant::now(),
                    past,
                });
                Sender::Http2 {
                    sender,
                    _stream: stream,
                    _next: Next(Rc::clone(self)),
                }
            }
        };
        Ok(Lease::new(sender, self, past, false))
    }

    /// Takes a connection back for the next request, which may have waited for it.
    pub(super) fn give_back(&self, line: Line, past: Past) {
        let limits = self.limits.get();
        if line.sender.is_closed() || past.is_over(limits) {
            return;
        }
        let mut idle = Idle {
            line,
            since: Instant::now(),
            past,
        };
        while let Some(turn) = self.next_turn() {
            match turn.send(Turn::Idle(idle)) {
                Ok(()) => return,
                // It waits no longer.
                Err(Turn::Idle(unwanted)) => idle = unwanted,
                Err(Turn::Again) => return,
            }
        }
        let mut kept = self.idle.borrow_mut();
        if kept.len() < limits.idle_per_key {
            kept.push(idle);
        }
    }

    /// Has the one that has waited longest look again.
    pub(super) fn call_next(&self) {
        while let Some(turn) = self.next_turn() {
            if turn.send(Turn::Again).is_ok() {
                return;
            }
        }
    }

    fn next_turn(&self) -> Option<oneshot::Sender<Turn>> {
        self.waiting.borrow_mut().pop_front()
    }

    pub(super) fn sweep(&self, idle_for: impl FnOnce(Duration) -> Duration) {
        if self.idle.borrow().is_empty() && self.shared.borrow().is_empty() {
            return;
        }
        let mut limits = self.limits.get();
        limits.idle_for = idle_for(limits.idle_for);
        self.idle.borrow_mut().retain(|idle| {
            !idle.line.sender.is_closed()
                && idle.since.elapsed() < limits.idle_for
                && !idle.past.is_over(limits)
        });
        self.shared.borrow_mut().retain(|shared| {
            !shared.sender.is_closed()
                && !shared.past.is_over(limits)
                && (shared.streams.get() > 0 || shared.used.elapsed() < limits.idle_for)
        });
    }

    pub(super) fn is_in_use(&self) -> bool {
        !self.idle.borrow().is_empty()
            || !self.shared.borrow().is_empty()
            || self.open.get() > 0
            || !self.waiting.borrow().is_empty()
    }
}

impl Past {
    /// Whether no further request may be sent.
    fn is_over(self, limits: Limits) -> bool {
        limits.requests.is_some_and(|most| self.requests >= most)
            || limits.age.is_some_and(|age| self.opened.elapsed() >= age)
    }

    fn one_more(self) -> Self {
        Self {
            requests: self.requests.saturating_add(1),
            ..self
        }
    }
}

impl Drop for Waiting<'_> {
    /// Whose turn it is when it has just given up must not keep it from the others.
    fn drop(&mut self) {
        self.told.close();
        match self.told.try_recv() {
            Ok(Turn::Idle(Idle { line, past, .. })) => self.host.give_back(line, past),
            Ok(Turn::Again) => self.host.call_next(),
            Err(_) => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(host) = self.host.upgrade() {
            host.open.set(host.open.get() - 1);
            host.call_next();
        }
    }
}

#[cfg(test)]
mod tests;

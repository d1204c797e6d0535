//! Connections to HTTP servers that are kept for the next request. Each pod has its own on each worker: a connection
//! bears its pod's address, and must never carry another pod's request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use crate::proxy::http::upload::RequestBody;
use crate::proxy::stream::Stream;
use crate::proxy::upstream::Before;
use crate::sys::socket::Source;

/// Where a connection leads, from which address, and what was said on it first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::proxy) struct Key {
    pub(in crate::proxy) address: SocketAddr,
    pub(in crate::proxy) source: Source,
    /// `None` for nothing.
    pub(in crate::proxy) before: Option<Rc<Before>>,
}

/// What is spoken to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum Version {
    /// HTTP/1.1, a request at a time.
    Http1,
    /// HTTP/2, many at once.
    Http2,
}

/// The connections of one pod on one worker.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Pool {
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
    shared: RefCell<HashMap<Key, Vec<Shared>>>,
    opening: RefCell<HashMap<Key, Rc<tokio::sync::Mutex<()>>>>,
    load: RefCell<HashMap<SocketAddr, Rc<Cell<u32>>>>,
}

/// How many connections are kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Limits {
    pub(in crate::proxy) idle_per_key: usize,
    pub(in crate::proxy) idle_for: Duration,
    pub(in crate::proxy) streams: u32,
}

/// A connection for one request.
#[derive(Debug)]
pub(in crate::proxy) struct Lease {
    sender: Sender,
    key: Key,
    pool: Weak<Pool>,
    keep: usize,
    /// Somebody used the connection before.
    reused: bool,
    _load: Load,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2 {
        sender: http2::SendRequest<RequestBody>,
        _stream: Load,
    },
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<u32>>,
    used: Instant,
}

/// Counts one more, until it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Load(Rc<Cell<u32>>);

/// Runs hyper's tasks on the worker that asks.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Pool {
    /// How many requests and connections an address has.
    pub(in crate::proxy) fn load(&self, address: SocketAddr) -> u32 {
        self.load
            .borrow()
            .get(&address)
            .map_or(0, |load| load.get())
    }

    /// Counts one more for an address.
    pub(in crate::proxy) fn busy(&self, address: SocketAddr) -> Load {
        let mut load = self.load.borrow_mut();
        Load::new(load.entry(address).or_default())
    }

    /// The connection that was used last, if it still lives.
    pub(in crate::proxy) async fn reuse(
        self: &Rc<Self>,
        key: &Key,
        version: Version,
        limits: Limits,
    ) -> Option<Lease> {
        let sender = match version {
            Version::Http1 => Sender::Http1(self.reuse_http1(key, limits).await?),
            Version::Http2 => self.reuse_http2(key, limits)?,
        };
        Some(self.lease(sender, key, limits, true))
    }

    async fn reuse_http1(
        &self,
        key: &Key,
        limits: Limits,
    ) -> Option<http1::SendRequest<RequestBody>> {
        loop {
            let idle = self.idle.borrow_mut().get_mut(key)?.pop()?;
            let mut sender = idle.sender;
            if sender.is_closed() || idle.since.elapsed() >= limits.idle_for {
                continue;
            }
            // The connection's task may still be tidying up after its last exchange.
            if sender.is_ready() || sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn reuse_http2(&self, key: &Key, limits: Limits) -> Option<Sender> {
        let mut shared = self.shared.borrow_mut();
        let connections = shared.get_mut(key)?;
        connections.retain(|connection| !connection.sender.is_closed());
        // A server that allows fewer makes the rest wait in line.
        let connection = connections
            .iter_mut()
            .find(|connection| connection.streams.get() < limits.streams)?;
        connection.used = Instant::now();
        Some(Sender::Http2 {
            sender: connection.sender.clone(),
            _stream: Load::new(&connection.streams),
        })
    }

    /// Whoever holds this opens the HTTP/2 connection that others then share.
    pub(in crate::proxy) fn opening(&self, key: &Key) -> Rc<tokio::sync::Mutex<()>> {
        Rc::clone(self.opening.borrow_mut().entry(key.clone()).or_default())
    }

    /// Speaks HTTP over a fresh connection.
    pub(in crate::proxy) async fn adopt(
        self: &Rc<Self>,
        stream: Stream,
        key: &Key,
        version: Version,
        limits: Limits,
    ) -> hyper::Result<Lease> {
        let sender = match version {
            Version::Http1 => {
                let (sender, connection) = http1::Builder::new()
                    .max_buf_size(64 * 1024)
                    .handshake(TokioIo::new(stream))
                    .await?;
                let address = key.address;
                tokio::task::spawn_local(async move {
                    if let Err(error) = connection.with_upgrades().await {
                        tracing::debug!(%error, %address, "a server's connection ended badly");
                    }
                });
                Sender::Http1(sender)
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
                let address = key.address;
                tokio::task::spawn_local(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, %address, "a server's connection ended badly");
                    }
                });
                let streams = Rc::default();
                let load = Load::new(&streams);
                self.shared
                    .borrow_mut()
                    .entry(key.clone())
                    .or_default()
                    .push(Shared {
                        sender: sender.clone(),
                        streams,
                        used: Instant::now(),
                    });
                Sender::Http2 {
                    sender,
                    _stream: load,
                }
            }
        };
        Ok(self.lease(sender, key, limits, false))
    }

    fn lease(self: &Rc<Self>, sender: Sender, key: &Key, limits: Limits, reused: bool) -> Lease {
        Lease {
            sender,
            key: key.clone(),
            pool: Rc::downgrade(self),
            keep: limits.idle_per_key,
            reused,
            _load: self.busy(key.address),
        }
    }

    /// Lets go of connections whose client was announced so: it is gone.
    pub(in crate::proxy) fn forget(&self, announcement: &[u8]) {
        let other = |key: &Key| {
            let before = key.before.as_ref();
            before.is_none_or(|before| before.announcement != announcement)
        };
        self.idle.borrow_mut().retain(|key, _| other(key));
        self.shared.borrow_mut().retain(|key, _| other(key));
    }

    /// Lets go of what nobody has used for a while.
    pub(in crate::proxy) fn sweep(&self, limits: Limits) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < limits.idle_for);
            !idle.is_empty()
        });
        self.shared.borrow_mut().retain(|_, shared| {
            shared.retain(|shared| {
                !shared.sender.is_closed()
                    && (shared.streams.get() > 0 || shared.used.elapsed() < limits.idle_for)
            });
            !shared.is_empty()
        });
        self.opening
            .borrow_mut()
            .retain(|_, opening| Rc::strong_count(opening) > 1);
        self.load.borrow_mut().retain(|_, load| load.get() > 0);
    }
}

impl Lease {
    /// Whether the connection served before, so that the server may be closing it this very moment.
    pub(in crate::proxy) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(in crate::proxy) fn address(&self) -> SocketAddr {
        self.key.address
    }

    pub(in crate::proxy) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2 { sender, .. } => sender.try_send_request(request).await,
        }
    }

    /// Puts the connection back for the next request.
    pub(in crate::proxy) fn give_back(self) {
        let Sender::Http1(sender) = self.sender else {
            return;
        };
        if sender.is_closed() {
            return;
        }
        if let Some(pool) = self.pool.upgrade() {
            let mut idle = pool.idle.borrow_mut();
            let idle = idle.entry(self.key).or_default();
            if idle.len() < self.keep {
                idle.push(Idle {
                    sender,
                    since: Instant::now(),
                });
            }
        }
    }
}

impl Load {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

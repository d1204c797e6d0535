//! Connections to HTTP servers that are kept for the next request. Each pod has its own on each worker: a connection
//! bears its pod's address, and must never carry another pod's request.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;

use crate::proxy::upstream::Before;
use crate::proxy::upstream::host::Host;
use crate::sys::socket::Source;

/// Where a connection leads, from which address, and what was said on it first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::proxy) struct Key {
    pub(in crate::proxy) address: SocketAddr,
    pub(in crate::proxy) source: Source,
    /// Tells clusters apart whose connections must not be used for one another; 0 for all others.
    pub(in crate::proxy) lane: u32,
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
    hosts: RefCell<HashMap<(Key, Version), Rc<Host>>>,
    load: RefCell<HashMap<SocketAddr, Rc<Cell<u32>>>>,
}

/// How many connections are kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Limits {
    pub(in crate::proxy) idle_per_key: usize,
    pub(in crate::proxy) idle_for: Duration,
    /// Of one HTTP/2 connection at a time.
    pub(in crate::proxy) streams: u32,
    /// Of one connection in all.
    pub(in crate::proxy) requests: Option<u32>,
    /// How long one may be used.
    pub(in crate::proxy) age: Option<Duration>,
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

    /// The connections that may serve a request.
    pub(in crate::proxy) fn host(&self, key: &Key, version: Version, limits: Limits) -> Rc<Host> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts
            .entry((key.clone(), version))
            .or_insert_with(|| Rc::new(Host::new(key.address, version, limits)));
        host.limits.set(limits);
        Rc::clone(host)
    }

    /// Lets go of connections whose client was announced so: it is gone.
    pub(in crate::proxy) fn forget(&self, announcement: &[u8]) {
        self.hosts.borrow_mut().retain(|(key, _), _| {
            let before = key.before.as_ref();
            before.is_none_or(|before| before.announcement != announcement)
        });
    }

    /// Lets go of what nobody has used for a while. `idle_for` says how long that is, where it would be so long by the
    /// cluster.
    pub(in crate::proxy) fn sweep(&self, idle_for: impl Fn(&Key, Duration) -> Duration) {
        self.hosts.borrow_mut().retain(|(key, _), host| {
            host.sweep(|by_cluster| idle_for(key, by_cluster));
            Rc::strong_count(host) > 1 || host.is_in_use()
        });
        self.load.borrow_mut().retain(|_, load| load.get() > 0);
    }
}

impl Load {
    pub(super) fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

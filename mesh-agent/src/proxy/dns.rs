//! The names of endpoints, looked up and kept up to date for all workers (`resolution: DNS`, `istio-routing.md` 1.9).
//!
//! A stub of our own, for want of a better one: what the C library offers tells no time to live, and a resolver of
//! hundreds of features brings seventy crates along. It asks the servers of `resolv.conf` as any program of the node
//! does, with its search list, after `/etc/hosts`.
//!
//! A name is looked up when it is first needed, and again whenever its answer is out of date, as long as somebody needs
//! it. An answer that says that there is nothing counts; no answer leaves things as they were.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::proxy::dns::conf::{Conf, Hosts};
use crate::proxy::dns::query::{Looked, look_up};

mod conf;
mod message;
mod query;

/// All names that somebody needs.
#[derive(Debug)]
pub(super) struct Resolver {
    files: DnsFiles,
    names: Mutex<HashMap<Arc<str>, Arc<Name>>>,
}

/// Where the node keeps its settings.
#[derive(Clone, Debug)]
pub struct DnsFiles {
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
}

/// One name.
#[derive(Debug)]
pub(super) struct Name {
    answer: watch::Sender<Option<Answer>>,
    used: AtomicBool,
    forgotten: AtomicBool,
}

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    /// Another one for each answer that differs from the one before.
    pub(super) serial: u64,
}

/// How long an answer holds that does not say it, and how long it takes after a failure until the next question.
const REFRESH: Duration = Duration::from_secs(60);

/// A name that has never had an answer is asked for sooner, first after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// A name that nobody has needed for so long is forgotten.
const FORGET: Duration = Duration::from_secs(300);

/// No answer is trusted longer.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for DnsFiles {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

impl Resolver {
    pub(super) fn new(files: DnsFiles) -> Self {
        Self {
            files,
            names: Mutex::default(),
        }
    }

    /// A name, which is kept up to date from now on by the worker that asks for it.
    pub(super) fn name(self: &Arc<Self>, name: &Arc<str>) -> Arc<Name> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            known.used.store(true, Ordering::Relaxed);
            return Arc::clone(known);
        }
        let fresh = Arc::new(Name {
            answer: watch::Sender::new(literal(name)),
            used: AtomicBool::new(true),
            forgotten: AtomicBool::new(false),
        });
        if fresh.answer.borrow().is_none() {
            names.insert(Arc::clone(name), Arc::clone(&fresh));
            let (resolver, name, kept) = (Arc::clone(self), Arc::clone(name), Arc::clone(&fresh));
            tokio::task::spawn_local(async move { resolver.keep(&name, &kept).await });
        }
        fresh
    }

    /// Keeps a name up to date until nobody has needed it for a while.
    async fn keep(&self, name: &Arc<str>, kept: &Name) {
        let mut failures = 0;
        let mut unused = Duration::ZERO;
        loop {
            let looked = self.look_up(name).await;
            let holds = match looked {
                Ok(Looked { v4, v6, ttl }) => {
                    failures = 0;
                    kept.publish(v4, v6);
                    match ttl {
                        Some(ttl) if !ttl.is_zero() => ttl.min(LONGEST),
                        Some(_) | None => REFRESH,
                    }
                }
                Err(error) => {
                    tracing::warn!(%name, %error, "a name cannot be looked up; what is known of it stays");
                    failures += 1;
                    match &*kept.answer.borrow() {
                        Some(_) => REFRESH,
                        None => REFRESH.min(FIRST_RETRY * 2_u32.pow(failures.min(6) - 1)),
                    }
                }
            };
            sleep(holds).await;
            unused = match kept.used.swap(false, Ordering::Relaxed) {
                true => Duration::ZERO,
                false => unused + holds,
            };
            if unused >= FORGET && self.forget(name, kept) {
                return;
            }
        }
    }

    async fn look_up(&self, name: &str) -> Result<Looked, query::Error> {
        let hosts = Hosts::read(&self.files.hosts);
        if let Some(looked) = hosts.find(name) {
            return Ok(looked);
        }
        look_up(&Conf::read(&self.files.resolv_conf), name).await
    }

    /// Forgets a name, unless somebody needs it after all.
    fn forget(&self, name: &Arc<str>, kept: &Name) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = !kept.used.load(Ordering::Relaxed);
        if unused {
            names.remove(name);
            kept.forgotten.store(true, Ordering::Relaxed);
        }
        unused
    }
}

impl Name {
    /// Whether it is still kept up to date. Says that it is needed.
    pub(super) fn is_kept(&self) -> bool {
        self.used.store(true, Ordering::Relaxed);
        !self.forgotten.load(Ordering::Relaxed)
    }

    /// What it stands for; nothing where that is not known.
    pub(super) fn answer(&self) -> Answer {
        self.answer.borrow().clone().unwrap_or_default()
    }

    /// Which answer there is; 0 for none. Says that it is needed.
    pub(super) fn serial(&self) -> u64 {
        self.used.store(true, Ordering::Relaxed);
        let answer = self.answer.borrow();
        answer.as_ref().map_or(0, |answer| answer.serial)
    }

    /// Waits for the first answer.
    pub(super) async fn answered(&self) {
        let mut answer = self.answer.subscribe();
        // The sender is here.
        let _ = answer.wait_for(Option::is_some).await;
    }

    fn publish(&self, v4: Vec<Ipv4Addr>, v6: Vec<Ipv6Addr>) {
        self.answer.send_if_modified(|answer| {
            let serial = answer.as_ref().map_or(0, |answer| answer.serial) + 1;
            let same = |answer: &Answer| answer.v4 == v4 && answer.v6 == v6;
            if answer.as_ref().is_some_and(same) {
                return false;
            }
            *answer = Some(Answer { v4, v6, serial });
            true
        });
    }
}

/// Waits until one of these has an answer.
pub(super) async fn any_answered(names: &[Arc<Name>]) {
    let mut all: Vec<_> = names.iter().map(|name| Box::pin(name.answered())).collect();
    poll_fn(|cx| {
        let any = all.iter_mut().any(|name| name.as_mut().poll(cx).is_ready());
        match any {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// An address that stands for itself.
fn literal(name: &str) -> Option<Answer> {
    let mut answer = Answer {
        serial: 1,
        ..Answer::default()
    };
    match name.parse().ok()? {
        IpAddr::V4(address) => answer.v4.push(address),
        IpAddr::V6(address) => answer.v6.push(address),
    }
    Some(answer)
}

#[cfg(test)]
pub(super) use crate::proxy::dns::message::tests::answer as tests_answer;

#[cfg(test)]
mod tests;

//! How much one proxy asks of one cluster at a time, over all its workers, and how much it may (`connectionPool`,
//! `istio-routing.md` 2.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::model::ConnectionPool;

/// What is under way.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Circuit {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

/// What there can be too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Kind {
    /// Connections to endpoints, used or not.
    Connection,
    /// Requests that wait for one.
    Pending,
    /// Requests that have one.
    Request,
    /// Requests that are tried again.
    Retry,
}

/// Leave for one more. It ends when this is dropped.
#[derive(Debug)]
#[must_use]
pub(in crate::proxy) struct Permit {
    circuit: Arc<Circuit>,
    kind: Kind,
}

impl Circuit {
    /// Leave for one more; `None` where there are as many as `limits` allow.
    pub(in crate::proxy) fn permit(
        self: &Arc<Self>,
        kind: Kind,
        limits: &ConnectionPool,
    ) -> Option<Permit> {
        let limit = self.limit(kind, limits);
        let one_more = |now: u32| limit.is_none_or(|limit| now < limit).then_some(now + 1);
        self.gauge(kind)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(self.permitted(kind))
    }

    /// Leave for one more, whatever the limit.
    pub(in crate::proxy) fn exceed(self: &Arc<Self>, kind: Kind) -> Permit {
        self.gauge(kind).fetch_add(1, Ordering::Relaxed);
        self.permitted(kind)
    }

    fn permitted(self: &Arc<Self>, kind: Kind) -> Permit {
        Permit {
            circuit: Arc::clone(self),
            kind,
        }
    }

    fn limit(&self, kind: Kind, limits: &ConnectionPool) -> Option<u32> {
        match (kind, limits.retry_budget) {
            (Kind::Connection, _) => limits.max_connections,
            (Kind::Pending, _) => limits.max_pending_requests,
            (Kind::Request, _) => limits.max_requests,
            (Kind::Retry, None) => limits.max_retries,
            (Kind::Retry, Some((percent, least))) => {
                let active = self.now(Kind::Request) + self.now(Kind::Pending);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share is cut to a whole number, as with Envoy"
                )]
                let share = (percent / 100.0 * f64::from(active)) as u32;
                Some(share.max(least))
            }
        }
    }

    /// How many there are at the moment.
    pub(in crate::proxy) fn now(&self, kind: Kind) -> u32 {
        self.gauge(kind).load(Ordering::Relaxed)
    }

    fn gauge(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Pending => &self.pending,
            Kind::Request => &self.requests,
            Kind::Retry => &self.retries,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.circuit
            .gauge(self.kind)
            .fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limits: &ConnectionPool, kind: Kind, most: usize) {
        let circuit = Arc::<Circuit>::default();
        let permits: Vec<_> = (0..10)
            .map_while(|_| circuit.permit(kind, limits))
            .collect();
        assert_eq!(permits.len(), most, "{kind:?}");
        drop(permits);
        assert_eq!(circuit.now(kind), 0);
        let beyond = circuit.exceed(kind);
        assert_eq!(circuit.now(kind), 1);
        drop(beyond);
        assert_eq!(circuit.now(kind), 0);
    }

    #[test]
    fn each_kind_has_its_limit() {
        let limits = ConnectionPool {
            max_connections: Some(1),
            max_pending_requests: Some(2),
            max_requests: Some(3),
            max_retries: Some(0),
            ..ConnectionPool::default()
        };
        check(&limits, Kind::Connection, 1);
        check(&limits, Kind::Pending, 2);
        check(&limits, Kind::Request, 3);
        check(&limits, Kind::Retry, 0);
        for kind in [Kind::Connection, Kind::Pending, Kind::Request, Kind::Retry] {
            check(&ConnectionPool::default(), kind, 10);
        }
    }

    #[test]
    fn a_budget_is_a_share_of_what_is_under_way() {
        let limits = ConnectionPool {
            max_retries: Some(0),
            retry_budget: Some((20.0, 3)),
            ..ConnectionPool::default()
        };
        check(&limits, Kind::Retry, 3);
        let circuit = Arc::<Circuit>::default();
        let mut active: Vec<_> = (0..24).map(|_| circuit.exceed(Kind::Request)).collect();
        let retries = |circuit: &Arc<Circuit>| {
            let permits = (0..10).map_while(|_| circuit.permit(Kind::Retry, &limits));
            permits.collect::<Vec<_>>().len()
        };
        assert_eq!(retries(&circuit), 4);
        active.push(circuit.exceed(Kind::Pending));
        assert_eq!(retries(&circuit), 5);
    }

    #[test]
    fn workers_share_it() {
        let circuit = Arc::<Circuit>::default();
        let limits = ConnectionPool {
            max_requests: Some(7),
            ..ConnectionPool::default()
        };
        let most = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut most = 0;
                        for _ in 0..10_000 {
                            let _permit = circuit.permit(Kind::Request, &limits);
                            most = most.max(circuit.now(Kind::Request));
                        }
                        most
                    })
                })
                .collect();
            let most = threads.into_iter().map(|thread| thread.join().unwrap());
            most.max()
        });
        assert!(most <= Some(7), "{most:?}");
        assert_eq!(circuit.now(Kind::Request), 0);
    }
}

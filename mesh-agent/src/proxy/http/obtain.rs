//! How a try comes to its connection: one that is kept, a fresh one, or one that it has waited for because the cluster
//! allows no more.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::proxy::connection::Connection;
use crate::proxy::http::Boxed;
use crate::proxy::http::forward::{Goal, Outgoing};
use crate::proxy::respond::Failure;
use crate::proxy::tls::Offer;
use crate::proxy::upstream::circuit::{Kind, Permit};
use crate::proxy::upstream::host::{Host, Place};
use crate::proxy::upstream::lease::Lease;
use crate::proxy::upstream::pool::{Key, Version};

impl Outgoing {
    /// A connection to the server, with leave to use it. `fresh`: none that is kept will do.
    pub(super) async fn obtain(
        &self,
        connection: &Rc<Connection>,
        key: &Key,
        fresh: bool,
        idempotent: bool,
    ) -> Result<Lease, Failure> {
        let site = &connection.site;
        let policy = match (&self.goal, &self.known) {
            (_, Some(known)) => Some(known.policy()),
            (Goal::Cluster(cluster), None) => Some(Arc::clone(&cluster.policy)),
            (Goal::Original, None) => None,
        };
        let limits = site.limits(policy.as_ref().map(|policy| &policy.pool));
        let host = site.pool.host(key, self.version, limits);
        if !fresh && !idempotent {
            // Lets the connections' own tasks see an end that has arrived: this request could not be sent twice.
            tokio::task::yield_now().await;
        }
        let kept = match fresh {
            true => None,
            // The first try comes at once, but for a wait for names, which a connection may outlive its time by.
            false if self.progress.is_first() => host.reuse(self.started).await,
            false => host.reuse(Instant::now()).await,
        };
        let mut lease = match kept {
            Some(lease) => lease,
            None => {
                let _pending = self.permit(Kind::Pending)?;
                self.open_or_wait(connection, key, &host).await?
            }
        };
        match self.permit(Kind::Request) {
            Ok(permit) => lease.begin(site.pool.busy(key.address), permit),
            Err(failure) => {
                lease.give_back();
                return Err(failure);
            }
        }
        Ok(lease)
    }

    async fn open_or_wait(
        &self,
        connection: &Rc<Connection>,
        key: &Key,
        host: &Rc<Host>,
    ) -> Result<Lease, Failure> {
        loop {
            let opening = host.opening().await;
            if opening.is_some()
                && let Some(lease) = host.reuse(Instant::now()).await
            {
                return Ok(lease);
            }
            if let Some(place) = self.place(host) {
                return self.open(connection, key, host, place).await;
            }
            drop(opening);
            if let Some(lease) = host.wait().await {
                return Ok(lease);
            }
            if let Some(lease) = host.reuse(Instant::now()).await {
                return Ok(lease);
            }
        }
    }

    /// Opens a connection. Behind a pointer: hardly any request needs it, and all would be the larger for it.
    fn open(
        &self,
        connection: &Rc<Connection>,
        key: &Key,
        host: &Rc<Host>,
        place: Place,
    ) -> Boxed<Result<Lease, Failure>> {
        let (site, host) = (Rc::clone(&connection.site), Rc::clone(host));
        let key = key.clone();
        let (beyond, policy) = match &self.goal {
            Goal::Original => (true, self.known.as_ref().map(|known| known.policy())),
            Goal::Cluster(cluster) => (false, Some(Arc::clone(&cluster.policy))),
        };
        let offer = match self.version {
            Version::Http1 => Offer::Http1,
            Version::Http2 => Offer::Http2,
        };
        Box::pin(async move {
            let pool = policy.as_ref().map(|policy| &policy.pool);
            let connected = match pool {
                Some(pool) if !beyond => site.connect(&key, pool, offer).await,
                pool => {
                    let reach = site.reach(key.address.ip(), true);
                    site.connect_beyond(key.address, key.source, reach, pool)
                        .await
                }
            };
            let stream = connected.map_err(|error| Failure::Connect {
                cause: error.cause(),
            })?;
            let adopted = host.adopt(stream, place).await;
            adopted.map_err(|error| Failure::of(&error))
        })
    }

    /// The place of another connection. A server that has none yet gets one whatever the limit: nobody would ever free
    /// one for its requests.
    fn place(&self, host: &Rc<Host>) -> Option<Place> {
        let Some(known) = &self.known else {
            return Some(host.place(None));
        };
        let circuit = known.circuit();
        let permit = circuit.permit(Kind::Connection, &known.policy().pool);
        let permit = permit.or_else(|| {
            let first = host.has_none();
            first.then(|| circuit.exceed(Kind::Connection))
        })?;
        Some(host.place(Some(permit)))
    }

    /// Leave for one more of a kind; `None` where nobody counts them.
    fn permit(&self, kind: Kind) -> Result<Option<Permit>, Failure> {
        let Some(known) = &self.known else {
            return Ok(None);
        };
        let permit = known.circuit().permit(kind, &known.policy().pool);
        permit.map(Some).ok_or(Failure::Overflow)
    }

    /// Leave to try once more.
    pub(super) fn retry_permit(&self) -> Result<Option<Permit>, Failure> {
        self.permit(Kind::Retry)
    }
}

//! Which endpoint takes a request or connection of a pod or gateway, and what is remembered of clusters for that.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::model::{Cluster, Discovery, Endpoints, Protocol, UpstreamHttp};
use crate::proxy::dns::{self, Name};
use crate::proxy::site::Site;
use crate::proxy::upstream::clusters::{Known, Now, Reaches};
use crate::route::{self, Pick, Tried};

/// The endpoints of a cluster, on their way from their names.
pub(in crate::proxy) enum Resolving {
    /// The cluster lists them.
    Listed,
    /// Here they are.
    Done(Rc<Endpoints>),
    /// There is no answer yet.
    Waiting(Pin<Box<dyn Future<Output = Rc<Endpoints>>>>),
}

/// What an endpoint is chosen by, besides its cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::proxy) struct Choice<'a> {
    /// Of the request, where it has one.
    pub(in crate::proxy) hash: Option<u64>,
    /// What is to be avoided.
    pub(in crate::proxy) tried: Tried<'a>,
    /// The endpoints, where the cluster does not list them.
    pub(in crate::proxy) resolved: Option<&'a Endpoints>,
}

/// How long a request waits for names that were never looked up before.
const NAMES: Duration = Duration::from_secs(5);

impl Site {
    /// What is remembered of a cluster; `None` where its policy asks for nothing of that.
    pub(in crate::proxy) fn known(&self, cluster: &Arc<Cluster>) -> Option<Rc<Known>> {
        self.clusters.of(cluster, || (&*self.worker).pick(u64::MAX))
    }

    /// What is remembered of the pod's own application behind a port: the limits that its Service's owner has set hold
    /// here too.
    pub(in crate::proxy) fn known_app(&self, port: u16) -> Option<Rc<Known>> {
        let pod = self.pod()?;
        let served = pod.inbound.get(&port)?;
        self.clusters.app(port, &served.pool)
    }

    /// What the pod's own application declares to speak on a port, and what a DestinationRule says of that.
    pub(in crate::proxy) fn app_speaks(&self, port: u16) -> Option<(Protocol, UpstreamHttp)> {
        let pod = self.pod();
        let served = pod.as_ref().and_then(|pod| pod.inbound.get(&port));
        served.map(|served| (served.protocol, served.http))
    }

    /// The endpoints of a cluster whose names must be looked up; `None` for all others. Waits a moment for names that
    /// are looked up for the first time.
    pub(in crate::proxy) fn resolve(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        known: Option<&Rc<Known>>,
    ) -> Resolving {
        let Discovery::Dns { .. } = &cluster.discovery else {
            return Resolving::Listed;
        };
        let Some(known) = known else {
            return Resolving::Listed;
        };
        let (site, cluster, known) = (Rc::clone(self), Arc::clone(cluster), Rc::clone(known));
        match site.resolved(&cluster, &known) {
            Ok(endpoints) => Resolving::Done(endpoints),
            Err(_) => Resolving::Waiting(Box::pin(async move {
                let deadline = Instant::now() + NAMES;
                loop {
                    match site.resolved(&cluster, &known) {
                        Ok(endpoints) => return endpoints,
                        Err(names) => {
                            if timeout_at(deadline, dns::any_answered(&names))
                                .await
                                .is_err()
                            {
                                return Rc::default();
                            }
                        }
                    }
                }
            })),
        }
    }

    /// The endpoints that names stand for, or the names that there is no answer for yet and nothing else.
    fn resolved(&self, cluster: &Cluster, known: &Known) -> Result<Rc<Endpoints>, Vec<Arc<Name>>> {
        let Discovery::Dns {
            names,
            every_address,
        } = &cluster.discovery
        else {
            return Ok(Rc::default());
        };
        let found = known.names(names, &self.worker.resolver);
        let own = self.pod().map(|pod| Reaches::from(&pod.addresses));
        let reaches = own.unwrap_or_else(|| Reaches::from(&[]));
        let endpoints = known.resolved(names, &found, *every_address, reaches);
        if !endpoints.is_empty() {
            return Ok(endpoints);
        }
        let unanswered = found.iter().filter(|name| name.serial() == 0);
        let unanswered: Vec<_> = unanswered.map(Arc::clone).collect();
        match unanswered.is_empty() {
            true => Ok(endpoints),
            false => Err(unanswered),
        }
    }

    /// Which endpoint of a cluster takes a request or connection.
    pub(in crate::proxy) fn endpoint(
        &self,
        cluster: &Cluster,
        known: Option<&Known>,
        choice: Choice<'_>,
    ) -> Option<SocketAddr> {
        let Choice {
            hash,
            tried,
            resolved,
        } = choice;
        let world = self.worker.world.load();
        let now = Now::of(known, |address| self.pool.load(address));
        self.as_client(&world, |client| {
            route::endpoint(
                cluster,
                resolved.unwrap_or(&cluster.endpoints),
                client,
                hash,
                tried,
                &now,
                &mut &*self.worker,
            )
        })
    }
}

impl Resolving {
    /// The endpoints, where the cluster does not list them.
    pub(in crate::proxy) async fn endpoints(self) -> Option<Rc<Endpoints>> {
        match self {
            Self::Listed => None,
            Self::Done(endpoints) => Some(endpoints),
            Self::Waiting(endpoints) => Some(endpoints.await),
        }
    }
}

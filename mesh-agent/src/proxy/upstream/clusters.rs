//! What a proxy remembers of the clusters that it talks to. A part of it is shared by all workers: how much is under way,
//! and how healthy the endpoints are. The rest is each worker's own.
//!
//! Clusters whose policy says nothing of these are not remembered at all: that is nearly every one, and costs nothing.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{
    Balancer, Cluster, ClusterKey, ConnectionPool, Discovery, Endpoint, Endpoints, NamedEndpoint,
    OutlierDetection, TrafficPolicy, Warmup,
};
use crate::proxy::dns::{Answer, Name, Resolver};
use crate::proxy::upstream::circuit::{Circuit, Kind, Permit};
use crate::proxy::upstream::health::{Health, Outcome};
use crate::route::Condition;

/// The clusters of one pod or gateway, for all workers.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Clusters(Mutex<HashMap<ClusterKey, Arc<Shared>>>);

/// What the workers share of one cluster.
#[derive(Debug, Default)]
struct Shared {
    circuit: Arc<Circuit>,
    health: Mutex<Health>,
    ages: Mutex<Arc<Ages>>,
}

/// Since when each endpoint has been there.
type Ages = HashMap<SocketAddr, Instant>;

/// The clusters of one pod or gateway on one worker.
#[derive(Debug)]
pub(in crate::proxy) struct Local {
    shared: Arc<Clusters>,
    known: RefCell<HashMap<ClusterKey, Rc<Known>>>,
    lanes: Cell<u32>,
}

/// One cluster on one worker.
#[derive(Debug)]
pub(in crate::proxy) struct Known {
    shared: Arc<Shared>,
    /// What holds for it now.
    policy: RefCell<Arc<TrafficPolicy>>,
    /// As what it was last seen.
    seen: RefCell<std::sync::Weak<Cluster>>,
    /// How many endpoints it has.
    members: Cell<usize>,
    /// Its names.
    names: RefCell<Rc<[Arc<Name>]>>,
    /// What they stand for.
    resolved: RefCell<Option<Resolved>>,
    lane: Cell<u32>,
    turn: Cell<u64>,
    used: Cell<bool>,
}

/// What the names of a cluster stand for.
#[derive(Debug)]
struct Resolved {
    /// By which answers.
    serials: Vec<u64>,
    reaches: Reaches,
    endpoints: Rc<Endpoints>,
}

/// Which addresses a pod can reach, by what its own are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Reaches {
    v4: bool,
    v6: bool,
}

/// What a balancer wants to know of the endpoints of one cluster, at one moment.
pub(in crate::proxy) struct Now<'a, L> {
    load: L,
    known: Option<&'a Known>,
    ejected: Vec<SocketAddr>,
    /// Where they matter; and what time it is.
    ages: Option<(Arc<Ages>, Instant)>,
}

impl Clusters {
    fn of(&self, key: &ClusterKey) -> Arc<Shared> {
        let mut clusters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(clusters.entry(key.clone()).or_default())
    }

    /// Forgets what no worker remembers.
    fn forget(&self, key: &ClusterKey) {
        let mut clusters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = |shared: &Arc<Shared>| Arc::strong_count(shared) == 1;
        if clusters.get(key).is_some_and(unused) {
            clusters.remove(key);
        }
    }
}

impl Local {
    pub(in crate::proxy) fn new(shared: Arc<Clusters>) -> Self {
        Self {
            shared,
            known: RefCell::default(),
            lanes: Cell::new(0),
        }
    }

    /// What is remembered of a cluster; `None` where its policy asks for nothing of that.
    pub(in crate::proxy) fn of(
        &self,
        cluster: &Arc<Cluster>,
        chance: impl FnOnce() -> u64,
    ) -> Option<Rc<Known>> {
        let named = matches!(cluster.discovery, Discovery::Dns { .. });
        if is_plain(&cluster.policy) && !named {
            return None;
        }
        let known = self.named(&cluster.key, &cluster.policy, chance);
        known.see(cluster);
        Some(known)
    }

    /// What is remembered of the pod's own application behind a port; `None` where it has no limits.
    pub(in crate::proxy) fn app(&self, port: u16, pool: &ConnectionPool) -> Option<Rc<Known>> {
        if *pool == ConnectionPool::default() {
            return None;
        }
        let key = ClusterKey {
            host: "inbound".into(),
            port,
            subset: None,
        };
        let known = self.known.borrow().get(&key).map(|known| known.policy());
        let policy = known.filter(|policy| policy.pool == *pool);
        let policy = policy.unwrap_or_else(|| {
            Arc::new(TrafficPolicy {
                pool: pool.clone(),
                ..TrafficPolicy::default()
            })
        });
        Some(self.named(&key, &policy, || 0))
    }

    /// What is remembered under a name, for a policy.
    fn named(
        &self,
        key: &ClusterKey,
        policy: &Arc<TrafficPolicy>,
        chance: impl FnOnce() -> u64,
    ) -> Rc<Known> {
        let mut clusters = self.known.borrow_mut();
        let known = match clusters.get(key) {
            Some(known) => Rc::clone(known),
            None => {
                let known = Rc::new(Known {
                    shared: self.shared.of(key),
                    policy: RefCell::new(Arc::clone(policy)),
                    seen: RefCell::default(),
                    members: Cell::default(),
                    names: RefCell::default(),
                    resolved: RefCell::default(),
                    lane: Cell::new(self.next_lane()),
                    turn: Cell::new(chance()),
                    used: Cell::new(true),
                });
                clusters.insert(key.clone(), Rc::clone(&known));
                known
            }
        };
        known.used.set(true);
        if !Arc::ptr_eq(&known.policy.borrow(), policy) {
            let before = known.policy.replace(Arc::clone(policy));
            // What was opened under another policy is not what this one asks for.
            if before.pool != policy.pool || before.tls != policy.tls {
                known.lane.set(self.next_lane());
            }
        }
        known
    }

    fn next_lane(&self) -> u32 {
        let lane = self.lanes.get().wrapping_add(1).max(1);
        self.lanes.set(lane);
        lane
    }

    /// The lanes that may still be used.
    pub(in crate::proxy) fn lanes(&self) -> HashSet<u32> {
        let known = self.known.borrow();
        known.values().map(|known| known.lane()).collect()
    }

    /// Forgets clusters that nobody has used since the last time and that are gone, or have nothing to be remembered of.
    pub(in crate::proxy) fn sweep(&self, is_there: impl Fn(&ClusterKey) -> bool) {
        let mut gone = Vec::new();
        self.known.borrow_mut().retain(|key, known| {
            let held = Rc::strong_count(known) > 1 || Arc::strong_count(known.circuit()) > 1;
            let keep = known.used.replace(false) || held || is_there(key);
            if !keep {
                gone.push(key.clone());
            }
            keep
        });
        for key in gone {
            self.shared.forget(&key);
        }
    }
}

impl Known {
    /// Connections of different lanes are not used for one another.
    pub(in crate::proxy) fn lane(&self) -> u32 {
        self.lane.get()
    }

    pub(in crate::proxy) fn circuit(&self) -> &Arc<Circuit> {
        &self.shared.circuit
    }

    /// The limits that hold now.
    pub(in crate::proxy) fn policy(&self) -> Arc<TrafficPolicy> {
        Arc::clone(&self.policy.borrow())
    }

    /// Leave for a connection that is relayed; `None` where there are too many.
    pub(in crate::proxy) fn connection(&self) -> Option<Permit> {
        let policy = self.policy.borrow();
        self.shared.circuit.permit(Kind::Connection, &policy.pool)
    }

    /// Takes note of what a request or connection came to.
    pub(in crate::proxy) fn report(&self, address: SocketAddr, outcome: Outcome) {
        let policy = self.policy.borrow();
        let Some(rules) = &policy.outliers else {
            return;
        };
        let mut health = self.health();
        let members = self.members.get();
        if health.report(rules, members, address, outcome, Instant::now()) {
            drop(health);
            tracing::info!(%address, ?outcome, "an endpoint is ejected: too many errors in a row");
        }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        let health = self.shared.health.lock();
        health.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a cluster that has changed.
    fn see(&self, cluster: &Arc<Cluster>) {
        if std::ptr::eq(self.seen.borrow().as_ptr(), Arc::as_ptr(cluster)) {
            return;
        }
        self.seen.replace(Arc::downgrade(cluster));
        self.names.replace(Rc::default());
        self.resolved.replace(None);
        if !matches!(cluster.discovery, Discovery::Dns { .. }) {
            self.see_endpoints(&cluster.endpoints);
        }
    }

    /// Takes note of endpoints that are new, and of those that are gone.
    fn see_endpoints(&self, endpoints: &Endpoints) {
        self.members
            .set(endpoints.len() + endpoints.unready().len());
        let policy = self.policy.borrow();
        let is_member = |address: SocketAddr| {
            let mut all = endpoints.iter().chain(endpoints.unready());
            all.any(|endpoint| endpoint.address == address)
        };
        if policy.outliers.is_some() {
            self.health().retain(is_member);
        }
        if warmup(&policy).is_some() {
            let now = Instant::now();
            let ages = self.shared.ages.lock();
            let mut ages = ages.unwrap_or_else(PoisonError::into_inner);
            let updated = endpoints.iter().map(|endpoint| {
                let since = ages.get(&endpoint.address).copied();
                (endpoint.address, since.unwrap_or(now))
            });
            *ages = Arc::new(updated.collect());
        }
    }

    /// The names of a cluster, kept up to date from the first time on that they are asked for.
    pub(in crate::proxy) fn names(
        &self,
        endpoints: &[NamedEndpoint],
        resolver: &Arc<Resolver>,
    ) -> Rc<[Arc<Name>]> {
        let names = Rc::clone(&self.names.borrow());
        if names.len() == endpoints.len() && names.iter().all(|name| name.is_kept()) {
            return names;
        }
        let name = |endpoint: &NamedEndpoint| resolver.name(&endpoint.name);
        let names: Rc<[_]> = endpoints.iter().map(name).collect();
        self.names.replace(Rc::clone(&names));
        self.resolved.replace(None);
        names
    }

    /// The endpoints that names stand for just now: with the addresses that are within reach.
    pub(in crate::proxy) fn resolved(
        &self,
        named: &[NamedEndpoint],
        names: &[Arc<Name>],
        every_address: bool,
        reaches: Reaches,
    ) -> Rc<Endpoints> {
        let serials = || names.iter().map(|name| name.serial());
        if let Some(resolved) = &*self.resolved.borrow()
            && resolved.reaches == reaches
            && serials().eq(resolved.serials.iter().copied())
        {
            return Rc::clone(&resolved.endpoints);
        }
        let serials = serials().collect();
        let endpoints = named.iter().zip(names).flat_map(|(endpoint, name)| {
            let addresses = reaches.of(&name.answer());
            let most = if every_address { addresses.len() } else { 1 };
            let port = endpoint.port;
            addresses
                .into_iter()
                .take(most)
                .map(move |address| Endpoint {
                    labels: endpoint.labels.clone(),
                    locality: endpoint.locality.clone(),
                    weight: endpoint.weight,
                    ..Endpoint::at(SocketAddr::new(address, port))
                })
        });
        let endpoints = Rc::new(endpoints.collect::<Endpoints>());
        self.see_endpoints(&endpoints);
        self.resolved.replace(Some(Resolved {
            serials,
            reaches,
            endpoints: Rc::clone(&endpoints),
        }));
        endpoints
    }

    fn ejected(&self, rules: &OutlierDetection, now: Instant) -> Vec<SocketAddr> {
        self.health().ejected_now(rules, now).collect()
    }
}

impl Reaches {
    /// A pod with these addresses.
    pub(in crate::proxy) fn from(own: &[IpAddr]) -> Self {
        let (v4, v6) = (
            own.iter().any(IpAddr::is_ipv4),
            own.iter().any(IpAddr::is_ipv6),
        );
        Self { v4, v6 }
    }

    /// The addresses to be tried: all of them where none is known to be within reach.
    fn of(self, answer: &Answer) -> Vec<IpAddr> {
        let v4 = answer.v4.iter().copied().map(IpAddr::V4);
        let v6 = answer.v6.iter().copied().map(IpAddr::V6);
        let within: Vec<IpAddr> = v4
            .clone()
            .filter(|_| self.v4)
            .chain(v6.clone().filter(|_| self.v6))
            .collect();
        match within.is_empty() {
            true => v4.chain(v6).collect(),
            false => within,
        }
    }
}

impl<'a, L: Fn(SocketAddr) -> u32> Now<'a, L> {
    /// `load` says how busy an endpoint is from here.
    pub(in crate::proxy) fn of(known: Option<&'a Known>, load: L) -> Self {
        let mut moment = Self {
            load,
            known,
            ejected: Vec::new(),
            ages: None,
        };
        if let Some(known) = known {
            let policy = known.policy.borrow();
            if let Some(rules) = &policy.outliers {
                moment.ejected = known.ejected(rules, Instant::now());
            }
            if warmup(&policy).is_some() {
                let ages = known.shared.ages.lock();
                let ages = Arc::clone(&ages.unwrap_or_else(PoisonError::into_inner));
                moment.ages = Some((ages, Instant::now()));
            }
        }
        moment
    }
}

impl<L: Fn(SocketAddr) -> u32> Condition for Now<'_, L> {
    fn load(&self, address: SocketAddr) -> u32 {
        (self.load)(address)
    }

    fn any_ejected(&self) -> bool {
        !self.ejected.is_empty()
    }

    fn is_ejected(&self, address: SocketAddr) -> bool {
        self.ejected.contains(&address)
    }

    fn age(&self, address: SocketAddr) -> Duration {
        let age = || {
            let (ages, now) = self.ages.as_ref()?;
            Some(now.saturating_duration_since(*ages.get(&address)?))
        };
        age().unwrap_or(Duration::MAX)
    }

    fn turn(&self) -> u64 {
        let Some(known) = self.known else {
            return 0;
        };
        let turn = known.turn.get();
        known.turn.set(turn.wrapping_add(1));
        turn
    }
}

/// Whether a policy asks for nothing that would have to be remembered.
fn is_plain(policy: &TrafficPolicy) -> bool {
    policy.outliers.is_none()
        && policy.pool == ConnectionPool::default()
        && warmup(policy).is_none()
        && !matches!(policy.balancer, Balancer::RoundRobin { .. })
}

fn warmup(policy: &TrafficPolicy) -> Option<Warmup> {
    match &policy.balancer {
        Balancer::LeastRequest { warmup } | Balancer::RoundRobin { warmup } => *warmup,
        Balancer::Random | Balancer::Hash { .. } => None,
    }
}

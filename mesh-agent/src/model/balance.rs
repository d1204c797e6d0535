//! How an endpoint is chosen: `trafficPolicy.loadBalancer` (`istio-routing.md` 2.3).

use std::sync::Arc;
use std::time::Duration;

use crate::model::HeaderSubject;

/// The load balancer of a cluster. `PASSTHROUGH` is no balancer: see [`crate::model::Discovery::Original`].
#[derive(Clone, Debug, PartialEq)]
pub enum Balancer {
    /// `LEAST_REQUEST`, the default: the less busy of two drawn by chance.
    LeastRequest {
        /// `warmup`.
        warmup: Option<Warmup>,
    },
    /// `ROUND_ROBIN`.
    RoundRobin {
        /// `warmup`.
        warmup: Option<Warmup>,
    },
    /// `RANDOM`.
    Random,
    /// `consistentHash`.
    Hash {
        /// What is hashed.
        key: HashKey,
        /// How a hash becomes an endpoint.
        ring: Ring,
    },
}

/// `warmup`: an endpoint that is new takes its full share only after a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// `duration` (or `warmupDurationSecs`).
    pub duration: Duration,
    /// `minimumPercent` of its share at the beginning; 10 by default.
    pub minimum_percent: f64,
    /// `aggression`; 1 is linear.
    pub aggression: f64,
}

/// What the routes to a cluster hash, whatever its own balancer is: of several destinations of a route each adds its own.
/// A request of which nothing is hashed goes to an endpoint drawn by chance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteHash {
    /// Where `destination.port` names the port, or no VirtualService is asked: the key of the subset's
    /// `portLevelSettings`, else the subset's, else that of the rule's `portLevelSettings`, else the rule's.
    pub at_port: Option<Arc<HashKey>>,
    /// Where the port is not named, and for what is not HTTP: the subset's key, else the rule's.
    pub at_any_port: Option<Arc<HashKey>>,
}

/// What a consistent hash is taken of. A request without it goes to an endpoint drawn by chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`, which may be one of HTTP/2's pseudo headers too.
    Header(HeaderSubject),
    /// `httpCookie`.
    Cookie {
        /// `name`.
        name: Arc<str>,
        /// `path` of a cookie that is made here.
        path: Option<Arc<str>>,
        /// `ttl`: where written, a request without the cookie is given one; zero is a session's.
        ttl: Option<Duration>,
        /// `attributes` of a cookie that is made here, with an empty value for a name alone.
        attributes: Vec<(Arc<str>, Arc<str>)>,
    },
    /// `useSourceIp`.
    SourceAddress,
    /// `httpQueryParameterName`.
    QueryParameter(Arc<str>),
}

/// The algorithm of a consistent hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// `ringHash`, the default.
    RingHash {
        /// `minimumRingSize`; 1024 by default.
        minimum_size: u64,
    },
    /// `maglev`.
    Maglev {
        /// `tableSize`, a prime; 65537 by default.
        table_size: u64,
    },
}

/// Which endpoints come first because of where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalityPolicy {
    /// All are equal: `enabled: false`, or nothing that would make failover active.
    #[default]
    Off,
    /// Endpoints of the client's own place first, the others only where those fail.
    Failover(Failover),
    /// `distribute`: by the client's place, which share each place takes; places that are not listed get nothing. The
    /// first entry whose `from` covers the client's place holds.
    Distribute(Vec<LocalityShare>),
}

/// The order of places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failover {
    /// Same region, zone and subzone first, then region and zone, then region, then the rest; with the `failover` list
    /// of regions: where the client is in the first, the second comes next and all others last.
    Regions(Vec<(Arc<str>, Arc<str>)>),
    /// `failoverPriority`: labels, in order, each with the value it must have or, without one, the client's.
    Labels(Vec<(Arc<str>, Option<Arc<str>>)>),
    /// Both: the labels decide, and among endpoints that they leave equal the regions do.
    LabelsThenRegions {
        /// As in `Labels`.
        labels: Vec<(Arc<str>, Option<Arc<str>>)>,
        /// As in `Regions`.
        regions: Vec<(Arc<str>, Arc<str>)>,
    },
}

/// One entry of `distribute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityShare {
    /// `from`: `region/zone/subzone`, with `*` for any or fewer parts.
    pub from: Arc<str>,
    /// `to`, with percentages.
    pub to: Vec<(Arc<str>, u32)>,
}

impl RouteHash {
    /// The same for every route.
    pub fn always(key: HashKey) -> Self {
        let key = Some(Arc::new(key));
        Self {
            at_port: key.clone(),
            at_any_port: key,
        }
    }
}

impl Default for Balancer {
    fn default() -> Self {
        Self::LeastRequest { warmup: None }
    }
}

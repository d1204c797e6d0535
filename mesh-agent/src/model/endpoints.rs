//! The endpoints of a cluster, and what balancing has worked out about them: kept with the list, for it holds as long as
//! the list does.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::model::{Endpoint, Locality};

/// The endpoints of a cluster: those that may be picked, which is what this derefs to, and those that are not ready.
/// Never changes; a new list is a new value. It belongs to one cluster, whose policy is behind all that is worked out.
#[derive(Default)]
pub struct Endpoints {
    ready: Vec<Endpoint>,
    unready: Vec<Endpoint>,
    plans: OnceLock<Box<Planned>>,
}

/// How clients that are alike choose among the endpoints.
#[derive(Debug)]
pub struct Plan {
    /// The most preferred first; never empty.
    pub tiers: Vec<Tier>,
    /// What each of them takes while no endpoint is ejected, in percent: 100 together.
    pub loads: Vec<u32>,
}

/// Endpoints that are as good as each other by where they are: a priority, in Envoy's words.
#[derive(Debug, Default)]
pub struct Tier {
    /// Its parts; more than one only where each place takes a share of its own (`distribute`).
    pub groups: Vec<Group>,
    /// How many of its endpoints are not ready: they count where the health of the tier is judged.
    pub unready: usize,
    /// For consistent hashes: made when it is first needed.
    pub table: OnceLock<HashTable>,
}

/// Endpoints that a balancer chooses among.
#[derive(Debug)]
pub struct Group {
    /// Its share, relative to those of the tier's other groups.
    pub share: u32,
    /// Who is in it.
    pub members: Members,
    /// How many of its endpoints are not ready.
    pub unready: usize,
    /// Whether all weigh the same.
    pub uniform: bool,
}

/// Which endpoints of a list.
#[derive(Debug, PartialEq, Eq)]
pub enum Members {
    /// All there are.
    All,
    /// These, by their places in the list.
    Some(Vec<u32>),
}

/// From a hash to an endpoint, by its place in the list.
#[derive(Debug)]
pub enum HashTable {
    /// `ringHash`: points on a ring, in order.
    Ring(Vec<(u64, u32)>),
    /// `maglev`: as many slots as the table is large.
    Maglev(Vec<u32>),
}

/// What a plan depends on in a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Viewpoint {
    /// Nothing: all clients have the same.
    Any,
    /// Where it is.
    Place(Option<Arc<Locality>>),
    /// Its labels: the values of those that `failoverPriority` looks at, in that order.
    Labels(Vec<Option<Arc<str>>>),
    /// Both.
    LabelsAndPlace(Vec<Option<Arc<str>>>, Option<Arc<Locality>>),
    /// The node that it runs on.
    Node(Option<Arc<str>>),
}

/// The plan of one viewpoint, and behind it those of others. Only ever grows, so readers take no lock.
struct Planned {
    viewpoint: Viewpoint,
    plan: Plan,
    next: OnceLock<Box<Planned>>,
}

impl Endpoints {
    /// The endpoints that may be picked, and those that are not ready.
    pub fn new(ready: Vec<Endpoint>, unready: Vec<Endpoint>) -> Self {
        Self {
            ready,
            unready,
            plans: OnceLock::new(),
        }
    }

    /// Those that are not ready. Nothing is sent to them; a place half of whose endpoints are not ready sends some of
    /// its requests elsewhere, though.
    pub fn unready(&self) -> &[Endpoint] {
        &self.unready
    }

    /// The plan of the viewpoint that `is` knows, made by `make` when it is first asked for.
    pub fn plan(
        &self,
        is: impl Fn(&Viewpoint) -> bool,
        make: impl Fn() -> (Viewpoint, Plan),
    ) -> &Plan {
        let mut slot = &self.plans;
        loop {
            let planned = slot.get_or_init(|| {
                let (viewpoint, plan) = make();
                Box::new(Planned {
                    viewpoint,
                    plan,
                    next: OnceLock::new(),
                })
            });
            if is(&planned.viewpoint) {
                return &planned.plan;
            }
            slot = &planned.next;
        }
    }
}

impl Deref for Endpoints {
    type Target = [Endpoint];

    fn deref(&self) -> &[Endpoint] {
        &self.ready
    }
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = &'a Endpoint;
    type IntoIter = std::slice::Iter<'a, Endpoint>;

    fn into_iter(self) -> Self::IntoIter {
        self.ready.iter()
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(ready: I) -> Self {
        Self::from(ready.into_iter().collect::<Vec<_>>())
    }
}

impl From<Vec<Endpoint>> for Endpoints {
    fn from(ready: Vec<Endpoint>) -> Self {
        Self::new(ready, Vec::new())
    }
}

impl Clone for Endpoints {
    fn clone(&self) -> Self {
        Self::new(self.ready.clone(), self.unready.clone())
    }
}

impl PartialEq for Endpoints {
    fn eq(&self, other: &Self) -> bool {
        self.ready == other.ready && self.unready == other.unready
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("ready", &self.ready)
            .field("unready", &self.unready)
            .finish_non_exhaustive()
    }
}

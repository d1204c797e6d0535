//! What must be done so that the enrolled pods are the wanted ones: a pure comparison.

use std::net::IpAddr;
use std::sync::Arc;

use crate::intercept::{PodListeners, Target};
use crate::model::{CapturePolicy, PodId};
use crate::netns::{NetNs, NetNsId};

/// A pod that ought to be enrolled.
pub(super) struct Wanted {
    pub(super) pod: PodId,
    pub(super) netns: Arc<NetNs>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) policy: CapturePolicy,
}

/// A pod that is enrolled, or leaving.
pub(super) struct Actual<'a> {
    pub(super) pod: &'a PodId,
    pub(super) netns: NetNsId,
    pub(super) addresses: &'a [IpAddr],
    pub(super) policy: &'a CapturePolicy,
    pub(super) draining: bool,
}

/// One thing to do; the numbers are positions in the two lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Not enrolled yet.
    Enrol(usize),
    /// Enrolled, but by other addresses or another policy, or on its way out.
    Update { wanted: usize, actual: usize },
    /// Enrolled, and nobody wants it.
    Withdraw(usize),
}

impl Step {
    /// Which wanted pod it is about.
    pub(super) fn wanted(&self) -> Option<usize> {
        match self {
            Self::Enrol(index) | Self::Update { wanted: index, .. } => Some(*index),
            Self::Withdraw(_) => None,
        }
    }
}

/// A pod is told by its namespace, not by its name or address: those are used again, the inode of a namespace that we
/// hold open is not. Leaving comes before joining, so that a recreated pod never meets its predecessor.
pub(super) fn plan(wanted: &[Wanted], actual: &[Actual<'_>]) -> Vec<Step> {
    let same = |w: &Wanted, a: &Actual<'_>| w.netns.id() == a.netns && &w.pod == a.pod;
    let leaving = actual
        .iter()
        .enumerate()
        .filter(|(_, a)| !a.draining && !wanted.iter().any(|w| same(w, a)))
        .map(|(index, _)| Step::Withdraw(index));
    let joining = wanted.iter().enumerate().filter_map(|(index, w)| {
        match actual.iter().enumerate().find(|(_, a)| same(w, a)) {
            None => Some(Step::Enrol(index)),
            Some((_, a)) if !a.draining && a.addresses == w.addresses && a.policy == &w.policy => {
                None
            }
            Some((position, _)) => Some(Step::Update {
                wanted: index,
                actual: position,
            }),
        }
    });
    leaving.chain(joining).collect()
}

impl Wanted {
    pub(super) fn target<'a>(&'a self, listeners: &'a PodListeners) -> Target<'a> {
        Target {
            pod: &self.pod,
            netns: &self.netns,
            addresses: &self.addresses,
            policy: &self.policy,
            listeners,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodId {
        PodId {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn wanted(name: &str, netns: &Arc<NetNs>) -> Wanted {
        Wanted {
            pod: pod(name),
            netns: Arc::clone(netns),
            addresses: vec![[10, 0, 0, 1].into()],
            policy: CapturePolicy::default(),
        }
    }

    /// A pod as `wanted` enrols it.
    fn actual<'a>(wanted: &'a Wanted) -> Actual<'a> {
        Actual {
            pod: &wanted.pod,
            netns: wanted.netns.id(),
            addresses: &wanted.addresses,
            policy: &wanted.policy,
            draining: false,
        }
    }

    fn here() -> Arc<NetNs> {
        Arc::new(NetNs::current().expect("/proc shows the namespace"))
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let w = wanted("a", &here());
        assert_eq!(plan(std::slice::from_ref(&w), &[actual(&w)]), []);
    }

    #[test]
    fn new_pods_join_and_unwanted_ones_leave_first() {
        let netns = here();
        let (old, new) = (wanted("old", &netns), wanted("new", &netns));
        assert_eq!(
            plan(&[new], &[actual(&old)]),
            [Step::Withdraw(0), Step::Enrol(0)]
        );
    }

    #[test]
    fn a_namesake_in_another_namespace_is_another_pod() {
        let w = wanted("a", &here());
        let mut before = actual(&w);
        before.netns.inode += 1;
        assert_eq!(
            plan(std::slice::from_ref(&w), &[before]),
            [Step::Withdraw(0), Step::Enrol(0)]
        );
    }

    #[test]
    fn other_addresses_or_another_policy_update_in_place() {
        let w = wanted("a", &here());
        let addresses = [IpAddr::from([10, 0, 0, 2])];
        let mut before = actual(&w);
        before.addresses = &addresses;
        assert_eq!(
            plan(std::slice::from_ref(&w), &[before]),
            [Step::Update {
                wanted: 0,
                actual: 0
            }]
        );

        let policy = CapturePolicy {
            exclude_outbound_ports: vec![3306],
            ..CapturePolicy::default()
        };
        let mut before = actual(&w);
        before.policy = &policy;
        assert_eq!(
            plan(std::slice::from_ref(&w), &[before]),
            [Step::Update {
                wanted: 0,
                actual: 0
            }]
        );
    }

    #[test]
    fn a_leaving_pod_is_taken_back_or_left_to_leave() {
        let w = wanted("a", &here());
        let leaving = || Actual {
            draining: true,
            ..actual(&w)
        };
        assert_eq!(
            plan(std::slice::from_ref(&w), &[leaving()]),
            [Step::Update {
                wanted: 0,
                actual: 0
            }]
        );
        assert_eq!(plan(&[], &[leaving()]), []);
    }
}

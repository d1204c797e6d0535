//! Endpoints that a choice is made among, and who of them is left out.

use std::net::SocketAddr;

use crate::model::{Endpoint, Endpoints, Group, Members, Tier};
use crate::route::Condition;

/// Endpoints that the last step chooses among.
#[derive(Clone, Copy)]
pub(super) struct Candidates<'a> {
    pub(super) endpoints: &'a Endpoints,
    pub(super) members: &'a Members,
    /// Whether all weigh the same.
    pub(super) uniform: bool,
    /// Who is left out.
    pub(super) without: Without<'a>,
}

/// Who is left out of a choice.
#[derive(Clone, Copy)]
pub(super) struct Without<'a> {
    /// Those that are ejected.
    pub(super) ejected: Option<&'a dyn Condition>,
    /// Those that were tried.
    pub(super) tried: &'a [SocketAddr],
}

impl<'a> Candidates<'a> {
    /// All of them that are not left out.
    pub(in crate::route::balance) fn iter(&self) -> impl Iterator<Item = &'a Endpoint> {
        let (endpoints, without) = (self.endpoints, self.without);
        self.members
            .of(endpoints)
            .filter(move |endpoint| without.leaves_in(endpoint))
    }

    pub(in crate::route::balance) fn usable(&self) -> usize {
        match self.without.leaves_all_in() {
            true => self.members.count(self.endpoints),
            false => self.iter().count(),
        }
    }

    pub(in crate::route::balance) fn nth(&self, index: usize) -> Option<&'a Endpoint> {
        match (self.members, self.without.leaves_all_in()) {
            (Members::All, true) => self.endpoints.get(index),
            (Members::Some(places), true) => self.endpoints.get(*places.get(index)? as usize),
            (Members::All | Members::Some(_), false) => self.iter().nth(index),
        }
    }

    /// The one in whose part of the sum of weights `point` is.
    pub(in crate::route::balance) fn at(
        &self,
        mut point: u64,
        weight: impl Fn(&Endpoint) -> u64,
    ) -> Option<&'a Endpoint> {
        self.iter().find(|endpoint| {
            let weight = weight(endpoint);
            let hit = point < weight;
            point = point.saturating_sub(weight);
            hit
        })
    }
}

impl Without<'_> {
    pub(in crate::route::balance) fn leaves_all_in(self) -> bool {
        self.ejected.is_none() && self.tried.is_empty()
    }

    pub(in crate::route::balance) fn leaves_in(self, endpoint: &Endpoint) -> bool {
        !self.tried.contains(&endpoint.address)
            && self
                .ejected
                .is_none_or(|condition| !condition.is_ejected(endpoint.address))
    }
}

impl Members {
    pub(in crate::route::balance) fn of<'a>(
        &'a self,
        endpoints: &'a Endpoints,
    ) -> impl Iterator<Item = &'a Endpoint> {
        let (all, some) = match self {
            Self::All => (&**endpoints, &[][..]),
            Self::Some(places) => (&[][..], places.as_slice()),
        };
        all.iter()
            .chain(some.iter().map(|place| &endpoints[*place as usize]))
    }

    /// Their places in the list.
    pub(in crate::route::balance) fn places<'a>(
        &'a self,
        endpoints: &Endpoints,
    ) -> impl Iterator<Item = u32> + use<'a> {
        let all = match self {
            Self::All => u32::try_from(endpoints.len()).unwrap_or(u32::MAX),
            Self::Some(_) => 0,
        };
        let some = match self {
            Self::All => &[][..],
            Self::Some(places) => places.as_slice(),
        };
        (0..all).chain(some.iter().copied())
    }

    pub(in crate::route::balance) fn count(&self, endpoints: &Endpoints) -> usize {
        match self {
            Self::All => endpoints.len(),
            Self::Some(places) => places.len(),
        }
    }
}

impl Group {
    pub(in crate::route::balance) fn candidates<'a>(
        &'a self,
        endpoints: &'a Endpoints,
        without: Without<'a>,
    ) -> Candidates<'a> {
        Candidates {
            endpoints,
            members: &self.members,
            uniform: self.uniform,
            without,
        }
    }

    pub(in crate::route::balance) fn count(&self, endpoints: &Endpoints) -> usize {
        self.members.count(endpoints)
    }
}

impl Tier {
    pub(in crate::route::balance) fn count(&self, endpoints: &Endpoints) -> usize {
        self.groups.iter().map(|group| group.count(endpoints)).sum()
    }

    /// The unready among them.
    pub(in crate::route::balance) fn total(&self, endpoints: &Endpoints) -> usize {
        self.count(endpoints) + self.unready
    }

    pub(in crate::route::balance) fn usable(
        &self,
        endpoints: &Endpoints,
        without: Without<'_>,
    ) -> usize {
        self.groups
            .iter()
            .map(|group| group.candidates(endpoints, without).usable())
            .sum()
    }

    pub(in crate::route::balance) fn has_any(
        &self,
        endpoints: &Endpoints,
        without: Without<'_>,
    ) -> bool {
        self.groups.iter().any(|group| {
            let mut usable = group.members.of(endpoints);
            usable.any(|endpoint| without.leaves_in(endpoint))
        })
    }

    pub(in crate::route::balance) fn has(
        &self,
        endpoints: &Endpoints,
        address: SocketAddr,
    ) -> bool {
        self.groups.iter().any(|group| {
            let mut members = group.members.of(endpoints);
            members.any(|endpoint| endpoint.address == address)
        })
    }
}

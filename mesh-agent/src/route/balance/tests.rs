//! Choices by tables: who is there, what is known of them, what chance says, and who is taken.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::model::{
    ClusterKey, Discovery, Failover, HashKey, HeaderSubject, Labels, Locality, LocalityPolicy,
    LocalityShare, OutlierDetection, Pod, PodId, Protocol, Ring, TrafficPolicy,
};
use crate::route::Request;
use crate::route::tests::{Seeded, Told};

/// What is known of the endpoints, as a test has it.
#[derive(Default)]
struct Known {
    load: HashMap<SocketAddr, u32>,
    ejected: HashSet<SocketAddr>,
    age: HashMap<SocketAddr, Duration>,
    turn: std::cell::Cell<u64>,
}

impl Condition for Known {
    fn load(&self, address: SocketAddr) -> u32 {
        self.load.get(&address).copied().unwrap_or(0)
    }

    fn any_ejected(&self) -> bool {
        !self.ejected.is_empty()
    }

    fn is_ejected(&self, address: SocketAddr) -> bool {
        self.ejected.contains(&address)
    }

    fn age(&self, address: SocketAddr) -> Duration {
        self.age.get(&address).copied().unwrap_or(Duration::MAX)
    }

    fn turn(&self) -> u64 {
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        turn
    }
}

/// A cluster under test, with what is known of it.
struct Bed {
    cluster: Cluster,
    client: Pod,
    known: Known,
    tried: Vec<SocketAddr>,
    hash: Option<u64>,
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn place(text: &str) -> Option<Arc<Locality>> {
    let mut parts = text.split('/').map(Arc::from);
    let mut part = || parts.next().unwrap_or_default();
    let (region, zone, subzone) = (part(), part(), part());
    Some(Arc::new(Locality {
        region,
        zone,
        subzone,
    }))
}

impl Bed {
    fn new(balancer: Balancer, endpoints: impl Into<Endpoints>) -> Self {
        let policy = TrafficPolicy {
            balancer,
            ..TrafficPolicy::default()
        };
        let cluster = Cluster {
            key: ClusterKey {
                host: "a".into(),
                port: 80,
                subset: None,
            },
            protocol: Protocol::Http,
            discovery: Discovery::Listed,
            endpoints: endpoints.into(),
            policy: Arc::new(policy),
        };
        Self {
            cluster,
            client: Pod::new(PodId {
                namespace: "default".into(),
                name: "client".into(),
            }),
            known: Known::default(),
            tried: Vec::new(),
            hash: None,
        }
    }

    /// So many endpoints, all alike: 10.0.0.0, 10.0.0.1 and so on.
    fn even(balancer: Balancer, count: u8) -> Self {
        let endpoints: Vec<_> = (0..count).map(|last| Endpoint::at(address(last))).collect();
        Self::new(balancer, endpoints)
    }

    fn weighted(balancer: Balancer, weights: &[u32]) -> Self {
        let endpoints = (0..).zip(weights).map(|(last, weight)| Endpoint {
            weight: *weight,
            ..Endpoint::at(address(last))
        });
        Self::new(balancer, endpoints.collect::<Vec<_>>())
    }

    /// One endpoint at each place.
    fn at_places(policy: &LocalityPolicy, places: &[&str]) -> Self {
        let endpoints = (0..).zip(places).map(|(last, text)| Endpoint {
            locality: place(text),
            ..Endpoint::at(address(last))
        });
        Self::new(
            Balancer::RoundRobin { warmup: None },
            endpoints.collect::<Vec<_>>(),
        )
        .with(|policy_| policy_.locality = policy.clone())
    }

    fn with(mut self, change: impl Fn(&mut TrafficPolicy)) -> Self {
        let mut policy = TrafficPolicy::clone(&self.cluster.policy);
        change(&mut policy);
        self.cluster.policy = Arc::new(policy);
        self
    }

    fn ejecting(self, min_health_percent: u32) -> Self {
        self.with(|policy| {
            policy.outliers = Some(OutlierDetection {
                min_health_percent,
                ..OutlierDetection::default()
            });
        })
    }

    fn from(mut self, at: &str) -> Self {
        self.client.locality = place(at);
        self
    }

    fn eject(&mut self, last: impl IntoIterator<Item = u8>) {
        self.known.ejected.extend(last.into_iter().map(address));
    }

    fn choose(&self, pick: &mut dyn Pick) -> Option<SocketAddr> {
        endpoint(
            &self.cluster,
            &self.cluster.endpoints,
            &Client::Pod(&self.client),
            self.hash,
            Tried {
                endpoints: &self.tried,
                tiers: false,
            },
            &self.known,
            pick,
        )
    }

    /// Whom the choice falls on when chance says this, in this order, and no more.
    fn told(&self, draws: &[u64]) -> Option<u8> {
        let mut told = Told(draws.to_vec());
        let chosen = self.choose(&mut told);
        assert_eq!(told.0, Vec::<u64>::new(), "draws that nobody asked for");
        chosen.map(last)
    }

    /// How often each is taken in so many choices, by chance.
    fn shares(&self, choices: u32) -> BTreeMap<u8, u32> {
        let mut chance = Seeded(fastrand::Rng::with_seed(7));
        let mut shares = BTreeMap::new();
        for _ in 0..choices {
            let chosen = self.choose(&mut chance).expect("there is an endpoint");
            *shares.entry(last(chosen)).or_default() += 1;
        }
        shares
    }

    /// As `shares`, in percent.
    fn percent(&self) -> Vec<(u8, u32)> {
        let shares = self.shares(100_000);
        shares
            .into_iter()
            .map(|(last, count)| (last, (count + 500) / 1000))
            .collect()
    }
}

fn last(address: SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(address) => address.ip().octets()[3],
        SocketAddr::V6(_) => panic!("an IPv6 address where none was given"),
    }
}

fn near(found: &[(u8, u32)], expected: &[(u8, u32)]) {
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((last, found_share), (expected_last, share)) in found.iter().zip(expected) {
        assert_eq!(last, expected_last, "{found:?}");
        assert!(
            found_share.abs_diff(*share) <= 1,
            "{found:?}, not {expected:?}"
        );
    }
}

const LEAST_REQUEST: Balancer = Balancer::LeastRequest { warmup: None };
const ROUND_ROBIN: Balancer = Balancer::RoundRobin { warmup: None };

fn ring(minimum_size: u64) -> Balancer {
    Balancer::Hash {
        key: HashKey::SourceAddress,
        ring: Ring::RingHash { minimum_size },
    }
}

fn maglev(table_size: u64) -> Balancer {
    Balancer::Hash {
        key: HashKey::SourceAddress,
        ring: Ring::Maglev { table_size },
    }
}

#[test]
fn the_less_busy_of_two_is_taken() {
    let bed = |count| Bed::even(LEAST_REQUEST, count);
    assert_eq!(bed(0).told(&[]), None);
    assert_eq!(bed(1).told(&[]), Some(0));
    let mut three = bed(3);
    three.known.load.insert(address(0), 1);
    assert_eq!(three.told(&[0, 0]), Some(1));
    assert_eq!(three.told(&[2, 0]), Some(2));
    assert_eq!(three.told(&[1, 0]), Some(1));
    near(&bed(3).percent(), &[(0, 33), (1, 33), (2, 33)]);
}

#[test]
fn what_was_tried_is_avoided_while_there_is_another() {
    let mut one = Bed::even(LEAST_REQUEST, 1);
    one.tried = vec![address(0)];
    assert_eq!(one.told(&[]), Some(0));
    let mut two = Bed::even(LEAST_REQUEST, 2);
    two.known.load.insert(address(0), 9);
    two.tried = vec![address(1)];
    assert_eq!(two.told(&[]), Some(0));
    two.tried = vec![address(0), address(1)];
    assert_eq!(two.told(&[0, 0]), Some(1));
    for balancer in [Balancer::Random, ROUND_ROBIN, ring(64), maglev(97)] {
        let mut three = Bed::even(balancer, 3);
        three.tried = vec![address(0), address(2)];
        three.hash = Some(3);
        assert_eq!(three.shares(100), BTreeMap::from([(1, 100)]));
    }
}

#[test]
fn weights_are_shares() {
    for balancer in [LEAST_REQUEST, ROUND_ROBIN] {
        let bed = Bed::weighted(balancer, &[1, 3, 6]);
        near(&bed.percent(), &[(0, 10), (1, 30), (2, 60)]);
    }
    // A random balancer knows no weights, as with Envoy.
    let bed = Bed::weighted(Balancer::Random, &[1, 3, 6]);
    near(&bed.percent(), &[(0, 33), (1, 33), (2, 33)]);
}

#[test]
fn who_is_busy_for_its_weight_is_passed_over() {
    let mut bed = Bed::weighted(LEAST_REQUEST, &[1, 3]);
    bed.known.load.extend([(address(0), 2), (address(1), 5)]);
    // 2/1 against 5/3.
    assert_eq!(bed.told(&[0, 0]), Some(1));
    assert_eq!(bed.told(&[1, 0]), Some(1));
    bed.known.load.insert(address(1), 7);
    assert_eq!(bed.told(&[1, 0]), Some(0));
}

#[test]
fn round_robin_takes_turns() {
    let bed = Bed::even(ROUND_ROBIN, 3);
    let turns: Vec<_> = (0..6).map(|_| bed.told(&[])).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2].map(Some));
    let bed = Bed::weighted(ROUND_ROBIN, &[5, 1, 1]);
    for _ in 0..3 {
        let mut round: Vec<_> = (0..7).filter_map(|_| bed.told(&[])).collect();
        round.sort_unstable();
        assert_eq!(round, [0, 0, 0, 0, 0, 1, 2]);
    }
    let mut bed = Bed::even(ROUND_ROBIN, 3).ejecting(0);
    bed.eject([1]);
    let turns: Vec<_> = (0..4).map(|_| bed.told(&[])).collect();
    assert_eq!(turns, [0, 2, 0, 2].map(Some));
}

#[test]
fn the_ejected_get_nothing_even_where_all_are() {
    for balancer in [
        LEAST_REQUEST,
        ROUND_ROBIN,
        Balancer::Random,
        ring(64),
        maglev(97),
    ] {
        let mut bed = Bed::even(balancer, 4).ejecting(0);
        bed.eject([0, 2]);
        bed.hash = Some(5);
        let shares = bed.shares(200);
        assert!(
            shares.keys().all(|last| [1, 3].contains(last)),
            "{shares:?}"
        );
        bed.eject([1, 3]);
        let mut chance = Seeded(fastrand::Rng::with_seed(7));
        assert_eq!(bed.choose(&mut chance), None);
    }
}

#[test]
fn with_too_few_healthy_ones_all_take_part() {
    let mut bed = Bed::even(ROUND_ROBIN, 10).ejecting(50);
    bed.eject(0..5);
    assert_eq!(bed.shares(100).len(), 5);
    bed.eject([5]);
    assert_eq!(bed.shares(100).len(), 10);
    bed.eject(0..10);
    assert_eq!(bed.shares(100).len(), 10);
    // As long as the overprovisioning covers it, there is no panic, whatever the threshold.
    let mut bed = Bed::even(ROUND_ROBIN, 10).ejecting(90);
    bed.eject(0..2);
    assert_eq!(bed.shares(100).len(), 8);
    bed.eject([2]);
    assert_eq!(bed.shares(100).len(), 10);
}

#[test]
fn the_new_warm_up() {
    let warmup = Some(Warmup {
        duration: Duration::from_secs(100),
        minimum_percent: 10.0,
        aggression: 1.0,
    });
    for balancer in [
        Balancer::LeastRequest { warmup },
        Balancer::RoundRobin { warmup },
    ] {
        for (age, expected) in [(0, 9), (5, 9), (50, 33), (100, 50), (1000, 50)] {
            let mut bed = Bed::even(balancer.clone(), 2);
            bed.known.age.insert(address(0), Duration::from_secs(age));
            near(&bed.percent(), &[(0, expected), (1, 100 - expected)]);
        }
    }
    let eager = Warmup {
        duration: Duration::from_secs(100),
        minimum_percent: 10.0,
        aggression: 2.0,
    };
    assert_eq!(warmth(&eager, Duration::from_secs(25)), 500);
    assert_eq!(warmth(&eager, Duration::ZERO), 100);
}

#[test]
fn strides_visit_every_place() {
    for total in (1..2000).chain([65_536, 1_000_000, u64::from(u32::MAX)]) {
        assert!(coprime(stride(total), total), "{total}");
    }
}

#[test]
fn the_ring_is_envoys() {
    // The points that Envoy 1.40 has for these six endpoints, with two each.
    let points = [
        (833_437_586_790_550_860, 94),
        (928_266_305_478_181_108, 92),
        (1_033_482_794_131_418_490, 90),
        (3_551_244_743_356_806_947, 95),
        (3_851_675_632_748_031_481, 93),
        (5_583_722_120_771_150_861, 91),
        (6_311_230_543_546_372_928, 91),
        (7_700_377_290_971_790_572, 93),
        (13_144_177_310_400_110_813, 95),
        (13_444_792_449_719_432_967, 92),
        (15_516_499_411_664_133_160, 94),
        (16_117_243_373_044_804_889, 90),
    ];
    let mut bed = Bed::new(ring(12), local_ports());
    let mut check = |hash: u64, port: u16| {
        bed.hash = Some(hash);
        let chosen = bed.choose(&mut Told(vec![])).map(|address| address.port());
        assert_eq!(chosen, Some(port), "{hash}");
    };
    for (index, (point, port)) in points.into_iter().enumerate() {
        check(point, port);
        check(point - 1, port);
        check(point + 1, points[(index + 1) % points.len()].1);
    }
    check(0, 94);
    check(u64::MAX, 94);
}

#[test]
fn maglevs_table_is_envoys() {
    let mut bed = Bed::new(maglev(7), local_ports());
    for (slot, port) in [92, 94, 90, 91, 95, 90, 93].into_iter().enumerate() {
        bed.hash = Some(slot as u64 + 7 * 11);
        let chosen = bed.choose(&mut Told(vec![])).map(|address| address.port());
        assert_eq!(chosen, Some(port), "{slot}");
    }
}

fn local_ports() -> Vec<Endpoint> {
    (90..96)
        .map(|port| Endpoint::at(SocketAddr::from(([127, 0, 0, 1], port))))
        .collect()
}

#[test]
fn hashes_follow_weights_and_move_little() {
    for balancer in [ring(4096), maglev(65_537)] {
        let bed = Bed::weighted(balancer.clone(), &[1, 2, 5]);
        let percent = bed.percent();
        for ((_, found), expected) in percent.iter().zip([12_u32, 25, 63]) {
            assert!(found.abs_diff(expected) <= 3, "{percent:?}");
        }
        let where_to = |bed: &mut Bed| -> Vec<u8> {
            (0..1000_u64)
                .filter_map(|request| {
                    bed.hash = Some(hash_of_text(&request.to_string()));
                    bed.choose(&mut Told(vec![])).map(last)
                })
                .collect()
        };
        let mut bed = Bed::even(balancer, 5).ejecting(0);
        let before = where_to(&mut bed);
        bed.eject([3]);
        let after = where_to(&mut bed);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == 3, "{before} became {after}");
            assert_ne!(*after, 3);
        }
    }
}

#[test]
fn without_a_hash_chance_stands_in() {
    for balancer in [ring(1024), maglev(65_537)] {
        let bed = Bed::even(balancer, 4);
        let percent = bed.percent();
        assert_eq!(percent.len(), 4);
        assert!(
            percent.iter().all(|(_, share)| (18..33).contains(share)),
            "{percent:?}"
        );
    }
}

fn regions(list: &[(&str, &str)]) -> LocalityPolicy {
    let list = list.iter().map(|(from, to)| ((*from).into(), (*to).into()));
    LocalityPolicy::Failover(Failover::Regions(list.collect()))
}

#[test]
fn the_nearest_come_first() {
    let places = ["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1", "r3/z1/s1"];
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], &'a [u8]);
    let cases: [Case<'_>; 6] = [
        (&[], &[], &[0]),
        (&[], &[0], &[1]),
        (&[], &[0, 1], &[2]),
        (&[], &[0, 1, 2], &[3, 4]),
        (&[("r1", "r3")], &[0, 1, 2], &[4]),
        (&[("r1", "r3")], &[0, 1, 2, 4], &[3]),
    ];
    for (failover, ejected, expected) in cases {
        let mut bed = Bed::at_places(&regions(failover), &places)
            .from("r1/z1/s1")
            .ejecting(0);
        bed.eject(ejected.iter().copied());
        let taken: Vec<u8> = bed.shares(50).into_keys().collect();
        assert_eq!(taken, expected, "{failover:?} {ejected:?}");
    }
    // A region of another name that lists nothing for it: the rest are equals.
    let bed = Bed::at_places(&regions(&[("r1", "r3")]), &places).from("r9");
    assert_eq!(bed.shares(50).len(), 5);
    // Nobody knows where the client is, and nobody where the endpoints are.
    let bed = Bed::at_places(&regions(&[]), &["", ""]);
    assert_eq!(bed.shares(50).len(), 2);
}

#[test]
fn a_tier_that_is_not_well_shares_with_the_next() {
    // Ten here and ten in the next zone.
    let places: Vec<&str> = [["r/a"; 10], ["r/b"; 10]].concat();
    for (sick, here) in [(0, 100), (2, 100), (3, 98), (5, 70), (9, 14), (10, 0)] {
        let mut bed = Bed::at_places(&regions(&[]), &places)
            .from("r/a")
            .ejecting(0);
        bed.eject(0..sick);
        let shares = bed.shares(10_000);
        let at_home: u32 = shares.range(..10).map(|(_, count)| count).sum();
        assert!(
            at_home.abs_diff(here * 100) <= 150,
            "{sick} ejected: {at_home} of 10,000"
        );
    }
    // Those that are not ready count as sick.
    let endpoint = |last: u8, at: &str| Endpoint {
        locality: place(at),
        ..Endpoint::at(address(last))
    };
    let ready = vec![endpoint(0, "r/a"), endpoint(1, "r/b")];
    let mut bed =
        Bed::new(ROUND_ROBIN, ready.clone()).with(|policy| policy.locality = regions(&[]));
    bed.cluster.endpoints = Endpoints::new(ready, vec![endpoint(2, "r/a")]);
    let bed = bed.from("r/a");
    near(&bed.percent(), &[(0, 70), (1, 30)]);
    let plan = plan(
        &bed.cluster,
        &bed.cluster.endpoints,
        &Client::Pod(&bed.client),
    );
    assert_eq!(plan.loads, [70, 30]);
}

#[test]
fn where_all_tiers_panic_they_share_by_size() {
    let places: Vec<&str> = [["r/a"; 8], ["r/b"; 8]].concat()[..12].to_vec();
    let mut bed = Bed::at_places(&regions(&[]), &places)
        .from("r/a")
        .ejecting(50);
    bed.eject(0..12);
    let shares = bed.shares(10_000);
    assert_eq!(shares.len(), 12);
    let at_home: u32 = shares.range(..8).map(|(_, count)| count).sum();
    assert!(at_home.abs_diff(6_700) <= 150, "{shares:?}");
}

#[test]
fn clients_of_other_places_have_other_plans() {
    let mut bed = Bed::at_places(&regions(&[]), &["r/a", "r/b", "r/c"]).ejecting(0);
    for (from, expected) in [("r/a", 0), ("r/b", 1), ("r/a", 0), ("r/c", 2)] {
        bed.client.locality = place(from);
        assert_eq!(bed.shares(20), BTreeMap::from([(expected, 20)]), "{from}");
    }
    bed.client.locality = None;
    assert_eq!(bed.shares(20).len(), 3);
}

#[test]
fn failover_by_labels() {
    type Wanted<'a> = &'a [(&'a str, Option<&'a str>)];
    let labels = |text: &str| -> Labels {
        text.split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    };
    let endpoints: Vec<Endpoint> = (0..)
        .zip(["k=1,v=1", "k=1,v=2", "k=2,v=1", "k=2,v=2", ""])
        .map(|(last, text)| Endpoint {
            labels: Some(Arc::new(labels(text))),
            ..Endpoint::at(address(last))
        })
        .collect();
    let wanted = |list: &[(&str, Option<&str>)]| {
        let list = list
            .iter()
            .map(|(key, value)| ((*key).into(), value.map(Into::into)));
        LocalityPolicy::Failover(Failover::Labels(list.collect()))
    };
    let both: Wanted<'_> = &[("k", None), ("v", None)];
    let fixed: Wanted<'_> = &[("k", Some("2"))];
    let cases: [(Wanted<'_>, &str, &[u8], &[u8]); 7] = [
        (both, "k=1,v=1", &[], &[0]),
        (both, "k=1,v=1", &[0], &[1]),
        // What fits after the first misfit counts for nothing.
        (both, "k=1,v=1", &[0, 1], &[2, 3, 4]),
        (both, "k=9,v=1", &[], &[0, 1, 2, 3, 4]),
        (fixed, "k=1", &[], &[2, 3]),
        (fixed, "k=1", &[2, 3], &[0, 1, 4]),
        // Lacking a label is having none.
        (&[("x", None)], "k=1", &[], &[0, 1, 2, 3, 4]),
    ];
    for (list, own, ejected, expected) in cases {
        let mut bed = Bed::new(ROUND_ROBIN, endpoints.clone())
            .with(|policy| policy.locality = wanted(list))
            .ejecting(0);
        bed.client.labels = Arc::new(labels(own));
        bed.eject(ejected.iter().copied());
        let taken: Vec<u8> = bed.shares(50).into_keys().collect();
        assert_eq!(taken, expected, "{list:?} {own} {ejected:?}");
    }
    // Istio gives everyone labels that say where it is.
    let mut bed = Bed::at_places(
        &wanted(&[("topology.kubernetes.io/zone", None)]),
        &["r/a", "r/b"],
    );
    bed.client.locality = place("r/b");
    assert_eq!(bed.shares(20), BTreeMap::from([(1, 20)]));
}

#[test]
fn shares_of_places() {
    let to = |list: &[(&str, u32)]| -> Vec<(Arc<str>, u32)> {
        list.iter()
            .map(|(to, share)| ((*to).into(), *share))
            .collect()
    };
    let policy = LocalityPolicy::Distribute(vec![
        LocalityShare {
            from: "r/a/*".into(),
            to: to(&[("r/a/*", 80), ("r/b/*", 20)]),
        },
        LocalityShare {
            from: "r/*".into(),
            to: to(&[("*", 100)]),
        },
    ]);
    let places = ["r/a/1", "r/a/2", "r/b/1", "r/c/1"];
    for (from, expected) in [
        ("r/a/1", vec![(0, 40), (1, 40), (2, 20)]),
        ("r/z/1", vec![(0, 25), (1, 25), (2, 25), (3, 25)]),
        ("elsewhere", vec![(0, 25), (1, 25), (2, 25), (3, 25)]),
    ] {
        for balancer in [LEAST_REQUEST, ROUND_ROBIN, Balancer::Random, maglev(65_537)] {
            let bed = Bed::at_places(&policy, &places)
                .with(|policy| policy.balancer = balancer.clone())
                .from(from);
            near(&bed.percent(), &expected);
        }
    }
    // Half of a place's endpoints leave it 70 percent of its share.
    let mut bed = Bed::at_places(&policy, &places).from("r/a/1").ejecting(0);
    bed.eject([0]);
    near(&bed.percent(), &[(1, 74), (2, 26)]);
    bed.eject([1]);
    near(&bed.percent(), &[(2, 100)]);
}

#[test]
fn tiers_that_were_tried_twice_are_left() {
    let bed = Bed::at_places(&regions(&[]), &["r/a", "r/a", "r/b", "q/a"]).from("r/a");
    let elsewhere = |tried: &[u8]| -> Vec<u8> {
        let tried: Vec<_> = tried.iter().copied().map(address).collect();
        let mut chance = Seeded(fastrand::Rng::with_seed(7));
        let taken: HashSet<u8> = (0..50)
            .filter_map(|_| {
                endpoint(
                    &bed.cluster,
                    &bed.cluster.endpoints,
                    &Client::Pod(&bed.client),
                    None,
                    Tried {
                        endpoints: &tried,
                        tiers: true,
                    },
                    &bed.known,
                    &mut chance,
                )
            })
            .map(last)
            .collect();
        let mut taken: Vec<u8> = taken.into_iter().collect();
        taken.sort_unstable();
        taken
    };
    assert_eq!(elsewhere(&[]), [0, 1]);
    assert_eq!(elsewhere(&[0]), [1]);
    assert_eq!(elsewhere(&[0, 1]), [2]);
    assert_eq!(elsewhere(&[0, 1, 2]), [2]);
    assert_eq!(elsewhere(&[0, 1, 2, 2]), [3]);
    // All were tried: it begins anew.
    assert_eq!(elsewhere(&[0, 1, 2, 2, 3, 3]), [0, 1]);
}

fn hashed(key: HashKey, headers: &[(&'static str, &str)], query: Option<&str>) -> String {
    hashed_together(&[key], headers, query)
}

fn hashed_together(
    keys: &[HashKey],
    headers: &[(&'static str, &str)],
    query: Option<&str>,
) -> String {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    let request = Request {
        authority: "a",
        path: "/",
        query,
        method: "GET",
        scheme: "http",
        headers: &map,
        source: "10.1.2.3".parse().expect("an address"),
    };
    let keys: Vec<Arc<HashKey>> = keys.iter().cloned().map(Arc::new).collect();
    let mut given = String::new();
    let hash = hash_of(&keys, &request, |cookie| {
        given += &cookie.header("1234");
        hash_of_text("1234")
    });
    match hash {
        None => "none".to_owned(),
        Some(_) if !given.is_empty() => given,
        Some(hash) => format!("{hash:016x}"),
    }
}

#[test]
fn several_keys_are_one_hash() {
    let header = |name: &str| HashKey::Header(HeaderSubject::named(name).expect("a name"));
    let keys = [header("x-one"), HashKey::QueryParameter("two".into())];
    let of = |headers: &[(&'static str, &str)], query| hashed_together(&keys, headers, query);
    let one = hash_of_text("a");
    let two = hash_of_text("b");
    let both = one.rotate_left(1) ^ two;
    let check = |found: String, wanted: Option<u64>| {
        let wanted = wanted.map_or("none".to_owned(), |hash| format!("{hash:016x}"));
        assert_eq!(found, wanted);
    };
    check(of(&[], None), None);
    check(of(&[("x-one", "a")], None), Some(one));
    check(of(&[], Some("two=b")), Some(two));
    check(of(&[("x-one", "a")], Some("two=b")), Some(both));
    // One key twice does not undo itself.
    let twice = hashed_together(&[header("x-one"), header("x-one")], &[("x-one", "a")], None);
    check(twice, Some(one.rotate_left(1) ^ one));
}

#[test]
fn what_is_hashed() {
    let of = |text: &str| format!("{:016x}", hash_of_text(text));
    // XXH64's own test vectors.
    assert_eq!(of(""), "ef46db3751d8e999");
    assert_eq!(of("a"), "d24ec4f1a98c6e5b");
    assert_eq!(of("abc"), "44bc2cf5ad770999");

    let header = HashKey::Header(HeaderSubject::named("x-user").expect("a name"));
    assert_eq!(hashed(header.clone(), &[], None), "none");
    assert_eq!(
        hashed(header.clone(), &[("x-user", "abc")], None),
        of("abc")
    );
    for (name, query, expected) in [
        (":method", None, "GET"),
        (":scheme", None, "http"),
        (":authority", None, "a"),
        ("Host", None, "a"),
        (":path", None, "/"),
        (":path", Some("q=1"), "/?q=1"),
    ] {
        let subject = HeaderSubject::named(name).expect("a name");
        let found = hashed(HashKey::Header(subject), &[], query);
        assert_eq!(found, of(expected), "{name}");
    }
    let two = hashed(header.clone(), &[("x-user", "a"), ("x-user", "b")], None);
    let turned = hashed(header, &[("x-user", "b"), ("x-user", "a")], None);
    assert_eq!(two, turned);
    assert_ne!(two, of("a"));

    assert_eq!(hashed(HashKey::SourceAddress, &[], None), of("10.1.2.3"));

    let parameter = HashKey::QueryParameter("k".into());
    assert_eq!(hashed(parameter.clone(), &[], None), "none");
    assert_eq!(hashed(parameter.clone(), &[], Some("x=1")), "none");
    assert_eq!(hashed(parameter.clone(), &[], Some("x=1&k=a&k=b")), of("a"));
    assert_eq!(hashed(parameter, &[], Some("k")), of(""));

    let cookie = |ttl: Option<u64>| HashKey::Cookie {
        name: "user".into(),
        path: Some("/x".into()),
        ttl: ttl.map(Duration::from_secs),
        attributes: vec![
            ("SameSite".into(), "Lax".into()),
            ("Secure".into(), "".into()),
        ],
    };
    let given = [("cookie", "a=1; user=\"abc\"; user=d"), ("cookie", "b=2")];
    assert_eq!(hashed(cookie(None), &given, None), of("abc"));
    assert_eq!(hashed(cookie(Some(1)), &given, None), of("abc"));
    let second = [("cookie", "a=1"), ("cookie", "user=abc")];
    assert_eq!(hashed(cookie(None), &second, None), of("abc"));
    assert_eq!(hashed(cookie(None), &[("cookie", "user=")], None), "none");
    assert_eq!(
        hashed(cookie(None), &[("cookie", "xuser=abc")], None),
        "none"
    );
    assert_eq!(
        hashed(cookie(Some(60)), &[], None),
        "user=\"1234\"; Max-Age=60; Path=/x; SameSite=Lax; Secure; HttpOnly"
    );
    assert_eq!(
        hashed(cookie(Some(0)), &[], None),
        "user=\"1234\"; Path=/x; SameSite=Lax; Secure; HttpOnly"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn weights_converge(weights in prop::collection::vec(1_u32..50, 1..6)) {
        let total: u32 = weights.iter().sum();
        for balancer in [LEAST_REQUEST, ROUND_ROBIN] {
            let bed = Bed::weighted(balancer, &weights);
            let shares = bed.shares(total * 200);
            for (last, weight) in (0..).zip(&weights) {
                let found = f64::from(shares.get(&last).copied().unwrap_or(0)) / 200.0;
                let expected = f64::from(*weight);
                // Five standard deviations of a binomial distribution.
                let slack = 5.0 * (expected / 200.0).sqrt() + 0.05;
                prop_assert!((found - expected).abs() < slack, "{weights:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn nobody_but_a_usable_one_is_taken(
        count in 0_u8..12,
        ejected in prop::collection::hash_set(0_u8..12, 0..12),
        tried in prop::collection::vec(0_u8..12, 0..4),
        which in 0_usize..5,
        seed: u64,
    ) {
        let balancer = [LEAST_REQUEST, ROUND_ROBIN, Balancer::Random, ring(64), maglev(97)][which].clone();
        let mut bed = Bed::even(balancer, count).ejecting(0);
        bed.eject(ejected.clone());
        bed.tried = tried.iter().copied().map(address).collect();
        let healthy: HashSet<u8> = (0..count).filter(|last| !ejected.contains(last)).collect();
        let fresh: HashSet<u8> = healthy.iter().copied().filter(|last| !tried.contains(last)).collect();
        let allowed = if fresh.is_empty() { healthy } else { fresh };
        let chosen = bed.choose(&mut Seeded(fastrand::Rng::with_seed(seed))).map(last);
        match chosen {
            None => prop_assert!(allowed.is_empty()),
            Some(last) => prop_assert!(allowed.contains(&last)),
        }
    }
}

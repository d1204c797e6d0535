//! Ejection step by step, with a clock made by hand.

use super::*;

struct Watch {
    rules: OutlierDetection,
    members: usize,
    health: Health,
    begin: Instant,
    now: Instant,
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

fn watch(members: usize, change: impl FnOnce(&mut OutlierDetection)) -> Watch {
    let mut rules = OutlierDetection {
        max_ejection_percent: 100,
        ..OutlierDetection::default()
    };
    change(&mut rules);
    let now = Instant::now();
    let mut health = Health::default();
    // The first interval begins here.
    assert_eq!(health.ejected_now(&rules, now).count(), 0);
    Watch {
        rules,
        members,
        health,
        begin: now,
        now,
    }
}

impl Watch {
    fn report(&mut self, n: u8, outcome: Outcome) -> bool {
        self.health
            .report(&self.rules, self.members, address(n), outcome, self.now)
    }

    /// Statuses, `F`ailures to connect and to do so in `T`ime, small letters for those after that, and `R`elayed
    /// connections; the last of them ejects, or does not.
    #[track_caller]
    fn check(&mut self, n: u8, outcomes: &str, ejects: bool) {
        let mut last = false;
        for outcome in outcomes.split(' ') {
            assert!(!last, "{outcomes}: too early");
            last = self.report(
                n,
                match outcome {
                    "F" | "f" => Outcome::Failed {
                        connected: outcome == "f",
                    },
                    "T" | "t" => Outcome::TimedOut {
                        connected: outcome == "t",
                    },
                    "R" => Outcome::Relayed,
                    status => Outcome::Answered(status.parse().unwrap()),
                },
            );
        }
        assert_eq!(last, ejects, "{outcomes}");
    }

    /// Whether an endpoint is ejected so many seconds after the beginning.
    #[track_caller]
    fn check_at(&mut self, seconds: u64, n: u8, ejected: bool) {
        self.now = self.begin + Duration::from_secs(seconds);
        let mut all = self.health.ejected_now(&self.rules, self.now);
        assert_eq!(all.any(|at| at == address(n)), ejected, "at {seconds} s");
    }
}

#[test]
fn counts_errors_in_a_row() {
    let default = |_: &mut OutlierDetection| {};
    watch(1, default).check(1, "500 502 503 504 599", true);
    watch(1, default).check(1, "500 500 500 500 200 500 500 500 500", false);
    watch(1, default).check(1, "500 500 500 500 404 500 500 500 500", false);
    watch(1, default).check(1, "F f T 500 t", true);
    watch(1, default).check(1, "F F R F F F F", false);
    let never = |rules: &mut OutlierDetection| rules.consecutive_5xx = None;
    watch(1, never).check(1, "500 500 500 500 500 500 500 500 500", false);
}

#[test]
fn counts_gateway_errors_apart() {
    let gateway = |rules: &mut OutlierDetection| {
        rules.consecutive_gateway = Some(3);
        rules.consecutive_5xx = None;
    };
    watch(1, gateway).check(1, "502 503 504", true);
    watch(1, gateway).check(1, "F T F", true);
    watch(1, gateway).check(1, "502 503 500 504 502", false);
    watch(1, gateway).check(1, "502 503 200 504 502", false);
    let both = |rules: &mut OutlierDetection| rules.consecutive_gateway = Some(3);
    watch(1, both).check(1, "500 500 503 500 500", true);
    watch(1, both).check(1, "500 503 503 503", true);
}

#[test]
fn counts_local_failures_apart() {
    let split = |rules: &mut OutlierDetection| {
        rules.consecutive_local = Some(3);
        rules.consecutive_5xx = Some(2);
    };
    watch(1, split).check(1, "F T F", true);
    watch(1, split).check(1, "F F 200 F F", false);
    watch(1, split).check(1, "F F R F F", false);
    watch(1, split).check(1, "500 F 500", true);
    watch(1, split).check(1, "F F f t f", false);
}

#[test]
fn counts_only_the_codes_it_is_told() {
    let codes = |rules: &mut OutlierDetection| {
        rules.codes = vec![404, 503];
        rules.consecutive_5xx = Some(3);
    };
    watch(1, codes).check(1, "404 503 404", true);
    watch(1, codes).check(1, "404 503 500 404 503", false);
    watch(1, codes).check(1, "404 F 404", true);
}

#[test]
fn leaves_enough_of_them_in() {
    // The share, how many there are, and how many of them can be ejected.
    for (percent, members, most) in [
        (10, 9, 0),
        (10, 10, 1),
        (10, 19, 1),
        (10, 20, 2),
        (50, 1, 0),
        (50, 2, 1),
        (50, 3, 1),
        (34, 3, 1),
        (33, 3, 0),
        (100, 3, 3),
        (250, 3, 3),
        (0, 3, 0),
    ] {
        let mut watch = watch(members, |rules| {
            rules.max_ejection_percent = percent;
            rules.consecutive_5xx = Some(1);
        });
        let ejected = (0..members as u8)
            .filter(|n| watch.report(*n, Outcome::Failed { connected: false }))
            .count();
        assert_eq!(ejected, most, "{percent} % of {members}");
    }
}

#[test]
fn a_spared_endpoint_starts_over() {
    let mut watch = watch(2, |rules| {
        rules.max_ejection_percent = 50;
        rules.consecutive_5xx = Some(2);
    });
    watch.check(1, "500 500", true);
    watch.check(2, "500 500", false);
    watch.check_at(30, 1, false);
    watch.check(2, "500", false);
    watch.check(2, "500", true);
}

#[test]
fn lets_them_back_at_the_end_of_an_interval() {
    let mut watch = watch(1, |rules| {
        rules.consecutive_5xx = Some(1);
        rules.interval = Duration::from_secs(10);
        rules.base_ejection_time = Duration::from_secs(30);
    });
    watch.check_at(4, 1, false);
    watch.check(1, "500", true);
    watch.check(1, "500", false);
    watch.check_at(34, 1, true);
    watch.check_at(39, 1, true);
    watch.check_at(40, 1, false);
    // What it did while it was ejected counts for nothing.
    watch.check(1, "200 500", true);
    // The second time it lasts twice as long.
    watch.check_at(99, 1, true);
    watch.check_at(100, 1, false);
    // Each interval without an ejection is one ejection less.
    watch.check_at(115, 1, false);
    watch.check(1, "500", true);
    watch.check_at(174, 1, true);
    watch.check_at(180, 1, false);
}

#[test]
fn no_ejection_lasts_longer_than_five_minutes() {
    let mut watch = watch(1, |rules| {
        rules.consecutive_5xx = Some(1);
        rules.interval = Duration::from_secs(1);
        rules.base_ejection_time = Duration::from_secs(100);
    });
    let mut at = 0;
    for lasts in [100, 200, 300, 300, 300] {
        watch.check(1, "500", true);
        watch.check_at(at + lasts - 1, 1, true);
        watch.check_at(at + lasts, 1, false);
        at += lasts;
    }
    let mut longer = super::tests::watch(1, |rules| {
        rules.consecutive_5xx = Some(1);
        rules.interval = Duration::from_secs(1);
        rules.base_ejection_time = Duration::from_secs(400);
    });
    longer.check(1, "500", true);
    longer.check_at(399, 1, true);
    longer.check_at(400, 1, false);
}

#[test]
fn forgets_who_is_gone() {
    let mut watch = watch(2, |rules| {
        rules.max_ejection_percent = 50;
        rules.consecutive_5xx = Some(1);
    });
    watch.check(1, "500", true);
    watch.health.retain(|at| at != address(1));
    watch.check_at(1, 1, false);
    watch.check(2, "500", true);
}

#[test]
fn a_long_silence_costs_nothing() {
    let mut watch = watch(1, |rules| {
        rules.consecutive_5xx = Some(1);
        rules.interval = Duration::from_millis(1);
    });
    watch.check(1, "500", true);
    watch.check_at(1_000_000_000, 1, false);
    watch.check(1, "500", true);
    let next = watch.health.next_sweep.unwrap();
    assert!(next > watch.now && next <= watch.now + Duration::from_millis(1));
}

#[test]
fn begins_anew_under_other_rules() {
    let mut watch = watch(2, |rules| rules.consecutive_5xx = Some(1));
    watch.check(1, "500", true);
    watch.check_at(1, 1, true);
    watch.rules.consecutive_5xx = Some(2);
    watch.check_at(1, 1, false);
    watch.check(1, "500", false);
    watch.check(1, "500", true);
    watch.check_at(2, 1, true);
}

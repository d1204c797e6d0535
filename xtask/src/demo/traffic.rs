//! Requests of the demo and what came back. The judgement about the split is pure.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::http::{self, Connection};

/// How many times its standard deviation a share may be off before it counts as wrong: chance alone does that once in
/// 16,000 runs.
pub const SIGMAS: f64 = 4.0;

/// How many requests one connection carries before the next is opened, so that both are exercised.
const PER_CONNECTION: usize = 100;

/// What came back.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// How often each body came.
    pub bodies: BTreeMap<String, u64>,
    /// What was no answer with status 200.
    pub failures: Vec<String>,
}

impl Tally {
    /// How often this body came.
    pub fn count(&self, body: &str) -> u64 {
        self.bodies.get(body).copied().unwrap_or_default()
    }

    /// How many answers there were, of either kind.
    pub fn total(&self) -> u64 {
        self.bodies.values().sum::<u64>() + self.failures.len() as u64
    }

    fn take(&mut self, answer: Result<http::Response>) {
        match answer {
            Ok(response) if response.status == 200 => {
                *self.bodies.entry(response.text()).or_default() += 1;
            }
            Ok(response) => self.failures.push(format!(
                "status {}: {}",
                response.status,
                response.text().trim()
            )),
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }

    fn add(&mut self, other: Self) {
        for (body, count) in other.bodies {
            *self.bodies.entry(body).or_default() += count;
        }
        self.failures.extend(other.failures);
    }
}

/// Asks `count` times for `/`: half of it on connections that are kept alive, half with a new connection each.
pub fn requests(to: &str, host: &str, count: usize) -> Tally {
    let kept = count / 2;
    let mut tally = Tally::default();
    let mut left = kept;
    while left > 0 {
        let answers = on_one_connection(to, host, left.min(PER_CONNECTION));
        left -= usize::try_from(answers.total()).unwrap_or(left).min(left);
        tally.add(answers);
    }
    for _ in kept..count {
        tally.take(http::get(to, host, "/"));
    }
    tally
}

/// Asks for `/` until told to stop, by turns on a connection that is kept alive and on new ones.
pub fn until(stop: &AtomicBool, to: &str, host: &str) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        tally.add(on_one_connection(to, host, 10));
        tally.take(http::get(to, host, "/"));
        thread::sleep(Duration::from_millis(2));
    }
    tally
}

fn on_one_connection(to: &str, host: &str, count: usize) -> Tally {
    let mut tally = Tally::default();
    let mut connection = match Connection::open(to) {
        Ok(connection) => connection,
        Err(error) => {
            tally.take(Err(error));
            return tally;
        }
    };
    for number in 1..=count {
        let answer = connection.get(host, "/", number == count);
        let broken = answer.is_err();
        tally.take(answer);
        if broken {
            break;
        }
    }
    tally
}

/// How many of `total` may come from a destination that gets `share` of them.
pub fn allowed(total: u64, share: f64) -> (u64, u64) {
    let total_f = total as f64;
    let mean = total_f * share;
    let off = SIGMAS * (total_f * share * (1.0 - share)).sqrt();
    (
        (mean - off).ceil().max(0.0) as u64,
        (mean + off).floor().min(total_f) as u64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_given_its_due() {
        assert_eq!(allowed(1000, 0.1), (63, 137));
        assert_eq!(allowed(10, 0.1), (0, 4));
        assert_eq!(allowed(1000, 1.0), (1000, 1000));
    }

    #[test]
    fn failures_count_as_answers() {
        let mut tally = Tally::default();
        tally.take(Err(anyhow::anyhow!("refused")));
        tally.take(Ok(http::Response {
            status: 503,
            head: Vec::new(),
            body: b"no\n".to_vec(),
        }));
        tally.take(Ok(http::Response {
            status: 200,
            head: Vec::new(),
            body: b"yes\n".to_vec(),
        }));
        assert_eq!((tally.total(), tally.count("yes\n")), (3, 1));
        assert_eq!(tally.failures, ["refused", "status 503: no"]);
    }
}

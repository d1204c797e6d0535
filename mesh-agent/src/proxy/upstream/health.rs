//! Which endpoints of a cluster are ejected: Envoy's outlier detection, by what requests came to (`istio-routing.md` 2.4).
//!
//! A state machine without a clock: whoever asks or tells says what time it is. Endpoints come back only at the ends of
//! intervals; those that have passed are made up for whenever somebody asks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::model::OutlierDetection;
use crate::proxy::upstream::ConnectError;

/// What one proxy has seen of the endpoints of one cluster.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Health {
    /// What all this was judged by; none before anything was seen.
    rules: Option<OutlierDetection>,
    hosts: HashMap<SocketAddr, Host>,
    /// The end of the interval; none before anything was seen.
    next_sweep: Option<Instant>,
}

/// What a request or connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Outcome {
    /// The endpoint answered.
    Answered(StatusCode),
    /// The endpoint took a connection that is relayed: there will be no answer to judge it by.
    Relayed,
    /// No connection, or one that ended without an answer.
    Failed {
        /// Whether there was one.
        connected: bool,
    },
    /// Nothing in time.
    TimedOut {
        /// Whether there was a connection.
        connected: bool,
    },
}

impl Outcome {
    /// What a relayed connection came to.
    pub(in crate::proxy) fn of_connecting<T>(connected: &Result<T, ConnectError>) -> Self {
        match connected {
            Ok(_) => Self::Relayed,
            Err(ConnectError::Timeout { .. }) => Self::TimedOut { connected: false },
            Err(ConnectError::Refused { .. } | ConnectError::Tls { .. }) => {
                Self::Failed { connected: false }
            }
        }
    }
}

/// What was seen of one endpoint.
#[derive(Debug, Default)]
struct Host {
    errors: u32,
    gateway_errors: u32,
    local_failures: u32,
    ejected_at: Option<Instant>,
    /// How many times the base time an ejection lasts. Goes down again with each interval without one.
    ejections: u32,
}

/// No ejection lasts longer, unless its base does.
const LONGEST_EJECTION: Duration = Duration::from_secs(300);

impl Health {
    /// Takes note of an outcome. `members` is the number of endpoints that the cluster has. Says whether the endpoint is
    /// ejected for it.
    pub(in crate::proxy) fn report(
        &mut self,
        rules: &OutlierDetection,
        members: usize,
        address: SocketAddr,
        outcome: Outcome,
        now: Instant,
    ) -> bool {
        self.judge_by(rules);
        self.pass(rules, now);
        let host = self.hosts.entry(address).or_default();
        if !host.takes(rules, outcome) {
            return false;
        }
        host.start_over();
        if host.ejected_at.is_some() {
            return false;
        }
        let active = self.ejected().count();
        let allowed = f64::from(rules.max_ejection_percent.min(100));
        // As Envoy since 1.28: the one that is about to be ejected counts as well.
        if 100.0 * (active as f64 + 1.0) / members.max(1) as f64 > allowed {
            return false;
        }
        if let Some(host) = self.hosts.get_mut(&address) {
            host.eject(rules, now);
        }
        true
    }

    /// The endpoints that are ejected now.
    pub(in crate::proxy) fn ejected_now(
        &mut self,
        rules: &OutlierDetection,
        now: Instant,
    ) -> impl Iterator<Item = SocketAddr> {
        self.judge_by(rules);
        self.pass(rules, now);
        self.ejected()
    }

    /// Under other rules everything begins anew, as in Envoy, to which it is another cluster then: nobody stays ejected
    /// for what the new ones allow.
    fn judge_by(&mut self, rules: &OutlierDetection) {
        if self.rules.as_ref() != Some(rules) {
            *self = Self {
                rules: Some(rules.clone()),
                ..Self::default()
            };
        }
    }

    /// Forgets endpoints that are no longer there.
    pub(in crate::proxy) fn retain(&mut self, is_member: impl Fn(SocketAddr) -> bool) {
        self.hosts.retain(|address, _| is_member(*address));
    }

    fn ejected(&self) -> impl Iterator<Item = SocketAddr> {
        let hosts = self.hosts.iter();
        hosts
            .filter(|(_, host)| host.ejected_at.is_some())
            .map(|(address, _)| *address)
    }

    /// Makes up for the ends of intervals that have passed.
    fn pass(&mut self, rules: &OutlierDetection, now: Instant) {
        let interval = rules.interval.max(Duration::from_millis(1));
        let mut next = *self.next_sweep.get_or_insert(now + interval);
        while next <= now && self.hosts.values().any(Host::has_past) {
            for host in self.hosts.values_mut() {
                host.sweep(rules, next);
            }
            next += interval;
        }
        if next <= now {
            // Nothing more can change: only the rhythm is kept.
            let late = now.duration_since(next).as_nanos() % interval.as_nanos();
            let late = Duration::from_nanos(u64::try_from(late).unwrap_or(0));
            next = now + interval.saturating_sub(late);
        }
        self.next_sweep = Some(next);
    }
}

impl Host {
    /// Counts an outcome. Gives true where it was one too many.
    fn takes(&mut self, rules: &OutlierDetection, outcome: Outcome) -> bool {
        let split = rules.consecutive_local.is_some();
        match outcome {
            Outcome::Answered(status) => {
                // There is no answer without a connection.
                self.local_failures = 0;
                self.takes_status(rules, status)
            }
            Outcome::Relayed if split => {
                self.local_failures = 0;
                false
            }
            Outcome::Relayed => self.takes_status(rules, StatusCode::OK),
            Outcome::Failed { connected } | Outcome::TimedOut { connected } if split => {
                // As Envoy: a connection is no failure, whatever becomes of it after that.
                if connected {
                    self.local_failures = 0;
                }
                self.local_failures = self.local_failures.saturating_add(1);
                Some(self.local_failures) == rules.consecutive_local
            }
            Outcome::Failed { .. } => self.takes_error(rules, StatusCode::SERVICE_UNAVAILABLE),
            Outcome::TimedOut { .. } => self.takes_error(rules, StatusCode::GATEWAY_TIMEOUT),
        }
    }

    fn takes_status(&mut self, rules: &OutlierDetection, status: StatusCode) -> bool {
        let status = match rules.codes.as_slice() {
            [] => status,
            // As Envoy: all that it was told about are the same to it.
            codes if codes.contains(&status.as_u16()) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::OK,
        };
        if status.is_server_error() {
            return self.takes_error(rules, status);
        }
        self.errors = 0;
        self.gateway_errors = 0;
        false
    }

    fn takes_error(&mut self, rules: &OutlierDetection, status: StatusCode) -> bool {
        self.gateway_errors = match status.as_u16() {
            502..=504 => self.gateway_errors.saturating_add(1),
            _ => 0,
        };
        self.errors = self.errors.saturating_add(1);
        Some(self.gateway_errors) == rules.consecutive_gateway
            || Some(self.errors) == rules.consecutive_5xx
    }

    fn eject(&mut self, rules: &OutlierDetection, now: Instant) {
        let base = rules.base_ejection_time;
        self.ejected_at = Some(now);
        if base.saturating_mul(self.ejections) < longest(rules).saturating_add(base) {
            self.ejections += 1;
        }
    }

    /// The end of an interval.
    fn sweep(&mut self, rules: &OutlierDetection, now: Instant) {
        let Some(since) = self.ejected_at else {
            self.ejections = self.ejections.saturating_sub(1);
            return;
        };
        let lasts = rules.base_ejection_time.saturating_mul(self.ejections);
        if now.saturating_duration_since(since) >= lasts.min(longest(rules)) {
            self.ejected_at = None;
            self.start_over();
        }
    }

    fn start_over(&mut self) {
        self.errors = 0;
        self.gateway_errors = 0;
        self.local_failures = 0;
    }

    /// Whether the end of an interval would change anything.
    fn has_past(&self) -> bool {
        self.ejected_at.is_some() || self.ejections > 0
    }
}

fn longest(rules: &OutlierDetection) -> Duration {
    LONGEST_EJECTION.max(rules.base_ejection_time)
}

#[cfg(test)]
mod tests;

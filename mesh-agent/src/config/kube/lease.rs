//! Who of all the agents of a cluster writes: the one that holds a Lease (`coordination.k8s.io/v1`) of their namespace.
//!
//! Two holders at a time are possible for as long as clocks differ, and do no harm: both would write the same.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, PostParams};
use kube::{Client, Error};

use crate::config::kube::WRITER;

/// How long a Lease holds that is not renewed.
const HOLDS: Duration = Duration::from_secs(30);

/// How often its holder renews it.
pub(super) const RENEW: Duration = Duration::from_secs(10);

/// How often the others look whether it has been given up: thousands of agents may look.
pub(super) const LOOK: Duration = Duration::from_secs(40);

/// The Lease, as one agent sees it.
pub(super) struct Lease {
    api: Api<Object>,
    own: String,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is another's.
    Leave,
    /// Nobody's: take it.
    Take,
    /// It is ours: say so again.
    Renew,
}

impl Lease {
    /// The Lease of the client's own namespace. `own` is what this agent is called.
    pub(super) fn new(client: Client, own: String) -> Self {
        Self {
            api: Api::default_namespaced(client),
            own,
        }
    }

    /// Takes or renews the Lease if it may be had. True where it is ours now.
    pub(super) async fn hold(&self) -> Result<bool, Error> {
        let now = Timestamp::now();
        let Some(mut lease) = self.api.get_opt(WRITER).await? else {
            let lease = Object {
                metadata: ObjectMeta {
                    name: Some(WRITER.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.renewed(None, now)),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let step = decide(lease.spec.as_ref(), &self.own, now);
        if step == Step::Leave {
            return Ok(false);
        }
        let before = lease.spec.take().filter(|_| step == Step::Renew);
        lease.spec = Some(self.renewed(before, now));
        // Its resourceVersion is in it: who comes second is told so.
        won(self
            .api
            .replace(WRITER, &PostParams::default(), &lease)
            .await)
    }

    fn renewed(&self, before: Option<LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let acquired = before.and_then(|spec| spec.acquire_time);
        LeaseSpec {
            holder_identity: Some(self.own.clone()),
            lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
            acquire_time: acquired.or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }
    }
}

/// What becomes of a Lease as it stands.
fn decide(spec: Option<&LeaseSpec>, own: &str, now: Timestamp) -> Step {
    let Some(spec) = spec else { return Step::Take };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == own {
        return Step::Renew;
    }
    let holds = spec.lease_duration_seconds.unwrap_or_default();
    let until = spec.renew_time.as_ref().and_then(|renewed| {
        renewed
            .0
            .checked_add(SignedDuration::from_secs(holds.into()))
            .ok()
    });
    match until {
        Some(until) if !holder.is_empty() && until > now => Step::Leave,
        Some(_) | None => Step::Take,
    }
}

/// Whether a write was ours; another's that came first is no error.
fn won(outcome: Result<Object, Error>) -> Result<bool, Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 409 => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_nobody_renews_it() {
        let now = Timestamp::now();
        let ago = |seconds: i64| now - SignedDuration::from_secs(seconds);
        let lease = |holder: &str, renewed: i64| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(30),
            renew_time: Some(MicroTime(ago(renewed))),
            ..LeaseSpec::default()
        };
        let check = |spec: Option<&LeaseSpec>, expected: Step| {
            assert_eq!(decide(spec, "me", now), expected, "{spec:?}");
        };
        check(None, Step::Take);
        check(Some(&lease("other", 10)), Step::Leave);
        check(Some(&lease("other", 31)), Step::Take);
        check(Some(&lease("", 10)), Step::Take);
        check(Some(&lease("me", 31)), Step::Renew);
        check(Some(&LeaseSpec::default()), Step::Take);
    }
}

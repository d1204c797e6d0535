//! Says of the Pods of this node that ought to be in the mesh and are not: an Event on each, for as long as that is so.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType};
use tokio::time::Instant;

use crate::config::kube::recorder;

/// How often the pods are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long a pod may be on its way into the mesh before anything is said.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is said again, while nothing changes.
const AGAIN: Duration = Duration::from_secs(60);

/// A Pod that ought to be in the mesh and is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outsider {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, where it is known.
    pub uid: Option<String>,
    /// Why it is not in the mesh.
    pub why: String,
}

/// When something was first seen, and when it was last told.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    first: Instant,
    told: Option<Instant>,
}

/// Looks at the pods again and again, and says what it sees. `own` is what this node is called.
pub async fn tell(client: Client, own: String, look: impl Fn() -> Vec<Outsider>) {
    let recorder = recorder(&client, own);
    let mut seen = BTreeMap::new();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        for outsider in due(&mut seen, look(), Instant::now()) {
            let event = Event {
                type_: EventType::Warning,
                reason: "NotCaptured".to_owned(),
                note: Some(format!("the Pod is outside the mesh: {}", outsider.why)),
                action: "Enrol".to_owned(),
                secondary: None,
            };
            let about = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(outsider.namespace.clone()),
                name: Some(outsider.name.clone()),
                uid: outsider.uid.clone(),
                ..ObjectReference::default()
            };
            if let Err(e) = recorder.publish(&event, &about).await {
                tracing::debug!(pod = outsider.name, error = %e, "an Event about the pod cannot be written");
            }
        }
    }
}

/// Which of these it is time to tell of.
fn due(
    seen: &mut BTreeMap<Outsider, Seen>,
    outsiders: Vec<Outsider>,
    now: Instant,
) -> Vec<Outsider> {
    seen.retain(|known, _| outsiders.contains(known));
    let due = outsiders.into_iter().filter(|outsider| {
        let new = Seen {
            first: now,
            told: None,
        };
        let seen = seen.entry(outsider.clone()).or_insert(new);
        let due = now >= seen.told.map_or(seen.first + PATIENCE, |told| told + AGAIN);
        if due {
            seen.told = Some(now);
        }
        due
    });
    due.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_and_told_again() {
        let outsider = |why: &str| Outsider {
            namespace: "shop".to_owned(),
            name: "a".to_owned(),
            uid: None,
            why: why.to_owned(),
        };
        let start = Instant::now();
        let mut seen = BTreeMap::new();
        let mut told = |why: &[&str], millis: u64| {
            let outsiders = why.iter().map(|why| outsider(why)).collect();
            due(&mut seen, outsiders, start + Duration::from_millis(millis)).len()
        };
        assert_eq!(told(&["full"], 0), 0);
        assert_eq!(told(&["full"], 1_000), 0);
        assert_eq!(told(&["full"], 2_000), 1);
        assert_eq!(told(&["full"], 3_000), 0);
        // Another reason is another matter, and one that went counts from its return.
        assert_eq!(told(&["odd"], 4_000), 0);
        assert_eq!(told(&["odd"], 6_000), 1);
        assert_eq!(told(&[], 7_000), 0);
        assert_eq!(told(&["odd"], 8_000), 0);
        assert_eq!(told(&["odd"], 10_000), 1);
        assert_eq!(told(&["odd"], 69_000), 0);
        assert_eq!(told(&["odd"], 70_000), 1);
    }
}

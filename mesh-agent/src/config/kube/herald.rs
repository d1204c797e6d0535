//! Says on the objects themselves what is wrong with them: a condition in the status of Istio's objects, and Events, which
//! `kubectl describe` shows. An object that nothing is wrong with, and never was, is left alone.
//!
//! One agent of all writes, the one that holds the [`Lease`]; what is wrong with Pods is said by the agent of their node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, ResourceExt};
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::kube::lease::{self, Lease};
use crate::config::kube::{WRITER, recorder};
use crate::config::object::{Kind, ObjectId};
use crate::config::{Code, Rejected, Severity};

/// The type of our condition.
pub(super) const CONDITION: &str = "mesh-agent.io/Accepted";

/// How long what is wrong must have stayed the same before it is said: most mistakes of a rollout mend themselves.
const SETTLED: Duration = Duration::from_secs(2);

/// How many objects are written in a second, at most.
const PACE: Duration = Duration::from_millis(100);

/// How long a message may be. `kubectl` shows more than that to nobody's gain.
const LONGEST: usize = 1024;

/// What is to be said.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// What is wrong, with whichever objects.
    pub(super) rejected: Vec<Rejected>,
    /// Objects that bear a condition of ours.
    pub(super) marked: BTreeSet<ObjectId>,
    /// The version in which the server has a kind.
    pub(super) versions: BTreeMap<Kind, String>,
}

/// What is said about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    accepted: bool,
    reason: &'static str,
    message: String,
}

/// Follows the news until nobody tells any.
pub(super) async fn follow(client: Client, own: String, mut news: watch::Receiver<News>) {
    let lease = Lease::new(client.clone(), own.clone());
    let herald = Herald {
        recorder: recorder(&client, own),
        client,
    };
    let mut said: BTreeMap<ObjectId, Verdict> = BTreeMap::new();
    let mut leads = false;
    // Agents that start at the same time should not all ask at once.
    let mut next = Instant::now() + lease::RENEW.mul_f64(0.3 * fastrand::f64());
    loop {
        tokio::select! {
            changed = news.changed() => match changed {
                Ok(()) => tokio::time::sleep(SETTLED).await,
                Err(_) => return,
            },
            () = tokio::time::sleep_until(next) => {
                let held = lease.hold().await.unwrap_or_else(|e| {
                    tracing::debug!(error = %e, "the Lease of those who write status cannot be had");
                    false
                });
                if held && !leads {
                    tracing::info!("this agent writes the status of objects from now on");
                }
                leads = held;
                let pause = if held { lease::RENEW } else { lease::LOOK };
                next = Instant::now() + pause.mul_f64(0.75 + 0.5 * fastrand::f64());
            }
        }
        if !leads {
            // Another says it; what was said by us may be another thing by then.
            said.clear();
            continue;
        }
        let current = news.borrow_and_update().clone();
        herald.say(&current, &mut said, next).await;
    }
}

struct Herald {
    client: Client,
    recorder: Recorder,
}

impl Herald {
    /// Says what is new, until the Lease is to be renewed: the rest comes after that.
    async fn say(&self, news: &News, said: &mut BTreeMap<ObjectId, Verdict>, until: Instant) {
        for (id, verdict) in verdicts(news, said) {
            if Instant::now() >= until {
                return;
            }
            match self.write(&id, news, &verdict).await {
                Ok(()) => drop(said.insert(id, verdict)),
                Err(e) => {
                    tracing::debug!(object = %id, error = %e, "its status cannot be written");
                }
            }
            tokio::time::sleep(PACE).await;
        }
        said.retain(|id, verdict| !verdict.accepted || news.marked.contains(id));
    }

    /// Writes the condition of an object and an Event about it.
    async fn write(
        &self,
        id: &ObjectId,
        news: &News,
        verdict: &Verdict,
    ) -> Result<(), kube::Error> {
        let Some(resource) = resource(id.kind, news) else {
            return Ok(());
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &id.namespace, &resource);
        let Some(object) = api.get_opt(&id.name).await? else {
            return Ok(());
        };
        if Kind::ROUTING.contains(&id.kind) {
            if is_said(&object, verdict) {
                return Ok(());
            }
            let patch = condition(id, &resource, &object, verdict);
            let params = PatchParams::apply(WRITER);
            match api
                .patch_status(&id.name, &params, &Patch::Apply(patch))
                .await
            {
                // Somebody else writes the conditions of this object. An Event says it all the same.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                outcome => drop(outcome?),
            }
        }
        let event = Event {
            type_: match verdict.accepted {
                true => EventType::Normal,
                false => EventType::Warning,
            },
            reason: verdict.reason.to_owned(),
            note: Some(verdict.message.clone()),
            action: "Analyze".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some(resource.api_version.clone()),
            kind: Some(resource.kind.clone()),
            name: Some(id.name.to_string()),
            namespace: Some(id.namespace.to_string()),
            uid: object.uid(),
            resource_version: object.resource_version(),
            ..ObjectReference::default()
        };
        self.recorder.publish(&event, &about).await
    }
}

/// What is to be said of which objects, as far as it has not been said.
fn verdicts(news: &News, said: &BTreeMap<ObjectId, Verdict>) -> Vec<(ObjectId, Verdict)> {
    let mut wrong: BTreeMap<ObjectId, Vec<&Rejected>> = BTreeMap::new();
    for rejected in &news.rejected {
        let told = rejected.severity > Severity::Info;
        // Of a Pod its own node tells.
        if let Some(id) = identity(&rejected.object)
            && told
            && id.kind != Kind::Pod
        {
            wrong.entry(id).or_default().push(rejected);
        }
    }
    let mended = news.marked.iter().chain(said.keys());
    let mended: Vec<ObjectId> = mended
        .filter(|id| !wrong.contains_key(id))
        .cloned()
        .collect();
    let right = mended.into_iter().map(|id| (id, Vec::new()));
    let all = wrong.into_iter().chain(right);
    let new = all.map(|(id, rejected)| (id, verdict(&rejected)));
    let mut new: Vec<_> = new
        .filter(|(id, verdict)| said.get(id) != Some(verdict))
        .collect();
    new.sort_by(|(a, _), (b, _)| a.cmp(b));
    new.dedup_by(|(a, _), (b, _)| a == b);
    new
}

/// All that is wrong with an object in one text, the worst first.
fn verdict(rejected: &[&Rejected]) -> Verdict {
    let mut sorted = rejected.to_vec();
    sorted.sort_by_key(|rejected| std::cmp::Reverse(rejected.severity));
    let Some(worst) = sorted.first() else {
        return Verdict {
            accepted: true,
            reason: "Accepted",
            message: "nothing is wrong with it".to_owned(),
        };
    };
    let lines = sorted.iter().map(|rejected| {
        let code = rejected
            .code
            .map_or_else(String::new, |code| format!("{code} "));
        let field = match rejected.field.as_str() {
            "" => String::new(),
            field => format!("{field}: "),
        };
        let remedy = match rejected.remedy.as_str() {
            "" => String::new(),
            remedy => format!("; {remedy}"),
        };
        format!("{code}{field}{}{remedy}", rejected.message)
    });
    let mut message = lines.collect::<Vec<String>>().join("\n");
    if message.len() > LONGEST {
        let end = message.floor_char_boundary(LONGEST - 3);
        message.truncate(end);
        message.push_str("...");
    }
    Verdict {
        accepted: worst.severity < Severity::Error,
        reason: worst.code.map_or("Rejected", Code::name),
        message,
    }
}

/// The patch that puts our condition into the status. The time of its last change stays where the word is the same.
fn condition(
    id: &ObjectId,
    resource: &ApiResource,
    object: &DynamicObject,
    verdict: &Verdict,
) -> Json {
    let word = verdict.word();
    let before = said_before(object).filter(|condition| condition["status"] == word);
    let since = before.and_then(|condition| condition["lastTransitionTime"].as_str());
    let now = k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": &*id.name, "namespace": &*id.namespace},
        "status": {"conditions": [{
            "type": CONDITION,
            "status": word,
            "reason": verdict.reason,
            "message": verdict.message,
            "observedGeneration": object.metadata.generation,
            "lastTransitionTime": since.unwrap_or(&now),
        }]},
    })
}

/// Our condition of an object, as it stands.
fn said_before(object: &DynamicObject) -> Option<&Json> {
    let conditions = object.data.pointer("/status/conditions")?.as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == CONDITION)
}

/// Whether an object says so already: by an agent that held the Lease before.
fn is_said(object: &DynamicObject, verdict: &Verdict) -> bool {
    said_before(object).is_some_and(|condition| {
        condition["status"] == verdict.word()
            && condition["reason"] == verdict.reason
            && condition["message"] == verdict.message
    })
}

impl Verdict {
    fn word(&self) -> &'static str {
        if self.accepted { "True" } else { "False" }
    }
}

/// The object of a complaint.
fn identity(object: &str) -> Option<ObjectId> {
    let (kind, name) = object.split_once(' ')?;
    let (namespace, name) = name.split_once('/')?;
    let kind = Kind::named(kind)?;
    Some(ObjectId {
        kind,
        namespace: Arc::from(namespace),
        name: Arc::from(name),
    })
}

/// Where objects of a kind are.
fn resource(kind: Kind, news: &News) -> Option<ApiResource> {
    let (group, version) = match kind {
        Kind::Service | Kind::Pod | Kind::Secret => ("", "v1"),
        Kind::EndpointSlice => ("discovery.k8s.io", &**news.versions.get(&kind)?),
        _ if Kind::ROUTING.contains(&kind) => ("networking.istio.io", &**news.versions.get(&kind)?),
        _ => return None,
    };
    Some(ApiResource::from_gvk(&GroupVersionKind::gvk(
        group,
        version,
        kind.name(),
    )))
}

#[cfg(test)]
mod tests;

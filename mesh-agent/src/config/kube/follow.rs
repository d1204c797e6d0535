//! Follows one feed: finds the version in which the server has it, lists it, watches it, and begins anew where it must.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::core::{DynamicResourceScope, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt, discovery};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tokio::sync::mpsc::Sender;

use crate::config::kube::feed::{Feed, Scope};
use crate::config::kube::lean::lean;
use crate::config::kube::store::Told;

/// How long a kind that the server does not have is not asked for again: at first, and at most. Installing Istio's
/// definitions should not take minutes to be seen, and thousands of nodes should not ask every second.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// How long a kind that the server had must be missing before that is believed: a server that starts does not know at once
/// what it has.
const BELIEVED: Duration = Duration::from_secs(60);

/// Follows a feed for ever, or until nobody listens.
pub(super) async fn follow(client: Client, scope: Scope, tell: Sender<(Feed, Told)>) {
    let mut pause = ASK_AGAIN.0;
    let mut had = false;
    let mut missed: Option<Instant> = None;
    loop {
        match find(&client, &scope).await {
            Ok(Some(resource)) => {
                pause = ASK_AGAIN.0;
                had = true;
                missed = None;
                let version = Told::Version(resource.version.clone());
                if tell.send((scope.feed.clone(), version)).await.is_err() {
                    return;
                }
                if !watch(&client, &scope, &resource, &tell).await {
                    return;
                }
            }
            Ok(None) => {
                let missed = *missed.get_or_insert_with(Instant::now);
                let told = match had && missed.elapsed() < BELIEVED {
                    true => Told::Failing("it does not have this kind any more".to_owned()),
                    false => Told::Absent,
                };
                if tell.send((scope.feed.clone(), told)).await.is_err() {
                    return;
                }
            }
            Err(e) => {
                let failing = Told::Failing(reason(&e));
                if tell.send((scope.feed.clone(), failing)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(ASK_AGAIN.1);
    }
}

/// The kind, in the best version that the server has. `None` where it has none.
async fn find(client: &Client, scope: &Scope) -> Result<Option<ApiResource>, kube::Error> {
    let kind = scope.feed.kind().name();
    if scope.group.is_empty() {
        let kind = GroupVersionKind::gvk("", "v1", kind);
        return Ok(Some(ApiResource::from_gvk(&kind)));
    }
    for version in scope.versions {
        let kind = GroupVersionKind::gvk(scope.group, version, kind);
        match discovery::pinned_kind(client, &kind).await {
            Ok((resource, _)) => return Ok(Some(resource)),
            Err(kube::Error::Discovery(_)) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Watches until the server does not have the kind any more. False where nobody listens.
async fn watch(
    client: &Client,
    scope: &Scope,
    resource: &ApiResource,
    tell: &Sender<(Feed, Told)>,
) -> bool {
    if scope.metadata {
        let stream = stream(client, scope, resource);
        pass_on(
            stream,
            scope,
            tell,
            |object: PartialObjectMeta<DynamicObject>| (object.metadata, Json::Null),
        )
        .await
    } else {
        let stream = stream(client, scope, resource);
        pass_on(stream, scope, tell, |object: DynamicObject| {
            (object.metadata, object.data)
        })
        .await
    }
}

fn stream<K>(
    client: &Client,
    scope: &Scope,
    resource: &ApiResource,
) -> impl Stream<Item = watcher::Result<Event<K>>>
where
    K: kube::Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let api: Api<K> = match &scope.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    };
    let mut config = watcher::Config::default();
    config.field_selector.clone_from(&scope.fields);
    watcher::watcher(api, config).default_backoff()
}

/// Tells what a stream brings, until the kind is gone. False where nobody listens.
async fn pass_on<K: ResourceExt>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    scope: &Scope,
    tell: &Sender<(Feed, Told)>,
    parts: impl Fn(K) -> (kube::api::ObjectMeta, Json),
) -> bool {
    let kind = scope.feed.kind();
    let written = |object: K| {
        let (metadata, data) = parts(object);
        lean(kind, metadata, data)
    };
    let mut stream = pin!(stream);
    while let Some(event) = stream.next().await {
        let told = match event {
            Ok(Event::Init) => Told::Begin,
            Ok(Event::InitApply(object)) => Told::Listed(written(object)),
            Ok(Event::InitDone) => Told::Complete,
            Ok(Event::Apply(object)) => Told::Changed(written(object)),
            Ok(Event::Delete(object)) => {
                Told::Deleted(object.namespace().unwrap_or_default(), object.name_any())
            }
            Err(e) if is_gone(&e) => return true,
            // A watch that has fallen behind lists again by itself. That is no trouble.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => continue,
            Err(e) => Told::Failing(reason(&e)),
        };
        if tell.send((scope.feed.clone(), told)).await.is_err() {
            return false;
        }
    }
    true
}

/// Whether the server does not know the kind in this version, or not any more.
fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// What is at the bottom of an error: the same, whichever feed meets it and whatever it was doing.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut bottom = error;
    while let Some(cause) = bottom.source() {
        bottom = cause;
    }
    bottom.to_string()
}

//! The Secrets that Gateways name, each followed for as long as one names it: no other Secret is ever asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::Client;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::config::kube::feed::{Feed, Scope};
use crate::config::kube::follow::follow as follow_feed;
use crate::config::kube::store::Told;

/// The names of Secrets.
pub(super) type Names = BTreeSet<Arc<str>>;

/// Follows the Secrets of `namespace` that are wanted, until nobody says any more which are.
pub(super) async fn follow(
    client: Client,
    namespace: Arc<str>,
    mut wanted: watch::Receiver<Names>,
    tell: Sender<(Feed, Told)>,
) {
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<Arc<str>, AbortHandle> = BTreeMap::new();
    loop {
        let names = wanted.borrow_and_update().clone();
        followed.retain(|name, task| {
            let keep = names.contains(name);
            if !keep {
                task.abort();
            }
            keep
        });
        for name in names {
            followed.entry(name).or_insert_with_key(|name| {
                let scope = Scope::secret(&namespace, name);
                tasks.spawn(follow_feed(client.clone(), scope, tell.clone()))
            });
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

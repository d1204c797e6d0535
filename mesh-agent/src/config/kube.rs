//! A Kubernetes API server as the source of the world, watched.
//!
//! What is watched is a list of [`feed::Feed`]s: Services, EndpointSlices, Namespaces, Nodes and Istio's kinds, each in the version that
//! the server has; the Pods of this node in full, and of all others the metadata alone, since what serves is in the
//! EndpointSlices; and of Secrets only those that a Gateway names, and only for a gateway. A kind that the server does
//! not have is waited for.
//!
//! A list is put in force as a whole: a watch that has to begin anew never shows half a world. A server that is away
//! changes nothing; an agent that starts without one begins with what [`saved`] has.
//!
//! Watching is asynchronous; parsing and compiling have a thread of their own, as with a directory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::kube::feed::Scope;
use crate::config::kube::follow::follow;
use crate::config::kube::worker::Worker;
use crate::config::{CompileOptions, Update};

#[cfg(test)]
mod fake;
mod feed;
mod follow;
mod herald;
mod lean;
mod lease;
pub mod outside;
mod saved;
mod secrets;
mod store;
mod worker;

/// How many events may wait for the thread. A server that is faster than the compiler waits, and nothing is lost.
const WAITING: usize = 256;

/// Who writes, to the API server; the Lease of those who may has the same name.
const WRITER: &str = "mesh-agent";

/// A watched API server. Dropping it ends the watch.
pub struct Cluster {
    updates: watch::Receiver<Option<Update>>,
    client: kube::Client,
    /// The watches; they end with this.
    _feeds: JoinSet<()>,
}

/// What is watched, and what is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Whose world it is.
    pub viewer: Viewer,
    /// The directory for what the server said last, for a start without it.
    pub saved: Option<PathBuf>,
    /// What this process is called, should it say on the objects what is wrong with them.
    pub herald: Option<String>,
}

/// Whose world it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// The agent of a node, by the node's name.
    Node(Arc<str>),
    /// A gateway, by its own Pod.
    Gateway {
        /// The Pod's namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

/// Why an API server cannot be the source of the world.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account is there.
    #[error(
        "no way to an API server: there is no kubeconfig ($KUBECONFIG, ~/.kube/config) and no service account of a Pod"
    )]
    NoConfig(#[source] kube::config::InferConfigError),
    /// What they say is of no use.
    #[error("the kubeconfig or service account is of no use")]
    Client(#[source] kube::Error),
    /// The thread that makes the worlds could not be started.
    #[error("the thread that makes the worlds cannot be started; raise the limit of threads")]
    NoThread(#[source] io::Error),
}

/// An API server, as kubectl or a Pod's service account would find it.
pub async fn connect() -> Result<kube::Client, ConnectError> {
    let config = kube::Config::infer()
        .await
        .map_err(ConnectError::NoConfig)?;
    kube::Client::try_from(config).map_err(ConnectError::Client)
}

impl Cluster {
    /// Begins to watch. Must be called within a runtime.
    pub fn watch(
        client: &kube::Client,
        watched: Watched,
        options: CompileOptions,
    ) -> Result<Self, ConnectError> {
        let Watched {
            viewer,
            saved,
            herald,
        } = watched;
        let (tell, inbox) = mpsc::channel(WAITING);
        let (publish, updates) = watch::channel(None);
        let (names, wanted) = watch::channel(Default::default());
        let (tell_news, news) = watch::channel(Default::default());
        let scopes = Scope::all(&viewer);
        let feeds = scopes.iter().map(|scope| scope.feed.clone()).collect();
        let worker = Worker::new(feeds, saved, options, viewer.clone(), (names, tell_news));
        std::thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(move || worker.run(inbox, &publish))
            .map_err(ConnectError::NoThread)?;
        let mut running = JoinSet::new();
        for scope in scopes {
            running.spawn(follow(client.clone(), scope, tell.clone()));
        }
        if let Some(own) = herald {
            running.spawn(herald::follow(client.clone(), own, news));
        }
        if let Viewer::Gateway { namespace, .. } = viewer {
            running.spawn(secrets::follow(client.clone(), namespace, wanted, tell));
        }
        Ok(Self {
            updates,
            client: client.clone(),
            _feeds: running,
        })
    }

    /// The server.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Waits for the first world, then for each change. Changes that came while nobody waited are one. May be cancelled
    /// at any time.
    pub async fn next(&mut self) -> Update {
        loop {
            if self.updates.changed().await.is_err() {
                // Only a panic ends the thread before us. What it published last holds.
                tracing::error!(
                    "the API server is not followed any more: the thread for it has died; restart the agent"
                );
                std::future::pending::<()>().await;
            }
            if let Some(update) = self.updates.borrow_and_update().clone() {
                return update;
            }
        }
    }
}

/// Where Events are written. `own` is what this process is called.
fn recorder(client: &kube::Client, own: String) -> Recorder {
    let reporter = Reporter {
        controller: WRITER.to_owned(),
        instance: Some(own),
    };
    Recorder::new(client.clone(), reporter)
}

#[cfg(test)]
mod tests;

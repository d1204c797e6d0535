//! Where the world comes from: a directory, or an API server. What follows does not know which.

use std::path::PathBuf;

use crate::config::file::OpenError;
use crate::config::kube::{self, Cluster, ConnectError, Watched};
use crate::config::{CompileOptions, ManifestDir, Update};

/// Where to look for the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a directory of manifests.
    Directory(PathBuf),
    /// At Kubernetes' API server.
    Kubernetes(Watched),
}

/// Something that tells of one world after another.
pub enum Source {
    /// A watched directory.
    Directory(ManifestDir),
    /// A watched API server.
    Cluster(Cluster),
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Of the directory.
    #[error("reading the manifests")]
    Directory(#[from] OpenError),
    /// Of the API server.
    #[error("following Kubernetes")]
    Cluster(#[from] ConnectError),
}

impl Source {
    /// Opens an origin and waits for the first world: of an API server, for as long as it takes. Must be called within a
    /// runtime.
    pub async fn open(
        origin: Origin,
        options: CompileOptions,
    ) -> Result<(Self, Update), SourceError> {
        match origin {
            Origin::Directory(path) => {
                let (directory, first) = ManifestDir::open(&path, options)?;
                Ok((Self::Directory(directory), first))
            }
            Origin::Kubernetes(watched) => {
                let client = kube::connect().await?;
                let mut cluster = Cluster::watch(&client, watched, options)?;
                let first = cluster.next().await;
                Ok((Self::Cluster(cluster), first))
            }
        }
    }

    /// The API server, where the world comes from one.
    pub fn client(&self) -> Option<&::kube::Client> {
        match self {
            Self::Directory(_) => None,
            Self::Cluster(cluster) => Some(cluster.client()),
        }
    }

    /// Waits for the next world. May be cancelled at any time.
    pub async fn next(&mut self) -> Update {
        match self {
            Self::Directory(directory) => directory.next().await,
            Self::Cluster(cluster) => cluster.next().await,
        }
    }
}

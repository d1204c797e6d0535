//! A directory of manifests as the source of the world, watched.
//!
//! Read are the files directly in the directory whose names end in `.yaml`, `.yml` or `.json` and do not begin with a
//! dot; subdirectories are not entered, as with `kubectl apply -f`. Of two files with the same object the one written
//! last is in force, as if both had been applied when they were written: by modification time, then by name, then by
//! position in the file. A file that cannot be read any more leaves the last good version of its objects in force; a
//! file that is gone takes its objects with it; a directory that is gone changes nothing.
//!
//! The reading is done on a thread of its own, so that a slow disk or a huge file holds up nobody.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tokio::sync::watch;

use crate::config::file::store::Store;
use crate::config::file::worker::Worker;
use crate::config::{CompileOptions, Inputs, Rejected, Update};

mod scan;
mod settle;
mod store;
mod watcher;
mod worker;

/// A watched directory. Dropping it ends the watch.
#[derive(Debug)]
pub struct ManifestDir {
    updates: watch::Receiver<Update>,
    stop: mpsc::Sender<Signal>,
}

/// Why a directory cannot be the source of the world.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, or not to be read.
    #[error("the manifest directory {} cannot be read; create it, or name another one", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread that watches it could not be started.
    #[error("the watch of {} cannot be started; raise the limit of threads", path.display())]
    NoThread {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What wakes the thread that reads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Signal {
    /// A file was written to, and may be written to again.
    Writing(PathBuf),
    /// A file is complete: its writer closed it, or it was put there whole.
    Complete(PathBuf),
    /// Anything else in the directory.
    Other,
    /// Nobody wants to know any more.
    Stop,
}

impl ManifestDir {
    /// Reads a directory and begins to watch it.
    pub fn open(path: &Path, options: CompileOptions) -> Result<(Self, Update), OpenError> {
        let (signals, inbox) = mpsc::channel();
        let (stop, directory) = (signals.clone(), path.to_path_buf());
        let (tell, told) = mpsc::channel();
        let no_thread = |source| OpenError::NoThread {
            path: path.to_path_buf(),
            source,
        };
        // The first world is made there too: the allocator has a heap for each thread, and what one thread left free in its
        // own is of no use to another.
        std::thread::Builder::new()
            .name("manifests".to_owned())
            .spawn(move || {
                let (worker, first) = match Worker::start(&directory, options, signals, inbox) {
                    Ok(started) => started,
                    Err(error) => return drop(tell.send(Err(error))),
                };
                let (publish, updates) = watch::channel(first.clone());
                if tell.send(Ok((updates, first))).is_ok() {
                    worker.run(&publish);
                }
            })
            .map_err(no_thread)?;
        let died = || Err(no_thread(io::Error::other("it has died")));
        let (updates, first) = told.recv().unwrap_or_else(|_| died())?;
        Ok((Self { updates, stop }, first))
    }

    /// Waits for the next change. Changes that came while nobody waited are one. May be cancelled at any time.
    pub async fn next(&mut self) -> Update {
        if self.updates.changed().await.is_err() {
            // Only a panic ends the thread before us. What it published last holds.
            tracing::error!(
                "the manifests are not watched any more: their thread has died; restart the agent"
            );
            std::future::pending::<()>().await;
        }
        self.updates.borrow_and_update().clone()
    }
}

impl Drop for ManifestDir {
    fn drop(&mut self) {
        // It is gone already where this fails.
        let _ = self.stop.send(Signal::Stop);
    }
}

/// Reads a directory as it is now: the objects in force, what is wrong, and how many files there are.
pub(super) fn read_once(
    path: &Path,
    options: &CompileOptions,
) -> Result<(Inputs, Vec<Rejected>, usize), OpenError> {
    let mut store = Store::default();
    let listing = scan::list(path).map_err(|source| OpenError::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    store.refresh(&listing, options);
    let (inputs, rejected) = store.resolve();
    Ok((inputs, rejected, listing.len()))
}

/// The text of a manifest, for showing it; what is not UTF-8 in it is replaced.
pub fn text(path: &Path) -> Option<String> {
    let bytes = scan::bytes(path).ok()?;
    Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

#[cfg(test)]
mod tests;

//! The kernel's word on changes in the directory, and in the directories that its links lead to.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::config::file::Signal;
use crate::config::file::scan::{Entry, is_manifest};

/// Watches a directory, as long as it can.
pub(super) struct Watcher {
    directory: PathBuf,
    /// `None` where the kernel refused: then only looking again and again helps.
    watcher: Option<RecommendedWatcher>,
    /// The directory as it was when the watch began: another one may have taken its place.
    watched: Option<(u64, u64)>,
    /// Where its links lead.
    targets: HashSet<PathBuf>,
}

impl Watcher {
    pub(super) fn new(directory: &Path, signals: Sender<Signal>) -> Self {
        let root = directory.to_path_buf();
        let handler = move |event: notify::Result<Event>| {
            for signal in signals_of(&root, event) {
                // The reader has gone where this fails, and so will this watch.
                let _ = signals.send(signal);
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| {
                tracing::warn!(
                    directory = %directory.display(),
                    %error,
                    "changes of manifests are looked for, not told: raise fs.inotify.max_user_instances"
                );
            })
            .ok();
        Self {
            directory: directory.to_path_buf(),
            watcher,
            watched: None,
            targets: HashSet::new(),
        }
    }

    /// Whether changes are told.
    pub(super) fn works(&self) -> bool {
        self.watcher.is_some() && self.watched.is_some()
    }

    /// Sees to it that the directory that is there now is the one that is watched. True where it had to be changed, and
    /// the directory must be read again.
    pub(super) fn follow_directory(&mut self) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let now = identity(&self.directory);
        if now == self.watched {
            return false;
        }
        if self.watched.take().is_some() {
            // It is forgotten already where the directory was removed.
            let _ = watcher.unwatch(&self.directory);
        }
        if now.is_some() {
            match watcher.watch(&self.directory, RecursiveMode::NonRecursive) {
                Ok(()) => self.watched = now,
                Err(error) => tracing::debug!(%error, "the manifests cannot be watched"),
            }
        }
        true
    }

    /// Watches the directories that the links among the manifests lead to, and no others. True where one is new.
    pub(super) fn follow_links(&mut self, entries: &[Entry]) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let targets: HashSet<PathBuf> = entries
            .iter()
            .filter_map(|entry| target(&entry.path))
            .collect();
        for gone in self.targets.difference(&targets) {
            let _ = watcher.unwatch(gone);
        }
        let mut added = false;
        for new in targets.difference(&self.targets) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::debug!(%error, directory = %new.display(), "the target of a link cannot be watched");
            }
            added = true;
        }
        self.targets = targets;
        added
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The directory of the file that a link leads to.
fn target(path: &Path) -> Option<PathBuf> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_symlink() {
        return None;
    }
    fs::canonicalize(path).ok()?.parent().map(Path::to_path_buf)
}

fn signals_of(root: &Path, event: notify::Result<Event>) -> Vec<Signal> {
    let Ok(event) = event else {
        return vec![Signal::Other];
    };
    if event.need_rescan() {
        return vec![Signal::Other];
    }
    let relevant = event.paths.into_iter().filter(|path| concerns(root, path));
    relevant
        .filter_map(|path| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Signal::Complete(path)),
            // Ours is among those who open and read.
            EventKind::Access(_) => None,
            EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(_) => {
                Some(Signal::Writing(path))
            }
            EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => {
                Some(Signal::Other)
            }
        })
        .collect()
}

/// Whether a change there may change the manifests: one of them, the directory itself, or `..data`, by which Kubernetes'
/// volumes swap all files at once.
fn concerns(root: &Path, path: &Path) -> bool {
    let of_volume = || {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b".."))
    };
    path == root || is_manifest(path) || of_volume()
}

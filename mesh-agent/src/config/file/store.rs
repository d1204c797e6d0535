//! What each file said when it was last understood, and which of it is in force.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::document::{self, Document, Outcome};
use crate::config::file::scan::{self, Entry, Stamp};
use crate::config::object::{Object, ObjectId};
use crate::config::path::Path as FieldPath;
use crate::config::problem::{Code, Problem, Severity};
use crate::config::yaml::Location;
use crate::config::{CompileOptions, Inputs, Rejected};

/// How long a file may be gone, or empty, before that is believed: some editors remove before they write.
const GRACE: Duration = Duration::from_millis(60);

/// The files of a directory.
#[derive(Debug, Default)]
pub(super) struct Store {
    files: BTreeMap<PathBuf, FileState>,
}

/// What a look at the directory brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refreshed {
    /// Whether any file says something else than before.
    pub(super) changed: bool,
    /// When to look again, whatever happens.
    pub(super) again: Option<Instant>,
}

/// One file.
#[derive(Debug, Default)]
struct FileState {
    /// The version that was read, and whether an equal stamp means an equal text.
    stamp: Option<(Stamp, bool)>,
    text_hash: Option<u64>,
    /// The objects, each in the version that was last good.
    objects: Vec<Written>,
    rejected: Vec<Rejected>,
    /// Whether an object of it is in force in an older version than it has.
    behind: bool,
    /// Since when the file has been gone or empty.
    missing: Option<Instant>,
}

/// An object and how late it was written.
#[derive(Clone, Debug)]
struct Written {
    object: Arc<Object>,
    rank: Rank,
}

/// The highest of several versions of an object is in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    modified: SystemTime,
    file: PathBuf,
    position: usize,
}

impl Store {
    /// Reads everything as it is, at once.
    pub(super) fn refresh(&mut self, listing: &[Entry], options: &CompileOptions) {
        self.update(listing, &HashSet::new(), Instant::now(), options);
    }

    /// Reads what has changed, but for the files that are being written.
    pub(super) fn update(
        &mut self,
        listing: &[Entry],
        busy: &HashSet<PathBuf>,
        now: Instant,
        options: &CompileOptions,
    ) -> Refreshed {
        let mut refreshed = Refreshed::default();
        for entry in listing {
            if busy.contains(&entry.path) {
                continue;
            }
            let file = self.files.entry(entry.path.clone()).or_default();
            let looked = file.look(entry, now, options);
            refreshed.join(looked);
        }
        let listed: HashSet<&Path> = listing.iter().map(|entry| entry.path.as_path()).collect();
        self.files.retain(|path, file| {
            if listed.contains(path.as_path()) {
                return true;
            }
            let looked = file.miss(now);
            let keep = !looked.changed;
            refreshed.join(looked);
            keep
        });
        refreshed
    }

    /// The objects in force, and everything that is wrong with the files.
    pub(super) fn resolve(&self) -> (Inputs, Vec<Rejected>) {
        let mut rejected: Vec<Rejected> = Vec::new();
        let mut versions: HashMap<&ObjectId, Vec<&Written>> = HashMap::new();
        for file in self.files.values() {
            rejected.extend(file.rejected.iter().cloned());
            for written in &file.objects {
                versions
                    .entry(&written.object.id)
                    .or_default()
                    .push(written);
            }
        }
        let mut inputs = Inputs::default();
        let mut shadowed = Vec::new();
        for (_, mut versions) in versions {
            versions.sort_by_key(|written| Reverse(&written.rank));
            let mut versions = versions.into_iter();
            if let Some(winner) = versions.next() {
                shadowed.extend(versions.map(|loser| shadowed_by(loser, winner)));
                inputs.insert(Arc::clone(&winner.object));
            }
        }
        rejected.extend(shadowed);
        Rejected::sort(&mut rejected);
        (inputs, rejected)
    }
}

impl Refreshed {
    fn join(&mut self, other: Self) {
        self.changed |= other.changed;
        self.again = match (self.again, other.again) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn changed() -> Self {
        Self {
            changed: true,
            again: None,
        }
    }

    fn at(again: Instant) -> Self {
        Self {
            changed: false,
            again: Some(again),
        }
    }
}

impl FileState {
    /// Takes a file over as it is now, if it is new.
    fn look(&mut self, entry: &Entry, now: Instant, options: &CompileOptions) -> Refreshed {
        let text = match &entry.state {
            Ok(stamp) if self.stamp == Some((*stamp, true)) => return Refreshed::default(),
            Ok(stamp) => {
                self.stamp = Some((*stamp, stamp.settled(SystemTime::now())));
                scan::read(&entry.path)
            }
            Err(error) => Err(error.clone()),
        };
        match text {
            Ok(text) if text.trim().is_empty() && !self.objects.is_empty() => {
                // So soon after a change this may be a file that is being written anew.
                self.stamp = None;
                let looked = self.miss(now);
                if looked.changed {
                    *self = Self::default();
                }
                looked
            }
            Ok(text) => {
                self.missing = None;
                self.take(entry, &text, options)
            }
            Err(error) => {
                self.missing = None;
                self.stamp = None;
                self.text_hash = None;
                let mut unreadable =
                    document::about_file(&entry.path, error.to_string(), error.remedy());
                if let Some(Location { line, column }) = error.place() {
                    (unreadable.line, unreadable.column) = (line, column);
                    (unreadable.end_line, unreadable.end_column) = (line, column);
                }
                let rejected = vec![unreadable];
                let changed = self.rejected != rejected;
                self.rejected = rejected;
                Refreshed {
                    changed,
                    again: None,
                }
            }
        }
    }

    /// The file is gone or empty: believed after a while.
    fn miss(&mut self, now: Instant) -> Refreshed {
        let believed = *self.missing.get_or_insert(now) + GRACE;
        if now >= believed || self.objects.is_empty() {
            Refreshed::changed()
        } else {
            Refreshed::at(believed)
        }
    }

    fn take(&mut self, entry: &Entry, text: &str, options: &CompileOptions) -> Refreshed {
        let hash = hash(text);
        let modified = match &entry.state {
            Ok(stamp) => stamp.modified,
            Err(_) => SystemTime::UNIX_EPOCH,
        };
        if self.text_hash == Some(hash) {
            return self.touch(modified);
        }
        self.text_hash = Some(hash);
        let file: Arc<Path> = entry.path.as_path().into();
        let documents = document::read_text(text, &file, options);
        let ignored = documents
            .iter()
            .filter(|document| matches!(document.outcome, Outcome::Ignored(_)))
            .count();
        tracing::debug!(file = %file.display(), documents = documents.len(), ignored, "manifest read");
        self.replace(documents, &entry.path, modified);
        Refreshed::changed()
    }

    /// The same text, written again: what is good in it is newer now.
    fn touch(&mut self, modified: SystemTime) -> Refreshed {
        let newer = |written: &Written| written.rank.modified != modified;
        if self.behind || !self.objects.iter().any(newer) {
            return Refreshed::default();
        }
        for written in &mut self.objects {
            written.rank.modified = modified;
        }
        Refreshed::changed()
    }

    /// Puts the good objects of a new version in the place of the old; what is broken keeps its last good version, and
    /// so does all that a document may be of which not even a name can be told.
    fn replace(&mut self, documents: Vec<Document>, path: &Path, modified: SystemTime) {
        let before = std::mem::take(&mut self.objects);
        self.rejected.clear();
        self.behind = documents
            .iter()
            .any(|document| matches!(document.outcome, Outcome::Broken(_)));
        let mut mentioned: HashSet<ObjectId> = HashSet::new();
        let mut nameless = false;
        for (position, Document { outcome, rejected }) in documents.into_iter().enumerate() {
            self.rejected.extend(rejected);
            match outcome {
                Outcome::Good(object) => {
                    mentioned.insert(object.id.clone());
                    let rank = Rank {
                        modified,
                        file: path.to_path_buf(),
                        position,
                    };
                    self.objects.push(Written { object, rank });
                }
                Outcome::Broken(Some(id)) => {
                    if mentioned.insert(id.clone()) {
                        let last_good = before.iter().filter(|written| written.object.id == id);
                        self.objects.extend(last_good.cloned());
                    }
                }
                Outcome::Broken(None) => nameless = true,
                Outcome::Ignored(_) => {}
            }
        }
        if nameless {
            let kept = before
                .into_iter()
                .filter(|written| !mentioned.contains(&written.object.id));
            self.objects.extend(kept);
        }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn shadowed_by(loser: &Written, winner: &Written) -> Rejected {
    let root = FieldPath::root();
    let in_force = winner.object.place(&root, "this one is in force");
    let message = format!(
        "{}:{} was written later and is in force instead",
        in_force.file.display(),
        in_force.line
    );
    let problem = Problem::new(&root, message, "remove one of them", Severity::Warning);
    loser
        .object
        .reject(problem.of(Code::Mesh0004).see(in_force))
}

#[cfg(test)]
mod tests;

//! What each file said when it was last understood, and which of it is in force.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::document::{self, Document, Outcome};
use crate::config::file::scan::{self, Entry, Stamp};
use crate::config::file::store::versions::Versions;
use crate::config::inputs::Change;
use crate::config::object::{Object, ObjectId};
use crate::config::path::Path as FieldPath;
use crate::config::problem::{Code, Problem, Severity};
use crate::config::yaml::Location;
use crate::config::{CompileOptions, Inputs, Rejected};

mod versions;

/// How long a file may be gone, or empty, before that is believed: some editors remove before they write.
const GRACE: Duration = Duration::from_millis(60);

/// The files of a directory.
#[derive(Debug, Default)]
pub(super) struct Store {
    files: BTreeMap<PathBuf, FileState>,
    versions: Versions,
    /// Objects that may have another version in force than before.
    dirty: BTreeSet<ObjectId>,
    /// The files with which something is wrong.
    wrong: BTreeSet<PathBuf>,
    /// What is wrong with objects that have several versions.
    shadowed: BTreeMap<ObjectId, Vec<Rejected>>,
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
    objects: Vec<Arc<Written>>,
    /// The objects that it had before, until the store knows.
    replaced: Option<Vec<Arc<Written>>>,
    rejected: Vec<Rejected>,
    /// Whether an object of it is in force in an older version than it has.
    behind: bool,
    /// Since when the file has been gone or empty.
    missing: Option<Instant>,
}

/// An object and how late it was written.
#[derive(Debug)]
struct Written {
    object: Arc<Object>,
    rank: Rank,
}

/// The highest of several versions of an object is in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    modified: SystemTime,
    file: Arc<Path>,
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
        let mut refreshed = self.look(listing, busy, now, options);
        refreshed.join(self.forget(listing, now));
        refreshed
    }

    /// Lets go of the files that are not listed.
    pub(super) fn forget(&mut self, listing: &[Entry], now: Instant) -> Refreshed {
        let mut refreshed = Refreshed::default();
        let listed: HashSet<&Path> = listing.iter().map(|entry| entry.path.as_path()).collect();
        let mut gone = Vec::new();
        for (path, file) in &mut self.files {
            if listed.contains(path.as_path()) {
                continue;
            }
            let looked = file.miss(now);
            if looked.changed {
                gone.push(path.clone());
            }
            refreshed.join(looked);
        }
        for path in gone {
            if let Some(file) = self.files.remove(&path) {
                self.swap(&file.objects, &[]);
                self.wrong.remove(&path);
            }
        }
        refreshed
    }

    /// Likewise, and says nothing of the files that are not listed.
    pub(super) fn look(
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
            if looked.changed {
                self.note(&entry.path);
            }
            refreshed.join(looked);
        }
        refreshed
    }

    /// Takes note of what is new in a file.
    fn note(&mut self, path: &Path) {
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        match file.rejected.is_empty() {
            true => self.wrong.remove(path),
            false => self.wrong.insert(path.to_path_buf()),
        };
        if let Some(before) = file.replaced.take() {
            let after = file.objects.clone();
            self.swap(&before, &after);
        }
    }

    fn swap(&mut self, before: &[Arc<Written>], after: &[Arc<Written>]) {
        for written in before {
            self.versions.remove(written);
        }
        for written in after {
            self.versions.add(written);
        }
        let both = before.iter().chain(after);
        self.dirty
            .extend(both.map(|written| written.object.id.clone()));
    }

    /// The objects that have had another version in force since this was last asked.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.dirty).into_iter();
        let changes = dirty.map(|id| {
            let (winner, shadowed) = in_force(self.versions.get(&id));
            match shadowed.is_empty() {
                true => self.shadowed.remove(&id),
                false => self.shadowed.insert(id.clone(), shadowed),
            };
            (id, winner)
        });
        changes.collect()
    }

    /// Everything that is wrong with the files. What changed must have been asked for before.
    pub(super) fn rejected(&self) -> Vec<Rejected> {
        let wrong = self.wrong.iter().filter_map(|path| self.files.get(path));
        let wrong = wrong.flat_map(|file| &file.rejected);
        let mut rejected: Vec<Rejected> = wrong
            .chain(self.shadowed.values().flatten())
            .cloned()
            .collect();
        Rejected::sort(&mut rejected);
        rejected
    }

    /// The objects in force, and everything that is wrong with the files.
    pub(super) fn resolve(&mut self) -> (Inputs, Vec<Rejected>) {
        self.changes();
        let winners = self.versions.iter().filter_map(|all| in_force(all).0);
        (winners.collect(), self.rejected())
    }
}

/// Of several versions of an object the one that was written last, and what is to be said of the others.
fn in_force(versions: &[Arc<Written>]) -> (Option<Arc<Object>>, Vec<Rejected>) {
    let mut versions: Vec<&Written> = versions.iter().map(|written| &**written).collect();
    versions.sort_by_key(|written| Reverse(&written.rank));
    let Some((winner, others)) = versions.split_first() else {
        return (None, Vec::new());
    };
    let shadowed = others.iter().map(|loser| shadowed_by(loser, winner));
    (Some(Arc::clone(&winner.object)), shadowed.collect())
}

impl Refreshed {
    pub(super) fn join(&mut self, other: Self) {
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
                    *self = Self {
                        replaced: Some(std::mem::take(&mut self.objects)),
                        ..Self::default()
                    };
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
        let newer = |written: &Arc<Written>| written.rank.modified != modified;
        if self.behind || !self.objects.iter().any(newer) {
            return Refreshed::default();
        }
        let again = self.objects.iter().map(|written| {
            let rank = Rank {
                modified,
                ..written.rank.clone()
            };
            let object = Arc::clone(&written.object);
            Arc::new(Written { object, rank })
        });
        let again = again.collect();
        self.replaced = Some(std::mem::replace(&mut self.objects, again));
        Refreshed::changed()
    }

    /// Puts the good objects of a new version in the place of the old; what is broken keeps its last good version, and
    /// so does all that a document may be of which not even a name can be told.
    fn replace(&mut self, documents: Vec<Document>, path: &Path, modified: SystemTime) {
        let before = std::mem::take(&mut self.objects);
        let file: Arc<Path> = path.into();
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
                        file: Arc::clone(&file),
                        position,
                    };
                    self.objects.push(Arc::new(Written { object, rank }));
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
                .iter()
                .filter(|written| !mentioned.contains(&written.object.id));
            self.objects.extend(kept.cloned());
        }
        self.replaced = Some(before);
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

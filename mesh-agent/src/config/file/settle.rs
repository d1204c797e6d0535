//! When to read: soon after a change, but not in the middle of one. No clock of its own, so that it can be tested.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long nothing must happen before the directory is read.
const QUIET: Duration = Duration::from_millis(15);

/// How long a directory that never rests is left unread.
const RESTLESS: Duration = Duration::from_millis(80);

/// How long after its last write a file that nobody closed counts as complete.
const UNCLOSED: Duration = Duration::from_millis(100);

/// How long a file that is written to all the time, and never closed, is left unread.
const ENDLESS: Duration = Duration::from_secs(1);

/// Gathers signs of change until it is time to read.
#[derive(Debug, Default)]
pub(super) struct Settle {
    unread: Option<Unread>,
    writing: HashMap<PathBuf, Unread>,
    /// The files that changed.
    named: HashSet<PathBuf>,
    /// Whether something else did.
    beyond: bool,
}

/// Changes that were not read yet.
#[derive(Clone, Copy, Debug)]
struct Unread {
    first: Instant,
    last: Instant,
}

impl Settle {
    /// A file was written to.
    pub(super) fn writing(&mut self, path: PathBuf, now: Instant) {
        Unread::touch(self.writing.entry(path).or_insert(Unread::at(now)), now);
        self.touch(now);
    }

    /// A file is complete.
    pub(super) fn complete(&mut self, path: &Path, now: Instant) {
        self.writing.remove(path);
        self.named.insert(path.to_path_buf());
        self.touch(now);
    }

    /// Something else changed.
    pub(super) fn other(&mut self, now: Instant) {
        self.beyond = true;
        self.touch(now);
    }

    fn touch(&mut self, now: Instant) {
        Unread::touch(self.unread.get_or_insert(Unread::at(now)), now);
    }

    /// When to read next; `None` where nothing changed.
    pub(super) fn due(&self) -> Option<Instant> {
        let changed = self.unread.map(|unread| unread.due(QUIET, RESTLESS));
        let written = self
            .writing
            .values()
            .map(|unread| unread.due(UNCLOSED, ENDLESS));
        changed.into_iter().chain(written).min()
    }

    /// The files that it is enough to look at now, if that is known: they alone changed. Forgets them.
    pub(super) fn named(&mut self) -> Option<HashSet<PathBuf>> {
        let mut named = std::mem::take(&mut self.named);
        // Those of which the writer has let go, should it be time, are among them.
        named.extend(self.writing.keys().cloned());
        let beyond = std::mem::take(&mut self.beyond);
        (!beyond && !named.is_empty()).then_some(named)
    }

    /// The directory is read now: forgets what is seen thereby. The files that come back are not to be looked at, since
    /// somebody is still writing them.
    pub(super) fn read(&mut self, now: Instant) -> HashSet<PathBuf> {
        self.unread = None;
        self.writing
            .retain(|_, unread| unread.due(UNCLOSED, ENDLESS) > now);
        self.writing.keys().cloned().collect()
    }
}

impl Unread {
    fn at(now: Instant) -> Self {
        Self {
            first: now,
            last: now,
        }
    }

    fn touch(unread: &mut Self, now: Instant) {
        unread.last = now;
    }

    fn due(self, quiet: Duration, longest: Duration) -> Instant {
        (self.last + quiet).min(self.first + longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_change_is_read_once_it_has_been_quiet() {
        let start = Instant::now();
        let mut settle = Settle::default();
        assert_eq!(settle.due(), None);
        settle.other(start);
        settle.other(after(start, 10));
        assert_eq!(settle.due(), Some(after(start, 25)));
        assert!(settle.read(after(start, 25)).is_empty());
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn files_that_changed_are_named_unless_more_did() {
        let start = Instant::now();
        let mut settle = Settle::default();
        let (a, b) = (PathBuf::from("a.yaml"), PathBuf::from("b.yaml"));
        assert_eq!(settle.named(), None);
        settle.complete(&a, start);
        settle.writing(b.clone(), start);
        assert_eq!(settle.named(), Some(HashSet::from([a.clone(), b.clone()])));
        // One that is still being written comes again.
        settle.read(after(start, 15));
        assert_eq!(settle.named(), Some(HashSet::from([b])));
        settle.read(after(start, 100));
        assert_eq!(settle.named(), None);
        settle.complete(&a, start);
        settle.other(start);
        assert_eq!(settle.named(), None);
        settle.complete(&a, start);
        assert_eq!(settle.named(), Some(HashSet::from([a])));
    }

    #[test]
    fn a_directory_that_never_rests_is_read_all_the_same() {
        let start = Instant::now();
        let mut settle = Settle::default();
        for millis in (0..=80).step_by(10) {
            settle.other(after(start, millis));
        }
        assert_eq!(settle.due(), Some(after(start, 80)));
    }

    #[test]
    fn a_file_is_left_alone_until_its_writer_closes_it() {
        let start = Instant::now();
        let mut settle = Settle::default();
        let file = PathBuf::from("a.yaml");
        settle.writing(file.clone(), start);
        assert_eq!(settle.read(after(start, 15)), HashSet::from([file.clone()]));
        assert_eq!(settle.due(), Some(after(start, 100)));
        settle.writing(file.clone(), after(start, 50));
        settle.complete(&file, after(start, 60));
        assert_eq!(settle.due(), Some(after(start, 75)));
        assert!(settle.read(after(start, 75)).is_empty());
    }

    #[test]
    fn a_file_that_is_never_closed_is_read_in_the_end() {
        let start = Instant::now();
        let mut settle = Settle::default();
        let file = PathBuf::from("a.yaml");
        settle.writing(file.clone(), start);
        settle.read(after(start, 15));
        assert!(settle.read(after(start, 100)).is_empty());
        for millis in (0..2_000).step_by(50) {
            settle.writing(file.clone(), after(start, millis));
        }
        assert!(settle.due() <= Some(after(start, 1_000)));
    }
}

//! The thread that reads: waits for a change, lets it settle, and publishes the world that came of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::file::scan::Entry;
use crate::config::file::settle::Settle;
use crate::config::file::store::{Refreshed, Store};
use crate::config::file::watcher::Watcher;
use crate::config::file::{OpenError, Signal, scan};
use crate::config::maker::{Maker, QUIET};
use crate::config::{CompileOptions, Rejected, Update, document};

/// How often the directory is looked at though nobody told of a change: network file systems tell nothing.
const BELT: Duration = Duration::from_secs(2);

/// The same, where the kernel does not tell at all.
const UNTOLD: Duration = Duration::from_millis(100);

/// How many files are read before the compiler learns what is new in them.
const AT_ONCE: usize = 16;

/// Everything that the thread owns.
pub(super) struct Worker {
    directory: PathBuf,
    maker: Maker,
    store: Store,
    watcher: Watcher,
    settle: Settle,
    inbox: Receiver<Signal>,
    /// When to look next, whatever happens.
    again: Instant,
    /// Why the directory cannot be read, while it cannot.
    unreadable: Option<Rejected>,
}

impl Worker {
    /// Begins the watch, then reads: a change between the two is seen.
    pub(super) fn start(
        directory: &Path,
        options: CompileOptions,
        signals: Sender<Signal>,
        inbox: Receiver<Signal>,
    ) -> Result<(Self, Update), OpenError> {
        let mut watcher = Watcher::new(directory, signals);
        watcher.follow_directory();
        let listing = scan::list(directory).map_err(|source| OpenError::Unreadable {
            path: directory.to_path_buf(),
            source,
        })?;
        watcher.follow_links(&listing);
        let mut worker = Self {
            directory: directory.to_path_buf(),
            maker: Maker::new(options),
            store: Store::default(),
            watcher,
            settle: Settle::default(),
            inbox,
            again: Instant::now() + BELT,
            unreadable: None,
        };
        worker.read(&listing, &HashSet::new(), Instant::now());
        let first = worker.world();
        let first = worker.maker.analyze().unwrap_or(first);
        Ok((worker, first))
    }

    /// Runs until nobody listens.
    pub(super) fn run(mut self, publish: &watch::Sender<Update>) {
        self.maker.prepare();
        while !publish.is_closed() {
            let wake = self
                .settle
                .due()
                .map_or(self.again, |due| due.min(self.again));
            let wait = wake.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                let quiet = self.maker.is_fresh() && wait > QUIET;
                match self.inbox.recv_timeout(if quiet { QUIET } else { wait }) {
                    Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    Ok(signal) => self.note(signal),
                    Err(RecvTimeoutError::Timeout) if quiet => {
                        if let Some(update) = self.maker.analyze() {
                            publish.send_replace(update);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => self.maker.give_back(),
                }
                continue;
            }
            if self.look() {
                let update = self.world();
                publish.send_replace(update);
            }
        }
    }

    fn note(&mut self, signal: Signal) {
        let now = Instant::now();
        match signal {
            Signal::Writing(path) => self.settle.writing(path, now),
            Signal::Complete(path) => self.settle.complete(&path, now),
            Signal::Other | Signal::Stop => self.settle.other(now),
        }
    }

    /// Looks at the directory. True where the world is another.
    fn look(&mut self) -> bool {
        let now = Instant::now();
        let named = self.settle.named();
        let busy = self.settle.read(now);
        if let Some(changed) = self.look_at(named, &busy, now) {
            return changed;
        }
        self.watcher.follow_directory();
        self.again = now + if self.watcher.works() { BELT } else { UNTOLD };
        let listing = match scan::list(&self.directory) {
            Ok(listing) => listing,
            Err(error) => {
                let message = format!("the manifest directory cannot be read: {error}");
                let remedy = "until it is back, what it said last holds";
                let unreadable = Some(document::about_file(&self.directory, message, remedy));
                let changed = self.unreadable != unreadable;
                self.unreadable = unreadable;
                return changed;
            }
        };
        let back = self.unreadable.take().is_some();
        if self.watcher.follow_links(&listing) {
            // What changed there before the watch began was not told.
            self.settle.other(now);
        }
        let refreshed = self.read(&listing, &busy, now);
        if let Some(again) = refreshed.again {
            self.again = self.again.min(again);
        }
        refreshed.changed || back
    }

    /// Reads what has changed of a directory, a few files at a time: of a large one not all objects should be there
    /// twice, as they were and as they are.
    fn read(&mut self, listing: &[Entry], busy: &HashSet<PathBuf>, now: Instant) -> Refreshed {
        let mut refreshed = Refreshed::default();
        for some in listing.chunks(AT_ONCE) {
            refreshed.join(self.store.look(some, busy, now, self.maker.options()));
            self.take_over();
        }
        refreshed.join(self.store.forget(listing, now));
        refreshed
    }

    /// Tells the compiler which objects have changed.
    fn take_over(&mut self) {
        self.maker.take(self.store.changes());
    }

    /// Looks at the files that changed, where it is known that no other did: the directory may have many. True where the
    /// world is another; `None` where the whole directory is to be looked at.
    fn look_at(
        &mut self,
        named: Option<HashSet<PathBuf>>,
        busy: &HashSet<PathBuf>,
        now: Instant,
    ) -> Option<bool> {
        if now >= self.again || self.unreadable.is_some() || !self.watcher.works() {
            return None;
        }
        let entries = scan::some(&self.directory, named?)?;
        let refreshed = self.store.look(&entries, busy, now, self.maker.options());
        if let Some(again) = refreshed.again {
            self.again = self.again.min(again);
        }
        Some(refreshed.changed)
    }

    /// The world as it is now.
    fn world(&mut self) -> Update {
        self.take_over();
        let mut rejected = self.store.rejected();
        rejected.extend(self.unreadable.clone());
        self.maker.world(rejected)
    }
}

//! The thread that reads: waits for a change, lets it settle, and publishes the world that came of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::compile::Compiler;
use crate::config::file::scan::Entry;
use crate::config::file::settle::Settle;
use crate::config::file::store::{Refreshed, Store};
use crate::config::file::watcher::Watcher;
use crate::config::file::{OpenError, Signal, Update, scan};
use crate::config::{CompileOptions, Rejected, analyze, document};
use crate::model::Snapshot;
use crate::sys::memory;

/// How often the directory is looked at though nobody told of a change: network file systems tell nothing.
const BELT: Duration = Duration::from_secs(2);

/// The same, where the kernel does not tell at all.
const UNTOLD: Duration = Duration::from_millis(100);

/// How long nothing must have happened before a world is analyzed: the next change goes before.
const QUIET: Duration = Duration::from_millis(20);

/// How many files are read before the compiler learns what is new in them.
const AT_ONCE: usize = 16;

/// Everything that the thread owns.
pub(super) struct Worker {
    directory: PathBuf,
    options: CompileOptions,
    store: Store,
    compiler: Compiler,
    watcher: Watcher,
    settle: Settle,
    inbox: Receiver<Signal>,
    /// When to look next, whatever happens.
    again: Instant,
    /// Why the directory cannot be read, while it cannot.
    unreadable: Option<Rejected>,
    generation: u64,
    /// What does not fit together in the world that was analyzed last.
    analyzed: Vec<Rejected>,
    /// A world that is in force and has not been analyzed yet.
    fresh: Option<Fresh>,
    /// Whether the whole world was made anew since memory was given back.
    anew: bool,
}

/// What it takes to add to an update what analysis finds.
struct Fresh {
    snapshot: Arc<Snapshot>,
    rejected: Vec<Rejected>,
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
            compiler: Compiler::new(options.clone()),
            options,
            store: Store::default(),
            watcher,
            settle: Settle::default(),
            inbox,
            again: Instant::now() + BELT,
            unreadable: None,
            generation: 0,
            analyzed: Vec::new(),
            fresh: None,
            anew: false,
        };
        worker.read(&listing, &HashSet::new(), Instant::now());
        let first = worker.world();
        let first = worker.analyze().unwrap_or(first);
        Ok((worker, first))
    }

    /// Runs until nobody listens.
    pub(super) fn run(mut self, publish: &watch::Sender<Update>) {
        // For the first change. Nobody waits for anything yet.
        self.compiler.prepare();
        memory::give_back();
        while !publish.is_closed() {
            let wake = self
                .settle
                .due()
                .map_or(self.again, |due| due.min(self.again));
            let wait = wake.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                let quiet = self.fresh.is_some() && wait > QUIET;
                match self.inbox.recv_timeout(if quiet { QUIET } else { wait }) {
                    Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    Ok(signal) => self.note(signal),
                    Err(RecvTimeoutError::Timeout) if quiet => {
                        if let Some(update) = self.analyze() {
                            publish.send_replace(update);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => self.give_back(),
                }
                continue;
            }
            if self.look() {
                let update = self.world();
                publish.send_replace(update);
            }
        }
    }

    /// Where everything was made anew, the world before it is gone by now, and what was needed to make it.
    fn give_back(&mut self) {
        if std::mem::take(&mut self.anew) {
            memory::give_back();
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
            refreshed.join(self.store.look(some, busy, now, &self.options));
            self.take_over();
        }
        refreshed.join(self.store.forget(listing, now));
        refreshed
    }

    /// Tells the compiler which objects have changed.
    fn take_over(&mut self) {
        for (id, object) in self.store.changes() {
            self.compiler.change(&id, object);
        }
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
        let refreshed = self.store.look(&entries, busy, now, &self.options);
        if let Some(again) = refreshed.again {
            self.again = self.again.min(again);
        }
        Some(refreshed.changed)
    }

    /// The world as it is now. What does not fit together in it is said later: until then, what did not before.
    fn world(&mut self) -> Update {
        self.take_over();
        // It holds the world before, which is of no use here any more.
        self.fresh = None;
        let mut rejected = self.store.rejected();
        rejected.extend(self.unreadable.clone());
        let (mut snapshot, more) = self.compiler.world();
        rejected.extend(more);
        self.anew |= !self.compiler.was_partial();
        self.generation += 1;
        snapshot.generation = self.generation;
        let snapshot = Arc::new(snapshot);
        let update = self.update(&snapshot, &rejected);
        self.fresh = Some(Fresh { snapshot, rejected });
        update
    }

    /// Analyzes the world in force, where that has not been done. What comes back says what is new by it.
    fn analyze(&mut self) -> Option<Update> {
        let Fresh { snapshot, rejected } = self.fresh.take()?;
        let found = analyze(self.compiler.inputs(), &self.options);
        self.compiler.prepare();
        if found == self.analyzed {
            return None;
        }
        self.analyzed = found;
        Some(self.update(&snapshot, &rejected))
    }

    fn update(&self, snapshot: &Arc<Snapshot>, rejected: &[Rejected]) -> Update {
        let mut rejected = [rejected, &self.analyzed].concat();
        Rejected::sort(&mut rejected);
        Update {
            snapshot: Arc::clone(snapshot),
            rejected,
        }
    }
}

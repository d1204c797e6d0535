//! One world after another, whatever the source of the objects: what every source does with what it has read.
//!
//! A world is in force as soon as it is made. What does not fit together in it is looked for later, when nothing has
//! happened for a moment, and the same world comes again with that.

use std::sync::Arc;
use std::time::Duration;

use crate::config::compile::Compiler;
use crate::config::inputs::{Change, Inputs};
use crate::config::{CompileOptions, Rejected, Update, analyze};
use crate::model::Snapshot;
use crate::sys::memory;

/// How long nothing must have happened before a world is analyzed: the next change goes before.
pub(super) const QUIET: Duration = Duration::from_millis(20);

/// Makes worlds.
#[derive(Debug)]
pub(super) struct Maker {
    options: CompileOptions,
    compiler: Compiler,
    generation: u64,
    /// What does not fit together in the world that was analyzed last.
    analyzed: Vec<Rejected>,
    /// A world that is in force and has not been analyzed yet.
    fresh: Option<Fresh>,
    /// Whether the whole world was made anew since memory was given back.
    anew: bool,
}

/// What it takes to add to an update what analysis finds.
#[derive(Debug)]
struct Fresh {
    snapshot: Arc<Snapshot>,
    rejected: Vec<Rejected>,
}

impl Maker {
    /// One that knows no object yet.
    pub(super) fn new(options: CompileOptions) -> Self {
        Self {
            compiler: Compiler::new(options.clone()),
            options,
            generation: 0,
            analyzed: Vec::new(),
            fresh: None,
            anew: false,
        }
    }

    /// How objects are read.
    pub(super) fn options(&self) -> &CompileOptions {
        &self.options
    }

    /// The objects in force.
    pub(super) fn inputs(&self) -> &Inputs {
        self.compiler.inputs()
    }

    /// Puts objects in force, or takes them out of force: in the next world.
    pub(super) fn take(&mut self, changes: Vec<Change>) {
        for (id, object) in changes {
            self.compiler.change(&id, object);
        }
    }

    /// The world as it is now. `rejected` is what is wrong within objects. What does not fit together between them is said
    /// later: until then, what did not before.
    pub(super) fn world(&mut self, mut rejected: Vec<Rejected>) -> Update {
        // It holds the world before, which is of no use here any more.
        self.fresh = None;
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

    /// Whether the world in force has not been analyzed yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh.is_some()
    }

    /// Analyzes the world in force, where that has not been done. What comes back says what is new by it.
    pub(super) fn analyze(&mut self) -> Option<Update> {
        let Fresh { snapshot, rejected } = self.fresh.take()?;
        let found = analyze(self.compiler.inputs(), &self.options);
        self.compiler.prepare();
        if found == self.analyzed {
            return None;
        }
        self.analyzed = found;
        Some(self.update(&snapshot, &rejected))
    }

    /// Prepares for the first change. Nobody waits for anything yet.
    pub(super) fn prepare(&mut self) {
        self.compiler.prepare();
        memory::give_back();
    }

    /// Where everything was made anew, the world before it is gone by now, and what was needed to make it.
    pub(super) fn give_back(&mut self) {
        if std::mem::take(&mut self.anew) {
            memory::give_back();
        }
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

//! One world after another: of the next one only that is made anew which a changed object has to do with.
//!
//! A change touches a small scope: some Services by host, some Pods, some names in the route tables. What decides over
//! that scope is gathered, and the same functions that make a whole world make a small one of it; the part of the small
//! world that is in the scope takes its place in a copy of the last world, which shares all the rest. So there is one
//! compiler and not two, and what has to be right here is the scope and the gathering: that nothing is missing. Where that
//! cannot be told, or the change is as wide as the world, the whole world is made. That is so for Gateways and what is
//! bound to them, Sidecars and what is exported to some namespaces only, ServiceEntries, Nodes, Secrets, wildcards, and
//! the mesh's configuration.
//!
//! A test makes random changes and compares each world with one that is made whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::compile::incremental::index::{Index, Key};
use crate::config::compile::incremental::scope::{Everything, Kept, Scope, View};
use crate::config::compile::incremental::splice::Splice;
use crate::config::compile::whole;
use crate::config::object::{Body, Object, ObjectId};
use crate::config::problem::Rejected;
use crate::config::{CompileOptions, Inputs};
use crate::model::{ClusterKey, Snapshot};

mod gather;
mod index;
mod scope;
mod splice;

/// How many objects may change before it is simpler to make everything anew.
const MANY: usize = 200;

/// Compiles one world after another.
#[derive(Debug)]
pub struct Compiler {
    options: CompileOptions,
    inputs: Inputs,
    /// Objects that have changed, each in the version that the last world was made of.
    changes: BTreeMap<ObjectId, Option<Arc<Object>>>,
    /// The objects that the last world was made of; `None` where it is to be made.
    index: Option<Index>,
    /// The last world.
    made: Option<Made>,
    /// Whether only a part of it was made last.
    partly: bool,
}

/// A world, and what is needed to change a part of it.
#[derive(Debug)]
struct Made {
    snapshot: Snapshot,
    /// What is wrong between objects, as a whole compile tells it.
    rejected: Vec<(ObjectId, Rejected)>,
    /// The clusters of each host.
    keys: HashMap<Arc<str>, Vec<ClusterKey>>,
}

impl Compiler {
    /// One that knows no object yet.
    pub fn new(options: CompileOptions) -> Self {
        Self {
            options,
            inputs: Inputs::default(),
            changes: BTreeMap::new(),
            index: None,
            made: None,
            partly: false,
        }
    }

    /// The objects in force.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Puts an object in force, or takes it out of force.
    pub fn change(&mut self, id: &ObjectId, object: Option<Arc<Object>>) {
        let before = match object {
            Some(object) => self.inputs.insert(object),
            None => self.inputs.remove(id),
        };
        if self.made.is_some() {
            self.changes.entry(id.clone()).or_insert(before);
        }
        if self.changes.len() > MANY {
            // What was is of no use any more, and so large that it should not be kept while the new world is made.
            self.changes.clear();
            self.index = None;
            self.made = None;
        }
    }

    /// The world of the objects in force, and what is wrong between them: what [`compile`](super::compile()) makes.
    pub fn world(&mut self) -> (Snapshot, Vec<Rejected>) {
        let made = self.part().unwrap_or_else(|_| {
            self.partly = false;
            Made::whole(&self.inputs, &self.options)
        });
        let rejected = made.rejected.iter();
        let rejected = rejected.map(|(_, rejected)| rejected.clone()).collect();
        let snapshot = made.snapshot.clone();
        self.made = Some(made);
        (snapshot, rejected)
    }

    /// Whether the last world was made by changing the one before.
    pub fn was_partial(&self) -> bool {
        self.partly
    }

    /// Prepares for the next change. This takes a while the first time; without it, the next world is made whole.
    pub fn prepare(&mut self) {
        if self.index.is_none() && self.changes.is_empty() {
            self.index = Some(Index::of(self.inputs.iter(), &self.options));
        }
    }

    /// The last world with what has changed since. It is used up: where this fails, a whole one is to be made.
    fn part(&mut self) -> Result<Made, Everything> {
        let changes = std::mem::take(&mut self.changes);
        let (Some(made), Some(mut index)) = (self.made.take(), self.index.take()) else {
            return Err(Everything);
        };
        // Who sees what is looked up by what was written.
        if self.inputs.mesh_config().hides() {
            return Err(Everything);
        }
        let pairs = changes
            .iter()
            .map(|(id, before)| (before.as_ref(), self.inputs.get(id)));
        let pairs: Vec<Pair<'_>> = pairs.collect();
        let mut scope = Ok(Scope::default());
        let versions = pairs.iter().flat_map(|(before, after)| [*before, *after]);
        let ports = versions.flatten().flat_map(|object| ports(object));
        let ports: BTreeSet<u16> = ports.collect();
        let has_table = |index: &Index, port: u16| !index.get(Key::Declares(port)).is_empty();
        let tables: Vec<bool> = ports.iter().map(|port| has_table(&index, *port)).collect();
        let touch = |scope: &mut Result<Scope, Everything>, index: &Index, after: bool| {
            let view = View {
                index,
                inputs: &self.inputs,
                options: &self.options,
            };
            for pair in &pairs {
                let version = if after { pair.1 } else { pair.0 };
                if let (Ok(touched), Some(object)) = (scope.as_mut(), version)
                    && touched.touch(object, Kept::of(*pair), view).is_err()
                {
                    *scope = Err(Everything);
                }
            }
        };
        touch(&mut scope, &index, false);
        for (before, after) in &pairs {
            if let Some(object) = before {
                index.remove(object, &self.options);
            }
            let stale = after.is_some_and(|object| index.insert(object, &self.options).is_err());
            if stale {
                return Err(Everything);
            }
        }
        touch(&mut scope, &index, true);
        let index = self.index.insert(index);
        let mut scope = scope?;
        for (port, before) in ports.into_iter().zip(tables) {
            match (before, has_table(index, port)) {
                (true, false) => scope.gone_ports.insert(port),
                (false, true) => scope.new_ports.insert(port),
                (true, true) | (false, false) => continue,
            };
        }
        let view = View {
            index,
            inputs: &self.inputs,
            options: &self.options,
        };
        let mut splice = Splice::new(made, view);
        splice.endpoints(&scope, &changes)?;
        splice.routes(scope)?;
        self.partly = true;
        Ok(splice.made)
    }
}

/// An object, as it was and as it is.
type Pair<'p> = (Option<&'p Arc<Object>>, Option<&'p Arc<Object>>);

/// The ports of a Service or ServiceEntry.
fn ports(object: &Object) -> Vec<u16> {
    match &object.body {
        Body::Service(service) => service.ports.iter().map(|port| port.number).collect(),
        Body::ServiceEntry(entry) => entry.ports.iter().map(|port| port.number).collect(),
        _ => Vec::new(),
    }
}

impl Kept {
    fn of((before, after): Pair<'_>) -> Self {
        let (Some(before), Some(after)) = (before, after) else {
            return Self::default();
        };
        let only = |object: &Object| match ports(object).as_slice() {
            [only] => Some(*only),
            _ => None,
        };
        let place = |object: &Object| match &object.body {
            Body::Pod(pod) => Some((pod.ended, pod.addresses.clone())),
            _ => None,
        };
        Self {
            port: only(before) == only(after),
            place: before.age == after.age && place(before) == place(after),
        }
    }
}

impl Made {
    fn whole(inputs: &Inputs, options: &CompileOptions) -> Self {
        let (snapshot, report) = whole(inputs, options);
        let mut keys: HashMap<Arc<str>, Vec<ClusterKey>> = HashMap::new();
        for key in snapshot.clusters.keys() {
            let host = keys.entry(Arc::clone(&key.host)).or_default();
            host.push(key.clone());
        }
        Self {
            snapshot,
            rejected: report.rejected,
            keys,
        }
    }
}

#[cfg(test)]
mod tests;

//! What the API server said last of every object, and which of it is in force. No I/O, and no clock but what it is handed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::config::document::{self, Document, Outcome};
use crate::config::inputs::Change;
use crate::config::kube::feed::Feed;
use crate::config::kube::herald::News;
use crate::config::kube::lean;
use crate::config::object::{Kind, Object, ObjectId};
use crate::config::problem::Severity;
use crate::config::{CompileOptions, Rejected};

/// How long a feed that has failed is in trouble, unless it fails again: the watch tries anew at least twice in that time,
/// and a watch that works again has nothing to say until something changes.
const TROUBLED: Duration = Duration::from_secs(65);

/// What one feed has to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    /// Its list begins.
    Begin,
    /// An object of the list.
    Listed(Json),
    /// The list is complete.
    Complete,
    /// An object is new or has changed.
    Changed(Json),
    /// An object is gone: its namespace and name.
    Deleted(String, String),
    /// The server does not have such objects, or nobody wants them any more.
    Absent,
    /// It cannot be followed for now, and why.
    Failing(String),
    /// The server has it in this version.
    Version(String),
}

/// Everything that is watched.
#[derive(Debug)]
pub(super) struct Store {
    entries: HashMap<ObjectId, Entry>,
    feeds: BTreeMap<Feed, Progress>,
    /// What is wrong within objects.
    wrong: BTreeMap<ObjectId, Vec<Rejected>>,
    /// Objects that bear a condition of ours.
    marked: BTreeSet<ObjectId>,
    /// The version in which the server has each kind.
    versions: BTreeMap<Kind, String>,
    /// Objects whose version in force is another than the compiler's.
    dirty: HashSet<ObjectId>,
}

/// One object.
#[derive(Debug)]
struct Entry {
    feed: Feed,
    version: u64,
    /// The version that was good last.
    object: Option<Arc<Object>>,
}

/// How far a feed has come.
#[derive(Debug, Default)]
struct Progress {
    /// Whether it has been listed once.
    listed: bool,
    list: Option<List>,
    /// Why it cannot be followed, and when that was last said.
    trouble: Option<(String, Instant)>,
}

/// A list that is not complete.
#[derive(Debug, Default)]
struct List {
    seen: HashSet<ObjectId>,
    /// Objects that are another than before.
    changed: Vec<(ObjectId, Json)>,
}

impl Store {
    /// Knows nothing of these feeds yet.
    pub(super) fn new(feeds: Vec<Feed>) -> Self {
        let feeds = feeds.into_iter().map(|feed| (feed, Progress::default()));
        Self {
            entries: HashMap::new(),
            feeds: feeds.collect(),
            wrong: BTreeMap::new(),
            marked: BTreeSet::new(),
            versions: BTreeMap::new(),
            dirty: HashSet::new(),
        }
    }

    /// Whether every feed has been listed once, so that what is known is a whole world.
    pub(super) fn is_whole(&self) -> bool {
        self.feeds.values().all(|progress| progress.listed)
    }

    /// The feeds that have not been listed yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Feed> {
        let feeds = self.feeds.iter();
        feeds.filter_map(|(feed, progress)| (!progress.listed).then_some(feed))
    }

    /// How many objects are known.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes in what a feed says. What is to be remembered of it comes back: objects as they are now, and those that are
    /// gone.
    pub(super) fn take(
        &mut self,
        feed: &Feed,
        told: Told,
        now: Instant,
        options: &CompileOptions,
    ) -> Vec<(ObjectId, Option<Json>)> {
        let progress = self.feeds.entry(feed.clone()).or_default();
        if !matches!(told, Told::Failing(_) | Told::Version(_)) {
            progress.trouble = None;
        }
        match told {
            Told::Begin => progress.list = Some(List::default()),
            Told::Listed(json) => self.list(feed, json),
            Told::Complete => return self.complete(feed, options),
            Told::Changed(json) => {
                let id = id(feed.kind(), &json);
                if self.apply(feed, &id, &json, options) {
                    return vec![(id, Some(json))];
                }
            }
            Told::Deleted(namespace, name) => {
                let id = document::id_of(feed.kind(), &namespace, &name);
                if self.remove(feed, &id) {
                    return vec![(id, None)];
                }
            }
            Told::Absent => {
                progress.list = Some(List::default());
                return self.complete(feed, options);
            }
            Told::Failing(why) => {
                // What was listed of a list that broke off counts for nothing.
                progress.list = None;
                progress.trouble = Some((why, now));
            }
            Told::Version(version) => drop(self.versions.insert(feed.kind(), version)),
        }
        Vec::new()
    }

    /// A feed that has not said anything yet.
    pub(super) fn expect(&mut self, feed: Feed) {
        self.feeds.entry(feed).or_default();
    }

    /// Forgets a feed with all that it said. What is gone by it comes back.
    pub(super) fn drop_feed(&mut self, feed: &Feed) -> Vec<ObjectId> {
        self.feeds.remove(feed);
        let of_feed = self.entries.iter().filter(|(_, entry)| entry.feed == *feed);
        let gone: Vec<ObjectId> = of_feed.map(|(id, _)| id.clone()).collect();
        for id in &gone {
            self.remove(feed, id);
        }
        gone
    }

    /// Why a feed cannot be followed, if there is one that cannot.
    pub(super) fn trouble(&self) -> Option<&str> {
        let mut troubles = self.troubles();
        troubles.next()
    }

    /// Lets go of troubles that have not come again. True where there were such.
    pub(super) fn calm(&mut self, now: Instant) -> bool {
        let mut calmed = false;
        for progress in self.feeds.values_mut() {
            let over = |(_, said): &mut (String, Instant)| now >= *said + TROUBLED;
            calmed |= progress.trouble.take_if(over).is_some();
        }
        calmed
    }

    fn troubles(&self) -> impl Iterator<Item = &str> {
        let feeds = self.feeds.values();
        feeds.filter_map(|progress| Some(progress.trouble.as_ref()?.0.as_str()))
    }

    /// The objects that have had another version in force since this was last asked.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        let mut changes: Vec<Change> = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|id| {
                let object = self.entries.get(&id);
                let object = object.and_then(|entry| entry.object.clone());
                (id, object)
            })
            .collect();
        changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        changes
    }

    /// What those should know who say what is wrong.
    pub(super) fn news(&self, rejected: Vec<Rejected>) -> News {
        News {
            rejected,
            marked: self.marked.clone(),
            versions: self.versions.clone(),
        }
    }

    /// Everything that is wrong within objects, and with the feeds.
    pub(super) fn rejected(&self) -> Vec<Rejected> {
        // A server that is away is so for all of them.
        let troubles: BTreeSet<&str> = self.troubles().collect();
        let troubles = troubles.into_iter().map(|why| Rejected {
            severity: Severity::Warning,
            code: None,
            ..document::about_file(
                "".as_ref(),
                format!("the API server cannot be followed: {why}"),
                "until it can, what it said last holds",
            )
        });
        let wrong = self.wrong.values().flatten().cloned();
        wrong.chain(troubles).collect()
    }

    fn list(&mut self, feed: &Feed, json: Json) {
        let id = id(feed.kind(), &json);
        let known = self.entries.get(&id);
        let same =
            known.is_some_and(|entry| entry.feed == *feed && entry.version == version(&json));
        let progress = self.feeds.entry(feed.clone()).or_default();
        let list = progress.list.get_or_insert_default();
        if !same {
            list.changed.push((id.clone(), json));
        }
        list.seen.insert(id);
    }

    /// Puts a list in force as a whole.
    fn complete(&mut self, feed: &Feed, options: &CompileOptions) -> Vec<(ObjectId, Option<Json>)> {
        let progress = self.feeds.entry(feed.clone()).or_default();
        progress.listed = true;
        let Some(List { seen, changed }) = progress.list.take() else {
            return Vec::new();
        };
        let known = self.entries.iter();
        let gone = known.filter(|(id, entry)| entry.feed == *feed && !seen.contains(id));
        let gone: Vec<ObjectId> = gone.map(|(id, _)| id.clone()).collect();
        let mut news = Vec::with_capacity(changed.len() + gone.len());
        for id in gone {
            self.remove(feed, &id);
            news.push((id, None));
        }
        for (id, json) in changed {
            if self.apply(feed, &id, &json, options) {
                news.push((id, Some(json)));
            }
        }
        news
    }

    /// Puts an object in force, if it is right in itself; else its last good version stays. False where it is known.
    fn apply(&mut self, feed: &Feed, id: &ObjectId, json: &Json, options: &CompileOptions) -> bool {
        let version = version(json);
        let before = self.entries.get(id);
        // A gateway's own Pod is in both, and one that has just come to this node may be for a moment.
        let in_full = before.is_some_and(|entry| entry.feed == Feed::PodsHere);
        if in_full && *feed == Feed::PodsElsewhere {
            return false;
        }
        if before.is_some_and(|entry| entry.feed == *feed && entry.version == version) {
            return false;
        }
        match json.get("status").is_some_and(lean::is_marked) {
            true => self.marked.insert(id.clone()),
            false => self.marked.remove(id),
        };
        let node = lean::node(json);
        let Document { outcome, rejected } = document::read_placeless(feed.kind(), &node, options);
        match rejected.is_empty() {
            true => self.wrong.remove(id),
            false => self.wrong.insert(id.clone(), rejected),
        };
        let object = match outcome {
            Outcome::Good(object) => Some(object),
            Outcome::Broken(_) | Outcome::Ignored(_) => {
                before.and_then(|entry| entry.object.clone())
            }
        };
        let entry = Entry {
            feed: feed.clone(),
            version,
            object,
        };
        self.entries.insert(id.clone(), entry);
        self.dirty.insert(id.clone());
        true
    }

    /// Takes an object out of force. Not where another feed has it by now: a Pod that came to this node, say.
    fn remove(&mut self, feed: &Feed, id: &ObjectId) -> bool {
        let known = self.entries.get(id);
        if known.is_none_or(|entry| entry.feed != *feed) {
            return false;
        }
        self.entries.remove(id);
        self.wrong.remove(id);
        self.marked.remove(id);
        self.dirty.insert(id.clone());
        true
    }
}

fn id(kind: Kind, json: &Json) -> ObjectId {
    let metadata = &json["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    document::id_of(kind, text("namespace"), text("name"))
}

/// Tells one version of an object from another.
fn version(json: &Json) -> u64 {
    let metadata = &json["metadata"];
    let mut hasher = DefaultHasher::new();
    // An object of another name may come by the same version: the name may have been given anew.
    metadata["uid"].as_str().hash(&mut hasher);
    metadata["resourceVersion"].as_str().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;

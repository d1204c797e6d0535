//! What the API server said last, on disk: so that an agent that starts while the server is away has a world.
//!
//! A log of lines, each an object as it was told or the name of one that is gone; the last line of an object holds. It is
//! written anew, without what does not hold, once it has grown to twice the size of what does. A line that was cut by a
//! crash or a full disk is passed over. Nothing waits for the disk to have it all: what is lost by a power failure, the
//! server tells again. The file may hold keys of Secrets, and is for its owner alone.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use crate::config::kube::feed::Feed;
use crate::config::object::ObjectId;

/// The name of the log; another format has another name.
const FILE: &str = "objects-1.log";

/// A log is not written anew before it has this size: small ones are not worth the trouble.
const SMALL: u64 = 1 << 20;

/// The longest line that is read: what an API server takes of one object is smaller.
const LONGEST: u64 = 16 << 20;

/// The log, open for writing. Where writing fails, that is told once, and tried again when the log is next written anew.
#[derive(Debug)]
pub(super) struct Saved {
    path: PathBuf,
    file: Option<File>,
    pending: Vec<u8>,
    /// The size of the file.
    size: u64,
    /// The size that it had when it was last written anew.
    compact: u64,
}

impl Saved {
    /// Opens the log in a directory, and reads what holds of it into `take`.
    pub(super) fn open(directory: &Path, mut take: impl FnMut(Feed, Json)) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(FILE);
        let read = each_that_holds(&path, |line| {
            let line: Line<'_> = serde_json::from_slice(line)?;
            if let (Some(feed), Some(object)) = (Feed::named(&line.feed), line.object)
                && let Ok(object) = serde_json::from_str(object.get())
            {
                take(feed, object);
            }
            Ok(())
        });
        let held = match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            held => held?,
        };
        let mut saved = Self {
            file: None,
            pending: Vec::new(),
            size: 0,
            compact: held,
            path,
        };
        saved.append_to()?;
        Ok(saved)
    }

    /// Notes an object as it is now, or that it is gone.
    pub(super) fn note(&mut self, feed: &Feed, id: &ObjectId, object: Option<&Json>) {
        if self.file.is_none() {
            return;
        }
        let line = json!({
            "feed": feed.to_string(),
            "namespace": &*id.namespace,
            "name": &*id.name,
            "object": object,
        });
        // Writing to memory does not fail, and the keys of JSON's maps are strings.
        let _ = serde_json::to_writer(&mut self.pending, &line);
        self.pending.push(b'\n');
    }

    /// Writes what was noted.
    pub(super) fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let Some(file) = &mut self.file else {
            return;
        };
        if pending.is_empty() {
            return;
        }
        let written = file.write_all(&pending);
        self.size += pending.len() as u64;
        let outcome = written.and_then(|()| match self.size > SMALL.max(2 * self.compact) {
            true => self.rewrite(),
            false => Ok(()),
        });
        if let Err(e) = outcome {
            self.file = None;
            tracing::warn!(
                file = %self.path.display(),
                error = %e,
                "what the API server says cannot be saved; an agent that starts without the server begins with what was saved before"
            );
        }
    }

    /// Writes the log anew, with what holds alone.
    fn rewrite(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut to = create(&new, true)?;
        let held = each_that_holds(&self.path, |line| {
            to.write_all(line)?;
            to.write_all(b"\n")
        })?;
        fs::rename(&new, &self.path)?;
        self.compact = held;
        self.append_to()
    }

    fn append_to(&mut self) -> io::Result<()> {
        let mut file = create(&self.path, false)?;
        self.size = file.metadata()?.len();
        // A line that was cut must not take the next one with it.
        if self.size > 0 {
            file.write_all(b"\n")?;
            self.size += 1;
        }
        self.file = Some(file);
        Ok(())
    }
}

fn create(path: &Path, anew: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    match anew {
        true => options.write(true).truncate(true).open(path),
        false => options.append(true).open(path),
    }
}

/// A line. An object that is gone has none in it.
#[derive(serde::Deserialize)]
struct Line<'a> {
    feed: String,
    namespace: String,
    name: String,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

/// Hands over each line of a log that holds, in order. Says how many bytes they are.
fn each_that_holds(path: &Path, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    let mut last: HashMap<(String, String, String), u64> = HashMap::new();
    each_line(path, |at, line| {
        // One that was cut says nothing.
        if let Ok(line) = serde_json::from_slice::<Line<'_>>(line) {
            let key = (line.feed, line.namespace, line.name);
            match line.object {
                Some(_) => last.insert(key, at),
                None => last.remove(&key),
            };
        }
        Ok(())
    })?;
    let holding: HashSet<u64> = last.into_values().collect();
    let mut held = 0;
    each_line(path, |at, line| {
        if holding.contains(&at) {
            held += line.len() as u64 + 1;
            take(line)?;
        }
        Ok(())
    })?;
    Ok(held)
}

/// Hands over each line with its place in the file.
fn each_line(path: &Path, mut take: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    let mut at = 0;
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, LONGEST).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        take(at, line.strip_suffix(b"\n").unwrap_or(&line))?;
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::id_of;
    use crate::config::object::Kind;

    const FEED: Feed = Feed::All(Kind::Service);

    fn read(directory: &Path) -> Vec<(String, Json)> {
        let mut found = Vec::new();
        let saved = Saved::open(directory, |feed, json| found.push((feed.to_string(), json)));
        saved.expect("a log");
        found.sort_by_key(|(_, json)| json.to_string());
        found
    }

    fn note(saved: &mut Saved, name: &str, object: Option<&Json>) {
        let id = id_of(Kind::Service, "default", name);
        saved.note(&FEED, &id, object);
        saved.flush();
    }

    #[test]
    fn the_last_word_on_an_object_holds() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut saved = Saved::open(directory.path(), |_, _| {}).expect("a log");
        note(&mut saved, "a", Some(&json!({"v": 1})));
        note(&mut saved, "b", Some(&json!({"v": 2})));
        note(&mut saved, "a", Some(&json!({"v": 3})));
        note(&mut saved, "b", None);
        let expected = [("Service".to_owned(), json!({"v": 3}))];
        assert_eq!(read(directory.path()), expected);
    }

    #[test]
    fn a_line_that_was_cut_takes_nothing_with_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut saved = Saved::open(directory.path(), |_, _| {}).expect("a log");
        note(&mut saved, "a", Some(&json!({"v": 1})));
        let mut file = OpenOptions::new()
            .append(true)
            .open(directory.path().join(FILE))
            .expect("the log");
        file.write_all(br#"{"feed":"Service","namesp"#)
            .expect("written");
        drop((file, saved));
        let mut saved = Saved::open(directory.path(), |_, _| {}).expect("a log");
        note(&mut saved, "b", Some(&json!({"v": 2})));
        assert_eq!(read(directory.path()).len(), 2);
    }

    #[test]
    fn a_log_that_has_grown_is_written_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut saved = Saved::open(directory.path(), |_, _| {}).expect("a log");
        let text = "x".repeat(10_000);
        for round in 0..500 {
            note(&mut saved, "a", Some(&json!({"v": round, "text": text})));
        }
        let size = fs::metadata(directory.path().join(FILE))
            .expect("a file")
            .len();
        assert!(size <= SMALL + 11_000, "{size}");
        let found = read(directory.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1["v"], json!(499));
    }

    #[test]
    fn only_its_owner_may_read_it() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().expect("a directory");
        let inner = directory.path().join("saved");
        Saved::open(&inner, |_, _| {}).expect("a log");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
        assert_eq!((mode(&inner), mode(&inner.join(FILE))), (0o700, 0o600));
    }
}

//! Files that key material is read from, and whether they have changed since.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::proxy::tls::Unusable;

/// What tells a file from what it was. A volume of Kubernetes exchanges files as a whole, so the inode counts too.
type Stamp = Option<(u64, u64, u64, SystemTime)>;

/// Reads files, and remembers which state of them it has read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    seen: Vec<(PathBuf, Stamp)>,
}

/// No key and no list of authorities is longer.
const LIMIT: u64 = 16 * 1024 * 1024;

impl Reading {
    /// The whole file.
    pub(super) fn read(&mut self, path: &Path) -> Result<Vec<u8>, Unusable> {
        // Before it is read: what changes while it is being read has then changed since.
        let stamp = stamp(path);
        self.seen.push((path.to_path_buf(), stamp));
        let failed = |why: String| Unusable::File {
            path: path.display().to_string(),
            why,
        };
        if stamp.is_some_and(|(_, _, length, _)| length > LIMIT) {
            return Err(failed("it is too long".to_owned()));
        }
        std::fs::read(path).map_err(|error| failed(error.to_string()))
    }

    /// Whether nothing was read at all.
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Whether one of the files is not what it was.
    pub(super) fn has_changed(&self) -> bool {
        self.seen.iter().any(|(path, seen)| stamp(path) != *seen)
    }
}

/// `None` for a file that is not there.
fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.len(), data.modified().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_changed_when_it_is_another_or_gone_or_there() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a"), directory.path().join("b"));
        let mut reading = Reading::default();
        assert!(reading.is_empty());
        assert!(matches!(reading.read(&path), Err(Unusable::File { .. })));
        assert!(!reading.has_changed());
        std::fs::write(&path, "one").unwrap();
        assert!(reading.has_changed());
        let mut reading = Reading::default();
        assert_eq!(reading.read(&path), Ok(b"one".to_vec()));
        assert!(!reading.has_changed());
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(reading.has_changed());
        let mut reading = Reading::default();
        assert_eq!(reading.read(&path), Ok(b"two".to_vec()));
        std::fs::remove_file(&path).unwrap();
        assert!(reading.has_changed());
    }
}

//! The files of a directory, and their text. Nothing here waits: what is not a regular file is never opened.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::yaml::Location;

/// The largest file that is read. A list of every Pod of a large cluster is smaller.
const MAX_BYTES: u64 = 16 << 20;

/// A file whose last change is younger may change again without its times showing it.
const SETTLED: Duration = Duration::from_secs(2);

/// A manifest as the directory shows it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) state: Result<Stamp, ReadError>,
}

/// Tells a version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// When it was written.
    pub(super) modified: SystemTime,
    identity: (u64, u64, u64),
    changed: (i64, i64),
}

/// Why a file has no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    #[error("this is no regular file")]
    NotRegular,
    #[error("this file cannot be read: {0}")]
    Io(String),
    #[error("this file has more than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    #[error("this file is not UTF-8 from line {} on", .0.line)]
    NotUtf8(Location),
}

/// Whether a file of this name is a manifest. A dot at the beginning marks the files of editors and of Kubernetes'
/// volumes.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The manifests of a directory, by name. A link that leads nowhere is no manifest.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if !is_manifest(&path) {
            continue;
        }
        let state = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(metadata) if metadata.is_file() => Ok(Stamp::of(&metadata)),
            Ok(_) => Err(ReadError::NotRegular),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Err(ReadError::Io(error.to_string())),
        };
        entries.push(Entry { path, state });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Some files of a directory, as [`list`] has them; `None` where any is not simply a file in it.
pub(super) fn some(
    directory: &Path,
    paths: impl IntoIterator<Item = PathBuf>,
) -> Option<Vec<Entry>> {
    let entries = paths.into_iter().map(|path| {
        let metadata = fs::symlink_metadata(&path).ok()?;
        let plain = path.parent() == Some(directory) && is_manifest(&path) && metadata.is_file();
        let state = Ok(Stamp::of(&metadata));
        plain.then_some(Entry { path, state })
    });
    entries.collect()
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, ReadError> {
    String::from_utf8(bytes(path)?).map_err(|error| {
        let valid_up_to = error.utf8_error().valid_up_to();
        ReadError::NotUtf8(end_of(&error.as_bytes()[..valid_up_to]))
    })
}

/// What is in a file, text or not.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |error: io::Error| ReadError::Io(error.to_string());
    // The file may have become a pipe since it was listed; a pipe without a writer would hold us up.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ReadError::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ReadError::TooLarge);
    }
    Ok(bytes)
}

/// The place behind a text, which is UTF-8.
fn end_of(text: &[u8]) -> Location {
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    let last = text
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let characters = String::from_utf8_lossy(last).chars().count();
    let number = |count: usize| u32::try_from(count + 1).unwrap_or(u32::MAX);
    Location {
        line: number(lines),
        column: number(characters),
    }
}

impl ReadError {
    /// Where in the file it is, if anywhere.
    pub(super) fn place(&self) -> Option<Location> {
        match self {
            Self::NotUtf8(place) => Some(*place),
            Self::NotRegular | Self::Io(_) | Self::TooLarge => None,
        }
    }

    /// What to do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::NotRegular => "move it out of the directory",
            Self::Io(_) => "correct its permissions, or move it out of the directory",
            Self::TooLarge => "split it",
            Self::NotUtf8(_) => "save it as UTF-8",
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            identity: (metadata.dev(), metadata.ino(), metadata.len()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether an equal stamp, later, means the same text. Times move in ticks of the kernel's clock, so two writes
    /// within one look alike.
    pub(super) fn settled(&self, now: SystemTime) -> bool {
        let Ok(seconds) = u64::try_from(self.changed.0) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        now.duration_since(changed).is_ok_and(|age| age > SETTLED)
    }
}

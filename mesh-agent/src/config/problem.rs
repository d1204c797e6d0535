//! What is wrong with an object, before and after its place in a file is known.

use std::fmt;
use std::path::PathBuf;

use crate::config::path::Path;

/// Something that the author of a manifest should know. Displays as `file:line:column: Kind ns/name: field: what; remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The file; empty for objects that came from elsewhere.
    pub file: PathBuf,
    /// From 1; 0 where the whole file is meant.
    pub line: u32,
    /// From 1; 0 where the whole file is meant.
    pub column: u32,
    /// Kind, namespace and name, such as `VirtualService default/reviews`; empty where the text does not tell.
    pub object: String,
    /// The path of the field, such as `spec.http[0].route[0].destination.host`; empty where no single field is meant.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether something is not in force because of it.
    pub severity: Severity,
}

/// What a [`Rejected`] means for what is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// In force as written; something else than meant may come of it.
    Warning,
    /// Not in force: the object, or the part of it that is named. The last good version is, where there was one.
    Error,
}

/// A complaint about a field of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, from the root of the document.
    pub path: Path,
    /// Whether the name of the field is what is wrong, not its value.
    pub name: bool,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether something is not in force because of it.
    pub severity: Severity,
}

/// The complaints about one object, in the order in which they were found.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    unusable: bool,
}

impl Problems {
    /// Something that the object cannot be used with.
    pub fn error(&mut self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.unusable = true;
        self.push(path, message, remedy, Severity::Error);
    }

    /// A part that is not in force, where the rest of the object is.
    pub fn left_out(&mut self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(path, message, remedy, Severity::Error);
    }

    /// Something to know.
    pub fn warning(&mut self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(path, message, remedy, Severity::Warning);
    }

    /// A field that does not exist.
    pub fn unknown_field(&mut self, path: &Path, remedy: impl Into<String>, severity: Severity) {
        self.unusable |= severity == Severity::Error;
        self.list.push(Problem {
            path: path.clone(),
            name: true,
            message: "Istio knows no such field".to_owned(),
            remedy: remedy.into(),
            severity,
        });
    }

    /// A field that Istio knows and this version does not act on, where not acting would change what happens.
    pub fn unsupported(&mut self, path: &Path, what: &str) {
        self.error(
            path,
            format!("{what} is not supported yet"),
            "remove it to have the rest applied",
        );
    }

    /// A field that Istio knows and this version does not act on, where everything still goes where it should.
    pub fn without_effect(&mut self, path: &Path, what: &str) {
        self.warning(
            path,
            format!("{what} is not supported yet and has no effect"),
            "",
        );
    }

    /// Whether the object cannot be used.
    pub fn unusable(&self) -> bool {
        self.unusable
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn push(
        &mut self,
        path: &Path,
        message: impl Into<String>,
        remedy: impl Into<String>,
        severity: Severity,
    ) {
        self.list.push(Problem {
            path: path.clone(),
            name: false,
            message: message.into(),
            remedy: remedy.into(),
            severity,
        });
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}:", self.file.display())?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, self.column)?;
            }
            f.write_str(" ")?;
        }
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

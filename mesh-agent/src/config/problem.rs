//! What is wrong with an object, before and after its place in a file is known.

use std::fmt;
use std::path::{Path as FilePath, PathBuf};

use serde::{Serialize, Serializer};

use crate::config::path::Path;
use crate::config::yaml::Span;

pub use crate::config::problem::code::Code;

mod code;

/// Something that the author of a manifest should know. Displays as `file:line:column: Kind ns/name: field: what; remedy`.
///
/// Serialized it is a finding of `mesh-agent analyze --output json` and of `/status`; the names and meanings of its
/// fields do not change, and every field is always there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Rejected {
    /// Whether something is not in force because of it.
    pub severity: Severity,
    /// Which rule it breaks, such as `IST0101`; none where no rule has a code.
    pub code: Option<Code>,
    /// The file; empty for objects that came from elsewhere.
    #[serde(serialize_with = "text")]
    pub file: PathBuf,
    /// From 1; 0 where the whole file is meant.
    pub line: u32,
    /// From 1, in characters; 0 where the whole file is meant.
    pub column: u32,
    /// The line in which the offending text ends; 0 where the whole file is meant.
    pub end_line: u32,
    /// The first column behind the offending text; 0 where the whole file is meant.
    pub end_column: u32,
    /// Kind, namespace and name, such as `VirtualService default/reviews`; empty where the text does not tell.
    pub object: String,
    /// The path of the field, such as `spec.http[0].route[0].destination.host`; empty where no single field is meant.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub remedy: String,
    /// The other place that it takes to see what is wrong; none where one place is enough.
    pub related: Option<Related>,
}

/// Another place that a complaint is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// The file.
    #[serde(serialize_with = "text")]
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// The line in which it ends.
    pub end_line: u32,
    /// The first column behind it.
    pub end_column: u32,
}

/// What a [`Rejected`] means for what is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// In force as written, and most likely as meant.
    Info,
    /// In force as written; something else than meant may come of it.
    Warning,
    /// The object or the part of it that is named is not in force, or cannot work. Of an object that is not in force the
    /// last good version is, where there was one.
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
    /// Which rule it breaks, where that has a code.
    pub code: Option<Code>,
    /// The other place that it is about.
    pub related: Option<Related>,
}

/// The complaints about one object, in the order in which they were found.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    unusable: bool,
}

/// Complaints about one object that break one rule, to be added to its [`Problems`].
#[derive(Debug)]
pub struct Coded<'a> {
    problems: &'a mut Problems,
    code: Code,
}

impl Problem {
    /// A complaint about the value of a field, by a rule of Istio's schema unless [`Problem::of`] says otherwise.
    pub fn new(
        path: &Path,
        message: impl Into<String>,
        remedy: impl Into<String>,
        severity: Severity,
    ) -> Self {
        Self {
            path: path.clone(),
            name: false,
            message: message.into(),
            remedy: remedy.into(),
            severity,
            code: match severity {
                Severity::Error => Some(Code::Ist0106),
                Severity::Warning => Some(Code::Ist0133),
                Severity::Info => None,
            },
            related: None,
        }
    }

    /// A breach of a rule, as serious as the rule is.
    pub fn breach(
        code: Code,
        path: &Path,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(path, message, remedy, code.level()).of(code)
    }

    /// The same, as a breach of this rule.
    #[must_use]
    pub fn of(self, code: Code) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    /// The same, told of an object: where in which file it is.
    pub fn at(self, file: &FilePath, span: Span, object: &str) -> Rejected {
        let Span { start, end } = span;
        Rejected {
            severity: self.severity,
            code: self.code,
            file: file.to_path_buf(),
            line: start.line,
            column: start.column,
            end_line: end.line,
            end_column: end.column,
            object: object.to_owned(),
            field: self.path.to_string(),
            message: self.message,
            remedy: self.remedy,
            related: self.related,
        }
    }

    /// The same, with the other place that it is about.
    #[must_use]
    pub fn see(self, related: Related) -> Self {
        Self {
            related: Some(related),
            ..self
        }
    }
}

impl Problems {
    /// The complaints that follow break the rule `code`.
    pub fn code(&mut self, code: Code) -> Coded<'_> {
        Coded {
            problems: self,
            code,
        }
    }

    /// Something that the object cannot be used with.
    pub fn error(&mut self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.unusable = true;
        self.push(Problem::new(path, message, remedy, Severity::Error));
    }

    /// A part that is not in force, where the rest of the object is.
    pub fn left_out(&mut self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Problem::new(path, message, remedy, Severity::Error));
    }

    /// Something to know.
    pub fn warning(&mut self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Problem::new(path, message, remedy, Severity::Warning));
    }

    /// A field that does not exist.
    pub fn unknown_field(&mut self, path: &Path, remedy: impl Into<String>, severity: Severity) {
        self.unusable |= severity == Severity::Error;
        self.push(Problem {
            name: true,
            ..Problem::new(path, "Istio knows no such field", remedy, severity)
        });
    }

    /// A field that Istio knows and this version does not act on, where not acting would change what happens.
    pub fn unsupported(&mut self, path: &Path, what: &str) {
        self.code(Code::Mesh0001).error(
            path,
            format!("{what} is not supported yet"),
            "remove it to have the rest applied",
        );
    }

    /// A part that Istio knows and this version does not act on, where the rest of the object is better than nothing: what
    /// happens in its place is `instead`.
    pub fn unsupported_part(&mut self, path: &Path, what: &str, instead: &str) {
        self.code(Code::Mesh0001).left_out(
            path,
            format!("{what} is not supported yet: {instead}"),
            "the rest of the object is in force",
        );
    }

    /// A field that Istio knows and this version does not act on, where everything still goes where it should.
    pub fn without_effect(&mut self, path: &Path, what: &str) {
        self.code(Code::Mesh0001).warning(
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

    fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }
}

impl Coded<'_> {
    /// As [`Problems::error`]: the object cannot be used.
    pub fn error(self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.unusable = true;
        self.push(path, message, remedy, Severity::Error);
    }

    /// As [`Problems::left_out`]: a part is not in force, or cannot work, where the rest of the object is.
    pub fn left_out(self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(path, message, remedy, Severity::Error);
    }

    /// As [`Problems::warning`].
    pub fn warning(self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(path, message, remedy, Severity::Warning);
    }

    /// Something that is most likely as meant.
    pub fn info(self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(path, message, remedy, Severity::Info);
    }

    fn push(
        self,
        path: &Path,
        message: impl Into<String>,
        remedy: impl Into<String>,
        severity: Severity,
    ) {
        let problem = Problem::new(path, message, remedy, severity).of(self.code);
        self.problems.push(problem);
    }
}

impl Severity {
    /// `error`, `warning` or `info`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Rejected {
    /// Puts complaints in the order of a reader: by file, then by position, the worst first where several are about one
    /// place.
    pub fn sort(list: &mut [Self]) {
        list.sort_by(|a, b| {
            let place = (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column));
            place.then(b.severity.cmp(&a.severity))
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

/// A path as text, for JSON knows no other bytes.
fn text<S: Serializer>(path: &FilePath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

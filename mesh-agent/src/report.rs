//! What is wrong with manifests, told: to people with the offending text underlined, to programs as JSON.
//!
//! `mesh-agent analyze --output json` prints one object. Its fields keep their names and meanings, and further ones may
//! come:
//!
//! - `findings`: a list of [`crate::config::Rejected`], by file and position.
//!   - `severity`: `error`, `warning` or `info`.
//!   - `code`: the rule that is broken, such as `"IST0101"`; `null` where no rule has a code.
//!   - `file`; `line`, `column`, `end_line` and `end_column` of the offending text, from 1, in characters, the end being
//!     the first character behind it. They are 0 where the whole file is meant.
//!   - `object`: kind, namespace and name. `field`: the path of the field. Both may be `""`.
//!   - `message`: what is wrong. `remedy`: what to do about it; may be `""`.
//!   - `related`: the other place that it takes to see what is wrong, with `message`, `file`, `line`, `column`,
//!     `end_line` and `end_column`; `null` where one place is enough.
//! - `summary`: `files` and `objects` that were read, and how many `errors`, `warnings` and `infos` were found.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::config::{Checked, Rejected, Severity};
use crate::report::source::Sources;

mod source;
mod text;

pub use crate::report::text::Style;

/// Everything that is wrong with a directory of manifests.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    findings: &'a [Rejected],
    summary: Summary,
}

/// How much was read, and how much of it is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Files that are manifests by their names.
    pub files: usize,
    /// Objects that are or could be in force.
    pub objects: usize,
    /// Findings of this severity.
    pub errors: usize,
    /// Findings of this severity.
    pub warnings: usize,
    /// Findings of this severity.
    pub infos: usize,
}

impl<'a> Report<'a> {
    /// The report on what was read.
    pub fn new(checked: &'a Checked) -> Self {
        let count = |severity| {
            let findings = checked.findings.iter();
            findings
                .filter(|finding| finding.severity == severity)
                .count()
        };
        Self {
            findings: &checked.findings,
            summary: Summary {
                files: checked.files,
                objects: checked.objects,
                errors: count(Severity::Error),
                warnings: count(Severity::Warning),
                infos: count(Severity::Info),
            },
        }
    }

    /// How much is wrong.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// For people: each finding with the lines that it is about, and the summary in the last line. `read` has the text of
    /// a file.
    pub fn text(&self, style: Style, read: impl Fn(&Path) -> Option<String>) -> String {
        let mut sources = Sources::new(read);
        let mut text = String::new();
        for finding in self.findings {
            text.push_str(&text::finding(finding, style, &mut sources));
            text.push_str("\n\n");
        }
        text.push_str(&self.summary.to_string());
        text.push('\n');
        text
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            files,
            objects,
            errors,
            warnings,
            infos,
        } = *self;
        if files == 0 {
            return f.write_str("there are no manifests: no file ends in .yaml, .yml or .json");
        }
        write!(
            f,
            "{}, {}: ",
            counted(files, "file"),
            counted(objects, "object")
        )?;
        if errors + warnings + infos == 0 {
            return f.write_str("nothing is wrong");
        }
        write!(
            f,
            "{}, {}",
            counted(errors, "error"),
            counted(warnings, "warning")
        )?;
        if infos > 0 {
            write!(f, ", {}", counted(infos, "info"))?;
        }
        Ok(())
    }
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests;

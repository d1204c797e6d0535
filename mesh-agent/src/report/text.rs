//! One finding as rustc would show it: the rule, the lines with the offending text underlined, and the remedy.

use std::path::Path;

use annotate_snippets::{
    AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str,
};

use crate::config::{Rejected, Severity};
use crate::report::source::{Place, Sources};

/// What the reader's screen can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// Colours.
    Coloured,
}

/// The lines of a finding, without the last line break.
pub(super) fn finding<R: Fn(&Path) -> Option<String>>(
    finding: &Rejected,
    style: Style,
    sources: &mut Sources<R>,
) -> String {
    let title = level(finding.severity).primary_title(headline(&finding.message));
    let title = match finding.code {
        Some(code) => title.id(code.id()),
        None => title,
    };
    let mut group = Group::with_title(title);
    if !finding.file.as_os_str().is_empty() {
        let place = Place {
            line: finding.line,
            column: finding.column,
            end_line: finding.end_line,
            end_column: finding.end_column,
        };
        group = match finding.object.starts_with("Secret") {
            // Its lines are nobody's business, and reports get into tickets.
            true => group.element(origin(finding.file.to_string_lossy().into_owned(), place)),
            false => group.elements(shown(&finding.file, place, sources)),
        };
    }
    let subject = subject(finding);
    if !subject.is_empty() {
        group = group.element(Level::NOTE.with_name("in").message(subject));
    }
    if !finding.remedy.is_empty() {
        group = group.element(Level::HELP.message(harmless(&finding.remedy)));
    }
    let mut groups = vec![group];
    if let Some(related) = &finding.related {
        let place = Place {
            line: related.line,
            column: related.column,
            end_line: related.end_line,
            end_column: related.end_column,
        };
        let title = Level::NOTE.secondary_title(harmless(&related.message));
        groups.push(Group::with_title(title).elements(shown(&related.file, place, sources)));
    }
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Coloured => Renderer::styled(),
    };
    renderer.render(&groups)
}

fn level(severity: Severity) -> Level<'static> {
    match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Info => Level::INFO,
    }
}

/// Messages about a value's type go on from the name of the field, which here stands further down.
fn headline(message: &str) -> String {
    match message.strip_prefix("is ") {
        Some(rest) => format!("this is {rest}"),
        None => message.to_owned(),
    }
}

fn subject(finding: &Rejected) -> String {
    let parts = [&finding.object, &finding.field].map(|part| harmless(part));
    let there = parts.into_iter().filter(|part| !part.is_empty());
    there.collect::<Vec<_>>().join(", ")
}

/// Names come from manifests, and could hold what a terminal obeys.
fn harmless(text: &str) -> String {
    normalize_untrusted_str(text)
}

/// The file with line and column, and the lines.
fn shown<R: Fn(&Path) -> Option<String>>(
    file: &Path,
    place: Place,
    sources: &mut Sources<R>,
) -> Vec<Element<'static>> {
    let name = file.to_string_lossy().into_owned();
    let line = place.line as usize;
    let Some(excerpt) = sources.excerpt(file, place) else {
        return vec![origin(name, place).into()];
    };
    let snippet = Snippet::source(excerpt.text)
        .line_start(line)
        .annotation(AnnotationKind::Primary.span(excerpt.marked));
    if excerpt.cut {
        vec![origin(name, place).into(), snippet.into()]
    } else {
        vec![snippet.path(name).into()]
    }
}

fn origin(name: String, place: Place) -> Origin<'static> {
    match place {
        Place { line: 0, .. } => Origin::path(name),
        Place { line, column, .. } => Origin::path(name)
            .line(line as usize)
            .char_column(column as usize),
    }
}

//! What `mesh-agent analyze` says: all of it, and in the right place, as JSON and as text.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::case::{Case, Finding, Topic};
use crate::agent::binary;

/// The file with the objects of a case.
const FILE: &str = "case.yaml";

/// Plays all cases of a topic. What went wrong.
pub fn play(topic: &Topic) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for case in &topic.cases {
        let directory = tempfile::tempdir()?;
        let objects = topic.manifests(case);
        let text: Vec<String> = objects
            .iter()
            .map(serde_json::to_string_pretty)
            .collect::<Result<_, _>>()?;
        let text = text.join("\n---\n");
        fs::write(directory.path().join(FILE), &text)?;
        fs::write(directory.path().join("a-world.yaml"), WORLD)?;
        let found =
            differences(case, directory.path(), &text).unwrap_or_else(|e| vec![format!("{e:#}")]);
        wrong.extend(found.iter().map(|what| format!("{}: {what}", case.name)));
    }
    Ok(wrong)
}

/// What every case has around it.
pub const WORLD: &str = include_str!("scene/world.yaml");

fn differences(case: &Case, directory: &Path, text: &str) -> Result<Vec<String>> {
    let report: Value = serde_json::from_str(&analyze(case, directory, "json")?)?;
    let mut found: Vec<&Value> = report["findings"]
        .as_array()
        .context("there is no list of findings")?
        .iter()
        .collect();
    let shown = analyze(case, directory, "text")?;
    let mut wrong: Vec<String> = found
        .iter()
        .filter_map(|finding| untold(finding, &shown))
        .collect();
    for expected in &case.says {
        match found
            .iter()
            .position(|finding| fits(expected, finding, text))
        {
            Some(place) => {
                found.remove(place);
            }
            None => wrong.push(format!("not said: {expected:?}")),
        }
    }
    wrong.extend(found.iter().map(|finding| format!("said: {finding}")));
    Ok(wrong)
}

/// What the program prints; it must end as badly as the case is.
fn analyze(case: &Case, directory: &Path, format: &str) -> Result<String> {
    let output = Command::new(binary()?)
        .args(["analyze", "--output", format, "--manifests"])
        .arg(directory)
        .output()?;
    let errors = case.says.iter().any(|finding| finding.rule().0 == "error");
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() != errors,
        "it ended with {}, having said: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn fits(expected: &Finding, finding: &Value, text: &str) -> bool {
    let (severity, code) = expected.rule();
    let message = finding["message"].as_str().unwrap_or_default();
    let object = expected.object.as_ref();
    let under = expected.under.as_ref();
    finding["severity"] == severity
        && finding["code"] == code
        && finding["field"] == expected.at
        && message.contains(&expected.says)
        && object.is_none_or(|object| finding["object"] == **object)
        && under.is_none_or(|under| underlined(finding, text) == Some(under))
}

/// The text in the place of a finding, without the quotes.
fn underlined<'t>(finding: &Value, text: &'t str) -> Option<&'t str> {
    let number = |field: &str| usize::try_from(finding[field].as_u64()?).ok();
    let line = text.lines().nth(number("line")?.checked_sub(1)?)?;
    // Each character of it is one byte.
    let columns = number("column")?.checked_sub(1)?..number("end_column")?.checked_sub(1)?;
    let one_line = finding["line"] == finding["end_line"];
    line.get(columns)
        .filter(|_| one_line)
        .map(|part| part.trim_matches('"'))
}

/// What is missing of a finding in the text for people.
fn untold(finding: &Value, shown: &str) -> Option<String> {
    let text = |field: &str| finding[field].as_str().unwrap_or_default();
    let head = format!("{}[{}]: ", text("severity"), text("code"));
    let place = format!("{}:{}:{}", text("file"), finding["line"], finding["column"]);
    let remedy = text("remedy");
    let help = match remedy {
        "" => String::new(),
        remedy => format!("= help: {remedy}"),
    };
    let mut rest = shown;
    // What is in a Secret is not shown.
    let line = if text("object").starts_with("Secret") {
        ""
    } else {
        "^"
    };
    for part in [&head, text("message"), &place, line, text("field"), &help] {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return Some(format!("{part:?} of {finding} is not in the text")),
        }
    }
    None
}

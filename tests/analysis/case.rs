//! The cases as they are written: what a file may say, and what is filled in where it says nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::corpus::case::{Object, istio};

/// One file: cases of one topic.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    #[serde(skip)]
    pub name: String,
    /// The kind of the object whose `spec` the cases have.
    #[serde(default)]
    pub kind: Option<String>,
    pub cases: Vec<Case>,
}

/// Some objects, and what is said of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The rule of the reference that it is about.
    #[serde(default)]
    pub rule: Option<u32>,
    /// The codes that it is about; for the reader, as what is said has them.
    #[serde(default)]
    pub codes: Vec<String>,
    /// `spec` of an object of the topic's kind, called `case`.
    #[serde(default)]
    pub spec: Option<Value>,
    /// More objects, or all.
    #[serde(default)]
    objects: Vec<Object>,
    /// Whether the object of `spec` is in force in spite of the errors: a part of it is not.
    #[serde(default, rename = "in-force")]
    in_force: bool,
    /// All that is said. Nothing else may be.
    #[serde(default)]
    pub says: Vec<Finding>,
}

/// Something that is said: its code stands behind its severity.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warning: Option<String>,
    #[serde(default)]
    info: Option<String>,
    /// Of which object; any, where it is not written.
    #[serde(default)]
    pub object: Option<String>,
    /// The path of the field.
    pub at: String,
    /// A part of the message.
    pub says: String,
    /// The text that is underlined; any, where it is not written.
    #[serde(default)]
    pub under: Option<String>,
}

/// All files of the folder, by name.
pub fn load(folder: &Path) -> Result<Vec<Topic>> {
    let mut topics = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut topic: Topic =
            serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default();
        topic.name = stem.to_string_lossy().into_owned();
        for case in &topic.cases {
            case.check()
                .with_context(|| format!("in {}, case {:?}", path.display(), case.name))?;
        }
        topics.push(topic);
    }
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

impl Topic {
    /// The object of `spec` of one of the cases, called `name`.
    pub fn subject(&self, case: &Case, name: &str) -> Option<Value> {
        let spec = lengthened(case.spec.clone()?);
        let kind = self.kind.as_deref().unwrap_or_default();
        Some(istio(kind, name, "default", spec))
    }

    /// All objects of a case, as an API server has them.
    pub fn manifests(&self, case: &Case) -> Vec<Value> {
        let objects = case.objects.iter().enumerate();
        let objects = objects.map(|(number, object)| object.whole(number));
        self.subject(case, "case")
            .into_iter()
            .chain(objects)
            .collect()
    }
}

impl Case {
    /// Whether the object of `spec` is not in force.
    pub fn is_refused(&self) -> bool {
        let errors = self.says.iter().any(|finding| finding.error.is_some());
        self.spec.is_some() && errors && !self.in_force
    }

    fn check(&self) -> Result<()> {
        for finding in &self.says {
            let severities = [&finding.error, &finding.warning, &finding.info];
            let count = severities.into_iter().flatten().count();
            ensure!(count == 1, "one of error, warning and info is to be given");
        }
        for code in &self.codes {
            let said = self.says.iter().any(|finding| finding.rule().1 == code);
            let silent = self.says.is_empty();
            ensure!(said || silent, "it is about {code}, and does not expect it");
        }
        Ok(())
    }
}

impl Finding {
    /// Its severity and its code.
    pub fn rule(&self) -> (&'static str, &str) {
        match (&self.error, &self.warning, &self.info) {
            (Some(code), ..) => ("error", code),
            (_, Some(code), _) => ("warning", code),
            (.., code) => ("info", code.as_deref().unwrap_or_default()),
        }
    }
}

/// With `LONG-N` for a text of N characters.
fn lengthened(value: Value) -> Value {
    match value {
        Value::String(text) => {
            let length = text.strip_prefix("LONG-");
            match length.and_then(|length| length.parse().ok()) {
                Some(length) => "a".repeat(length).into(),
                None => text.into(),
            }
        }
        Value::Array(items) => items.into_iter().map(lengthened).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields
                .map(|(key, value)| (key, lengthened(value)))
                .collect()
        }
        other => other,
    }
}

//! What becomes of the last good version of an object that is refused, and of its neighbour in the same file.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_agent::config::document::{Outcome, read_text};
use mesh_agent::config::{CompileOptions, Inputs, ManifestDir, Rejected, compile};
use mesh_agent::model::Snapshot;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::case::{Case, Topic};
use super::said::WORLD;
use crate::corpus::case::istio;
use crate::servers::runtime;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Something to be refused.
struct Subject<'c> {
    case: &'c Case,
    file: String,
    good: Value,
    bad: Value,
    neighbours: [Value; 2],
}

/// Writes all that a topic refuses over good versions, at once. What went wrong.
pub fn play(topic: &Topic) -> Result<Vec<String>> {
    let mut subjects = Vec::new();
    let refused = topic.cases.iter().filter(|case| case.is_refused());
    for (number, case) in refused.enumerate() {
        let name = format!("case-{number}");
        let kind = topic.kind.as_deref().context("no kind")?;
        subjects.push(Subject {
            case,
            file: format!("{name}.yaml"),
            good: istio(kind, &name, "default", good(kind, number, &name)?),
            bad: topic.subject(case, &name).context("no spec")?,
            neighbours: [81, 82].map(|port| neighbour(&name, port)),
        });
    }
    let runtime = runtime()?;
    runtime.block_on(check(topic, &subjects))
}

async fn check(topic: &Topic, subjects: &[Subject<'_>]) -> Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let write = |file: &str, objects: [&Value; 2]| {
        let path = directory.path().join(file);
        fs::write(path, objects.map(ToString::to_string).join("\n---\n"))
    };
    fs::write(directory.path().join("a-world.yaml"), WORLD)?;
    for subject in subjects {
        write(&subject.file, [&subject.good, &subject.neighbours[0]])?;
    }
    let options = CompileOptions::default();
    let (mut watched, first) = ManifestDir::open(directory.path(), options.clone())?;
    let before = world(directory.path(), subjects, |subject| {
        [Some(&subject.good), Some(&subject.neighbours[0])]
    })?;
    ensure!(
        same(&first.snapshot, &before),
        "the good versions are not in force"
    );
    for subject in subjects {
        write(&subject.file, [&subject.bad, &subject.neighbours[1]])?;
    }
    let expected = world(directory.path(), subjects, |subject| {
        [Some(&subject.good), Some(&subject.neighbours[1])]
    })?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let update = timeout_at(deadline, watched.next()).await;
        let Ok(update) = update else {
            bail!(
                "what is refused is not told of, or something else is in force than what is good"
            );
        };
        let told = |subject: &Subject<'_>| is_told(subject, &update.rejected);
        if subjects.iter().all(told) && same(&update.snapshot, &expected) {
            break;
        }
    }
    // Nothing of this would show were the good versions without effect.
    let mut wrong = Vec::new();
    let shows = !matches!(topic.kind.as_deref(), Some("PeerAuthentication"));
    for subject in subjects.iter().filter(|_| shows) {
        let without = world(directory.path(), subjects, |other| {
            let good = Some(&other.good).filter(|_| other.file != subject.file);
            [good, Some(&other.neighbours[1])]
        })?;
        if same(&without, &expected) {
            wrong.push(format!(
                "{}: its good version has no effect",
                subject.case.name
            ));
        }
    }
    Ok(wrong)
}

fn is_told(subject: &Subject<'_>, rejected: &[Rejected]) -> bool {
    let name = subject.bad["metadata"]["name"].as_str().unwrap_or_default();
    subject.case.says.iter().all(|expected| {
        rejected.iter().any(|told| {
            told.field == expected.at
                && told.message.contains(&expected.says)
                && told.object.ends_with(&format!("/{name}"))
        })
    })
}

/// The world of these objects, as if nothing else had ever been written.
fn world<'s>(
    directory: &Path,
    subjects: &'s [Subject<'_>],
    objects: impl Fn(&'s Subject<'_>) -> [Option<&'s Value>; 2],
) -> Result<Snapshot> {
    let options = CompileOptions::default();
    let mut inputs = Inputs::default();
    let mut read = |file: &str, text: &str| {
        let file: Arc<Path> = directory.join(file).into();
        for document in read_text(text, &file, &options) {
            match document.outcome {
                Outcome::Good(object) => {
                    inputs.insert(object);
                }
                Outcome::Broken(_) | Outcome::Ignored(_) => {
                    bail!("{:?}", document.rejected);
                }
            }
        }
        Ok(())
    };
    read("a-world.yaml", WORLD)?;
    for subject in subjects {
        let objects = objects(subject).into_iter().flatten();
        let text: Vec<String> = objects.map(ToString::to_string).collect();
        read(&subject.file, &text.join("\n---\n"))?;
    }
    Ok(compile(&inputs, &options).0)
}

fn same(one: &Snapshot, other: &Snapshot) -> bool {
    let numbered = |snapshot: &Snapshot| Snapshot {
        generation: 0,
        ..snapshot.clone()
    };
    numbered(one) == numbered(other)
}

/// A `spec` that is right, and shows in the world.
fn good(kind: &str, number: usize, name: &str) -> Result<Value> {
    let to_b = json!([{"destination": {"host": "b"}}]);
    Ok(match kind {
        "VirtualService" => json!({
            "hosts": [format!("{name}.example.com")],
            "gateways": ["istio-system/gw"],
            "http": [{"route": to_b}],
        }),
        "DestinationRule" => json!({
            "host": "b",
            "subsets": [{"name": name, "labels": {"version": "v1"}}],
        }),
        "Gateway" => json!({
            "selector": {"istio": "ingressgateway"},
            "servers": [{
                "port": {"number": 1000 + number, "name": "http", "protocol": "HTTP"},
                "hosts": [format!("{name}.com")],
            }],
        }),
        "ServiceEntry" => json!({
            "hosts": [format!("{name}.com")],
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": "10.9.0.1"}],
        }),
        // Of several for one Pod the oldest would hold: each has a port of its own, at the Pods that it selects.
        "Sidecar" => json!({
            "workloadSelector": {"labels": {"app": (["a", "b", "two"][number % 3])}},
            "ingress": [{
                "port": {"number": 1000 + number, "name": "http", "protocol": "HTTP"},
                "defaultEndpoint": "127.0.0.1:1",
            }],
        }),
        "PeerAuthentication" => json!({"mtls": {"mode": "STRICT"}}),
        other => bail!("there is no good {other} here"),
    })
}

/// A Service that has another port each time.
fn neighbour(name: &str, port: u16) -> Value {
    let spec = json!({
        "clusterIP": "None",
        "selector": {"app": "a"},
        "ports": [{"name": "http", "port": port}],
    });
    istio("Service", &format!("next-to-{name}"), "default", spec)
}

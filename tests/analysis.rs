//! What is said of manifests: every rule of Istio's webhook and every code of its analyzer, as cases in `analysis/*.yaml`.
//! Each says some objects, and all that is said of them.
//!
//! - `mesh-agent analyze` is run on each, and its JSON and its text are compared with that (`said`).
//! - What is refused is written over a good version, with a neighbour in the same file: the good version must stay in force
//!   and the neighbour change (`life`).
//! - No rule and no code may be without a case (`complete`).
//!
//! A file is a kind, where its cases are about one, and a list of `cases`; `case.rs` has every field. Around each are the
//! objects of `scene/world.yaml`. A case in short:
//!
//! ```yaml
//! kind: VirtualService
//! cases:
//!   - name: a timeout of 0
//!     rule: 15                                   # of the reference, 5.1 to 5.4
//!     spec: {hosts: [a], http: [{timeout: 0s, route: [{destination: {host: b}}]}]}
//!     says: [{error: IST0106, at: "spec.http[0].timeout", says: at least 1ms, under: 0s}]
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use mesh_agent::config::Code;

use self::case::Topic;
use crate::{Run, Test};

mod case;
mod life;
mod said;

/// Two tests for each file, and one of all; one that fails where the files cannot be read.
pub fn tests() -> Vec<Test> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("analysis");
    let topics = match case::load(&folder) {
        Ok(topics) => Arc::new(topics),
        Err(e) => {
            let message = format!("{e:#}");
            return vec![test("files", move || bail!("{message}"))];
        }
    };
    let all = Arc::clone(&topics);
    let mut tests = vec![test("complete", move || complete(&all))];
    for index in 0..topics.len() {
        let name = &topics[index].name;
        let all = Arc::clone(&topics);
        tests.push(test(&format!("said::{name}"), move || {
            verdict(&said::play(&all[index])?)
        }));
        if topics[index].cases.iter().any(case::Case::is_refused) {
            let all = Arc::clone(&topics);
            tests.push(test(&format!("life::{name}"), move || {
                verdict(&life::play(&all[index])?)
            }));
        }
    }
    tests
}

fn test(name: &str, run: impl FnOnce() -> Result<()> + Send + 'static) -> Test {
    Test {
        name: format!("analysis::{name}"),
        lacking: None,
        needs_root: false,
        run: Run::boxed(run),
    }
}

fn verdict(wrong: &[String]) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{} differences:\n{}", wrong.len(), wrong.join("\n"))
}

/// The rules of the reference.
const RULES: std::ops::RangeInclusive<u32> = 1..=53;

/// Codes that it takes more than manifests to break, and where they are tested.
const ELSEWHERE: [(Code, &str); 3] = [
    (
        Code::Mesh0003,
        "config/file: it takes a file that cannot be read",
    ),
    (
        Code::Mesh0005,
        "config/object/secret: it takes a certificate that ages",
    ),
    (
        Code::Mesh0008,
        "config/compile/membership: it takes a node of Kubernetes",
    ),
];

/// Every rule and every code has a case, and a case that names a code expects it.
fn complete(topics: &[Topic]) -> Result<()> {
    let cases = || topics.iter().flat_map(|topic| &topic.cases);
    let rules: BTreeSet<u32> = cases().filter_map(|case| case.rule).collect();
    let without: Vec<u32> = RULES.filter(|rule| !rules.contains(rule)).collect();
    ensure!(without.is_empty(), "rules without a case: {without:?}");
    let mut shown: BTreeSet<&str> = ELSEWHERE.iter().map(|(code, _)| code.id()).collect();
    for case in cases() {
        shown.extend(case.says.iter().map(|finding| finding.rule().1));
    }
    let without: Vec<&str> = Code::ALL
        .iter()
        .map(|code| code.id())
        .filter(|id| !shown.contains(id))
        .collect();
    ensure!(without.is_empty(), "codes without a case: {without:?}");
    Ok(())
}

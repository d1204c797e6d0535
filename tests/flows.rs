//! The equivalence of the modes: one table of flows, each run with real sockets without a mesh and in every mode, and
//! compared fact by fact with what the table says.

mod differences;
mod enrolment;
mod far_end;
mod many;
pub mod names;
pub mod scene;
mod sockets;
mod streams;
mod table;
pub mod talk;
mod untouched;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};

use crate::agent::{MESHED, Mode};
use crate::{Run, Test};
use scene::Scene;
use table::{Act, Row, rows};

/// What was seen of a flow, by name of the fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<String, String>);

/// A test for each row and mode.
pub fn tests() -> Vec<Test> {
    let mut tests = differences::tests();
    for row in rows() {
        for mode in [Mode::None].into_iter().chain(MESHED) {
            let name = format!("flows::{:02}_{}::{}", row.number, row.slug(), mode.name());
            tests.push(Test {
                name,
                lacking: mode.lacking(),
                needs_root: true,
                run: Run::boxed(move || run(row, mode)),
            });
        }
    }
    tests
}

/// Runs one row in one mode.
fn run(row: &Row, mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, row.annotations, row.enrolled)?;
    let seen = scene.observe(row)?;
    let expected = row.expected(mode)?;
    let mut wrong = Vec::new();
    for key in expected.0.keys().chain(seen.0.keys()) {
        let (want, got) = (expected.get(key), seen.get(key));
        if !want.split('|').any(|want| want == "*" || want == got) {
            wrong.push(format!("{key}: expected {want}, saw {got}"));
        }
    }
    wrong.sort();
    wrong.dedup();
    if !wrong.is_empty() {
        bail!(
            "row {} ({}) in mode {}:\n  {}\n  all that was seen: {seen}",
            row.number,
            row.title,
            mode.name(),
            wrong.join("\n  ")
        );
    }
    Ok(())
}

impl Facts {
    /// Notes a fact.
    pub fn note(&mut self, key: impl Into<String>, value: impl fmt::Display) {
        self.0.insert(key.into(), value.to_string());
    }

    /// What a fact says.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("(nothing)", String::as_str)
    }

    /// Reads `key=value` words, over what is there already. `ok` stands for a connection on which everything worked;
    /// `only` forgets what came before.
    fn read(&mut self, text: &str) -> Result<()> {
        for word in text.split_whitespace() {
            match word {
                "only" => self.0.clear(),
                "ok" => {
                    for (key, value) in [("connect", "ok"), ("echo", "intact"), ("end", "fin")] {
                        self.note(key, value);
                    }
                }
                _ => {
                    let (key, value) = word
                        .split_once('=')
                        .with_context(|| format!("{word:?} is no fact"))?;
                    self.note(key, value);
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts: Vec<String> = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
        f.write_str(&facts.join(" "))
    }
}

impl Row {
    /// What the row says for a mode.
    fn expected(&self, mode: Mode) -> Result<Facts> {
        let mut facts = Facts::default();
        facts.read(self.same)?;
        facts.read(match mode {
            Mode::None => self.none,
            Mode::IptablesNft | Mode::IptablesLegacy | Mode::Ebpf => self.mesh,
        })?;
        for (modes, text) in self.unlike {
            if modes.contains(&mode) {
                facts.read(text)?;
            }
        }
        Ok(facts)
    }

    /// Its title as part of a test's name.
    fn slug(&self) -> String {
        let mut slug = String::new();
        for c in self.title.chars() {
            if c.is_ascii_alphanumeric() {
                slug.push(c.to_ascii_lowercase());
            } else if !slug.ends_with('_') {
                slug.push('_');
            }
        }
        slug.trim_end_matches('_').to_owned()
    }
}

impl Scene {
    /// Does what the row says and notes what happened, with the connections that the agent accepted meanwhile.
    fn observe(&self, row: &Row) -> Result<Facts> {
        let before = self.accepted()?;
        let mut facts = match &row.act {
            Act::Call(call) => talk::call(self, call)?,
            Act::Held(call) => talk::call_held(self, call)?,
            Act::Timed(call) => talk::call_timed(self, call)?,
            Act::Http(call, host) => talk::request(self, call, host)?,
            Act::Do(action) => action(self)?,
        };
        let after = self.accepted()?;
        if !facts.0.contains_key("out") {
            facts.note("out", difference(after.outbound, before.outbound));
        }
        if !facts.0.contains_key("in") {
            facts.note("in", difference(after.inbound, before.inbound));
        }
        Ok(facts)
    }
}

/// A counter may also shrink: a pod that is gone takes its own along.
fn difference(after: u64, before: u64) -> i128 {
    i128::from(after) - i128::from(before)
}

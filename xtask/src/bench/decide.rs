//! What the pure part of the agent costs: a decision over a request in worlds of several sizes, and compiling a large
//! world. No network and no privilege; `mesh-agent/examples/decide.rs` does the measuring.

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::{
    screen::{Screen, Step},
    workspace,
};

/// Everything that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Decisions {
    /// Decisions over requests at a gateway.
    pub decisions: Vec<Decision>,
    /// Compiling a large world.
    pub compile: Compilation,
}

/// One world.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Decision {
    /// What tells its VirtualServices apart.
    pub shape: String,
    /// How many there are.
    pub size: usize,
    /// What a decision takes.
    pub nanoseconds: f64,
}

/// A large world.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compilation {
    /// Its Services.
    pub services: usize,
    /// Their endpoints.
    pub endpoints: usize,
    /// Its VirtualServices.
    pub virtual_services: usize,
    /// From text to objects.
    pub read_milliseconds: f64,
    /// From objects to the world.
    pub whole_milliseconds: f64,
    /// The same where Services select Pods.
    pub by_selector_milliseconds: f64,
    /// Again, once one object has changed: the change that takes longest.
    pub changed_milliseconds: f64,
    /// Each change.
    pub changes: Vec<Change>,
    /// The memory of the process that did it.
    pub resident_megabytes: Option<u64>,
}

/// One object that has changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub what: String,
    /// What it takes to compile the world again.
    pub milliseconds: f64,
}

/// What a decision is to take at most, in nanoseconds.
const DECISION_GOAL: f64 = 1_000.0;

/// What compiling the whole world, and one change of it, is to take at most, in milliseconds.
const WHOLE_GOAL: f64 = 1_000.0;
const CHANGED_GOAL: f64 = 10.0;

/// Builds and measures.
pub fn measure(screen: Screen) -> Result<Decisions> {
    let example = |verb: &str| {
        let mut command = workspace::cargo();
        command.args([verb, "--release", "--package", "mesh-agent"]);
        command.args(["--example", "decide"]);
        command
    };
    let step =
        Step::new("Building what measures decisions").usually("3 to 5 minutes the first time");
    screen
        .step(&step, &mut example("build"))
        .context("the measuring of decisions does not build")?;
    screen.line("Deciding and compiling, which takes half a minute");
    let output = example("run")
        .arg("--quiet")
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "measuring decisions: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).context("the measurements cannot be read")
}

impl Decisions {
    /// For a screen.
    pub fn table(&self) -> String {
        let tables = self.parts().map(|(header, rows)| {
            let mut table = Table::new();
            table
                .load_style(presets::UTF8_HORIZONTAL_ONLY)
                .set_header(header);
            for row in rows {
                table.add_row(row);
            }
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            table.to_string()
        });
        tables.join("\n")
    }

    /// For a file.
    pub fn markdown(&self) -> String {
        let mut text = String::from("\n# What decisions cost\n");
        for (header, rows) in self.parts() {
            text.push_str(&format!(
                "\n| {} |\n|{}\n",
                header.join(" | "),
                " --- |".repeat(header.len())
            ));
            for row in rows {
                text.push_str(&format!("| {} |\n", row.join(" | ")));
            }
        }
        text
    }

    fn parts(&self) -> [(Vec<String>, Vec<Vec<String>>); 2] {
        let mut sizes: Vec<usize> = self.decisions.iter().map(|found| found.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut shapes: Vec<&String> = self.decisions.iter().map(|found| &found.shape).collect();
        shapes.dedup();
        let decisions = shapes.iter().map(|shape| {
            let at = |size: &usize| {
                let mut found = self.decisions.iter();
                let found = found.find(|found| found.shape == **shape && found.size == *size);
                found.map_or_else(
                    || "–".to_owned(),
                    |found| judged(found.nanoseconds, DECISION_GOAL, "ns"),
                )
            };
            let mut row = vec![format!("told apart by {shape}")];
            row.extend(sizes.iter().map(at));
            row
        });
        let mut header = vec!["a decision, by VirtualServices".to_owned()];
        header.extend(sizes.iter().map(ToString::to_string));
        let Compilation {
            services,
            endpoints,
            virtual_services,
            read_milliseconds,
            whole_milliseconds,
            by_selector_milliseconds,
            changed_milliseconds: _,
            changes,
            resident_megabytes,
        } = &self.compile;
        let memory =
            resident_megabytes.map_or_else(|| "–".to_owned(), |found| format!("{found} MB"));
        let world = format!(
            "{services} Services, {endpoints} endpoints, {virtual_services} VirtualServices"
        );
        let compilation = [
            ("reading".to_owned(), format!("{read_milliseconds:.0} ms")),
            (
                "compiling all of it".to_owned(),
                judged(*whole_milliseconds, WHOLE_GOAL, "ms"),
            ),
            (
                "likewise, where Services select Pods".to_owned(),
                judged(*by_selector_milliseconds, WHOLE_GOAL, "ms"),
            ),
        ];
        let changes = changes.iter().map(|Change { what, milliseconds }| {
            let found = match *milliseconds <= CHANGED_GOAL {
                true => format!("{milliseconds:.2} ms"),
                false => judged(*milliseconds, CHANGED_GOAL, "ms"),
            };
            (format!("compiling after a change of {what}"), found)
        });
        let memory = [("memory of objects and world".to_owned(), memory)];
        let compilation = compilation.into_iter().chain(changes).chain(memory);
        let compilation = compilation.map(|(what, found)| vec![what, found]);
        [
            (header, decisions.collect()),
            (vec![world, String::new()], compilation.collect()),
        ]
    }
}

/// A number, and where it misses its goal, the goal.
fn judged(found: f64, goal: f64, unit: &str) -> String {
    match found <= goal {
        true => format!("{found:.0} {unit}"),
        false => format!("{found:.0} {unit} (goal {goal:.0})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_that_are_missed_are_named() {
        let decision = |shape: &str, size, nanoseconds| Decision {
            shape: shape.to_owned(),
            size,
            nanoseconds,
        };
        let decisions = Decisions {
            decisions: vec![
                decision("hosts", 1, 100.4),
                decision("hosts", 1000, 1200.0),
                decision("paths", 1, 90.0),
            ],
            compile: Compilation {
                services: 3,
                endpoints: 2,
                virtual_services: 1,
                read_milliseconds: 1.0,
                whole_milliseconds: 999.0,
                by_selector_milliseconds: 1100.0,
                changed_milliseconds: 11.0,
                changes: [("a Pod", 11.0), ("a Service", 0.6)]
                    .map(|(what, milliseconds)| Change {
                        what: what.to_owned(),
                        milliseconds,
                    })
                    .to_vec(),
                resident_megabytes: None,
            },
        };
        let text = decisions.markdown();
        for line in [
            "| a decision, by VirtualServices | 1 | 1000 |",
            "| told apart by hosts | 100 ns | 1200 ns (goal 1000) |",
            "| told apart by paths | 90 ns | – |",
            "| 3 Services, 2 endpoints, 1 VirtualServices |  |",
            "| compiling all of it | 999 ms |",
            "| likewise, where Services select Pods | 1100 ms (goal 1000) |",
            "| compiling after a change of a Pod | 11 ms (goal 10) |",
            "| compiling after a change of a Service | 0.60 ms |",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

//! What is shown and kept: medians, the table, the files. Pure but for the writing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{
    decide::Decisions,
    load::Outcome,
    memory::{self, Footprint},
    section::{Section, median},
    subject::Subject,
};

/// One subject in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// Which round.
    pub round: u32,
    /// Which subject.
    pub subject: Subject,
    /// 32 connections kept alive.
    pub throughput: Outcome,
    /// One connection kept alive.
    pub latency: Outcome,
    /// A new connection for every request.
    pub connections: Outcome,
    /// The proxy's processor time per request of the throughput run, in microseconds.
    pub cpu_per_request: Option<f64>,
    /// The proxy's resident memory after the runs, in bytes.
    pub resident: Option<u64>,
}

/// Everything there is to keep.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the numbers depend on, one line each.
    pub conditions: Vec<String>,
    /// Every number.
    pub measurements: Vec<Measurement>,
    /// What else was measured.
    pub sections: Vec<Section>,
    /// What the agent keeps in memory, if that was measured.
    pub memory: Vec<Footprint>,
    /// What decisions cost, if that was measured.
    pub decisions: Option<Decisions>,
}

const HEADER: [&str; 10] = [
    "",
    "of direct",
    "req/s",
    "p50 µs",
    "p99 µs",
    "1 conn p50",
    "1 conn p99",
    "CPU µs/req",
    "conn/s",
    "MB",
];

impl Report {
    /// The table, for a screen.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_HORIZONTAL_ONLY)
            .set_header(HEADER);
        for row in self.rows() {
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    /// Writes `NAME.json` and `NAME.md`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2]> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let files = [
            folder.join(format!("{name}.json")),
            folder.join(format!("{name}.md")),
        ];
        for (file, text) in files
            .iter()
            .zip([serde_json::to_string_pretty(self)?, self.markdown()])
        {
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(files)
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# What the mesh costs\n\n");
        for condition in &self.conditions {
            text.push_str(&format!("- {condition}\n"));
        }
        if !self.measurements.is_empty() {
            text.push_str(&format!(
                "\n| {} |\n|{}\n",
                HEADER.join(" | "),
                " --- |".repeat(HEADER.len())
            ));
        }
        for row in self.rows() {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        for section in &self.sections {
            text.push_str(&section.markdown());
        }
        if !self.memory.is_empty() {
            text.push_str(&memory::markdown(&self.memory));
        }
        if let Some(decisions) = &self.decisions {
            text.push_str(&decisions.markdown());
        }
        text
    }

    fn rows(&self) -> Vec<Vec<String>> {
        Subject::ALL
            .into_iter()
            .filter_map(|subject| self.row(subject))
            .collect()
    }

    fn row(&self, subject: Subject) -> Option<Vec<String>> {
        let own: Vec<&Measurement> = self
            .measurements
            .iter()
            .filter(|measurement| measurement.subject == subject)
            .collect();
        let over = |value: &dyn Fn(&Measurement) -> Option<f64>| {
            let mut values: Vec<f64> = own.iter().filter_map(|own| value(own)).collect();
            values.sort_by(f64::total_cmp);
            median(&values)
        };
        let shown = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
        };
        let share =
            over(&|own| Some(own.throughput.rate / self.direct(own.round)?.throughput.rate))?;
        Some(vec![
            subject.title().to_owned(),
            format!("{share:.2}"),
            shown(over(&|own| Some(own.throughput.rate)), 0),
            shown(over(&|own| Some(own.throughput.p50)), 0),
            shown(over(&|own| Some(own.throughput.p99)), 0),
            shown(over(&|own| Some(own.latency.p50)), 0),
            shown(over(&|own| Some(own.latency.p99)), 0),
            shown(over(&|own| own.cpu_per_request), 1),
            shown(over(&|own| Some(own.connections.rate)), 0),
            shown(over(&|own| own.resident.map(|bytes| bytes as f64 / 1e6)), 1),
        ])
    }

    fn direct(&self, round: u32) -> Option<&Measurement> {
        self.measurements.iter().find(|measurement| {
            measurement.round == round && measurement.subject == Subject::Direct
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(round: u32, subject: Subject, rate: f64) -> Measurement {
        let outcome = Outcome {
            requests: 1,
            rate,
            p50: 1.0,
            p99: 2.0,
        };
        Measurement {
            round,
            subject,
            throughput: outcome,
            latency: outcome,
            connections: outcome,
            cpu_per_request: None,
            resident: None,
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, 2.0, 3.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 3.0, 4.0]), Some(2.5));
    }

    #[test]
    fn shares_are_of_the_same_round() {
        let measurements = vec![
            measurement(1, Subject::Direct, 100.0),
            measurement(1, Subject::Ebpf, 50.0),
            measurement(2, Subject::Direct, 10.0),
            measurement(2, Subject::Ebpf, 5.0),
        ];
        let report = Report {
            conditions: vec!["quiet".into()],
            measurements,
            sections: Vec::new(),
            memory: Vec::new(),
            decisions: None,
        };
        let row = report.row(Subject::Ebpf).unwrap();
        assert_eq!(row[1], "0.50");
        assert!(report.row(Subject::Envoy).is_none());
        assert!(report.markdown().contains("| mesh-agent, eBPF | 0.50 |"));
    }
}

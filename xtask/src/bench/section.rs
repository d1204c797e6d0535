//! A table of the report: rows of text for a screen and a file, and the numbers behind them.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// One part of the bench.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// What was measured, as a heading.
    pub title: String,
    /// What the numbers mean and depend on, one line each.
    pub notes: Vec<String>,
    /// Above the columns.
    pub header: Vec<String>,
    /// One for each subject, as a rule.
    pub rows: Vec<Vec<String>>,
    /// Every number.
    pub measured: serde_json::Value,
}

impl Section {
    /// For a screen.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_HORIZONTAL_ONLY)
            .set_header(&self.header);
        for row in &self.rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    /// For a file.
    pub fn markdown(&self) -> String {
        let mut text = format!("\n# {}\n\n", self.title);
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text.push_str(&format!(
            "\n| {} |\n|{}\n",
            self.header.join(" | "),
            " --- |".repeat(self.header.len())
        ));
        for row in &self.rows {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        text
    }
}

/// What one subject came to in one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Which round.
    pub round: u32,
    /// How much in a second.
    pub rate: f64,
}

/// The ratios of one subject to another within the rounds: the one in the middle, and the least and the greatest.
pub fn shares(own: &[Rate], other: &[Rate]) -> Option<(f64, f64, f64)> {
    let mut ratios: Vec<f64> = own
        .iter()
        .filter_map(|own| {
            let other = other.iter().find(|other| other.round == own.round)?;
            Some(own.rate / other.rate)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    Some((median(&ratios)?, *ratios.first()?, *ratios.last()?))
}

/// A median with its spread, for a cell.
pub fn spread(shares: Option<(f64, f64, f64)>) -> String {
    shares.map_or_else(
        || "–".to_owned(),
        |(middle, least, most)| format!("{middle:.2} ({least:.2}–{most:.2})"),
    )
}

/// The median of values in whatever order.
pub fn median_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    median(&values)
}

/// A number for a cell, if there is one.
pub fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// The middle one, or the mean of the two in the middle, of values in order.
pub fn median(values: &[f64]) -> Option<f64> {
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => values.get(middle).copied(),
        _ => Some((values.get(middle - 1)? + values.get(middle)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_same_round() {
        let rates = |rates: &[(u32, f64)]| -> Vec<Rate> {
            let rate = |&(round, rate)| Rate { round, rate };
            rates.iter().map(rate).collect()
        };
        let own = rates(&[(1, 50.0), (2, 9.0), (3, 1.0)]);
        let other = rates(&[(1, 100.0), (2, 10.0)]);
        assert_eq!(shares(&own, &other), Some((0.7, 0.5, 0.9)));
        assert_eq!(spread(shares(&own, &other)), "0.70 (0.50–0.90)");
        assert_eq!(shares(&own, &[]), None);
    }
}

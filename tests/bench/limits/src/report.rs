//! What a benchmark found: ratios beside their goals, and where the difference goes.

use std::fmt;

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

/// The middle of `values`.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

/// On which side of a bound a ratio must lie.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

/// One thing that was measured, and what it is held against.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What.
    pub(crate) what: String,
    /// The median over the rounds, with its unit.
    pub(crate) measured: String,
    /// The reference of the same rounds, with its unit.
    pub(crate) reference: String,
    /// The median of the rounds' ratios.
    pub(crate) ratio: f64,
    /// The smallest and the largest of them.
    pub(crate) spread: (f64, f64),
    /// What it should be, where something is asked for.
    pub(crate) goal: Option<Goal>,
    /// Whether it is.
    pub(crate) met: Option<bool>,
}

impl Row {
    /// A row whose ratios are those of the rounds.
    pub(crate) fn new(
        what: impl Into<String>,
        measured: String,
        reference: String,
        ratios: Vec<f64>,
        goal: Option<Goal>,
    ) -> Self {
        let spread = ratios.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), ratio| {
            (low.min(*ratio), high.max(*ratio))
        });
        let ratio = median(ratios);
        Self {
            what: what.into(),
            measured,
            reference,
            ratio,
            spread,
            goal,
            met: goal.map(|goal| goal.holds(ratio)),
        }
    }
}

/// A part of the difference between what was measured and its reference.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Loss {
    /// Where it goes.
    pub(crate) to: &'static str,
    /// Microseconds of processor time for each certificate or change.
    pub(crate) micros: f64,
}

/// All that one benchmark found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Its name.
    pub(crate) benchmark: &'static str,
    /// How often everything was measured.
    pub(crate) rounds: usize,
    /// Where the difference goes, the greatest first.
    pub(crate) lost: Vec<Loss>,
    /// Ratios and goals.
    pub(crate) rows: Vec<Row>,
    /// What a reader must know to read the rows.
    pub(crate) notes: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, median of {} rounds, processor time", self.benchmark, self.rounds)?;
        if !self.lost.is_empty() {
            writeln!(f, "\nwhat is lost, in microseconds each:")?;
            let mut lost = self.lost.clone();
            lost.sort_by(|one, other| other.micros.total_cmp(&one.micros));
            for Loss { to, micros } in lost {
                writeln!(f, "  {micros:>8.2}  {to}")?;
            }
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(["what", "measured", "reference", "ratio", "rounds", "goal", "met"]);
        for row in &self.rows {
            table.add_row([
                row.what.clone(),
                row.measured.clone(),
                row.reference.clone(),
                format!("{:.3}", row.ratio),
                format!("{:.3} to {:.3}", row.spread.0, row.spread.1),
                row.goal.map_or_else(String::new, |goal| goal.to_string()),
                row.met.map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
            ]);
        }
        writeln!(f, "\n{table}")?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        let check = |values: &[f64], expected: f64| {
            assert!((median(values.to_vec()) - expected).abs() < 1e-9, "{values:?}");
        };
        check(&[3.0], 3.0);
        check(&[9.0, 1.0, 2.0], 2.0);
        check(&[4.0, 1.0, 2.0, 9.0], 3.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_goal_holds_at_its_bound_and_not_past_it() {
        let row = |ratio, goal| Row::new("", String::new(), String::new(), vec![ratio], Some(goal)).met;
        assert_eq!(row(0.93, Goal::AtLeast(0.93)), Some(true));
        assert_eq!(row(0.929, Goal::AtLeast(0.93)), Some(false));
        assert_eq!(row(1.4, Goal::AtMost(1.4)), Some(true));
        assert_eq!(row(1.41, Goal::AtMost(1.4)), Some(false));
        assert_eq!(row(f64::NAN, Goal::AtMost(1.4)), Some(false), "what was not measured is not met");
    }
}

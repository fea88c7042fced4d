//! The table of devices and what was found on them, in at most 100 columns.

use super::baseline::{Comparison, Fault};

/// Findings printed per device; a broken compiler has hundreds of them.
const SHOWN: usize = 40;
const WIDTH: usize = 100;

/// A device and what came of it.
pub(super) struct Row {
    pub(super) device: &'static str,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    /// It cannot be simulated here, and nobody said it could.
    Skipped(String),
    /// It was asked for, or could be simulated before, and cannot now.
    Missing(String),
    Compared {
        version: String,
        blessed: bool,
        comparison: Comparison,
    },
}

impl Outcome {
    pub(super) fn failed(&self) -> bool {
        match self {
            Outcome::Skipped(_) => false,
            Outcome::Missing(_) => true,
            // What blessing cannot make good: errors and spills stay failures.
            Outcome::Compared { blessed, comparison, .. } => {
                comparison.findings.iter().any(|f| !blessed || !matches!(f.fault, Fault::Worse { .. }))
            }
        }
    }
}

/// Prints the table, the findings and the number of skips.
pub(super) fn print(rows: &[Row]) {
    for line in lines(rows) {
        println!("{line}");
    }
}

fn lines(rows: &[Row]) -> Vec<String> {
    let mut out = vec![format!(
        "{:<11}{:<10}{:>10}{:>8}{:>8}{:>6}{:>6}  result",
        "device", "Mesa", "pipelines", "faults", "better", "new", "gone"
    )];
    let mut details = Vec::new();
    let mut skipped = 0;
    for Row { device, outcome } in rows {
        match outcome {
            Outcome::Skipped(why) => {
                skipped += 1;
                out.extend(wrapped(&format!("{device:<11}skipped: {why}"), 11));
            }
            Outcome::Missing(why) => out.extend(wrapped(&format!("{device:<11}MISSING: {why}"), 11)),
            Outcome::Compared { version, blessed, comparison: c } => {
                let result = match (outcome.failed(), blessed, c.has_baseline) {
                    (true, ..) => "FAILED",
                    (false, true, _) => "written",
                    (false, false, true) => "ok",
                    (false, false, false) => "compiles; no baseline",
                };
                out.push(format!(
                    "{device:<11}{version:<10}{:>10}{:>8}{:>8}{:>6}{:>6}  {result}",
                    c.pipelines,
                    c.findings.len(),
                    c.better,
                    c.new,
                    c.gone
                ));
                for finding in c.findings.iter().take(SHOWN) {
                    details.extend(wrapped(&format!("{device}: {finding}"), 4));
                }
                if c.findings.len() > SHOWN {
                    details.push(format!("{device}: and {} more", c.findings.len() - SHOWN));
                }
            }
        }
    }
    out.append(&mut details);
    if skipped > 0 {
        out.push(format!("{skipped} of {} devices skipped", rows.len()));
    }
    out
}

/// Breaks a line at spaces; what follows is indented.
fn wrapped(text: &str, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_inclusive(' ') {
        if line.chars().count() + word.trim_end().chars().count() > WIDTH && !line.trim().is_empty() {
            lines.push(line.trim_end().to_owned());
            line = " ".repeat(indent);
        }
        line += word;
    }
    lines.push(line.trim_end().to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::super::baseline::Finding;
    use super::*;

    #[test]
    fn every_line_fits_and_every_fault_is_told() {
        let finding = Finding {
            pipeline: "linear.matvec.q4_k.q8 WG=128 ROWS=16".into(),
            fault: Fault::Worse { statistic: "vgprs", before: 24.0, now: 48.0 },
        };
        let comparison = Comparison {
            pipelines: 412,
            findings: vec![finding; 50],
            has_baseline: true,
            ..Comparison::default()
        };
        let compared =
            |blessed| Outcome::Compared { version: "25.0.7".into(), blessed, comparison: comparison.clone() };
        let rows = [
            Row { device: "890m", outcome: compared(false) },
            Row { device: "adreno740", outcome: Outcome::Skipped("the driver is not installed ".repeat(9)) },
            Row { device: "m1", outcome: Outcome::Missing("its baseline is there".into()) },
        ];
        let lines = lines(&rows);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("vgprs 24 → 48")));
        assert!(lines.iter().any(|line| line.contains("and 10 more")));
        assert_eq!(lines.last().map(String::as_str), Some("1 of 3 devices skipped"));
        assert!(rows[0].outcome.failed() && !rows[1].outcome.failed() && rows[2].outcome.failed());
        assert!(!compared(true).failed(), "a blessed regression is accepted");
    }

    #[test]
    fn an_error_cannot_be_blessed() {
        let finding =
            Finding { pipeline: "a".into(), fault: Fault::Spill { statistic: "vgpr_spills", value: 4.0 } };
        let comparison = Comparison { findings: vec![finding], ..Comparison::default() };
        assert!(Outcome::Compared { version: "1".into(), blessed: true, comparison }.failed());
    }
}

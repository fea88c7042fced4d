//! What a run of the suite found: a table, JSON, or JUnit XML.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use serde_json::{Value, json};
use vkllm_runtime::Caps;

use crate::selftest::Case;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}

/// One case that ran.
pub(super) struct Row<'a> {
    pub(super) case: &'a Case,
    pub(super) outcome: Outcome,
    /// What was wrong, or why it was skipped.
    pub(super) detail: String,
    /// Why it is expected to fail.
    pub(super) expected: Option<String>,
    pub(super) time: Duration,
}

/// A run.
pub(super) struct Report<'a> {
    device: String,
    driver: String,
    subgroup: u32,
    seed: u64,
    /// Cases that were to run.
    wanted: usize,
    repeat: String,
    pub(super) rows: Vec<Row<'a>>,
    pub(super) messages: Vec<String>,
    pub(super) time: Duration,
    pub(super) interrupted: bool,
    pub(super) device_error: Option<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(caps: &Caps, seed: u64, wanted: usize, repeat: String) -> Self {
        Report {
            device: caps.name.clone(),
            driver: caps.driver.clone(),
            subgroup: caps.subgroup,
            seed,
            wanted,
            repeat,
            rows: Vec::new(),
            messages: Vec::new(),
            time: Duration::ZERO,
            interrupted: false,
            device_error: None,
        }
    }

    /// Failures that nobody expected.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Row<'a>> {
        self.rows.iter().filter(|row| row.outcome == Outcome::Failed && row.expected.is_none())
    }

    /// Passes of cases that were expected to fail.
    pub(super) fn surprises(&self) -> impl Iterator<Item = &Row<'a>> {
        self.rows.iter().filter(|row| row.outcome == Outcome::Passed && row.expected.is_some())
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.rows.iter().filter(|row| row.outcome == outcome).count()
    }

    fn repeat(&self, case: &Case) -> String {
        format!("{} --filter '^{}$'", self.repeat, case.name())
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        for row in self.failures() {
            writeln!(out, "FAILED {}: {}", row.case.name(), row.detail)?;
            writeln!(out, "  repeat with: {}", self.repeat(row.case))?;
        }
        for row in &self.rows {
            if let (Outcome::Failed, Some(reason)) = (row.outcome, &row.expected) {
                writeln!(out, "failed as expected {} ({reason}): {}", row.case.name(), row.detail)?;
            }
        }
        for row in self.surprises() {
            let reason = row.expected.as_deref().unwrap_or_default();
            writeln!(out, "PASSED, expected to fail ({reason}): {}", row.case.name())?;
        }
        for message in &self.messages {
            writeln!(out, "validation: {message}")?;
        }
        writeln!(out, "{}", self.table())?;
        for (reason, count) in self.skips() {
            writeln!(out, "skipped {count}: {reason}")?;
        }
        if self.interrupted {
            writeln!(out, "interrupted after {} of {} cases", self.rows.len(), self.wanted)?;
        }
        writeln!(
            out,
            "{} passed, {} failed, {} skipped in {:.1} s on {} ({}), subgroups of {}, seed {}",
            self.count(Outcome::Passed),
            self.count(Outcome::Failed),
            self.count(Outcome::Skipped),
            self.time.as_secs_f64(),
            self.device,
            self.driver,
            self.subgroup,
            self.seed,
        )
    }

    /// Reasons of skips with their numbers.
    fn skips(&self) -> BTreeMap<&str, usize> {
        let mut skips = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.outcome == Outcome::Skipped) {
            *skips.entry(row.detail.as_str()).or_default() += 1;
        }
        skips
    }

    /// One line per way of an operation.
    fn table(&self) -> Table {
        #[derive(Default)]
        struct Line<'a> {
            kernels: std::collections::BTreeSet<&'a str>,
            counts: [usize; 3],
            seconds: f64,
        }
        let mut lines: BTreeMap<&str, Line<'_>> = BTreeMap::new();
        for row in &self.rows {
            let name = row.case.kernel().name;
            let way = name.match_indices('.').nth(1).map_or(name, |(end, _)| &name[..end]);
            let line = lines.entry(way).or_default();
            line.kernels.insert(name);
            line.counts[row.outcome as usize] += 1;
            line.seconds += row.time.as_secs_f64();
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["kernel", "variants", "passed", "failed", "skipped", "seconds"]);
        for (way, line) in lines {
            let [passed, failed, skipped] = line.counts.map(|count| count.to_string());
            let seconds = format!("{:.2}", line.seconds);
            table.add_row([way.to_owned(), line.kernels.len().to_string(), passed, failed, skipped, seconds]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    pub(super) fn json(&self) -> Value {
        let cases: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "op": row.case.op(),
                    "kernel": row.case.kernel().name,
                    "name": row.case.name(),
                    "outcome": row.outcome.name(),
                    "detail": (!row.detail.is_empty()).then_some(&row.detail),
                    "expected_to_fail": row.expected,
                    "repeat": (row.outcome == Outcome::Failed).then(|| self.repeat(row.case)),
                    "seconds": row.time.as_secs_f64(),
                })
            })
            .collect();
        json!({
            "device": self.device,
            "driver": self.driver,
            "subgroup": self.subgroup,
            "version": env!("CARGO_PKG_VERSION"),
            "shaders": crate::SHADER_HASH,
            "seed": self.seed,
            "seconds": self.time.as_secs_f64(),
            "passed": self.count(Outcome::Passed),
            "failed": self.count(Outcome::Failed),
            "skipped": self.count(Outcome::Skipped),
            "unexpected_passes": self.surprises().count(),
            "wanted": self.wanted,
            "interrupted": self.interrupted,
            "device_error": self.device_error,
            "validation_messages": self.messages,
            "cases": cases,
        })
    }

    /// JUnit XML: one suite per operation. An unexpected pass is a failure, an expected failure a skip.
    pub(super) fn junit(&self) -> io::Result<Vec<u8>> {
        let mut suites: BTreeMap<&str, Vec<&Row<'_>>> = BTreeMap::new();
        for row in &self.rows {
            suites.entry(row.case.op()).or_default().push(row);
        }
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
        writer.create_element("testsuites").with_attribute(("name", "vkllm selftest")).write_inner_content(
            |writer| {
                for (op, rows) in &suites {
                    let failed = rows.iter().filter(|row| row.failure().is_some()).count().to_string();
                    let skipped = rows.iter().filter(|row| row.skip().is_some()).count().to_string();
                    let time: f64 = rows.iter().map(|row| row.time.as_secs_f64()).sum();
                    let suite = writer
                        .create_element("testsuite")
                        .with_attribute(("name", *op))
                        .with_attribute(("tests", rows.len().to_string().as_str()))
                        .with_attribute(("failures", failed.as_str()))
                        .with_attribute(("errors", "0"))
                        .with_attribute(("skipped", skipped.as_str()))
                        .with_attribute(("time", format!("{time:.6}").as_str()));
                    suite.write_inner_content(|writer| {
                        rows.iter().try_for_each(|row| self.junit_case(writer, row))
                    })?;
                }
                Ok(())
            },
        )?;
        let mut bytes = writer.into_inner();
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn junit_case(&self, writer: &mut Writer<Vec<u8>>, row: &Row<'_>) -> io::Result<()> {
        let time = format!("{:.6}", row.time.as_secs_f64());
        let element = writer
            .create_element("testcase")
            .with_attribute(("classname", row.case.kernel().name))
            .with_attribute(("name", row.case.name()))
            .with_attribute(("time", time.as_str()));
        if let Some(text) = row.failure() {
            let repeat = format!("repeat with: {}", self.repeat(row.case));
            element.write_inner_content(|writer| {
                let failure = writer.create_element("failure").with_attribute(("message", text.as_str()));
                failure.write_text_content(BytesText::new(&repeat)).map(drop)
            })?;
        } else if let Some(text) = row.skip() {
            element.write_inner_content(|writer| {
                writer.create_element("skipped").with_attribute(("message", text)).write_empty().map(drop)
            })?;
        } else {
            element.write_empty()?;
        }
        Ok(())
    }
}

impl Row<'_> {
    fn failure(&self) -> Option<String> {
        match (self.outcome, &self.expected) {
            (Outcome::Failed, None) => Some(self.detail.clone()),
            (Outcome::Passed, Some(reason)) => Some(format!("passed, but is expected to fail: {reason}")),
            _ => None,
        }
    }

    fn skip(&self) -> Option<&str> {
        match (self.outcome, &self.expected) {
            (Outcome::Skipped, _) => Some(&self.detail),
            (Outcome::Failed, Some(reason)) => Some(reason),
            _ => None,
        }
    }
}

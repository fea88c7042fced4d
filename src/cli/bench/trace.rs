//! Traces for Perfetto and chrome://tracing: the device's commands on its own clock, target and draft apart, and the host's
//! steps. The two clocks are laid over each other so that no step ends on the device after the host had waited for it.

use std::io::BufWriter;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::row::Row;
use crate::Span;
use crate::cli::{Failure, input};

/// Tracks of a test.
const HOST: u32 = 1;
const TARGET: u32 = 2;
const DRAFT: u32 = 3;

fn event(name: &str, test: usize, track: u32, from: f64, length: f64, arguments: Value) -> Value {
    json!({ "name": name, "ph": "X", "pid": test, "tid": track, "ts": from, "dur": length, "args": arguments })
}

/// Microseconds of the device's clock at which a recording began and ended.
fn times(span: &Span) -> Option<(f64, f64)> {
    let began = span.times.began_nanoseconds? as f64 / 1e3;
    Some((began, began + span.times.total_nanoseconds? as f64 / 1e3))
}

/// The events of one test; its number is the process.
fn events(test: usize, name: &str, spans: &[Span]) -> Vec<Value> {
    let mut all = vec![json!({ "name": "process_name", "ph": "M", "pid": test, "args": { "name": name } })];
    for (track, name) in [(HOST, "host"), (TARGET, "target"), (DRAFT, "draft")] {
        all.push(
            json!({ "name": "thread_name", "ph": "M", "pid": test, "tid": track, "args": { "name": name } }),
        );
    }
    let Some(first) = spans.first().map(|span| span.ended) else { return all };
    let host = |at: Instant| {
        let (later, sign) = if at >= first { (at - first, 1.0) } else { (first - at, -1.0) };
        sign * later.as_secs_f64() * 1e6
    };
    let ends = spans.iter().filter_map(|span| Some((times(span)?, span)));
    let offset = ends.map(|((_, end), span)| host(span.ended) - end).fold(f64::MAX, f64::min);
    let mut before: Option<f64> = None;
    for span in spans {
        let ended = host(span.ended);
        // Parts of one submission end together; the next step begins where the one before ended.
        if let Some(before) = before.filter(|before| ended - before > 1.0) {
            all.push(event("step", test, HOST, before, ended - before, json!({})));
        }
        before = Some(ended);
        let Some((began, end)) = times(span) else { continue };
        let track = if span.draft { DRAFT } else { TARGET };
        all.push(event(&span.name, test, track, began + offset, end - began, json!({})));
        let mut at = began + offset;
        for label in &span.times.labels {
            let length = label.nanoseconds as f64 / 1e3;
            let arguments = json!({ "kernel": label.kernel, "constant_bytes": label.constant_bytes });
            all.push(event(&label.label, test, track, at, length, arguments));
            at += length;
        }
    }
    all
}

/// Writes the runs with every command measured.
pub(super) fn write(path: &Path, rows: &[Row]) -> Result<(), Failure> {
    let runs =
        rows.iter().filter_map(|row| Some((&row.test, row.attribution.as_ref()?.profile.spans.as_deref()?)));
    let all: Vec<Value> =
        runs.enumerate().flat_map(|(index, (name, spans))| events(index, name, spans)).collect();
    if all.is_empty() {
        return Err(input(format!("{}: nothing to trace: the device tells no times", path.display())));
    }
    let file = std::fs::File::create(path).map_err(|error| input(format!("{}: {error}", path.display())))?;
    Ok(serde_json::to_writer(BufWriter::new(file), &json!({ "traceEvents": all, "displayTimeUnit": "ns" }))?)
}

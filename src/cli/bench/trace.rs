//! Traces for Perfetto and chrome://tracing: the device's commands, target and draft apart, and the host's steps, all on the
//! host's clock. Where the device's cannot be read beside it, the two are laid over each other so that no step ends on the
//! device after the host had waited for it.

use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vkllm_runtime::{Reading, host_time};

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

/// Nanoseconds of the device's clock at which a recording began and ended.
fn times(span: &Span) -> Option<(u64, u64)> {
    let began = span.times.began_nanoseconds?;
    Some((began, began + span.times.total_nanoseconds?))
}

/// What two clocks may be apart when they were read together and a step is placed between the readings.
const SLACK: Duration = Duration::from_millis(1);

/// The readings, unless they place a step behind the host's wait for it: counters of few bits begin anew in between.
fn trusted<'a>(spans: &[Span], clocks: Option<&'a [Reading; 2]>) -> Option<&'a [Reading; 2]> {
    let [before, after] = clocks?;
    let fits = |span: &Span| {
        times(span).is_none_or(|(_, end)| {
            host_time(end, before, after)
                .is_some_and(|end| end <= span.ended + SLACK && end + SLACK >= before.at)
        })
    };
    clocks.filter(|_| spans.iter().all(fits))
}

/// The events of one test; its number is the process.
fn events(test: usize, name: &str, spans: &[Span], clocks: Option<&[Reading; 2]>) -> Vec<Value> {
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
    let offset = ends.map(|((_, end), span)| host(span.ended) - end as f64 / 1e3).fold(f64::MAX, f64::min);
    let clocks = trusted(spans, clocks);
    let place = |nanoseconds: u64| {
        let read = clocks.and_then(|[before, after]| host_time(nanoseconds, before, after));
        read.map_or(nanoseconds as f64 / 1e3 + offset, host)
    };
    let mut before: Option<f64> = None;
    for span in spans {
        let ended = host(span.ended);
        // Parts of one submission end together; the next step begins where the one before ended.
        if let Some(before) = before.filter(|before| ended - before > 1.0) {
            all.push(event("step", test, HOST, before, ended - before, json!({})));
        }
        before = Some(ended);
        let Some((began, end)) = times(span).map(|(began, end)| (place(began), place(end))) else { continue };
        let track = if span.draft { DRAFT } else { TARGET };
        all.push(event(&span.name, test, track, began, end - began, json!({})));
        let mut at = began;
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
    let runs = rows.iter().filter_map(|row| Some((&row.test, &row.attribution.as_ref()?.profile)));
    let runs =
        runs.filter_map(|(test, profile)| Some((test, profile.spans.as_deref()?, profile.clocks.as_ref())));
    let runs: Vec<_> = runs.collect();
    let all: Vec<Value> = runs
        .iter()
        .enumerate()
        .flat_map(|(index, (name, spans, clocks))| events(index, name, spans, *clocks))
        .collect();
    // How far the two clocks may be apart, for each test.
    let apart: Vec<Value> = runs
        .iter()
        .map(|(name, spans, clocks)| {
            let within = trusted(spans, *clocks).map(|readings| readings.iter().map(|r| r.within).max());
            let within = within.flatten().map(|within| within.as_secs_f64() * 1e6);
            json!({ "test": name, "clocks_within_us": within })
        })
        .collect();
    if all.is_empty() {
        return Err(input(format!("{}: nothing to trace: the device tells no times", path.display())));
    }
    let file = std::fs::File::create(path).map_err(|error| input(format!("{}: {error}", path.display())))?;
    Ok(serde_json::to_writer(
        BufWriter::new(file),
        &json!({ "traceEvents": all, "displayTimeUnit": "ns", "otherData": apart }),
    )?)
}

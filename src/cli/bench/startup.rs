//! `vkllm bench --startup`: from nothing to the first token, with and without pipelines in the program's cache.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vkllm_runtime::{Device, DeviceOptions};

use super::Progress;
use super::output::Columns;
use super::row::{build, now};
use crate::bench::Summary;
use crate::cli::{Failure, input};
use crate::{GenerateOptions, Model, ModelFile, ModelOptions, SamplerOptions, Session};

/// The beginning of a text, which the model's step of a few rows computes.
const PROMPT: &str = "Once upon a time";

/// One start.
struct Start {
    device: Duration,
    load: Duration,
    weights: Duration,
    pipelines: Duration,
    count: usize,
    /// Pipelines that the driver says it had.
    cached: Option<usize>,
    first: Duration,
    bytes: u64,
}

/// Starts with one state of the cache.
pub(super) struct StartRow {
    cache: &'static str,
    model: String,
    starts: Vec<Start>,
    time: String,
}

/// A folder that goes when it is no longer needed.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the folder of a pipeline cache stays");
        }
    }
}

fn start(options: &DeviceOptions, file: &ModelFile, model: &ModelOptions) -> Result<Start, Failure> {
    let began = Instant::now();
    let device = Device::open(options)?;
    let opened = began.elapsed();
    let model = Model::load(&device, file, model, &|_, _| true)?;
    let load = began.elapsed() - opened;
    let prompt = match model.vocabulary() {
        Some(vocabulary) => vocabulary.encode(PROMPT, Default::default()),
        None => (0..4).map(|id| id % model.config().vocab).collect(),
    };
    let mut session = Session::new(&model, SamplerOptions::greedy())?;
    let loaded = Instant::now();
    let options = GenerateOptions { max_tokens: Some(1), ignore_end: true };
    session.generate(&prompt, options)?.try_for_each(|event| event.map(|_| ()))?;
    let report = model.load_report();
    let told: Vec<bool> = report.pipelines.iter().filter_map(|pipeline| pipeline.cached).collect();
    device.save_pipelines();
    Ok(Start {
        device: opened,
        load,
        weights: report.time,
        pipelines: report.pipeline_time,
        count: report.pipelines.len(),
        cached: (!told.is_empty()).then(|| told.iter().filter(|cached| **cached).count()),
        first: loaded.elapsed(),
        bytes: report.bytes,
    })
}

pub(super) fn measure(
    options: &DeviceOptions,
    (file, model, name): (&ModelFile, &ModelOptions, &str),
    repetitions: usize,
    progress: &Progress,
    rows: &mut Vec<StartRow>,
) -> Result<(), Failure> {
    let folder = Folder(std::env::temp_dir().join(format!("vkllm-bench-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).map_err(|e| input(format!("{}: {e}", folder.0.display())))?;
    let with =
        |cache: Option<&Path>| DeviceOptions { cache_dir: cache.map(Path::to_owned), ..options.clone() };
    // The cache of the second is filled by a start that does not count.
    for (cache, options) in [("cold", with(None)), ("warm", with(Some(&folder.0)))] {
        if cache == "warm" {
            start(&options, file, model)?;
        }
        let mut starts = Vec::new();
        for repetition in 1..=repetitions {
            if progress.stopped() {
                break;
            }
            progress.says(format!("{name}: {cache} start, {repetition} of {repetitions}"));
            starts.push(start(&options, file, model)?);
        }
        if !starts.is_empty() {
            rows.push(StartRow { cache, model: name.to_owned(), starts, time: now() });
        }
    }
    Ok(())
}

impl StartRow {
    fn median(&self, of: fn(&Start) -> Duration) -> f64 {
        let seconds: Vec<f64> = self.starts.iter().map(|start| of(start).as_secs_f64()).collect();
        Summary::of(&seconds).map_or(0.0, |summary| summary.median)
    }

    fn total(start: &Start) -> Duration {
        start.device + start.load + start.first
    }

    pub(super) fn columns(&self) -> Columns {
        let ms = |of: fn(&Start) -> Duration| json!(self.median(of) * 1e3);
        let last = self.starts.last();
        vec![
            ("test_time", "TEXT", json!(self.time)),
            ("build_commit", "TEXT", json!(build())),
            ("model_type", "TEXT", json!(self.model)),
            ("cache", "TEXT", json!(self.cache)),
            ("n_runs", "INTEGER", json!(self.starts.len())),
            ("device_ms", "REAL", ms(|start| start.device)),
            ("load_ms", "REAL", ms(|start| start.load)),
            ("weights_ms", "REAL", ms(|start| start.weights)),
            ("pipelines_ms", "REAL", ms(|start| start.pipelines)),
            ("first_token_ms", "REAL", ms(|start| start.first)),
            ("total_ms", "REAL", ms(StartRow::total)),
            ("bytes", "INTEGER", json!(last.map(|start| start.bytes))),
            ("pipelines", "INTEGER", json!(last.map(|start| start.count))),
            ("pipelines_cached", "INTEGER", json!(last.and_then(|start| start.cached))),
        ]
    }

    pub(super) fn json(&self) -> Value {
        let columns = self.columns().into_iter().map(|(name, _, value)| (name.to_owned(), value));
        let mut object: serde_json::Map<String, Value> = columns.collect();
        let totals: Vec<u64> =
            self.starts.iter().map(|start| StartRow::total(start).as_nanos() as u64).collect();
        object.insert("samples_ns".into(), json!(totals));
        Value::Object(object)
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let of = |value: fn(&Start) -> Duration| super::report::duration(self.median(value));
        let last = self.starts.last();
        let cached = last
            .and_then(|start| start.cached)
            .map_or(String::new(), |count| format!(", {count} of them cached"));
        Ok(writeln!(
            out,
            "start {} ({}): {} = device {} + load {} (weights {}, {} pipelines {}{cached}) + first token {}; median of {}",
            self.cache,
            self.model,
            of(StartRow::total),
            of(|start| start.device),
            of(|start| start.load),
            of(|start| start.weights),
            last.map_or(0, |start| start.count),
            of(|start| start.pipelines),
            of(|start| start.first),
            self.starts.len(),
        )?)
    }
}

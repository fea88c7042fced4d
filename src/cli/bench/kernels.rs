//! `vkllm bench --kernels`: single operations, in the columns of llama.cpp's test-backend-ops.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use vkllm_runtime::Device;

use super::args::{Numbers, RunArgs};
use super::output::Columns;
use super::row::{Place, build, now};
use super::{Progress, activations};
use crate::bench::{KernelRun, KernelTest, Op, Summary};
use crate::cli::{Failure, input};

/// Formats and shapes of `all`: feed-forward and output matrices of a small and a middling model.
const FORMATS: [&str; 4] = ["f16", "q8_0", "q4_k", "q6_k"];
const SHAPES: [(u32, u32); 3] = [(1024, 3072), (4096, 4096), (4096, 12288)];
const ROWS: [u32; 3] = [1, 8, 64];
const VOCABULARY: u32 = 151_936;

/// One measured operation.
pub(super) struct KernelRow {
    test: KernelTest,
    run: KernelRun,
    time: String,
}

fn default_tests(arg: crate::Activations) -> Result<Vec<KernelTest>, Failure> {
    let mut all = Vec::new();
    for name in FORMATS {
        let format = KernelTest::format(name)?;
        for (k, n) in SHAPES {
            for rows in ROWS {
                all.push(KernelTest { op: Op::Linear, format, k, n, rows, activations: arg });
            }
        }
    }
    let format = KernelTest::format("q8_0")?;
    for op in [Op::Greedy, Op::Sample] {
        all.push(KernelTest { op, format, k: 0, n: VOCABULARY, rows: 1, activations: arg });
    }
    Ok(all)
}

/// Some of them, for a machine that nobody named anything for.
pub(super) fn usual() -> Result<Vec<KernelTest>, Failure> {
    let all = default_tests(crate::Activations::Auto)?;
    let few = |test: &KernelTest| {
        test.op == Op::Linear && test.rows <= 8 && matches!(test.format.name, "q8_0" | "q4_k")
    };
    Ok(all.into_iter().filter(|test| few(test) && test.k * test.n < 1 << 25).collect())
}

/// `OP[:format=F,…][:k=K][:n=N][:rows=R]`, every combination of its lists.
fn parse(text: &str, arg: crate::Activations) -> Result<Vec<KernelTest>, Failure> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let op = Op::ALL.into_iter().find(|op| op.name() == name).ok_or_else(|| {
        let known = Op::ALL.map(Op::name).join(", ");
        input(format!("--kernels names \"{name}\"; allowed are all, {known}"))
    })?;
    let mut formats = vec![KernelTest::format("q4_k")?];
    let sampled = matches!(op, Op::Greedy | Op::Sample);
    let (mut k, mut n, mut rows) = (vec![4096], vec![if sampled { VOCABULARY } else { 4096 }], vec![1]);
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let numbers = || {
            value
                .parse::<Numbers>()
                .map(|numbers| numbers.0)
                .map_err(|e| input(format!("--kernels, {part}: {e}")))
        };
        match key {
            "format" => {
                formats = value.split(',').map(KernelTest::format).collect::<crate::Result<_>>()?;
            }
            "k" => k = numbers()?,
            "n" => n = numbers()?,
            "rows" => rows = numbers()?,
            _ => {
                return Err(input(format!(
                    "--kernels has \"{part}\"; allowed are format=, k=, n= and rows="
                )));
            }
        }
    }
    let mut all = Vec::new();
    for &format in &formats {
        for &k in &k {
            for &n in &n {
                all.extend(rows.iter().map(|&rows| KernelTest { op, format, k, n, rows, activations: arg }));
            }
        }
    }
    Ok(all)
}

/// The tests that were asked for.
pub(super) fn tests(args: &RunArgs) -> Result<Vec<KernelTest>, Failure> {
    let mut all = Vec::new();
    for &arg in &args.activations {
        let arg = activations(arg).0;
        for text in &args.kernels {
            all.extend(if text == "all" { default_tests(arg)? } else { parse(text, arg)? });
        }
    }
    all.iter().try_for_each(KernelTest::check)?;
    Ok(all)
}

pub(super) fn measure(
    args: &RunArgs,
    device: &Device,
    tests: &[KernelTest],
    progress: &Progress,
    rows: &mut Vec<KernelRow>,
) -> Result<(), Failure> {
    for (index, test) in tests.iter().enumerate() {
        if progress.stopped() {
            break;
        }
        progress.says(format!("kernel {} of {}: {} {test}", index + 1, tests.len(), test.op.name()));
        let run = test.run(device, args.repetitions)?;
        rows.push(KernelRow { test: *test, run, time: now() });
    }
    Ok(())
}

impl KernelRow {
    fn seconds(&self) -> Option<Summary> {
        let seconds: Vec<f64> = self.run.samples.iter().map(|sample| sample.as_secs_f64()).collect();
        Summary::of(&seconds).filter(|summary| summary.least > 0.0)
    }

    /// Bytes and operations per second of the median.
    fn rates(&self) -> (Option<f64>, Option<f64>) {
        let seconds = self.seconds().map(|summary| summary.median);
        let rate = |amount: u64| seconds.filter(|_| amount > 0).map(|seconds| amount as f64 / seconds);
        (rate(self.run.bytes), rate(self.run.operations))
    }

    /// Columns of llama.cpp's table `test_backend_ops`, then ours.
    pub(super) fn columns(&self, place: &Place) -> Columns {
        let us = self.seconds().map(|summary| summary.median * 1e6);
        let (bandwidth, arithmetic) = self.rates();
        let read = place.ceilings.read();
        vec![
            ("test_time", "TEXT", json!(self.time)),
            ("build_commit", "TEXT", json!(build())),
            ("backend_name", "TEXT", json!(place.device)),
            ("op_name", "TEXT", json!(self.test.op.name())),
            ("op_params", "TEXT", json!(self.test.to_string())),
            ("test_mode", "TEXT", json!("perf")),
            ("supported", "INTEGER", json!(1)),
            ("passed", "INTEGER", json!(1)),
            ("error_message", "TEXT", json!("")),
            ("time_us", "REAL", json!(us)),
            ("flops", "REAL", json!(arithmetic)),
            ("bandwidth_gb_s", "REAL", json!(bandwidth.map(|b| b / 1e9))),
            ("memory_kb", "INTEGER", json!(self.run.bytes.div_ceil(1024))),
            ("n_runs", "INTEGER", json!(self.run.executions * self.run.samples.len() as u64)),
            ("vk_kernels", "TEXT", json!(self.run.kernels.join(", "))),
            ("vk_driver", "TEXT", json!(place.driver)),
            ("vk_shaders", "TEXT", json!(crate::SHADER_HASH)),
            ("bw_weight_bytes", "INTEGER", json!(self.run.weights)),
            ("bw_share", "REAL", json!(bandwidth.zip(read).map(|(b, read)| b / read))),
            ("bw_read_gb_s", "REAL", json!(read.map(|b| b / 1e9))),
        ]
    }

    /// All columns and samples.
    pub(super) fn json(&self, place: &Place) -> Value {
        let columns = self.columns(place).into_iter().map(|(name, _, value)| (name.to_owned(), value));
        let mut object: serde_json::Map<String, Value> = columns.collect();
        let ns: Vec<u64> = self.run.samples.iter().map(|sample| sample.as_nanos() as u64).collect();
        let rates: Vec<f64> = ns.iter().filter(|ns| **ns > 0).map(|ns| 1e9 / *ns as f64).collect();
        object.insert("samples_ns".into(), json!(ns));
        object.insert("samples_ts".into(), json!(rates));
        Value::Object(object)
    }
}

/// A line for each operation.
pub(super) fn print(rows: &[KernelRow], place: &Place, out: &mut dyn Write) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["operation", "kernels", "time", "±", "GB/s", "of read", "GOP/s"]);
    for row in rows {
        let (bandwidth, arithmetic) = row.rates();
        let seconds = row.seconds();
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
        let share = bandwidth.zip(place.ceilings.read()).map(|(b, read)| b / read * 100.0);
        table.add_row([
            format!("{} {}", row.test.op.name(), row.test),
            row.run.kernels.join(", "),
            seconds.map_or("-".into(), |s| super::report::duration(s.median)),
            seconds.map_or("-".into(), |s| format!("{:.1} %", s.spread() * 100.0)),
            number(bandwidth.map(|b| b / 1e9), 2),
            share.map_or("-".into(), |share| format!("{share:.1} %")),
            number(arithmetic.map(|ops| ops / 1e9), 1),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(out)?;
    Ok(table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))?)
}

//! `vkllm bench --kernels`: single operations, in the columns of llama.cpp's test-backend-ops.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use vkllm_runtime::Device;

use super::args::{Numbers, RunArgs};
use super::output::Columns;
use super::row::{Place, build, now};
use super::{Progress, activations, cache_type};
use crate::bench::{KernelRun, KernelTest, Op, Summary};
use crate::cli::{Failure, input};

/// Formats and shapes of `all`: feed-forward and output matrices of a small and a middling model.
const FORMATS: [&str; 4] = ["f16", "q8_0", "q4_k", "q6_k"];
const SHAPES: [(u32, u32); 3] = [(1024, 3072), (4096, 4096), (4096, 12288)];
const ROWS: [u32; 3] = [1, 8, 64];

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
                all.push(KernelTest { format, k, n, rows, ..KernelTest::usual(Op::Linear, arg)? });
            }
        }
    }
    // Experts as small mixtures have them.
    let experts = KernelTest { k: 2048, n: 768, ..KernelTest::usual(Op::Experts, arg)? };
    all.extend([1, 8].map(|rows| KernelTest { rows, ..experts }));
    for op in [Op::Embed, Op::Norm, Op::Quantize, Op::Glu, Op::Rope, Op::Greedy, Op::Sample] {
        all.push(KernelTest::usual(op, arg)?);
    }
    for depth in [512, 4096] {
        for rows in [1, 8] {
            all.push(KernelTest { depth, rows, ..KernelTest::usual(Op::Attention, arg)? });
        }
    }
    Ok(all)
}

/// Some of them, for a machine that nobody named anything for.
pub(super) fn usual() -> Result<Vec<KernelTest>, Failure> {
    let all = default_tests(crate::Activations::Auto)?;
    let few = |test: &KernelTest| {
        let product =
            test.rows <= 8 && matches!(test.format.name, "q8_0" | "q4_k") && test.k * test.n < 1 << 25;
        test.op == Op::Linear && product || test.op == Op::Attention && test.rows == 1
    };
    Ok(all.into_iter().filter(few).collect())
}

/// `OP[:format=F,…][:type=T,…][:SIZE=N,…]…`, every combination of its lists.
fn parse(text: &str, arg: crate::Activations) -> Result<Vec<KernelTest>, Failure> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let op = Op::ALL.into_iter().find(|op| op.name() == name).ok_or_else(|| {
        let known = Op::ALL.map(Op::name).join(", ");
        input(format!("--kernels names \"{name}\"; allowed are all, {known}"))
    })?;
    let mut all = vec![KernelTest::usual(op, arg)?];
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let mut next = Vec::new();
        match key {
            "format" if op.has_format() => {
                let formats: Vec<_> =
                    value.split(',').map(KernelTest::format).collect::<crate::Result<_>>()?;
                next.extend(
                    all.iter().flat_map(|test| formats.iter().map(|&format| KernelTest { format, ..*test })),
                );
            }
            "type" if op.has_cache() => {
                let types: Vec<_> = value
                    .split(',')
                    .map(|name| cache_type("--kernels, type", name))
                    .collect::<Result<_, _>>()?;
                next.extend(
                    all.iter().flat_map(|test| types.iter().map(|&kv_type| KernelTest { kv_type, ..*test })),
                );
            }
            key if op.sizes().contains(&key) => {
                let sizes: Numbers =
                    value.parse().map_err(|error| input(format!("--kernels, {part}: {error}")))?;
                for test in &all {
                    for &size in &sizes.0 {
                        let mut test = *test;
                        test.size_mut(key).into_iter().for_each(|place| *place = size);
                        next.push(test);
                    }
                }
            }
            _ => {
                let mut known: Vec<&str> = op.sizes().to_vec();
                known.extend(op.has_format().then_some("format"));
                known.extend(op.has_cache().then_some("type"));
                let known = known.iter().map(|name| format!("{name}=")).collect::<Vec<_>>().join(", ");
                return Err(input(format!("--kernels {name} has \"{part}\"; allowed are {known}")));
            }
        }
        all = next;
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

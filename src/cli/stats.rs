//! What `--stats` says: speed, bytes, host time, and where the device's time went.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use vkllm_runtime::Device;

use crate::speculate::Statistics;
use crate::{LoadReport, Model, Plan, Profile, Session, Stats};

/// Collected at the end of a run.
pub(super) struct Report {
    device: String,
    driver: String,
    load: LoadReport,
    plan: Plan,
    stats: Stats,
    profile: Profile,
    /// Of a session that speculates.
    speculation: Option<Statistics>,
    bytes_per_token: u64,
    seed: u64,
}

fn rate(count: u64, time: Duration) -> Option<f64> {
    (count > 0 && time > Duration::ZERO).then(|| count as f64 / time.as_secs_f64())
}

fn fixed(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "not known".into(), |value| format!("{value:.digits$}"))
}

impl Report {
    pub(super) fn new(device: &Device, model: &Model, session: &Session, seed: u64) -> Self {
        let caps = device.caps();
        Report {
            device: caps.name.clone(),
            driver: caps.driver.clone(),
            load: model.load_report().clone(),
            plan: model.plan().clone(),
            stats: *session.stats(),
            profile: model.profile(),
            speculation: session.speculation().cloned(),
            bytes_per_token: model.bytes_per_token(),
            seed,
        }
    }

    /// Decoded tokens exclude the one the prompt's step drew.
    fn decoded(&self) -> u64 {
        self.stats.generated.saturating_sub(1)
    }

    fn decode_rate(&self) -> Option<f64> {
        rate(self.decoded(), self.stats.decode_time)
    }

    /// Pipelines the driver found in its cache; `None` where it does not tell of any.
    fn cached(&self) -> Option<usize> {
        let told: Vec<bool> = self.load.pipelines.iter().filter_map(|pipeline| pipeline.cached).collect();
        (!told.is_empty()).then(|| told.iter().filter(|cached| **cached).count())
    }

    fn gigabytes(&self) -> Option<f64> {
        self.decode_rate().map(|rate| rate * self.bytes_per_token as f64 / 1e9)
    }

    fn host_ms(&self) -> Option<f64> {
        (self.stats.host_steps > 0)
            .then(|| self.stats.host_time.as_secs_f64() * 1e3 / self.stats.host_steps as f64)
    }

    fn step_ms(&self) -> Option<f64> {
        (self.stats.host_steps > 0)
            .then(|| self.stats.replay_time.as_secs_f64() * 1e3 / self.stats.host_steps as f64)
    }

    pub(super) fn json(&self) -> Value {
        let labels: serde_json::Map<String, Value> = self
            .profile
            .labels
            .iter()
            .map(|(label, total)| {
                let work = total.work;
                let values = json!({
                    "dispatches": total.dispatches,
                    "nanoseconds": total.nanoseconds,
                    "weight_bytes": work.weights,
                    "cache_bytes": work.cache,
                    "activation_bytes": work.activations,
                    "operations": work.operations,
                });
                (label.clone(), values)
            })
            .collect();
        json!({
            "device": self.device,
            "driver": self.driver,
            "version": env!("CARGO_PKG_VERSION"),
            "shaders": crate::SHADER_HASH,
            "seed": self.seed,
            "load_bytes": self.load.bytes,
            "load_seconds": self.load.time.as_secs_f64(),
            "load_mode": self.load.mode.name(),
            "load_why": self.load.why,
            "load_threads": self.load.threads,
            "peak_resident_bytes": self.load.peak_resident,
            "plan_bytes": self.plan.total(),
            "pipelines": self.load.pipelines.len(),
            "pipelines_cached": self.cached(),
            "pipelines_seconds": self.load.pipeline_time.as_secs_f64(),
            "prompt_tokens": self.stats.prompt_tokens,
            "prompt_seconds": self.stats.prompt_time.as_secs_f64(),
            "prompt_tokens_per_second": rate(self.stats.prompt_tokens, self.stats.prompt_time),
            "decoded_tokens": self.decoded(),
            "decode_seconds": self.stats.decode_time.as_secs_f64(),
            "decode_tokens_per_second": self.decode_rate(),
            "weight_bytes_per_token": self.bytes_per_token,
            "decode_gigabytes_per_second": self.gigabytes(),
            "host_ms_per_token": self.host_ms(),
            "step_ms_per_token": self.step_ms(),
            "recordings_made_while_decoding": self.stats.rerecorded,
            "speculation": self.speculation.as_ref().map(Statistics::record),
            "labels": labels,
        })
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let s = &self.stats;
        writeln!(out, "device   {} ({})", self.device, self.driver)?;
        writeln!(
            out,
            "load     {} ({}): {:.1} MB in {:.2} s, {} GB/s, {} buffers, {} threads; plan {:.1} MB, peak resident {}",
            self.load.mode.name(),
            self.load.why,
            self.load.bytes as f64 / 1e6,
            self.load.time.as_secs_f64(),
            fixed(rate(self.load.bytes, self.load.time).map(|r| r / 1e9), 2),
            self.load.buffers,
            self.load.threads,
            self.plan.total() as f64 / 1e6,
            self.load.peak_resident.map_or("not known".into(), |peak| format!("{:.1} MB", peak as f64 / 1e6)),
        )?;
        let slowest = self.load.pipelines.iter().max_by_key(|pipeline| pipeline.time);
        writeln!(
            out,
            "start    {} pipelines in {:.3} s, {} from the cache{}",
            self.load.pipelines.len(),
            self.load.pipeline_time.as_secs_f64(),
            self.cached().map_or("not known how many".into(), |count| count.to_string()),
            slowest.map_or(String::new(), |slowest| {
                format!("; the slowest, {}, took {:.1} ms", slowest.kernel, slowest.time.as_secs_f64() * 1e3)
            }),
        )?;
        writeln!(
            out,
            "prompt   {} tokens in {:.3} s, {} tokens/s",
            s.prompt_tokens,
            s.prompt_time.as_secs_f64(),
            fixed(rate(s.prompt_tokens, s.prompt_time), 2),
        )?;
        writeln!(
            out,
            "decode   {} tokens in {:.3} s, {} tokens/s, {} GB/s of weights",
            self.decoded(),
            s.decode_time.as_secs_f64(),
            fixed(self.decode_rate(), 2),
            fixed(self.gigabytes(), 2),
        )?;
        writeln!(
            out,
            "host     {} ms per decoded token beside waiting, {} ms with; {} recordings made in {} steps; seed {}",
            fixed(self.host_ms(), 4),
            fixed(self.step_ms(), 4),
            s.rerecorded,
            s.host_steps,
            self.seed,
        )?;
        if let Some(speculation) = &self.speculation {
            writeln!(out, "{speculation}")?;
        }
        self.print_labels(out)
    }

    fn print_labels(&self, out: &mut dyn Write) -> io::Result<()> {
        let total: u64 = self.profile.labels.values().map(|total| total.nanoseconds).sum();
        if total == 0 {
            return writeln!(out, "no device times are known");
        }
        let mut rows: Vec<_> = self.profile.labels.iter().collect();
        rows.sort_by_key(|(_, total)| std::cmp::Reverse(total.nanoseconds));
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["work", "dispatches", "ms", "share", "us each", "GB/s"]);
        for (label, one) in rows {
            let (count, ns, bytes) = (one.dispatches, one.nanoseconds, one.work.bytes());
            let speed =
                if bytes > 0 && ns > 0 { format!("{:.2}", bytes as f64 / ns as f64) } else { String::new() };
            table.add_row([
                label.clone(),
                count.to_string(),
                format!("{:.2}", ns as f64 / 1e6),
                format!("{:.1} %", ns as f64 * 100.0 / total as f64),
                format!("{:.1}", ns as f64 / 1e3 / count.max(1) as f64),
                speed,
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(out, "all steps, prompt included:\n{table}")
    }
}

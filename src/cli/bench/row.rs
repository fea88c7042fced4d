//! One measured test with where and when it was measured, and its columns: first those of llama-bench, by name, so that
//! scripts which read its results read ours; then our own.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::bench::{Attribution, Ceilings, Machine, Sample, Snapshot, Summary, UNSTEADY, drift};

/// Columns of llama-bench's table `llama_bench`, as scripts/compare-llama-bench.py of llama.cpp has them, with their types.
pub(super) const LLAMA_BENCH: [(&str, &str); 35] = [
    ("build_commit", "TEXT"),
    ("build_number", "INTEGER"),
    ("cpu_info", "TEXT"),
    ("gpu_info", "TEXT"),
    ("backends", "TEXT"),
    ("model_filename", "TEXT"),
    ("model_type", "TEXT"),
    ("model_size", "INTEGER"),
    ("model_n_params", "INTEGER"),
    ("n_batch", "INTEGER"),
    ("n_ubatch", "INTEGER"),
    ("n_threads", "INTEGER"),
    ("cpu_mask", "TEXT"),
    ("cpu_strict", "INTEGER"),
    ("poll", "INTEGER"),
    ("type_k", "TEXT"),
    ("type_v", "TEXT"),
    ("n_gpu_layers", "INTEGER"),
    ("split_mode", "TEXT"),
    ("main_gpu", "INTEGER"),
    ("no_kv_offload", "INTEGER"),
    ("flash_attn", "INTEGER"),
    ("tensor_split", "TEXT"),
    ("tensor_buft_overrides", "TEXT"),
    ("use_mmap", "INTEGER"),
    ("embeddings", "INTEGER"),
    ("no_op_offload", "INTEGER"),
    ("n_prompt", "INTEGER"),
    ("n_gen", "INTEGER"),
    ("n_depth", "INTEGER"),
    ("test_time", "TEXT"),
    ("avg_ns", "INTEGER"),
    ("stddev_ns", "INTEGER"),
    ("avg_ts", "REAL"),
    ("stddev_ts", "REAL"),
];

/// Where everything of one run of the program was measured.
pub(super) struct Place {
    pub(super) device: String,
    pub(super) driver: String,
    pub(super) machine: Machine,
    pub(super) ceilings: Ceilings,
}

/// What was loaded, and how.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) file: String,
    /// Architecture, size and type in words.
    pub(super) kind: String,
    pub(super) bytes: u64,
    pub(super) parameters: u64,
    pub(super) ubatch: u32,
    pub(super) k_type: &'static str,
    pub(super) v_type: &'static str,
    pub(super) activations: &'static str,
    pub(super) weights: &'static str,
    pub(super) layers: u32,
    pub(super) context: u32,
}

/// What drafting came to.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) methods: String,
    /// `None` is the governor's choice.
    pub(super) length: Option<usize>,
    pub(super) task: String,
    pub(super) acceptance: f64,
    pub(super) mean_length: f64,
    /// Of the tokens per second over those without drafts.
    pub(super) speed_up: Option<f64>,
    /// The whole record of rounds.
    pub(super) record: Value,
}

/// One test.
pub(super) struct Row {
    pub(super) place: Rc<Place>,
    pub(super) loaded: Rc<Loaded>,
    pub(super) test: String,
    pub(super) n_prompt: u32,
    pub(super) n_gen: u32,
    pub(super) n_depth: u32,
    /// Rows of a verification; 0 for other tests.
    pub(super) rows: u32,
    /// Tokens, or rows, of each sample.
    pub(super) tokens: u64,
    pub(super) samples: Vec<Sample>,
    pub(super) attribution: Option<Attribution>,
    pub(super) spec: Option<Spec>,
    pub(super) before: Snapshot,
    pub(super) after: Snapshot,
    /// When it ended, UTC.
    pub(super) time: String,
}

impl Row {
    /// Tokens per second of each sample.
    pub(super) fn rates(&self) -> Vec<f64> {
        let seconds = self.samples.iter().map(|sample| sample.wall.as_secs_f64());
        seconds.filter(|s| *s > 0.0).map(|s| self.tokens as f64 / s).collect()
    }

    fn nanoseconds(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.wall.as_nanos() as f64).collect()
    }

    /// Joules per token and how they are known.
    pub(super) fn energy(&self) -> Option<(f64, &'static str)> {
        let seconds: f64 = self.samples.iter().map(|sample| sample.wall.as_secs_f64()).sum();
        let (joules, how) = self.before.energy_until(&self.after, seconds)?;
        Some((joules / (self.tokens as f64 * self.samples.len() as f64).max(1.0), how))
    }

    /// What makes the numbers doubtful.
    pub(super) fn marks(&self) -> Vec<String> {
        let mut marks = Vec::new();
        let rates = self.rates();
        if let Some(summary) = Summary::of(&rates).filter(|summary| summary.spread() > UNSTEADY) {
            marks.push(format!("spread {:.0} %", summary.spread() * 100.0));
        }
        if let Some(drift) = drift(&rates).filter(|drift| *drift < -UNSTEADY) {
            marks.push(format!("slowed down by {:.0} %", -drift * 100.0));
        }
        if self.before.throttled_until(&self.after) {
            marks.push("throttled".into());
        }
        if self.before.supply.as_deref() == Some("battery") {
            marks.push("on battery".into());
        }
        marks
    }

    /// Words that set tests apart which llama-bench does not have.
    fn kind(&self) -> String {
        match (&self.spec, self.rows) {
            (Some(spec), _) => {
                let length = spec.length.map_or("auto".to_owned(), |length| length.to_string());
                format!("{}, {} k={length} {}", self.loaded.kind, spec.methods, spec.task)
            }
            (None, 0) => self.loaded.kind.clone(),
            (None, rows) => format!("{}, {rows} rows", self.loaded.kind),
        }
    }

    /// Values of [`LLAMA_BENCH`], in its order.
    fn llama_bench(&self) -> Vec<Value> {
        let (ns, rates) = (Summary::of(&self.nanoseconds()), Summary::of(&self.rates()));
        let (loaded, place) = (&self.loaded, &self.place);
        let whole = |value: Option<f64>| value.map_or(Value::Null, |value| json!(value.round() as u64));
        vec![
            json!(build()),
            json!(0),
            json!(place.machine.cpu.clone().unwrap_or_default()),
            json!(place.device),
            json!("Vulkan"),
            json!(loaded.file),
            json!(self.kind()),
            json!(loaded.bytes),
            json!(loaded.parameters),
            json!(loaded.ubatch),
            json!(loaded.ubatch),
            json!(place.machine.threads),
            json!("0x0"),
            json!(0),
            json!(0),
            json!(loaded.k_type),
            json!(loaded.v_type),
            json!(loaded.layers + 1),
            json!("none"),
            json!(0),
            json!(0),
            json!(1),
            json!("0.00"),
            json!("none"),
            json!(u32::from(loaded.weights == "import")),
            json!(0),
            json!(0),
            json!(self.n_prompt),
            json!(self.n_gen),
            json!(self.n_depth),
            json!(self.time),
            whole(ns.map(|s| s.mean)),
            whole(ns.map(|s| s.deviation)),
            json!(rates.map(|s| s.mean)),
            json!(rates.map(|s| s.deviation)),
        ]
    }

    /// Every column with its type; what is not known is null.
    pub(super) fn columns(&self) -> Vec<(&'static str, &'static str, Value)> {
        let values = LLAMA_BENCH.iter().zip(self.llama_bench());
        let mut all: Vec<_> = values.map(|(&(name, kind), value)| (name, kind, value)).collect();
        all.extend(self.own());
        all
    }

    fn own(&self) -> Vec<(&'static str, &'static str, Value)> {
        const TEXT: &str = "TEXT";
        const INTEGER: &str = "INTEGER";
        const REAL: &str = "REAL";
        let (place, loaded) = (&self.place, &self.loaded);
        let rates = Summary::of(&self.rates());
        let mean_ns = |of: fn(&Sample) -> Option<f64>| {
            let values: Option<Vec<f64>> = self.samples.iter().map(of).collect();
            values.and_then(|values| Summary::of(&values)).map(|summary| summary.mean.round())
        };
        let device_ns = mean_ns(|sample| sample.device.map(|time| time.as_nanos() as f64));
        let host_ns = mean_ns(|sample| Some(sample.host.as_nanos() as f64));
        let per_token = |amount: fn(&Attribution) -> u64| {
            self.attribution.as_ref().map(|a| amount(a) as f64 / a.tokens as f64)
        };
        // Bytes of the measured run over the time of the samples, which were not slowed down by measuring.
        let bandwidth = per_token(|a| a.work.bytes()).zip(rates).map(|(bytes, rates)| bytes * rates.median);
        let c = &place.ceilings;
        let weights = c.memory.first();
        let energy = self.energy();
        let spec = self.spec.as_ref();
        let (before, after) = (&self.before, &self.after);
        vec![
            ("vk_test", TEXT, json!(self.test)),
            ("vk_rows", INTEGER, json!(self.rows)),
            ("vk_repetitions", INTEGER, json!(self.samples.len())),
            ("vk_median_ts", REAL, json!(rates.map(|s| s.median))),
            ("vk_min_ts", REAL, json!(rates.map(|s| s.least))),
            ("vk_max_ts", REAL, json!(rates.map(|s| s.most))),
            ("vk_device_ns", INTEGER, json!(device_ns)),
            ("vk_host_ns", INTEGER, json!(host_ns)),
            ("vk_marks", TEXT, json!(self.marks().join(", "))),
            ("vk_version", TEXT, json!(env!("CARGO_PKG_VERSION"))),
            ("vk_shaders", TEXT, json!(crate::SHADER_HASH)),
            ("vk_driver", TEXT, json!(place.driver)),
            ("vk_activations", TEXT, json!(loaded.activations)),
            ("vk_weights", TEXT, json!(loaded.weights)),
            ("vk_context", INTEGER, json!(loaded.context)),
            ("vk_kernel", TEXT, json!(place.machine.kernel)),
            ("vk_firmware", TEXT, json!(place.machine.firmware)),
            ("vk_carve_out", INTEGER, json!(place.machine.carve_out)),
            ("vk_shared_memory", INTEGER, json!(place.machine.shared)),
            ("vk_governor", TEXT, json!(before.governor)),
            ("vk_profile", TEXT, json!(before.profile)),
            ("vk_supply", TEXT, json!(before.supply)),
            ("vk_cpu_mhz_before", INTEGER, json!(before.cpu_clock)),
            ("vk_cpu_mhz_after", INTEGER, json!(after.cpu_clock)),
            ("vk_core_mhz_before", INTEGER, json!(before.core_clock)),
            ("vk_core_mhz_after", INTEGER, json!(after.core_clock)),
            ("vk_memory_mhz_before", INTEGER, json!(before.memory_clock)),
            ("vk_memory_mhz_after", INTEGER, json!(after.memory_clock)),
            ("vk_celsius_before", REAL, json!(before.temperature)),
            ("vk_celsius_after", REAL, json!(after.temperature)),
            ("bw_weight_bytes", REAL, json!(per_token(|a| a.work.weights))),
            ("bw_cache_bytes", REAL, json!(per_token(|a| a.work.cache))),
            ("bw_activation_bytes", REAL, json!(per_token(|a| a.work.activations))),
            ("bw_operations", REAL, json!(per_token(|a| a.work.operations))),
            ("bw_gb_s", REAL, json!(bandwidth.map(|b| b / 1e9))),
            ("bw_share", REAL, json!(bandwidth.zip(c.read()).map(|(b, read)| b / read))),
            ("bw_read_gb_s", REAL, json!(weights.map(|w| w.read / 1e9))),
            ("bw_write_gb_s", REAL, json!(weights.map(|w| w.write / 1e9))),
            ("bw_copy_gb_s", REAL, json!(weights.map(|w| w.copy / 1e9))),
            ("bw_host_gb_s", REAL, json!(c.host_read.map(|b| b / 1e9))),
            ("bw_nominal_gb_s", REAL, json!(c.nominal.as_ref().map(|(b, _)| b / 1e9))),
            ("bw_f32_gflops", REAL, json!(c.f32.map(|f| f / 1e9))),
            ("bw_f16_gflops", REAL, json!(c.f16.map(|f| f / 1e9))),
            ("bw_int8_gops", REAL, json!(c.int8.map(|f| f / 1e9))),
            ("bw_launch_ns", REAL, json!(c.launch.map(|l| l.as_nanos() as f64))),
            ("energy_j_per_token", REAL, json!(energy.map(|(joules, _)| joules))),
            ("energy_method", TEXT, json!(energy.map(|(_, how)| how))),
            ("spec_methods", TEXT, json!(spec.map(|s| &s.methods))),
            ("spec_length", INTEGER, json!(spec.and_then(|s| s.length))),
            ("spec_task", TEXT, json!(spec.map(|s| &s.task))),
            ("spec_acceptance", REAL, json!(spec.map(|s| s.acceptance))),
            ("spec_mean_length", REAL, json!(spec.map(|s| s.mean_length))),
            ("spec_speed_up", REAL, json!(spec.and_then(|s| s.speed_up))),
        ]
    }

    /// Every column, all samples, and the labels with their bytes and times.
    pub(super) fn json(&self) -> Value {
        let mut object: serde_json::Map<String, Value> =
            self.columns().into_iter().map(|(name, _, value)| (name.to_owned(), value)).collect();
        let ns: Vec<u64> = self.samples.iter().map(|sample| sample.wall.as_nanos() as u64).collect();
        object.insert("samples_ns".into(), json!(ns));
        object.insert("samples_ts".into(), json!(self.rates()));
        if let Some(a) = &self.attribution {
            let c = &self.place.ceilings;
            let labels: Vec<Value> = a
                .parts
                .iter()
                .map(|part| {
                    let (total, work) = (&part.total, &part.total.work);
                    json!({
                        "label": part.label,
                        "kernel": total.kernel,
                        "dispatches": total.dispatches,
                        "ns": total.nanoseconds,
                        "weight_bytes": work.weights,
                        "cache_bytes": work.cache,
                        "activation_bytes": work.activations,
                        "operations": work.operations,
                        "gb_s": part.bandwidth().map(|b| b / 1e9),
                        "share_of_ceiling": part.share_of_ceiling(c),
                        "cached": part.is_cached(c),
                        "bound": part.bound(c).name(),
                    })
                })
                .collect();
            object.insert(
                "attribution".into(),
                json!({
                    "tokens": a.tokens,
                    "wall_ns": a.wall.as_nanos() as u64,
                    "device_ns": a.device.as_nanos() as u64,
                    "labels_ns": a.labels().as_nanos() as u64,
                    "idle_ns": a.idle().as_nanos() as u64,
                    "labels": labels,
                }),
            );
        }
        if let Some(spec) = &self.spec {
            object.insert("spec".into(), spec.record.clone());
        }
        Value::Object(object)
    }
}

/// What stands where llama-bench has its commit: version and shaders, which together say what ran.
pub(super) fn build() -> String {
    let shaders = crate::SHADER_HASH;
    format!("{}+{}", env!("CARGO_PKG_VERSION"), &shaders[..shaders.len().min(8)])
}

/// The time now, UTC, as ISO 8601 has it.
pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

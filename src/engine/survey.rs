//! Every pipeline that the engine would use on a device, from recordings of small models without weights.

use std::collections::BTreeMap;

use vkllm_runtime::{Caps, Command, Device, DeviceOptions, Kernel, Need, Recording, Selector, View};
use vkllm_shaders::formats::{FORMATS, Format};
use vkllm_shaders::records::{Sampler, StepRow};

use crate::cache::{BLOCK, HiddenView, KvLayout, KvPool, KvType, StatePool};
use crate::error::Result;
use crate::models::{
    self, ARCHITECTURES, Config, ExpertConfig, LatentConfig, LayerKind, Outputs, Parts, RecurrentConfig,
    RecurrentKind, RopeScaling, StepViews, StreamConfig, Window,
};
use crate::ops::{
    self, AcceptViews, Activations, Choice, Draw, Gate, HISTORY_RING, LinearArgs, MOST_BIASES, Path, Purpose,
    RECORD, Recorder, Router, Rows, SampleViews,
};
use crate::tensor::Tensor;

/// Rows of the steps that are recorded: decode, verification of a few tokens, a prompt.
const STEPS: [(u32, Path); 6] = [
    (1, Path::Rows),
    (2, Path::Rows),
    (4, Path::Rows),
    (8, Path::Rows),
    (16, Path::Rows),
    (64, Path::Prefill),
];
/// Head sizes of models that people run.
const HEADS: [u32; 2] = [64, 128];
/// Sizes of the recorded models; no kernel depends on them.
const WIDTH: u32 = 1024;
const VOCAB: u32 = 4096;
const CONTEXT: u32 = 1024;

/// A kernel with specialisation values.
#[derive(Clone, Debug)]
pub struct PipelineUse {
    pub kernel: &'static Kernel,
    /// By name, as [`vkllm_runtime::Dispatch`] has them.
    pub specs: Vec<(&'static str, u32)>,
    /// Label of its first use, for example `blk.0.attn_q`.
    pub label: String,
    /// Whether steps of up to 16 rows use it: decode and verification.
    pub decode: bool,
}

/// Every pipeline the engine would use on a device like this: all formats at 1, 2, 4, 8 and 16 rows and for prompts,
/// all architectures, cache types and ways of sampling.
///
/// Errors: an operation that has no kernel for the device.
pub fn pipelines(caps: &Caps) -> Result<Vec<PipelineUse>> {
    let mut found = Found { caps, uses: BTreeMap::new() };
    let mut operands = vec![Activations::Float];
    if caps.has(Need::IntegerDot) {
        operands.push(Activations::Int8);
    }
    if caps.has(Need::CooperativeMatrix) {
        operands.push(Activations::Half);
    }
    for (rows, path) in STEPS {
        for &activations in &operands {
            for &format in FORMATS {
                linear(&mut found, rows, path, activations, format)?;
            }
        }
        if path == Path::Rows {
            verification(&mut found, rows)?;
        }
        for choice in [Choice::Greedy, Choice::Sampled] {
            sampling(&mut found, rows, path, choice)?;
        }
        for architecture in ARCHITECTURES {
            for head in HEADS {
                for (kind, activations) in
                    [(KvType::F32, Activations::Float), (KvType::F16, Activations::Auto)]
                {
                    model(&mut found, rows, path, &config(architecture, head), kind, activations)?;
                }
            }
        }
    }
    // Other types of the cache differ in two kernels, whatever the architecture.
    for kind in KvType::ALL {
        for (rows, path) in STEPS {
            model(&mut found, rows, path, &config(&ARCHITECTURES[0], 128), kind, Activations::Auto)?;
        }
    }
    for &format in FORMATS {
        let mut r = Recorder::new(format.name.into(), caps, 1, Path::Rows, Activations::Float);
        let table = tensor(&mut r.recording, "token_embd", format, WIDTH, VOCAB);
        let rows = step_rows(&mut r.recording, 1);
        ops::embed(&mut r, &table, &rows, 1.0)?;
        found.add(&r);
    }
    Ok(found.uses.into_values().collect())
}

/// Uses by kernel and all specialisation values.
struct Found<'a> {
    caps: &'a Caps,
    uses: BTreeMap<(&'static str, Vec<u32>), PipelineUse>,
}

impl Found<'_> {
    fn add(&mut self, r: &Recorder<'_>) {
        let decode = r.path == Path::Rows;
        for command in r.recording.commands() {
            let Command::Dispatch(dispatch) = command else { continue };
            let values = dispatch.kernel.spec_values(&dispatch.specs, self.caps.subgroup);
            let entry = self.uses.entry((dispatch.kernel.name, values)).or_insert_with(|| PipelineUse {
                kernel: dispatch.kernel,
                specs: dispatch.specs.clone(),
                label: dispatch.label.clone(),
                decode,
            });
            entry.decode |= decode;
        }
    }
}

/// A tensor whose bytes are never touched: a transient of the recording.
fn tensor(recording: &mut Recording, name: &str, format: &'static Format, k: u32, n: u32) -> Tensor {
    let bytes = u64::from(k) / format.block as u64 * format.bytes as u64 * u64::from(n);
    let view = recording.transient(name, bytes);
    Tensor { name: name.to_owned(), format, k, n, view }
}

fn step_rows(recording: &mut Recording, rows: u32) -> View {
    recording.transient("rows", u64::from(rows) * size_of::<StepRow>() as u64)
}

fn linear(
    found: &mut Found<'_>,
    rows: u32,
    path: Path,
    activations: Activations,
    format: &'static Format,
) -> Result<()> {
    let mut r = Recorder::new(format.name.into(), found.caps, rows, path, activations);
    let weight = tensor(&mut r.recording, "weight", format, WIDTH, WIDTH);
    let form = Some(r.floats("x", rows, WIDTH));
    let x = Rows::new(WIDTH, form.clone(), form);
    ops::linear(&mut r, "linear", &x, rows, &weight, LinearArgs::default())?;
    found.add(&r);
    Ok(())
}

/// What stands before and after the verification of drafts, and what hands hidden rows to a predictor.
fn verification(found: &mut Found<'_>, rows: u32) -> Result<()> {
    let mut r = Recorder::new("verification".into(), found.caps, rows, Path::Rows, Activations::Float);
    let (cursor, pair) = (step_rows(&mut r.recording, 1), step_rows(&mut r.recording, 2));
    let step = step_rows(&mut r.recording, rows);
    let records =
        |r: &mut Recorder<'_>, count: u32| r.recording.transient("records", u64::from(count) * RECORD);
    let (drafts, drawn, outcome) = (records(&mut r, rows), records(&mut r, rows), records(&mut r, 1));
    ops::verify_rows(&mut r, &cursor, &drafts, &step, (VOCAB, f32::MIN))?;
    let views =
        AcceptViews { rows: &step, drawn: &drawn, cursors: &cursor, pairs: &pair, outcomes: &outcome };
    ops::accept(&mut r, 1, VOCAB, views)?;
    let grids = r.recording.grids();
    let [counts, args] = ["counts", "args"].map(|name| r.recording.transient(name, grids.bytes()));
    let gate = Gate { drafts: &drafts, drafted: 1, ln_p_min: 0.0, counts: &counts, args: &args };
    ops::gate(&mut r, &grids, &gate)?;
    let x = r.floats("x", rows, WIDTH);
    let ring = r.floats("hidden rows", BLOCK, WIDTH);
    let hidden = HiddenView { rows: ring, ring: BLOCK };
    ops::hidden_put(&mut r, &step, &x, (rows, WIDTH), &hidden)?;
    ops::hidden_get(&mut r, &step, WIDTH, &hidden)?;
    found.add(&r);
    Ok(())
}

fn sampling(found: &mut Found<'_>, rows: u32, path: Path, choice: Choice) -> Result<()> {
    let mut r = Recorder::new("sampling".into(), found.caps, rows, path, Activations::Float);
    let step = step_rows(&mut r.recording, rows);
    let samplers = r.recording.transient("samplers", size_of::<Sampler>() as u64);
    let history = r.recording.transient("history", u64::from(HISTORY_RING) * 4);
    let results = r.recording.transient("results", u64::from(rows) * 16);
    let biases = r.recording.transient("biases", u64::from(MOST_BIASES) * 8);
    let places = r.recording.transient("places", u64::from(VOCAB) * 4);
    let few = r.floats("few logits", rows, VOCAB / 4);
    let logits = ops::spread(&mut r, &few, &places, (rows, VOCAB / 4, VOCAB))?;
    ops::note_history(&mut r, &step, &samplers, &history)?;
    let views = SampleViews {
        rows: &step,
        samplers: &samplers,
        history: &history,
        biases: &biases,
        results: &results,
    };
    let draw = Draw { choice, biases: true, penalties: true, typical: false };
    for purpose in [Purpose::Text, Purpose::Draft, Purpose::Judge(&logits, VOCAB)] {
        ops::sample(&mut r, &logits, rows, VOCAB, draw, purpose, views)?;
    }
    found.add(&r);
    Ok(())
}

/// A model of an architecture, deep enough for each kind of its layers.
fn config(architecture: &'static models::Architecture, head: u32) -> Config {
    let layers = architecture.no_rope_every.max(architecture.global_every).max(2);
    let rot = if architecture.latent { 32 } else { head };
    let window = (architecture.global_every > 0).then(|| Window {
        keys: BLOCK,
        layers: (1..=layers).map(|layer| !layer.is_multiple_of(architecture.global_every)).collect(),
    });
    Config {
        architecture,
        name: None,
        layers,
        predictors: 0,
        width: WIDTH,
        ffn: 2 * WIDTH,
        heads: WIDTH / head,
        kv_heads: if architecture.latent { 1 } else { WIDTH / head / 4 },
        head: if architecture.latent { head + rot } else { head },
        head_v: head,
        rot,
        rope_base: 1e4,
        scaling: RopeScaling::None,
        rope_magnitude: 1.0,
        window_base: None,
        short_context: u32::MAX,
        window,
        attention_scale: 0.125,
        attention_cap: if architecture.root_embedding { 50.0 } else { 0.0 },
        final_cap: if architecture.root_embedding { 30.0 } else { 0.0 },
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        experts: architecture.experts.map(|(gating, normalise)| ExpertConfig {
            router: Router { experts: 64, used: 8, gating, groups: (1, 1), normalise, scale: 1.0 },
            ffn: WIDTH / 2,
            shared_ffn: WIDTH / 2,
            leading_dense: 1,
            every: 1,
        }),
        head_norm: architecture.head_norm,
        recurrent: architecture.recurrent.map(|kind| recurrent(kind, head)),
        kinds: (0..layers)
            .map(|layer| match architecture.recurrent {
                Some(_) if layer == 0 => LayerKind { attention: false, recurrent: true, ffn: true },
                _ => LayerKind::PLAIN,
            })
            .collect(),
        streams: architecture.streams.then(|| StreamConfig {
            count: 4,
            active: 0,
            own: 256,
            laurel: 64,
            caching: layers,
            sparsity: vec![1.6; layers as usize],
        }),
        // The matrices of heads are of a type with blocks of 256.
        latent: architecture.latent.then_some(LatentConfig { q_rank: 256, key: 256 + rot, value: 64 }),
        fused_qkv: false,
        fused_gate: false,
        norm_eps: 1e-5,
        vocab: VOCAB,
        context: CONTEXT,
        query_scale: None,
    }
}

fn recurrent(kind: RecurrentKind, size: u32) -> RecurrentConfig {
    let heads = if kind == RecurrentKind::ShortConv { 0 } else { WIDTH / size };
    RecurrentConfig {
        kind,
        taps: 4,
        size: if heads == 0 { 0 } else { size },
        key_heads: heads / 2,
        heads,
        columns: if heads == 0 { 0 } else { size },
        joint_rates: false,
        normed: true,
    }
}

fn model(
    found: &mut Found<'_>,
    rows: u32,
    path: Path,
    config: &Config,
    kind: KvType,
    activations: Activations,
) -> Result<()> {
    let mut r = Recorder::new(config.architecture.name.into(), found.caps, rows, path, activations);
    let parts = parts(&mut r.recording, config)?;
    let layout = KvLayout {
        layers: config.attention_layers().len() as u32,
        near: 0,
        ring: 0,
        kv_heads: config.kv_heads,
        head: config.head,
        head_v: config.head_v,
        v_in_k: config.latent.is_some(),
        k_type: kind,
        v_type: kind,
    };
    let host = Device::open(&DeviceOptions { selector: Selector::Reference, ..DeviceOptions::default() })?;
    let kv = KvPool::new(&host, layout, &|_| false, (1, 1))?;
    let states = StatePool::new(&host, config.states(), 1)?;
    let recording = &mut r.recording;
    let step_rows = step_rows(recording, rows);
    let table = recording.transient("block table", u64::from(CONTEXT.div_ceil(BLOCK)) * 4);
    let rope = recording.transient("rope", u64::from(CONTEXT * config.rot) * 4);
    let scale = recording.transient("query scale", u64::from(CONTEXT) * 4);
    let list = recording.transient("outputs", u64::from(rows) * 4);
    let outputs = if path == Path::Rows { Outputs::All } else { Outputs::Chosen(1) };
    // Scaled queries differ in one kernel, whatever the architecture.
    let scales = if std::ptr::eq(config.architecture, &ARCHITECTURES[0]) { 2 } else { 1 };
    for query_scale in [None, Some(&scale)].into_iter().take(scales) {
        let step = StepViews {
            rows: &step_rows,
            block_table: &table,
            ring_table: &table,
            rope: &rope,
            query_scale,
            hidden: None,
            outputs: &list,
            head: None,
        };
        models::record(&mut r, config, &parts, (&kv, &states), CONTEXT, &step, outputs)?;
    }
    found.add(&r);
    Ok(())
}

/// Weights of every tensor an architecture may have, those it need not have in the even layers only.
fn parts(recording: &mut Recording, config: &Config) -> Result<Parts> {
    let format = |name| FORMATS.iter().find(|format| format.name == name).copied().unwrap_or(FORMATS[0]);
    let (matrix, plain) = (format("q4_k"), format("f32"));
    let mut tensors = BTreeMap::new();
    for expected in models::expected(config) {
        let layer = expected.name.split('.').nth(1).and_then(|number| number.parse::<u32>().ok());
        if !expected.is_required() && layer.is_some_and(|layer| layer % 2 == 1) {
            continue;
        }
        let whole_blocks = expected.k.is_multiple_of(matrix.block as u64);
        let vector =
            expected.n == 1 || [".bias", "_norm.weight"].iter().any(|end| expected.name.ends_with(end));
        let format = if vector || !whole_blocks { plain } else { matrix };
        let made = tensor(
            recording,
            &expected.name,
            format,
            expected.k as u32,
            (expected.n * expected.count) as u32,
        );
        tensors.insert(expected.name, made);
    }
    Parts::new(config, &|name| tensors.get(name).cloned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vkllm_runtime::MatrixShape;

    use super::*;

    #[test]
    fn every_kernel_of_the_table_that_fits_is_used() {
        let host = Device::open(&DeviceOptions { selector: Selector::Reference, ..DeviceOptions::default() });
        for subgroup in [8, 32] {
            let mut caps = host.as_ref().unwrap().caps().clone();
            caps.subgroup = subgroup;
            caps.matrix = Some(MatrixShape { m: 16, n: 16, k: 16 });
            let uses = pipelines(&caps).unwrap();
            for row in vkllm_shaders::table::ROWS {
                // The engine's kernels quantise what they write; that one serves tests of the others. Probes measure.
                // Those of the lowest rank stand in for kernels that a device computes wrongly.
                let alone = row.op == "quantize" || row.op.starts_with("probe_") || row.rank == 1;
                if alone || !(row.subgroup.0..=row.subgroup.1).contains(&subgroup) {
                    continue;
                }
                let stem = row.file.rsplit_once('.').unwrap().0;
                let used = uses.iter().filter(|used| used.kernel.name.starts_with(stem)).count();
                assert!(used > 0, "{stem} is never recorded at subgroups of {subgroup}");
            }
            let rows: BTreeSet<u32> = uses
                .iter()
                .filter(|used| used.kernel.name == "linear.matvec.q4_k.f32")
                .filter_map(|used| used.specs.iter().find(|(name, _)| *name == "ROWS").map(|(_, v)| *v))
                .collect();
            let expected: &[u32] = if subgroup == 32 { &[1, 2, 4, 8, 16] } else { &[] };
            assert!(rows.iter().eq(expected), "{rows:?}");
        }
    }
}

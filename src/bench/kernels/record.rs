//! The recording of a test of one operation: its inputs, and as many executions as it takes to leave the caches.

use std::ops::Range;

use vkllm_runtime::{Buffer, Caps, CompileOptions, Device, Recording, Usage, View};
use vkllm_shaders::records::{Sampler, StepRow};

use super::{KernelTest, Op};
use crate::batch::Row;
use crate::cache::{BLOCK, KvLayout};
use crate::error::{Error, Result};
use crate::ops::{
    self, Activation, AttentionShape, AttentionTile, Choice, Draw, Forms, Gating, HISTORY_RING, HeadNorms,
    HeadsArgs, LinearArgs, Norm, Path, Purpose, RECORD, Recorder, Router, Rows, SampleViews, Stack, Stored,
    takes_int8,
};
use crate::tensor::Tensor;

/// What the executions of a run read together: beyond the caches of everything that shares memory with a CPU.
const BYTES: u64 = 128 << 20;
/// Executions of a run at most.
const EXECUTIONS: u64 = 64;
/// Bytes that are written at once.
const CHUNK: u64 = 16 << 20;
const BOTH: Forms = Forms { float: true, int8: true };
const FLOAT: Forms = Forms { float: true, int8: false };

/// A recording of several executions.
pub(super) struct Recorded<'a> {
    pub(super) recorder: Recorder<'a>,
    /// Commands of the first execution.
    pub(super) first: Range<usize>,
    pub(super) executions: u64,
}

/// Buffers of a test. Views keep them.
struct Memory {
    /// Weights, or keys; each execution has a share of its own, so many bytes.
    weights: Buffer,
    share: u64,
    values: Buffer,
    inputs: Buffer,
    rows: View,
    table: View,
    samplers: Buffer,
    rope: View,
    /// Norms, f32.
    vector: Buffer,
}

/// A buffer of small normal numbers in every format.
fn constants(device: &Device, name: &str, bytes: u64) -> Result<Buffer> {
    let buffer = device.buffer(name, bytes.max(256), Usage::Constant)?;
    let chunk = vec![0x11; buffer.size().min(CHUNK) as usize];
    for at in (0..buffer.size()).step_by(CHUNK as usize) {
        let len = (buffer.size() - at).min(CHUNK) as usize;
        device.write(&buffer, at, &chunk[..len])?;
    }
    Ok(buffer)
}

fn words<T: bytemuck::Pod>(device: &Device, name: &str, values: &[T]) -> Result<View> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = device.buffer(name, bytes.len().max(256) as u64, Usage::Shared)?;
    device.write(&buffer, 0, bytes)?;
    Ok(buffer.view(0, bytes.len() as u64))
}

impl KernelTest {
    pub(super) fn layout(&self) -> KvLayout {
        KvLayout {
            layers: 1,
            near: 0,
            ring: 0,
            kv_heads: self.kv_heads,
            head: self.head,
            head_v: self.head,
            v_in_k: false,
            k_type: self.kv_type,
            v_type: self.kv_type,
        }
    }

    /// Bytes of a layer's keys, or values, that the rows reach.
    fn cache_bytes(&self) -> u64 {
        let blocks = u64::from((self.depth + self.rows).div_ceil(BLOCK));
        self.layout().largest_binding(blocks).unwrap_or(u64::MAX)
    }

    fn matrix_bytes(&self) -> u64 {
        u64::from(self.k) / self.format.block as u64 * self.format.bytes as u64 * u64::from(self.n)
    }

    /// Bytes of weights, or of one layer's keys, that one execution has to itself.
    fn constant_bytes(&self) -> u64 {
        match self.op {
            Op::Linear | Op::Embed => self.matrix_bytes(),
            Op::Experts => self.matrix_bytes() * u64::from(self.experts),
            Op::Attention => self.cache_bytes(),
            _ => 0,
        }
    }

    /// Bytes of activations that one execution has to itself.
    fn input_bytes(&self) -> u64 {
        let width = match self.op {
            Op::Linear | Op::Norm | Op::Quantize => self.k,
            Op::Experts => self.k + self.experts,
            Op::Glu => 2 * self.k,
            Op::Rope | Op::Attention => (self.heads + 2 * self.kv_heads) * self.head,
            Op::Greedy | Op::Sample => self.n,
            Op::Embed => 64,
        };
        (u64::from(self.rows) * u64::from(width) * 4).next_multiple_of(256)
    }

    /// Executions that together read more than caches hold, as far as the device's largest buffer allows.
    fn executions(&self, caps: &Caps) -> u64 {
        let (constant, input) = (self.constant_bytes().next_multiple_of(256), self.input_bytes());
        let wanted = BYTES.div_ceil((constant + input).max(1)).clamp(1, EXECUTIONS);
        let most = caps.max_buffer.min(caps.max_allocation);
        wanted.min(most / constant.max(input)).max(1)
    }

    fn memory(&self, device: &Device, executions: u64) -> Result<Memory> {
        let share = self.constant_bytes().next_multiple_of(256);
        let is_cache = matches!(self.op, Op::Rope | Op::Attention);
        let cache = if is_cache { self.cache_bytes().next_multiple_of(256) } else { 256 };
        let weights = match self.op {
            Op::Attention => device.buffer("keys", share * executions, Usage::Local)?,
            Op::Rope => device.buffer("keys", cache, Usage::Local)?,
            _ => constants(device, "weights", share * executions)?,
        };
        let values = if self.op == Op::Attention { share * executions } else { cache };
        let values = device.buffer("values", values, Usage::Local)?;
        let inputs = device.buffer("inputs", self.input_bytes() * executions, Usage::Local)?;
        let mut fill = Recording::new("fill");
        let locals = [Some(&inputs), is_cache.then_some(&weights), is_cache.then_some(&values)];
        for buffer in locals.into_iter().flatten() {
            fill.fill("fill", buffer.whole(), 0x1111_1111)?;
        }
        device.submit(&[&device.compile(&fill, &CompileOptions::default())?])?.wait()?;
        let rows: Vec<StepRow> = (0..self.rows)
            .map(|row| {
                let position = self.depth + row;
                Row {
                    token: row,
                    position,
                    table: 0,
                    sampler: 0,
                    out_index: row,
                    advance: false,
                    bare: false,
                }
                .record()
            })
            .collect();
        let blocks: Vec<u32> = (0..(self.depth + self.rows).div_ceil(BLOCK)).collect();
        let samplers =
            words(device, "samplers", &vec![0u8; size_of::<Sampler>() + HISTORY_RING as usize * 4])?;
        let positions = u64::from(self.depth) + u64::from(self.rows);
        let rope = constants(device, "rope", positions * u64::from(self.head) * 4)?;
        let vector = constants(device, "norm", u64::from(self.k.max(self.head)) * 4)?;
        Ok(Memory {
            weights,
            share,
            values,
            inputs,
            rows: words(device, "rows", &rows)?,
            table: words(device, "block table", &blocks)?,
            samplers: samplers.buffer().cloned().ok_or_else(|| self.no("samplers"))?,
            rope: rope.whole(),
            vector,
        })
    }

    fn no(&self, what: &str) -> Error {
        Error::NoKernel { op: self.op.name().into(), reasons: format!("it has no {what}") }
    }

    /// Records it.
    ///
    /// Errors: no kernel or no memory on this device.
    pub(super) fn record<'a>(&self, device: &'a Device) -> Result<Recorded<'a>> {
        let caps = device.caps();
        let executions = self.executions(caps);
        let memory = self.memory(device, executions)?;
        let path = if self.rows <= 16 { Path::Rows } else { Path::Prefill };
        let mut r = Recorder::new(self.op.name().into(), caps, self.rows, path, self.activations);
        let shape = AttentionShape {
            heads: self.heads,
            layout: self.layout(),
            rot: self.head,
            context: self.depth + self.rows,
            window: 0,
            cap: 0.0,
        };
        // Once for all layers of a step.
        let tiles = match self.op {
            Op::Attention => ops::attention_tiles(&mut r, &shape, &memory.rows)?,
            _ => Vec::new(),
        };
        let mut first = r.recording.commands().len()..0;
        for index in 0..executions {
            self.execution(&mut r, &memory, index, (&shape, &tiles))?;
            if index == 0 {
                first.end = r.recording.commands().len();
            }
        }
        Ok(Recorded { recorder: r, first, executions })
    }

    fn tensor(&self, view: View, n: u32) -> Tensor {
        Tensor { name: self.op.name().into(), format: self.format, k: self.k, n, view }
    }

    fn execution(
        &self,
        r: &mut Recorder<'_>,
        m: &Memory,
        index: u64,
        (shape, tiles): (&AttentionShape, &[AttentionTile]),
    ) -> Result<()> {
        let (rows, k, n) = (u64::from(self.rows), u64::from(self.k), u64::from(self.n));
        let input = |from: u64, len: u64| m.inputs.view(index * self.input_bytes() + from, len);
        let constant = |bytes: u64| m.weights.view(index * m.share, bytes);
        let format = KernelTest::format("f32")?;
        let vector = |k: u32| Tensor {
            name: "norm".into(),
            format,
            k,
            n: 1,
            view: m.vector.view(0, u64::from(k) * 4),
        };
        let forms = if self.k.is_multiple_of(32) { BOTH } else { FLOAT };
        match self.op {
            Op::Linear => {
                let weight = self.tensor(constant(self.matrix_bytes()), self.n);
                let x = activations(takes_int8(r, &weight), self.k, rows, &input);
                ops::linear(r, "linear", &x, self.rows, &weight, LinearArgs::default())?;
            }
            Op::Experts => {
                let all = self.tensor(constant(self.constant_bytes()), self.n * self.experts);
                let x = activations(takes_int8(r, &all), self.k, rows, &input);
                let stack = Stack { weight: all, bias: None };
                let logits = input(rows * k * 4, rows * u64::from(self.experts) * 4);
                let router = Router {
                    experts: self.experts,
                    used: self.used,
                    gating: Gating::Softmax,
                    groups: (1, 1),
                    normalise: true,
                    scale: 1.0,
                };
                let routing = ops::route(r, &router, &logits, None, &stack)?;
                ops::linear_experts(r, "experts", (&x, self.used), &[&stack], &routing)?;
            }
            Op::Embed => {
                let table = self.tensor(constant(self.matrix_bytes()), self.n);
                ops::embed(r, &table, &m.rows, 1.0)?;
            }
            Op::Norm => {
                let norm = Norm { weight: vector(self.k), bias: None, centred: false, eps: 1e-6 };
                ops::norm(r, "norm", (&input(0, rows * k * 4), self.k), self.rows, &norm, forms)?;
            }
            Op::Quantize => {
                let int8 = Forms { float: false, int8: true };
                ops::forms_of_rows(r, "quantize", &input(0, rows * k * 4), self.k, int8)?;
            }
            Op::Glu => {
                let (gate, up) = (input(0, rows * k * 4), input(rows * k * 4, rows * k * 4));
                let size = (self.rows, self.k, self.k);
                ops::glu(r, (&gate, Some(&up)), size, Activation::Silu, forms)?;
            }
            Op::Rope => {
                let [q, kv] = [self.heads, self.kv_heads].map(|heads| heads * self.head);
                let bytes = |width: u32| rows * u64::from(width) * 4;
                let (keys, values) = (input(bytes(q), bytes(kv)), input(bytes(q) + bytes(kv), bytes(kv)));
                let norm = vector(self.head);
                let args = HeadsArgs {
                    q: (&input(0, bytes(q)), q),
                    k: (&keys, kv),
                    v: (&values, kv),
                    norms: Some(HeadNorms { q: &norm, k: &norm, eps: 1e-6, after_rope: false }),
                    rope: Some((&m.rope, 2)),
                    query_scale: None,
                    rows: &m.rows,
                    block_table: &m.table,
                    cache: (&m.weights.whole(), &m.values.whole()),
                    stored: Stored::KeysAndValues,
                    value_norm: None,
                };
                ops::heads(r, shape, &args)?;
            }
            Op::Attention => {
                let width = self.heads * self.head;
                let q = input(0, rows * u64::from(width) * 4);
                let values = m.values.view(index * m.share, self.cache_bytes());
                let cache = (&constant(self.cache_bytes()), &values);
                let step = (&m.rows, &m.table, tiles);
                ops::attention(r, shape, (&q, width), step, cache, 0.1, None, FLOAT)?;
            }
            Op::Greedy | Op::Sample => {
                let choice = if self.op == Op::Greedy { Choice::Greedy } else { Choice::Sampled };
                let results = r.recording.transient("results", rows * RECORD);
                let history = m.samplers.view(size_of::<Sampler>() as u64, u64::from(HISTORY_RING) * 4);
                let views = SampleViews {
                    rows: &m.rows,
                    samplers: &m.samplers.view(0, size_of::<Sampler>() as u64),
                    history: &history,
                    biases: &history,
                    results: &results,
                };
                let draw = Draw { choice, ..Draw::default() };
                ops::sample(r, &input(0, rows * n * 4), self.rows, self.n, draw, Purpose::Text, views)?;
            }
        }
        Ok(())
    }
}

/// Rows as a product reads them.
fn activations(int8: bool, width: u32, rows: u64, input: &dyn Fn(u64, u64) -> View) -> Rows {
    let len = if int8 { rows * u64::from(width / 32) * 48 } else { rows * u64::from(width) * 4 };
    let view = Some(input(0, len));
    let (float, int8) = if int8 { (None, view) } else { (view, None) };
    Rows::new(width, float, int8)
}

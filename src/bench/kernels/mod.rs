//! Single operations at a format and a shape, without a model.

use std::fmt;
use std::time::{Duration, Instant};

use vkllm_runtime::{CompileOptions, Device, Usage};
use vkllm_shaders::formats::{FORMATS, Format};
use vkllm_shaders::records::{Sampler, StepRow};

use crate::Activations;
use crate::error::{Error, Result};
use crate::ops::{
    self, Choice, Draw, HISTORY_RING, LinearArgs, Path, Purpose, RECORD, Recorder, Rows, SampleViews,
    takes_int8,
};
use crate::tensor::Tensor;

/// Weights of all dispatches of a run together: beyond the caches of everything that shares memory with a CPU.
const BYTES: u64 = 128 << 20;
/// Dispatches of a run at most.
const DISPATCHES: u64 = 64;

/// Operations that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A matrix of n rows of k weights times so many rows.
    Linear,
    /// So many rows of a table of n rows of k.
    Embed,
    /// The most likely of n tokens, for so many rows.
    Greedy,
    /// A draw among n tokens, for so many rows.
    Sample,
}

impl Op {
    pub const ALL: [Op; 4] = [Op::Linear, Op::Embed, Op::Greedy, Op::Sample];

    pub fn name(self) -> &'static str {
        match self {
            Op::Linear => "linear",
            Op::Embed => "embed",
            Op::Greedy => "greedy",
            Op::Sample => "sample",
        }
    }

    fn has_weights(self) -> bool {
        matches!(self, Op::Linear | Op::Embed)
    }
}

/// An operation with its format and shape.
#[derive(Clone, Copy)]
pub struct KernelTest {
    pub op: Op,
    pub format: &'static Format,
    pub k: u32,
    pub n: u32,
    pub rows: u32,
    pub activations: Activations,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct KernelRun {
    /// Kernels of one execution, in order.
    pub kernels: Vec<&'static str>,
    /// Time of one execution, one sample for each run; `None` where nothing took any time.
    pub samples: Vec<Duration>,
    /// Bytes of weights, and all bytes, that one execution moves; its multiplications and additions.
    pub weights: u64,
    pub bytes: u64,
    pub operations: u64,
    /// Executions in each run.
    pub executions: u64,
}

impl fmt::Display for KernelTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.op.has_weights() {
            write!(f, "format={},k={},n={},rows={}", self.format.name, self.k, self.n, self.rows)
        } else {
            write!(f, "n={},rows={}", self.n, self.rows)
        }
    }
}

impl KernelTest {
    /// The format of a name; an error says which there are.
    pub fn format(name: &str) -> Result<&'static Format> {
        FORMATS.iter().find(|format| format.name == name).copied().ok_or_else(|| Error::Argument {
            what: "the format".into(),
            found: format!("\"{name}\""),
            allowed: FORMATS.iter().map(|format| format.name).collect::<Vec<_>>().join(", "),
        })
    }

    fn weight_bytes(&self) -> u64 {
        u64::from(self.k) / self.format.block as u64 * self.format.bytes as u64 * u64::from(self.n)
    }

    /// Errors: a shape without elements, or that is no whole number of the format's blocks.
    pub fn check(&self) -> Result<()> {
        let argument = |what: &str, found: u32, allowed: String| {
            Err(Error::Argument {
                what: format!("{what} of {}", self.op.name()),
                found: found.to_string(),
                allowed,
            })
        };
        let block = self.format.block as u32;
        match (self.k, self.n, self.rows) {
            (k, _, _) if self.op.has_weights() && (k == 0 || k % block != 0) => {
                argument("k", k, format!("multiples of {block}, the block of {}", self.format.name))
            }
            (_, 0, _) => argument("n", 0, "1 or more".into()),
            (_, _, rows) if rows == 0 || rows > 4096 => argument("rows", rows, "1 to 4096".into()),
            _ => Ok(()),
        }
    }

    /// Runs it so many times, after once that does not count.
    ///
    /// Errors: a shape that does not fit the device, no kernel for it, the device's.
    pub fn run(&self, device: &Device, runs: usize) -> Result<KernelRun> {
        self.check()?;
        let caps = device.caps();
        let each = self.weight_bytes().next_multiple_of(256);
        let copies = if self.op.has_weights() { BYTES.div_ceil(each.max(1)).clamp(1, DISPATCHES) } else { 8 };
        // Matrices without blocks of their own are all of one size, and the device's largest buffer holds them.
        let copies = copies.min(caps.max_buffer.min(caps.max_allocation) / each.max(1)).max(1);
        let path = if self.rows <= 16 { Path::Rows } else { Path::Prefill };
        let mut r = Recorder::new(self.op.name().into(), caps, self.rows, path, self.activations);
        let weights = if self.op.has_weights() {
            let buffer = device.buffer("weights", each * copies, Usage::Constant)?;
            // Small normal numbers in every format.
            let bytes = vec![0x11u8; (each * copies).min(16 << 20) as usize];
            for at in (0..each * copies).step_by(16 << 20) {
                let len = (each * copies - at).min(bytes.len() as u64) as usize;
                device.write(&buffer, at, &bytes[..len])?;
            }
            Some(buffer)
        } else {
            None
        };
        let rows =
            device.buffer("rows", u64::from(self.rows) * size_of::<StepRow>() as u64, Usage::Shared)?;
        let other = device.buffer(
            "samplers",
            size_of::<Sampler>() as u64 + u64::from(HISTORY_RING) * 4,
            Usage::Shared,
        )?;
        let samplers = other.view(0, size_of::<Sampler>() as u64);
        let history = other.view(size_of::<Sampler>() as u64, u64::from(HISTORY_RING) * 4);
        let x = device.buffer("x", u64::from(self.rows) * u64::from(self.k.max(self.n)) * 4, Usage::Local)?;
        r.recording.fill("x", x.whole(), 0)?;
        let fills = r.recording.commands().len();
        let tensor = |index: u64| {
            let view =
                weights.as_ref().map_or_else(|| x.whole(), |w| w.view(index * each, self.weight_bytes()));
            Tensor { name: self.op.name().into(), format: self.format, k: self.k, n: self.n, view }
        };
        let int8 = self.op == Op::Linear && takes_int8(&r, &tensor(0));
        let (count, k, n) = (u64::from(self.rows), u64::from(self.k), u64::from(self.n));
        let mut per_execution = 0;
        for index in 0..copies {
            match self.op {
                Op::Linear => {
                    let len = if int8 { count * k / 32 * 48 } else { count * k * 4 };
                    let view = Some(x.view(0, len));
                    let (float, form) = if int8 { (None, view) } else { (view, None) };
                    let input = Rows { width: self.k, float, int8: form };
                    ops::linear(&mut r, "linear", &input, self.rows, &tensor(index), LinearArgs::default())?;
                }
                Op::Embed => {
                    ops::embed(&mut r, &tensor(index), &rows.whole(), 1.0)?;
                }
                Op::Greedy | Op::Sample => {
                    let choice = if self.op == Op::Greedy { Choice::Greedy } else { Choice::Sampled };
                    let results = r.recording.transient("results", count * RECORD);
                    let rows = rows.whole();
                    let views = SampleViews {
                        rows: &rows,
                        samplers: &samplers,
                        history: &history,
                        biases: &history,
                        results: &results,
                    };
                    let (logits, draw) = (x.view(0, count * n * 4), Draw { choice, ..Draw::default() });
                    ops::sample(&mut r, &logits, self.rows, self.n, draw, Purpose::Text, views)?;
                }
            }
            if index == 0 {
                per_execution = r.recording.commands().len() - fills;
            }
        }
        let kernels: Vec<&'static str> = r.recording.commands()[fills..fills + per_execution]
            .iter()
            .filter_map(|command| match command {
                vkllm_runtime::Command::Dispatch(dispatch) => Some(dispatch.kernel.name),
                _ => None,
            })
            .collect();
        let compiled = device.compile(&r.recording, &CompileOptions::default())?;
        let mut samples = Vec::new();
        for run in 0..=runs {
            let began = Instant::now();
            device.submit(&[&compiled])?.wait()?;
            let wall = began.elapsed();
            let time = compiled.times().total_nanoseconds.map_or(wall, Duration::from_nanos);
            if run > 0 {
                samples.push(time / copies as u32);
            }
        }
        let (weights, bytes, operations) = match self.op {
            Op::Linear => {
                let input = if int8 { count * k / 32 * 48 } else { count * k * 4 };
                (self.weight_bytes(), self.weight_bytes() + input + count * n * 4, 2 * k * n * count)
            }
            Op::Embed => {
                let read = self.weight_bytes() / n * count;
                (read, read + count * k * 4, 0)
            }
            Op::Greedy | Op::Sample => (0, count * n * 4, 0),
        };
        Ok(KernelRun { kernels, samples, weights, bytes, operations, executions: copies })
    }
}

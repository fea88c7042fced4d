//! Single operations at a format and a shape, without a model.

mod record;

use std::fmt;
use std::time::{Duration, Instant};

use vkllm_runtime::{Command, CompileOptions, Device};
use vkllm_shaders::formats::{FORMATS, Format};

use crate::error::{Error, Result};
use crate::{Activations, KvType};

/// Operations that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A matrix of n rows of k weights times so many rows.
    Linear,
    /// The choice of some experts and the product with a matrix of each.
    Experts,
    /// So many rows of a table of n rows of k.
    Embed,
    /// The norm of rows of k.
    Norm,
    /// Rows of k as int8 blocks.
    Quantize,
    /// silu(gate) · up of rows of k.
    Glu,
    /// Heads normalised and rotated, keys and values written to the cache.
    Rope,
    /// Attention of rows that stand at a depth.
    Attention,
    /// The most likely of n tokens, for so many rows.
    Greedy,
    /// A draw among n tokens, for so many rows.
    Sample,
}

/// Sizes that an operation has, by the name under which they are typed.
pub const SIZES: [&str; 9] = ["k", "n", "experts", "used", "heads", "kv", "head", "depth", "rows"];

impl Op {
    pub const ALL: [Op; 10] = [
        Op::Linear,
        Op::Experts,
        Op::Embed,
        Op::Norm,
        Op::Quantize,
        Op::Glu,
        Op::Rope,
        Op::Attention,
        Op::Greedy,
        Op::Sample,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Op::Linear => "linear",
            Op::Experts => "experts",
            Op::Embed => "embed",
            Op::Norm => "norm",
            Op::Quantize => "quantize",
            Op::Glu => "glu",
            Op::Rope => "rope",
            Op::Attention => "attention",
            Op::Greedy => "greedy",
            Op::Sample => "sample",
        }
    }

    /// The sizes of [`SIZES`] that it has.
    pub fn sizes(self) -> &'static [&'static str] {
        match self {
            Op::Linear | Op::Embed => &["k", "n", "rows"],
            Op::Experts => &["k", "n", "experts", "used", "rows"],
            Op::Norm | Op::Quantize | Op::Glu => &["k", "rows"],
            Op::Rope | Op::Attention => &["heads", "kv", "head", "depth", "rows"],
            Op::Greedy | Op::Sample => &["n", "rows"],
        }
    }

    /// Whether its weights have a format.
    pub fn has_format(self) -> bool {
        matches!(self, Op::Linear | Op::Experts | Op::Embed)
    }

    /// Whether it reads or writes a cache, whose keys and values have a type.
    pub fn has_cache(self) -> bool {
        matches!(self, Op::Rope | Op::Attention)
    }
}

/// An operation with its format and shape. Sizes that the operation does not have mean nothing.
#[derive(Clone, Copy)]
pub struct KernelTest {
    pub op: Op,
    pub format: &'static Format,
    pub k: u32,
    pub n: u32,
    pub rows: u32,
    /// Experts, and how many of them a row uses.
    pub experts: u32,
    pub used: u32,
    /// Heads of queries, heads of keys and values, and elements of each.
    pub heads: u32,
    pub kv_heads: u32,
    pub head: u32,
    /// Position of the first row.
    pub depth: u32,
    pub kv_type: KvType,
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
        let mut words: Vec<String> = Vec::new();
        if self.op.has_format() {
            words.push(format!("format={}", self.format.name));
        }
        if self.op.has_cache() {
            words.push(format!("type={}", self.kv_type.name()));
        }
        words.extend(self.op.sizes().iter().map(|name| format!("{name}={}", self.size(name))));
        f.write_str(&words.join(","))
    }
}

impl KernelTest {
    /// A test at sizes that middling models have.
    ///
    /// Errors: no such format, which there always is.
    pub fn usual(op: Op, activations: Activations) -> Result<Self> {
        let sampled = matches!(op, Op::Greedy | Op::Sample);
        Ok(KernelTest {
            op,
            format: KernelTest::format("q4_k")?,
            k: 4096,
            n: if sampled { 151_936 } else { 4096 },
            rows: 1,
            experts: 128,
            used: 8,
            heads: 32,
            kv_heads: 8,
            head: 128,
            depth: if op == Op::Attention { 4096 } else { 0 },
            kv_type: KvType::F16,
            activations,
        })
    }

    /// A size by its name; 0 for others.
    pub fn size(&self, name: &str) -> u32 {
        let mut copy = *self;
        copy.size_mut(name).map_or(0, |size| *size)
    }

    /// A size by its name.
    pub fn size_mut(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "k" => &mut self.k,
            "n" => &mut self.n,
            "rows" => &mut self.rows,
            "experts" => &mut self.experts,
            "used" => &mut self.used,
            "heads" => &mut self.heads,
            "kv" => &mut self.kv_heads,
            "head" => &mut self.head,
            "depth" => &mut self.depth,
            _ => return None,
        })
    }

    /// The format of a name; an error says which there are.
    pub fn format(name: &str) -> Result<&'static Format> {
        FORMATS.iter().find(|format| format.name == name).copied().ok_or_else(|| Error::Argument {
            what: "the format".into(),
            found: format!("\"{name}\""),
            allowed: FORMATS.iter().map(|format| format.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Errors: a size that is 0 or too large, or that is no whole number of blocks, heads or experts.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, allowed: String| {
            Err(Error::Argument {
                what: format!("{what} of {}", self.op.name()),
                found: self.size(what).to_string(),
                allowed,
            })
        };
        for &name in self.op.sizes() {
            let (size, least) = (self.size(name), u32::from(name != "depth"));
            let most = match name {
                "rows" => 4096,
                "experts" => 1024,
                "heads" | "kv" | "head" => 1024,
                "used" => 32,
                _ => 1 << 24,
            };
            if !(least..=most).contains(&size) {
                return refuse(name, format!("{least} to {most}"));
            }
        }
        let block = self.format.block as u32;
        if self.op.has_format() && !self.k.is_multiple_of(block) {
            return refuse("k", format!("multiples of {block}, the block of {}", self.format.name));
        }
        if self.op == Op::Quantize && !self.k.is_multiple_of(32) {
            return refuse("k", "multiples of 32, the block of int8 activations".into());
        }
        if self.op == Op::Experts && self.used > self.experts {
            return refuse("used", format!("1 to {}, the number of experts", self.experts));
        }
        if self.op.has_cache() {
            if !self.heads.is_multiple_of(self.kv_heads) {
                return refuse("heads", format!("multiples of kv, which is {}", self.kv_heads));
            }
            if !self.head.is_multiple_of(8) {
                return refuse("head", "multiples of 8".into());
            }
            self.layout().check()?;
        }
        Ok(())
    }

    /// Runs it so many times, after once that does not count.
    ///
    /// Errors: a shape that does not fit the device, no kernel for it, the device's.
    pub fn run(&self, device: &Device, runs: usize) -> Result<KernelRun> {
        self.check()?;
        let recorded = self.record(device)?;
        let (recording, first) = (&recorded.recorder.recording, recorded.first.clone());
        let kernels = recording.commands()[first.clone()].iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch.kernel.name),
            _ => None,
        });
        let kernels = kernels.collect();
        let work = crate::engine::work_of(recording, &self.layout(), first, (self.depth, self.rows));
        let compiled = device.compile(recording, &CompileOptions::default())?;
        let mut samples = Vec::new();
        for run in 0..=runs {
            let began = Instant::now();
            device.submit(&[&compiled])?.wait()?;
            let wall = began.elapsed();
            let time = compiled.times().total_nanoseconds.map_or(wall, Duration::from_nanos);
            if run > 0 {
                samples.push(time / recorded.executions as u32);
            }
        }
        let (weights, bytes, operations) = (work.weights, work.bytes(), work.operations);
        Ok(KernelRun { kernels, samples, weights, bytes, operations, executions: recorded.executions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_by_what_the_operation_has() {
        let usual = |op| KernelTest::usual(op, Activations::Auto).expect("q4_k is a format");
        for op in Op::ALL {
            assert!(usual(op).check().is_ok(), "{op:?}");
            assert!(op.sizes().iter().all(|name| SIZES.contains(name) && usual(op).size_mut(name).is_some()));
        }
        let wrong = [
            KernelTest { k: 100, ..usual(Op::Linear) },
            KernelTest { k: 33, ..usual(Op::Quantize) },
            KernelTest { rows: 0, ..usual(Op::Norm) },
            KernelTest { used: 9, experts: 8, ..usual(Op::Experts) },
            KernelTest { heads: 30, ..usual(Op::Attention) },
            KernelTest { head: 12, ..usual(Op::Rope) },
        ];
        assert!(wrong.iter().all(|test| test.check().is_err()));
        // A norm has any width and no format.
        assert!(KernelTest { k: 33, ..usual(Op::Norm) }.check().is_ok());
        assert_eq!(usual(Op::Attention).to_string(), "type=f16,heads=32,kv=8,head=128,depth=4096,rows=1");
    }
}

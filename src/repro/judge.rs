//! Whether what a device computed may differ from the meaning as it does. Integers and copies must be equal; sums and
//! functions have a bound for every element, derived from the operation. An operation that has no rule here is
//! compared as floats of its largest value.

use vkllm_runtime::Words;
use vkllm_shaders::formats::by_name;
use vkllm_shaders::ops;
use vkllm_shaders::reference::KV_BLOCK;
use vkllm_shaders::reference::kv::{KV_FORMATS, KvFormat};
use vkllm_shaders::reference::sampler::Layout;

use super::capsule::{Capsule, State};

/// Unit of f32 in the last place, relative.
const EPS: f64 = 1.0 / (1u64 << 23) as f64;
/// Words of a block of 32 activations in int8.
const Q8_WORDS: usize = 12;

/// A value outside its bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    /// Word in the argument.
    pub index: usize,
    /// What was found and what was expected.
    pub text: String,
    pub got: u32,
    pub want: u32,
}

/// The comparison of one argument.
#[derive(Clone, Debug)]
pub struct Output {
    pub binding: &'static str,
    /// Words that were compared.
    pub words: usize,
    /// Words of a row, where the argument has rows.
    pub row: usize,
    pub wrong: Vec<Wrong>,
    /// Some value is no finite number though its expectation is.
    pub not_finite: bool,
}

/// Compares every argument that the kernel writes.
pub fn judge(capsule: &Capsule, got: &State, want: &State) -> Vec<Output> {
    let before = capsule.before();
    let bindings = capsule.kernel.bindings.iter().filter(|binding| binding.access.writes());
    bindings
        .map(|binding| {
            let mut side = Side {
                capsule,
                binding: binding.name,
                before: capsule.words(&before, binding.name),
                got: capsule.words(got, binding.name),
                want: capsule.words(want, binding.name),
                wrong: Vec::new(),
                row: 0,
            };
            side.compare();
            side.wrong.sort_by_key(|wrong| wrong.index);
            side.wrong.dedup_by_key(|wrong| wrong.index);
            let finite = |word: u32| f32::from_bits(word).is_finite();
            Output {
                binding: binding.name,
                words: side.got.len(),
                row: side.row,
                not_finite: side.wrong.iter().any(|wrong| !finite(wrong.got) && finite(wrong.want)),
                wrong: side.wrong,
            }
        })
        .collect()
}

struct Side<'a> {
    capsule: &'a Capsule,
    binding: &'static str,
    before: &'a [u32],
    got: &'a [u32],
    want: &'a [u32],
    wrong: Vec<Wrong>,
    row: usize,
}

fn float(word: u32) -> f64 {
    f64::from(f32::from_bits(word))
}

fn largest(words: &[u32]) -> f64 {
    words.iter().map(|word| float(*word).abs()).filter(|value| value.is_finite()).fold(0.0, f64::max)
}

impl Side<'_> {
    fn compare(&mut self) {
        let (op, binding) = (self.capsule.kernel.op, self.binding);
        match (op, binding) {
            ("linear", "y") => self.linear(),
            ("embed", "y") => self.relative(self.push::<ops::embed::Push>().k, 4.0 * EPS),
            ("norm", "y") => {
                let k = self.push::<ops::norm::Push>().k;
                // A gate is an exponential, as in `glu`.
                let gate = if self.spec("RESIDUAL") == 2 { 256.0 * EPS } else { 0.0 };
                let share = norm_share(k, self.spec("SG")) + gate;
                // Terms that cancel leave errors of their own size.
                if ["CENTRE", "BIAS", "RESIDUAL"].iter().any(|name| self.spec(name) == 1) {
                    self.groups(k as usize, 4.0 * share);
                } else {
                    self.relative(k, share);
                }
            }
            // exp may be off by 3 + 2·|x| units, and |x| reaches 88.
            ("glu", "y") => self.relative(self.push::<ops::glu::Push>().k, 256.0 * EPS),
            ("attention_combine", "y") => {
                let head = self.spec("HEAD_V");
                self.groups(head, (2.0 * (3.0 + 2.0 * 16.0) + 16.0) * EPS);
            }
            (_, "y_q8") => self.q8(),
            ("heads", "q") => {
                let head = self.spec("HEAD");
                self.groups(head, (16.0 + (head as f64).sqrt()) * EPS);
            }
            ("heads", "k_cache") => self.cells(self.spec("HEAD"), self.spec("K_TYPE")),
            ("heads", "v_cache") => self.cells(self.spec("HEAD_V"), self.spec("V_TYPE")),
            ("attention", "part") => self.parts(),
            ("sample", "results") => self.results(),
            // Stages may use it as they like; what remains is not looked at.
            ("sample", "part") => {}
            ("sample_collect", "part") => self.collected(),
            ("sample_penalize", "logits") => self.values(),
            ("argmax" | "sample_histogram" | "sample_history" | "sample" | "gather" | "step_grid", _)
            | ("verify_rows" | "accept" | "hidden_put" | "hidden_get", _) => self.exact(),
            _ => self.fallback(),
        }
    }

    fn push<P: bytemuck::Pod>(&self) -> P {
        let mut push = P::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut push);
        let len = bytes.len().min(self.capsule.push.len());
        bytes[..len].copy_from_slice(&self.capsule.push[..len]);
        push
    }

    fn spec(&self, name: &str) -> usize {
        self.capsule.spec(name).unwrap_or(0) as usize
    }

    /// An argument before the run.
    fn input(&self, name: &str) -> Vec<u32> {
        self.capsule
            .arg(name)
            .map_or_else(Vec::new, |arg| self.capsule.pieces[arg.piece].words[arg.range()].to_vec())
    }

    fn blame(&mut self, index: usize, text: String) {
        let (got, want) = (self.got[index], self.want[index]);
        self.wrong.push(Wrong { index, text, got, want });
    }

    fn bits(&mut self, index: usize) {
        let (got, want) = (self.got[index], self.want[index]);
        if got != want {
            self.blame(index, format!("{got:#010x}, expected {want:#010x}"));
        }
    }

    /// A float within a bound; equal bits are always right.
    fn within(&mut self, index: usize, bound: f64) {
        let (got, want) = (self.got[index], self.want[index]);
        // A bound that is no number bounds nothing.
        let near = (float(got) - float(want)).abs() <= bound;
        if got != want && !near {
            let (got, want) = (f32::from_bits(got), f32::from_bits(want));
            self.blame(index, format!("{got:e}, expected {want:e} within {bound:e}"));
        }
    }

    fn exact(&mut self) {
        (0..self.got.len()).for_each(|index| self.bits(index));
    }

    /// Equal bits, and both zeros are one.
    fn values(&mut self) {
        for index in 0..self.got.len() {
            if (self.got[index] | self.want[index]) != 1 << 31 {
                self.bits(index);
            }
        }
    }

    /// Floats that differ by a share of themselves, or by next to nothing in a row of `k`.
    fn relative(&mut self, k: u32, share: f64) {
        self.row = k as usize;
        for first in (0..self.got.len()).step_by(self.row.max(1)) {
            let end = (first + self.row.max(1)).min(self.got.len());
            let tiny = largest(&self.want[first..end]) * EPS * EPS;
            for index in first..end {
                self.within(index, float(self.want[index]).abs() * share + tiny);
            }
        }
    }

    /// Floats that differ by a share of the largest of their group.
    fn groups(&mut self, size: usize, share: f64) {
        self.row = size;
        for first in (0..self.got.len()).step_by(size.max(1)) {
            let end = (first + size.max(1)).min(self.got.len());
            let bound = largest(&self.want[first..end]) * share;
            (first..end).for_each(|index| self.within(index, bound));
        }
    }

    /// 1/1024 of the largest value for floats; words that look like small integers must be equal.
    fn fallback(&mut self) {
        let changed: Vec<usize> = (0..self.got.len())
            .filter(|&i| self.want[i] != self.before[i] || self.got[i] != self.before[i])
            .collect();
        let written: Vec<u32> = changed.iter().map(|&index| self.want[index]).collect();
        let bound = largest(&written) / 1024.0;
        for index in changed {
            let integer = |word: u32| word != 0 && word & 0x7f80_0000 == 0;
            if integer(self.got[index]) || integer(self.want[index]) {
                self.bits(index);
            } else {
                self.within(index, bound);
            }
        }
    }

    /// 8 √k 2^-24 Σ|w x| for the sum, four roundings for the epilogue. The sum is formed only where it is needed.
    fn linear(&mut self) {
        if self.spec("EXPERTS") == 1 {
            return self.fallback();
        }
        let push = self.push::<ops::linear::Push>();
        self.row = push.y_stride as usize;
        let suspects: Vec<usize> = (0..self.got.len()).filter(|&i| self.got[i] != self.want[i]).collect();
        let Some(format) = by_name(self.capsule.kernel.axis("FORMAT")) else { return self.fallback() };
        let (weights, x) = (self.input("weights"), self.input("x"));
        let bytes: &[u8] = bytemuck::cast_slice(&weights);
        let (k, row_bytes) = (push.k as usize, push.row_bytes as usize);
        let q8 = self.capsule.kernel.axis("ACT") == "q8";
        let mut decoded: Option<(usize, Vec<f32>)> = None;
        let mut order = suspects;
        order.sort_by_key(|index| index % self.row.max(1));
        for index in order {
            let (row, output) = (index / self.row.max(1), index % self.row.max(1));
            let weight = bytes.get(output * row_bytes..(output + 1) * row_bytes);
            let (true, Some(weight)) = (output < push.n as usize && row < push.rows as usize, weight) else {
                self.bits(index);
                continue;
            };
            if decoded.as_ref().is_none_or(|(of, _)| *of != output) {
                let mut values = vec![0f32; k];
                format.decode_row(weight, &mut values);
                decoded = Some((output, values));
            }
            let start = row * push.x_stride as usize;
            let activation = |element: usize| -> f64 {
                if !q8 {
                    return x.get(start + element).map_or(f64::NAN, |word| float(*word));
                }
                let block = start + element / 32 * Q8_WORDS;
                let word = x.get(block + element % 32 / 4).copied().unwrap_or(0);
                let code = word.to_le_bytes()[element % 4] as i8;
                f64::from(code) * x.get(block + 8).map_or(f64::NAN, |word| float(*word))
            };
            let weights = decoded.as_ref().map_or(&[][..], |(_, values)| values);
            let size: f64 =
                weights.iter().enumerate().map(|(e, w)| (f64::from(*w) * activation(e)).abs()).sum();
            let scale = f64::from(push.scale).abs();
            let bound = (8.0 * (k as f64).sqrt() * size * scale
                + 4.0 * (size * scale + 2.0 * float(self.want[index]).abs()))
                * EPS
                / 2.0;
            self.within(index, bound);
        }
    }

    /// Blocks of 32 int8: the scale to a few units, codes to the next one, sums those of the codes.
    fn q8(&mut self) {
        self.row = Q8_WORDS;
        for first in (0..self.got.len() / Q8_WORDS * Q8_WORDS).step_by(Q8_WORDS) {
            let (got, want) = (&self.got[first..first + Q8_WORDS], &self.want[first..first + Q8_WORDS]);
            if got == want {
                continue;
            }
            let (got, want) = (got.to_vec(), want.to_vec());
            let d = float(want[8]);
            self.within(first + 8, d.abs() * 512.0 * EPS);
            let mut sums = [0i32; 2];
            for word in 0..8 {
                let codes = [got[word], want[word]].map(u32::to_le_bytes);
                let far = (0..4).find(|&i| (codes[0][i] as i8).abs_diff(codes[1][i] as i8) > 1);
                sums[word / 4] += codes[0].iter().map(|code| i32::from(*code as i8)).sum::<i32>();
                if let Some(i) = far {
                    let (got, want) = (codes[0][i] as i8, codes[1][i] as i8);
                    self.blame(first + word, format!("code {got}, expected {want}"));
                }
            }
            for (half, sum) in sums.into_iter().enumerate() {
                let (found, of_codes) = (float(got[9 + half]), float(got[8]) * f64::from(sum));
                let near = (found - of_codes).abs() <= of_codes.abs() * 4.0 * EPS;
                if !near {
                    self.blame(first + 9 + half, format!("{found:e}, the sum of its codes is {of_codes:e}"));
                }
            }
            self.bits(first + 11);
        }
    }

    /// Keys or values in their cells: each within a share of its head and a step of its type.
    fn cells(&mut self, head: usize, kind: usize) {
        let Some(format) = KV_FORMATS.get(kind) else { return self.fallback() };
        if self.got == self.want {
            return;
        }
        let push = self.push::<ops::heads::Push>();
        let (rows, table) = (self.input("rows"), self.input("block_table"));
        let (mut got, mut want) = (self.got.to_vec(), self.want.to_vec());
        let (mut marked, mut scratch) = (vec![false; got.len()], vec![0u32; got.len()]);
        let share = (16.0 + (head as f64).sqrt()) * EPS;
        for row in 0..push.row_count as usize {
            let word = |i: usize| rows.get(row * 8 + i).copied().unwrap_or(0) as usize;
            let (position, table_at) = (word(1), word(2));
            let Some(&block) = table.get(table_at + position / KV_BLOCK) else { continue };
            for kv in 0..push.n_kv as usize {
                let tile = (block as usize * push.n_kv as usize + kv) * KV_BLOCK * format.row_words(head);
                if tile + KV_BLOCK * format.row_words(head) > got.len() {
                    continue;
                }
                let slot = position % KV_BLOCK;
                let [a, b] = [&mut got, &mut want].map(|pool| loaded(format, pool, tile, slot, head));
                let far = b.iter().fold(0.0f64, |far, value| far.max(value.abs()));
                let step = match format.name {
                    "f32" => 0.0,
                    "f16" => far / 1024.0 + 2f64.powi(-24),
                    "bf16" => far / 128.0,
                    _ => {
                        far * 2.0 / f64::from(1u32 << (format.bits + usize::from(format.fifth) - 1))
                            + 2f64.powi(-14)
                    }
                };
                // A word of each cell stands for it.
                scratch.fill(0);
                format.store(Words::new(&mut scratch), tile, slot, &vec![f32::MAX; head]);
                let own: Vec<usize> = (0..scratch.len()).filter(|&at| scratch[at] != 0).collect();
                own.iter().for_each(|&at| marked[at] = true);
                for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                    let near = (a - b).abs() <= far * share + step || (a.is_nan() && b.is_nan());
                    if !near {
                        let at = own.get(i * own.len() / head).copied().unwrap_or(tile);
                        self.blame(at, format!("{a:e} in cell {i} of position {position}, expected {b:e}"));
                    }
                }
            }
        }
        for at in (0..marked.len()).filter(|&at| !marked[at]).collect::<Vec<_>>() {
            self.bits(at);
        }
    }

    /// Maximum, sum and weighted values of each chunk. A score may be off by 8 √n 2^-24 Σ|q k|, its exponential by as much
    /// relatively and a few units.
    fn parts(&mut self) {
        if self.got == self.want {
            return;
        }
        let push = self.push::<ops::attention::Push>();
        let (head, size) = (self.spec("HEAD"), self.spec("HEAD_V"));
        let group = size + 2;
        self.row = group;
        let q = self.input("q");
        let keys = largest_cell(self, "k_cache", head, "K_TYPE");
        let cell = if self.spec("V_IN_K") == 1 { head } else { size };
        let values = largest_cell(self, "v_cache", cell, "V_TYPE");
        for first in (0..self.got.len() / group * group).step_by(group) {
            if self.got[first..first + group] == self.want[first..first + group] {
                continue;
            }
            let pair = first / group / push.chunks_max.max(1) as usize;
            let (row, h) = (pair / push.n_head.max(1) as usize, pair % push.n_head.max(1) as usize);
            let at = row * push.q_stride as usize + h * head;
            let sum: f64 = q.get(at..at + head).unwrap_or(&[]).iter().map(|q| float(*q).abs()).sum();
            let off = 8.0 * (head as f64).sqrt() * EPS / 2.0 * sum * keys * f64::from(push.scale).abs();
            let mass = float(self.want[first + 1]).abs();
            let share = 2.0 * off + (3.0 + 2.0 * 88.0 + 16.0) * EPS;
            self.within(first, off + float(self.want[first]).abs() * 4.0 * EPS);
            self.within(first + 1, mass * share);
            for index in first + 2..first + group {
                self.within(index, mass * values * share);
            }
        }
    }

    /// Token, ln p, position, segment: masses are counted in units of 2^-21 per slice.
    fn results(&mut self) {
        for index in 0..self.got.len() {
            if index % 4 == 1 {
                self.within(index, 1e-4 * float(self.want[index]).abs().max(1.0));
            } else {
                self.bits(index);
            }
        }
    }

    /// All words before the list, and the list in any order.
    fn collected(&mut self) {
        let push = self.push::<ops::sample_collect::Push>();
        let layout = Layout::new(push.n as usize);
        let stride = (push.part_stride as usize).max(1);
        self.row = stride;
        for first in (0..self.got.len()).step_by(stride) {
            let end = (first + stride).min(self.got.len());
            (first..end.min(first + layout.list)).for_each(|index| self.bits(index));
            let listed = self.want.get(first + layout.head + 1).map_or(0, |count| *count as usize);
            let range = first + layout.list..first + layout.list + 2 * listed;
            if range.end > end || listed > push.list as usize {
                continue;
            }
            let sorted = |words: &[u32]| {
                let mut pairs: Vec<[u32; 2]> = words.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
                pairs.sort_unstable();
                pairs
            };
            if sorted(&self.got[range.clone()]) != sorted(&self.want[range.clone()]) {
                self.blame(range.start, "another set of tokens is listed".into());
            }
        }
    }
}

/// What a norm may be off by, as a share. All terms of the sum of squares are positive: each of a lane's steps rounds twice
/// without fma, then come two sums of four and the tree; half of that reaches the root. Division is good to 2.5 units,
/// inversesqrt to two in the last place, the sum with eps and the products round once each, the reference once.
fn norm_share(k: u32, lanes: usize) -> f64 {
    let lanes = lanes.max(1);
    let steps = (k as usize).div_ceil(4 * lanes) as f64;
    let sum = 2.0 * steps + 2.0 + (lanes as f64).log2();
    (sum / 2.0 + 1.25 + 0.5 + 4.0 + 2.0 + 1.0) * EPS / 2.0
}

fn loaded(format: &KvFormat, pool: &mut [u32], tile: usize, slot: usize, head: usize) -> Vec<f64> {
    let words = Words::new(pool);
    (0..head).map(|i| f64::from(format.load(words, tile, slot, head, i))).collect()
}

/// The largest finite number in the cells of a cache.
fn largest_cell(side: &Side<'_>, binding: &str, head: usize, kind: &str) -> f64 {
    let mut pool = side.input(binding);
    let Some(format) = KV_FORMATS.get(side.spec(kind)).filter(|_| head > 0) else { return f64::INFINITY };
    let tile = KV_BLOCK * format.row_words(head);
    (0..pool.len() / tile.max(1))
        .flat_map(|index| {
            (0..KV_BLOCK)
                .flat_map(|slot| loaded(format, &mut pool, index * tile, slot, head))
                .collect::<Vec<_>>()
        })
        .map(f64::abs)
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max)
}

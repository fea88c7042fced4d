//! Weights: random codes under chosen scales, and rows of q8 activations.

use half::f16;
use vkllm_shaders::formats::{Format, by_name};
use vkllm_shaders::reference::halve::{HALF_TAIL, half_row, powers};
use vkllm_shaders::select::Candidate;

use super::Rng;

/// How the scales of blocks are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scales {
    /// Powers of two: sums of products with small integers are exact.
    Powers,
    /// Subnormal f16.
    Subnormal,
    /// As in a plausible model.
    Plausible,
}

/// Byte offsets of the f16 scales of a block.
fn scale_offsets(format: &Format) -> &'static [usize] {
    match format.name {
        "q4_0" | "q5_0" | "q8_0" | "iq4_nl" | "iq4_xs" | "iq1_s" | "iq2_xxs" | "iq2_xs" | "iq2_s"
        | "iq3_xxs" | "iq3_s" => &[0],
        "q4_1" | "q5_1" | "q4_k" | "q5_k" => &[0, 2],
        "q2_k" => &[80, 82],
        "q3_k" => &[108],
        "q6_k" => &[208],
        "tq1_0" => &[52],
        "tq2_0" => &[64],
        other => panic!("say where the scales of a block of {other} are"),
    }
}

/// Weights for `n` rows of `k`, as bytes.
pub fn weights(rng: &mut Rng, format: &Format, n: usize, k: usize, scales: Scales) -> Vec<u8> {
    let row = format.row_bytes(k).unwrap_or_else(|| panic!("{} has no rows of {k}", format.name));
    let mut bytes = vec![0; n * row];
    if scales == Scales::Plausible {
        format.sample_row(&mut || rng.word(), &mut bytes);
        return bytes;
    }
    for block in bytes.chunks_exact_mut(format.bytes) {
        block.iter_mut().for_each(|byte| *byte = rng.word() as u8);
        let mut scale = || match scales {
            Scales::Subnormal => f16::from_bits(rng.int(1, 1023) as u16 | (rng.word() as u16 & 0x8000)),
            _ => f16::from_f32(rng.pick(&[1.0, 2.0, -1.0])),
        };
        match format.name {
            "f32" => block.copy_from_slice(&(rng.int(-64, 64) as f32).to_le_bytes()),
            "f16" if scales == Scales::Subnormal => block.copy_from_slice(&scale().to_le_bytes()),
            "f16" => block.copy_from_slice(&f16::from_f32(rng.int(-64, 64) as f32).to_le_bytes()),
            "bf16" => block.copy_from_slice(&half::bf16::from_f32(rng.int(-64, 64) as f32).to_le_bytes()),
            // An exponent alone, which has no subnormal form that f32 could hold exactly.
            "mxfp4" => block[0] = 128 + (rng.word() & 1) as u8,
            "iq1_m" => {
                let bits = scale().to_bits();
                for quarter in 0..4 {
                    let top = &mut block[49 + 2 * quarter];
                    *top = *top & 15 | ((bits >> (4 * quarter) & 15) as u8) << 4;
                }
            }
            _ => {
                if format.name == "q6_k" {
                    // Products of full scales and codes would leave no room for sums that are exact.
                    block[192..208].iter_mut().for_each(|scale| *scale = (*scale as i8 / 4) as u8);
                }
                for at in scale_offsets(format) {
                    block[*at..at + 2].copy_from_slice(&scale().to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// The format a kernel was compiled for.
pub fn format_of(candidate: &Candidate) -> &'static Format {
    let name = candidate.kernel.axis("FORMAT");
    by_name(name).unwrap_or_else(|| panic!("{} has no format {name}", candidate.kernel.name))
}

/// Rows of weights as f32.
pub fn decode(format: &Format, bytes: &[u8], n: usize, k: usize) -> Vec<f32> {
    let mut weights = vec![f32::NAN; n * k];
    let row = format.row_bytes(k).unwrap_or(0);
    for (bytes, weights) in bytes.chunks_exact(row).zip(weights.chunks_exact_mut(k)) {
        format.decode_row(bytes, weights);
    }
    weights
}

/// Rows of weights as the products of a kernel see them: of f16 where its rows are.
pub fn factors(candidate: &Candidate, bytes: &[u8], n: usize, k: usize) -> Vec<f32> {
    let mut weights = decode(format_of(candidate), bytes, n, k);
    if act_of(candidate) == Act::F16 {
        weights.iter_mut().for_each(|w| *w = f16::from_f32(*w).to_f32());
    }
    weights
}

/// Forms of activations, as the axis `ACT` of a kernel names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    F32,
    Q8,
    F16,
}

/// The form of activations that a kernel takes.
pub fn act_of(candidate: &Candidate) -> Act {
    match candidate.kernel.axis("ACT") {
        "q8" => Act::Q8,
        "f16" => Act::F16,
        _ => Act::F32,
    }
}

impl Act {
    /// Value of the axis.
    pub fn axis(self) -> &'static str {
        match self {
            Act::F32 => "f32",
            Act::Q8 => "q8",
            Act::F16 => "f16",
        }
    }

    /// Words of a row of k.
    pub fn stride(self, k: usize) -> usize {
        match self {
            Act::F32 => k,
            Act::Q8 => k / 32 * 12,
            Act::F16 => k / 2 + HALF_TAIL,
        }
    }
}

/// One q8 block of 32 integers with a scale.
pub fn q8_block(q: &[i8], d: f32) -> [u32; 12] {
    let mut words = [0; 12];
    for (word, four) in words.iter_mut().zip(q.chunks_exact(4)) {
        *word = u32::from_le_bytes([four[0] as u8, four[1] as u8, four[2] as u8, four[3] as u8]);
    }
    let sum = |half: &[i8]| half.iter().map(|q| f32::from(*q)).sum::<f32>();
    words[8] = d.to_bits();
    words[9] = (d * sum(&q[..16])).to_bits();
    words[10] = (d * sum(&q[16..])).to_bits();
    words
}

/// Activations in the form a kernel takes, and the values they stand for.
#[derive(Clone)]
pub struct Activations {
    pub words: Vec<u32>,
    pub values: Vec<f32>,
    /// Words of a row.
    pub stride: usize,
}

impl Activations {
    /// Integers with a scale per 32, in rows of `k`.
    pub fn new(act: Act, k: usize, integers: &[i8], mut scale: impl FnMut() -> f32) -> Self {
        let (mut words, mut values) = (Vec::new(), Vec::new());
        for row in integers.chunks_exact(k) {
            for block in row.chunks(32) {
                let d = scale();
                values.extend(block.iter().map(|q| d * f32::from(*q)));
                if act == Act::Q8 {
                    words.extend(q8_block(block, d));
                }
            }
        }
        if act == Act::Q8 {
            Activations { words, values, stride: act.stride(k) }
        } else {
            Self::floats(act, k, values)
        }
    }

    /// Rows of f32 as they are, or rounded to f16.
    pub fn floats(act: Act, k: usize, mut values: Vec<f32>) -> Self {
        let words = match act {
            Act::F16 => values.chunks_exact(k).flat_map(half_row).collect(),
            _ => values.iter().map(|value| value.to_bits()).collect(),
        };
        if act == Act::F16 {
            for row in values.chunks_exact_mut(k) {
                let (factor, reciprocal) = powers(row);
                row.iter_mut()
                    .for_each(|value| *value = f16::from_f32(*value * factor).to_f32() * reciprocal);
            }
        }
        Activations { words, values, stride: act.stride(k) }
    }
}

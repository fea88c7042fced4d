//! The block formats of GGUF: their sizes, a naive decoder each (what a format means) and a generator of
//! plausible blocks for synthetic models and tests. The layouts are those of ggml's block structures as GGUF
//! files hold them.

mod basic;
mod grids;
mod iq;
mod k_quants;
mod small;
mod ternary;
#[cfg(test)]
mod tests;

use half::f16;

pub(crate) use small::NON_LINEAR;

/// A block format: `block` weights in `bytes` bytes.
pub struct Format {
    /// Lower-case name, the value of the axis `FORMAT`.
    pub name: &'static str,
    /// Name as GGUF tools print it.
    pub label: &'static str,
    /// Type number in GGUF files.
    pub ggml_type: u32,
    /// Weights of a block.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Decodes one block: `bytes` bytes to `block` weights.
    pub decode: fn(&[u8], &mut [f32]),
    /// Fills one block from random words such that weights have a standard deviation near [`SPREAD`] and mean
    /// near 0.
    pub sample: fn(&mut dyn FnMut() -> u32, &mut [u8]),
}

/// All formats, in the order of their GGUF type numbers.
pub static FORMATS: &[&Format] = &[
    &basic::F32,
    &basic::F16,
    &small::Q4_0,
    &small::Q4_1,
    &small::Q5_0,
    &small::Q5_1,
    &small::Q8_0,
    &k_quants::Q2_K,
    &k_quants::Q3_K,
    &k_quants::Q4_K,
    &k_quants::Q5_K,
    &k_quants::Q6_K,
    &iq::IQ2_XXS,
    &iq::IQ2_XS,
    &iq::IQ3_XXS,
    &iq::IQ1_S,
    &small::IQ4_NL,
    &iq::IQ3_S,
    &iq::IQ2_S,
    &iq::IQ4_XS,
    &iq::IQ1_M,
    &basic::BF16,
    &ternary::TQ1_0,
    &ternary::TQ2_0,
    &small::MXFP4,
];

/// Standard deviation that samples aim at.
pub const SPREAD: f32 = 0.04;

/// The format of a name such as `q4_k`.
pub fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name).copied()
}

/// The format of a GGUF type number.
pub fn by_ggml_type(ggml_type: u32) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.ggml_type == ggml_type).copied()
}

impl Format {
    /// Bytes of a row of `k` weights, or `None` when `k` is not a whole number of blocks or the size
    /// overflows.
    pub fn row_bytes(&self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block) {
            return None;
        }
        (k / self.block).checked_mul(self.bytes)
    }

    /// Decodes as many whole blocks as both slices hold.
    pub fn decode_row(&self, row: &[u8], weights: &mut [f32]) {
        for (block, out) in row.chunks_exact(self.bytes).zip(weights.chunks_exact_mut(self.block)) {
            (self.decode)(block, out);
        }
    }

    /// Fills as many whole blocks as `row` holds with plausible weights.
    pub fn sample_row(&self, next: &mut dyn FnMut() -> u32, row: &mut [u8]) {
        for block in row.chunks_exact_mut(self.bytes) {
            (self.sample)(next, block);
        }
    }
}

/// The f16 at a byte offset, widened.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 16-bit value at a byte offset.
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The 32-bit value at a byte offset.
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The low (first 16) and high (last 16) nibbles of 16 bytes as 32 values in element order.
fn nibble(bytes: &[u8], element: usize) -> u8 {
    if element < 16 { bytes[element] & 15 } else { bytes[element - 16] >> 4 }
}

fn fill(next: &mut dyn FnMut() -> u32, bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(4) {
        let word = next().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// A factor from 0.75 to 1.25.
fn wobble(next: &mut dyn FnMut() -> u32) -> f32 {
    0.75 + 0.5 * (next() >> 8) as f32 / (1 << 24) as f32
}

/// The same with a random sign: codes that reach further down than up would shift the mean otherwise.
fn either_sign(next: &mut dyn FnMut() -> u32) -> f32 {
    if next() >> 31 == 0 { wobble(next) } else { -wobble(next) }
}

fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

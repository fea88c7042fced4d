//! The iq formats: blocks of 256 weights whose vectors come from grids, with signs stored apart, and iq4_xs.

use half::f16;

use super::small::NON_LINEAR;
use super::{Format, SPREAD, fill, grids, half_at, nibble, put_half, u16_at, u32_at, wobble};

const fn format(name: &'static str, label: &'static str, ggml_type: u32, bytes: usize) -> Format {
    Format { name, label, ggml_type, block: 256, bytes, decode: |_, _| (), sample: |_, _| () }
}

/// Element `e` of a vector of eight 2-bit codes that mean 8, 25, 43.
fn two_bit_grid(entry: u16, e: usize) -> f32 {
    [8.0, 25.0, 43.0, 0.0][usize::from(entry >> (2 * e) & 3)]
}

/// -1 for a set bit, 1 for a clear one.
fn sign(bits: u8, bit: usize) -> f32 {
    if bits >> bit & 1 == 1 { -1.0 } else { 1.0 }
}

/// Eight signs stored as seven bits: the number of minus signs is even, so the eighth bit is the parity of
/// the others.
fn even_signs(index: u32) -> u8 {
    let low = index as u8 & 127;
    low | (low.count_ones() as u8 & 1) << 7
}

/// Fills a block with random codes and an f16 scale at byte 0.
fn sample(next: &mut dyn FnMut() -> u32, block: &mut [u8], steps: f32) {
    fill(next, block);
    put_half(block, 0, SPREAD / steps * wobble(next));
}

/// f16 d; per 32 weights four grid indices (bytes) and a word of four 7-bit sign indices and a 4-bit scale.
pub(super) static IQ2_XXS: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (e, weight) in out.iter_mut().enumerate() {
            let at = 2 + e / 32 * 8;
            let word = u32_at(block, at + 4);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            let vector = e % 32 / 8;
            let grid = two_bit_grid(grids::IQ2_XXS[usize::from(block[at + vector])], e % 8);
            *weight = scale * grid * sign(even_signs(word >> (7 * vector)), e % 8);
        }
    },
    sample: |next, block| sample(next, block, 60.0),
    ..format("iq2_xxs", "IQ2_XXS", 16, 66)
};

/// f16 d; per 8 weights 16 bits: 9 of grid index, 7 of sign index; 8 bytes of 4-bit scales, one per 16
/// weights.
pub(super) static IQ2_XS: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (e, weight) in out.iter_mut().enumerate() {
            let code = u16_at(block, 2 + e / 8 * 2);
            let scale = d * (0.5 + f32::from(block[66 + e / 32] >> (e % 32 / 16 * 4) & 15)) * 0.25;
            let grid = two_bit_grid(grids::IQ2_XS[usize::from(code & 511)], e % 8);
            *weight = scale * grid * sign(even_signs(u32::from(code >> 9)), e % 8);
        }
    },
    sample: |next, block| sample(next, block, 60.0),
    ..format("iq2_xs", "IQ2_XS", 17, 74)
};

/// f16 d; per 8 weights a byte of grid index and (32 bytes on) a byte of signs; 8 bytes of upper index bits,
/// two per vector; 8 bytes of 4-bit scales, one per 16 weights.
pub(super) static IQ2_S: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (e, weight) in out.iter_mut().enumerate() {
            let upper = usize::from(block[66 + e / 32] >> (e % 32 / 8 * 2) & 3);
            let scale = d * (0.5 + f32::from(block[74 + e / 32] >> (e % 32 / 16 * 4) & 15)) * 0.25;
            let grid = two_bit_grid(grids::IQ2_S[usize::from(block[2 + e / 8]) | upper << 8], e % 8);
            *weight = scale * grid * sign(block[34 + e / 8], e % 8);
        }
    },
    sample: |next, block| sample(next, block, 60.0),
    ..format("iq2_s", "IQ2_S", 22, 82)
};

/// f16 d; per 4 weights a byte of grid index; then per 32 weights a word of four 7-bit sign indices and a
/// 4-bit scale.
pub(super) static IQ3_XXS: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (e, weight) in out.iter_mut().enumerate() {
            let word = u32_at(block, 66 + e / 32 * 4);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let code = grids::IQ3_XXS[usize::from(block[2 + e / 4])] >> (e % 4 * 4) & 7;
            let grid = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0][usize::from(code)];
            *weight = scale * grid * sign(even_signs(word >> (7 * (e % 32 / 8))), e % 8);
        }
    },
    sample: |next, block| sample(next, block, 140.0),
    ..format("iq3_xxs", "IQ3_XXS", 18, 98)
};

/// f16 d; per 4 weights a byte of grid index; 8 bytes of ninth index bits; 32 bytes of signs; 4 bytes of
/// 4-bit scales, one per 32 weights.
pub(super) static IQ3_S: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (e, weight) in out.iter_mut().enumerate() {
            let ninth = usize::from(block[66 + e / 32] >> (e % 32 / 4) & 1);
            let scale = d * (1.0 + 2.0 * f32::from(block[106 + e / 64] >> (e % 64 / 32 * 4) & 15));
            let code = grids::IQ3_S[usize::from(block[2 + e / 4]) | ninth << 8] >> (e % 4 * 4) & 7;
            *weight = scale * f32::from(1 + 2 * code) * sign(block[74 + e / 8], e % 8);
        }
    },
    sample: |next, block| sample(next, block, 130.0),
    ..format("iq3_s", "IQ3_S", 21, 110)
};

/// Shift of every vector of the iq1 formats away from its grid point.
const DELTA: f32 = 0.125;

/// Element `e` of a vector of eight 2-bit codes that mean -1, 0, 1.
fn ternary_grid(entry: u16, e: usize) -> f32 {
    f32::from(entry >> (2 * e) & 3) - 1.0
}

/// f16 d; per 8 weights a byte of grid index; then per 32 weights 16 bits: four times 3 upper index bits, a
/// 3-bit scale and the sign of the shift.
pub(super) static IQ1_S: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (e, weight) in out.iter_mut().enumerate() {
            let head = u16_at(block, 34 + e / 32 * 2);
            let scale = d * f32::from(2 * (head >> 12 & 7) + 1);
            let delta = if head & 0x8000 == 0 { DELTA } else { -DELTA };
            let upper = usize::from(head >> (e % 32 / 8 * 3) & 7);
            let entry = grids::IQ1[usize::from(block[2 + e / 8]) | upper << 8];
            *weight = scale * (ternary_grid(entry, e % 8) + delta);
        }
    },
    sample: |next, block| sample(next, block, 6.6),
    ..format("iq1_s", "IQ1_S", 19, 50)
};

/// Per 8 weights a byte of grid index; 16 bytes with, per 8 weights, 3 upper index bits and the sign of the
/// shift; four 16-bit words with four 3-bit scales each (one per 16 weights) and, in their upper 4 bits, a
/// quarter of the f16 d.
pub(super) static IQ1_M: Format = Format {
    decode: |block, out| {
        let scales = [u16_at(block, 48), u16_at(block, 50), u16_at(block, 52), u16_at(block, 54)];
        let bits = scales.iter().rev().fold(0, |bits, word| bits << 4 | word >> 12);
        let d = f16::from_bits(bits).to_f32();
        for (e, weight) in out.iter_mut().enumerate() {
            let scale = d * f32::from(2 * (scales[e / 64] >> (e % 64 / 16 * 3) & 7) + 1);
            let high = block[32 + e / 16] >> (e % 16 / 8 * 4);
            let delta = if high & 8 == 0 { DELTA } else { -DELTA };
            let entry = grids::IQ1[usize::from(block[e / 8]) | usize::from(high & 7) << 8];
            *weight = scale * (ternary_grid(entry, e % 8) + delta);
        }
    },
    sample: |next, block| {
        fill(next, block);
        let d = f16::from_f32(SPREAD / 6.6 * wobble(next)).to_bits();
        for quarter in 0..4 {
            let top = &mut block[49 + 2 * quarter];
            *top = *top & 15 | ((d >> (4 * quarter) & 15) as u8) << 4;
        }
    },
    ..format("iq1_m", "IQ1_M", 29, 56)
};

/// f16 d; upper 2 bits of eight 6-bit scales less 32; their lower 4 bits; 128 bytes of nibbles as in iq4_nl.
pub(super) static IQ4_XS: Format = Format {
    decode: |block, out| {
        let (d, upper) = (half_at(block, 0), u16_at(block, 2));
        for (e, weight) in out.iter_mut().enumerate() {
            let group = e / 32;
            let low = u16::from(block[4 + group / 2] >> (group % 2 * 4) & 15);
            let scale = f32::from(low | (upper >> (2 * group) & 3) << 4) - 32.0;
            let code = nibble(&block[8 + 16 * group..], e % 32);
            *weight = d * scale * f32::from(NON_LINEAR[usize::from(code)]);
        }
    },
    sample: |next, block| sample(next, block, 1310.0),
    ..format("iq4_xs", "IQ4_XS", 23, 136)
};

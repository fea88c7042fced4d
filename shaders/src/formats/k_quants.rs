//! The k formats: blocks of 256 weights, with 4- to 8-bit scales (and minima) of groups of 16 or 32.

use super::{Format, SPREAD, fill, half_at, put_half, wobble};

const fn format(name: &'static str, label: &'static str, ggml_type: u32, bytes: usize) -> Format {
    Format { name, label, ggml_type, block: 256, bytes, decode: |_, _| (), sample: |_, _| () }
}

/// Two bits of element `e` of a byte array in which each run of 32 bytes holds four groups of 32, lowest bits
/// first.
fn two_bits(bytes: &[u8], e: usize) -> u8 {
    bytes[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3
}

/// Nibble of element `e` where each run of 32 bytes holds two groups of 32, low nibbles first.
fn run_nibble(bytes: &[u8], e: usize) -> u8 {
    bytes[e / 64 * 32 + e % 32] >> (e % 64 / 32 * 4) & 15
}

/// 16 bytes of 4-bit scale and minimum per 16 weights, 64 bytes of 2-bit codes, f16 d, f16 dmin.
pub(super) static Q2_K: Format = Format {
    decode: |block, out| {
        let (d, dmin) = (half_at(block, 80), half_at(block, 82));
        for (e, weight) in out.iter_mut().enumerate() {
            let pair = block[e / 16];
            let q = f32::from(two_bits(&block[16..80], e));
            *weight = d * f32::from(pair & 15) * q - dmin * f32::from(pair >> 4);
        }
    },
    sample: |next, block| {
        fill(next, block);
        // Equal scale and minimum, and dmin = 1.5 d, centre the codes 0 to 3.
        for pair in &mut block[..16] {
            let scale = 4 + *pair % 12;
            *pair = scale << 4 | scale;
        }
        let d = SPREAD / 11.2 * wobble(next);
        put_half(block, 80, d);
        put_half(block, 82, 1.5 * d);
    },
    ..format("q2_k", "Q2_K", 10, 84)
};

/// 32 bytes of third bits (bit g of byte e % 32 for group g; set means no -4), 64 bytes of 2-bit codes, 12
/// bytes of 6-bit scales less 32 (4 low bits of scales 0..8 and 8..16 as nibbles of 8 bytes, then upper
/// bits), f16 d.
pub(super) static Q3_K: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 108);
        for (e, weight) in out.iter_mut().enumerate() {
            let group = e / 16;
            let low = block[96 + group % 8] >> (group / 8 * 4) & 15;
            let high = block[104 + group % 4] >> (group / 4 * 2) & 3;
            let scale = f32::from(low | high << 4) - 32.0;
            let third = block[e % 32] >> (e / 32) & 1;
            let q = f32::from(two_bits(&block[32..96], e) | third << 2) - 4.0;
            *weight = d * scale * q + 0.0;
        }
    },
    sample: |next, block| {
        fill(next, block);
        put_half(block, 108, SPREAD / 43.0 * wobble(next));
    },
    ..format("q3_k", "Q3_K", 11, 110)
};

/// Scale and minimum of group 0 to 7 from the 12 bytes of q4_k and q5_k.
fn scale_and_minimum(bytes: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (bytes[group] & 63, bytes[group + 4] & 63)
    } else {
        let low = bytes[group + 4];
        (low & 15 | bytes[group - 4] >> 6 << 4, low >> 4 | bytes[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// Writes 12 bytes in which the minimum of each group equals its scale, 16 to 63.
fn sample_scales(next: &mut dyn FnMut() -> u32, bytes: &mut [u8]) {
    bytes.fill(0);
    for group in 0..8 {
        let scale = 16 + (next() % 48) as u8;
        if group < 4 {
            bytes[group] |= scale;
            bytes[group + 4] |= scale;
        } else {
            bytes[group + 4] = scale & 15 | (scale & 15) << 4;
            bytes[group - 4] |= scale >> 4 << 6;
            bytes[group] |= scale >> 4 << 6;
        }
    }
}

/// f16 d, f16 dmin, 12 bytes of scales and minima, 128 bytes of nibbles.
pub(super) static Q4_K: Format = Format {
    decode: |block, out| {
        let (d, dmin) = (half_at(block, 0), half_at(block, 2));
        for (e, weight) in out.iter_mut().enumerate() {
            let (scale, minimum) = scale_and_minimum(&block[4..16], e / 32);
            *weight = d * scale * f32::from(run_nibble(&block[16..], e)) - dmin * minimum;
        }
    },
    sample: |next, block| {
        fill(next, block);
        sample_scales(next, &mut block[4..16]);
        let d = SPREAD / 195.0 * wobble(next);
        put_half(block, 0, d);
        put_half(block, 2, 7.5 * d);
    },
    ..format("q4_k", "Q4_K", 12, 144)
};

/// f16 d, f16 dmin, 12 bytes of scales and minima, 32 bytes of fifth bits (bit g for group g), 128 bytes of
/// nibbles.
pub(super) static Q5_K: Format = Format {
    decode: |block, out| {
        let (d, dmin) = (half_at(block, 0), half_at(block, 2));
        for (e, weight) in out.iter_mut().enumerate() {
            let (scale, minimum) = scale_and_minimum(&block[4..16], e / 32);
            let fifth = block[16 + e % 32] >> (e / 32) & 1;
            *weight = d * scale * f32::from(run_nibble(&block[48..], e) | fifth << 4) - dmin * minimum;
        }
    },
    sample: |next, block| {
        fill(next, block);
        sample_scales(next, &mut block[4..16]);
        let d = SPREAD / 385.0 * wobble(next);
        put_half(block, 0, d);
        put_half(block, 2, 15.5 * d);
    },
    ..format("q5_k", "Q5_K", 13, 176)
};

/// 128 bytes of nibbles, 64 bytes of upper 2 bits, 16 signed scales, f16 d. Of each half block's 64 bytes of
/// nibbles the low ones are elements 0..64 and the high ones 64..128.
pub(super) static Q6_K: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 208);
        for (e, weight) in out.iter_mut().enumerate() {
            let low = block[e / 128 * 64 + e % 64] >> (e % 128 / 64 * 4) & 15;
            let q = f32::from(low | two_bits(&block[128..192], e) << 4) - 32.0;
            *weight = d * f32::from(block[192 + e / 16] as i8) * q + 0.0;
        }
    },
    sample: |next, block| {
        fill(next, block);
        for scale in &mut block[192..208] {
            let size = 8 + (*scale & 15) as i8;
            *scale = if *scale < 128 { size } else { -size } as u8;
        }
        put_half(block, 208, SPREAD / 298.0 * wobble(next));
    },
    ..format("q6_k", "Q6_K", 14, 210)
};

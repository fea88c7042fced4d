//! The ternary formats: blocks of 256 weights of -1, 0, 1 times one scale.

use super::{Format, SPREAD, fill, half_at, put_half, wobble};

/// Powers of three; the product with a byte, taken modulo 256, moves one of its ternary digits to the front.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// 48 + 4 bytes of five (the last four: four) ternary digits, f16 d. A byte holds the fraction whose ternary
/// digits are the codes: of bytes 0..32 digit n is element 32 n + byte, of 32..48 160 + 16 n + byte, of
/// 48..52 240 + 4 n + byte.
pub(super) static TQ1_0: Format = Format {
    name: "tq1_0",
    label: "TQ1_0",
    ggml_type: 34,
    block: 256,
    bytes: 54,
    decode: |block, out| {
        let d = half_at(block, 52);
        for (e, weight) in out.iter_mut().enumerate() {
            let (byte, digit) = match e {
                0..160 => (e % 32, e / 32),
                160..240 => (32 + e % 16, (e - 160) / 16),
                _ => (48 + e % 4, (e - 240) / 4),
            };
            let fraction = block[byte].wrapping_mul(POWERS[digit]);
            *weight = d * (f32::from((u16::from(fraction) * 3) >> 8) - 1.0) + 0.0;
        }
    },
    sample: |next, block| {
        fill(next, block);
        put_half(block, 52, SPREAD / 0.816 * wobble(next));
    },
};

/// 64 bytes of 2-bit codes (each run of 32 bytes holds four groups of 32, lowest bits first), f16 d.
pub(super) static TQ2_0: Format = Format {
    name: "tq2_0",
    label: "TQ2_0",
    ggml_type: 35,
    block: 256,
    bytes: 66,
    decode: |block, out| {
        let d = half_at(block, 64);
        for (e, weight) in out.iter_mut().enumerate() {
            let code = block[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
            *weight = d * (f32::from(code) - 1.0) + 0.0;
        }
    },
    sample: |next, block| {
        fill(next, block);
        for byte in &mut block[..64] {
            // The code 3 is not used: turn it into 1.
            *byte &= !((*byte >> 1 & 0x55 & *byte) << 1);
        }
        put_half(block, 64, SPREAD / 0.7 * wobble(next));
    },
};

//! Formats with blocks of 32 weights: one scale (and for the `_1` forms one minimum) per block.

use super::{Format, SPREAD, either_sign, fill, half_at, nibble, put_half, u32_at, wobble};

/// Values of the 4-bit codes of iq4_nl and iq4_xs (ggml's non-linear table).
pub const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of e2m1 codes, the elements of MXFP4 (OCP Microscaling Formats 1.0).
const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

const fn format(name: &'static str, label: &'static str, ggml_type: u32, bytes: usize) -> Format {
    Format { name, label, ggml_type, block: 32, bytes, decode: |_, _| (), sample: |_, _| () }
}

/// f16 d, 16 bytes of nibbles. Adding 0.0 makes every zero positive; a GPU may give either zero.
pub(super) static Q4_0: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (element, weight) in out.iter_mut().enumerate() {
            *weight = d * (f32::from(nibble(&block[2..], element)) - 8.0) + 0.0;
        }
    },
    sample: |next, block| {
        fill(next, block);
        put_half(block, 0, SPREAD / 4.6 * either_sign(next));
    },
    ..format("q4_0", "Q4_0", 2, 18)
};

/// f16 d, f16 m, 16 bytes of nibbles.
pub(super) static Q4_1: Format = Format {
    decode: |block, out| {
        let (d, m) = (half_at(block, 0), half_at(block, 2));
        for (element, weight) in out.iter_mut().enumerate() {
            *weight = d * f32::from(nibble(&block[4..], element)) + m;
        }
    },
    sample: |next, block| {
        fill(next, block);
        let d = SPREAD / 4.6 * wobble(next);
        put_half(block, 0, d);
        put_half(block, 2, -7.5 * d * wobble(next));
    },
    ..format("q4_1", "Q4_1", 3, 20)
};

/// f16 d, 32 fifth bits, 16 bytes of nibbles.
pub(super) static Q5_0: Format = Format {
    decode: |block, out| {
        let (d, fifth) = (half_at(block, 0), u32_at(block, 2));
        for (element, weight) in out.iter_mut().enumerate() {
            let q = u32::from(nibble(&block[6..], element)) | (fifth >> element & 1) << 4;
            *weight = d * (q as f32 - 16.0) + 0.0;
        }
    },
    sample: |next, block| {
        fill(next, block);
        put_half(block, 0, SPREAD / 9.2 * either_sign(next));
    },
    ..format("q5_0", "Q5_0", 6, 22)
};

/// f16 d, f16 m, 32 fifth bits, 16 bytes of nibbles.
pub(super) static Q5_1: Format = Format {
    decode: |block, out| {
        let (d, m, fifth) = (half_at(block, 0), half_at(block, 2), u32_at(block, 4));
        for (element, weight) in out.iter_mut().enumerate() {
            let q = u32::from(nibble(&block[8..], element)) | (fifth >> element & 1) << 4;
            *weight = d * q as f32 + m;
        }
    },
    sample: |next, block| {
        fill(next, block);
        let d = SPREAD / 9.2 * wobble(next);
        put_half(block, 0, d);
        put_half(block, 2, -15.5 * d * wobble(next));
    },
    ..format("q5_1", "Q5_1", 7, 24)
};

/// f16 d, 32 signed bytes.
pub(super) static Q8_0: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (weight, q) in out.iter_mut().zip(&block[2..]) {
            *weight = d * f32::from(*q as i8);
        }
    },
    sample: |next, block| {
        fill(next, block);
        // -128 is representable, but no quantiser writes it.
        for q in &mut block[2..] {
            *q = (*q as i8).max(-127) as u8;
        }
        put_half(block, 0, SPREAD / 73.6 * wobble(next));
    },
    ..format("q8_0", "Q8_0", 8, 34)
};

/// f16 d, 16 bytes of nibbles that choose from a table.
pub(super) static IQ4_NL: Format = Format {
    decode: |block, out| {
        let d = half_at(block, 0);
        for (element, weight) in out.iter_mut().enumerate() {
            *weight = d * f32::from(NON_LINEAR[usize::from(nibble(&block[2..], element))]);
        }
    },
    sample: |next, block| {
        fill(next, block);
        put_half(block, 0, SPREAD / 71.0 * wobble(next));
    },
    ..format("iq4_nl", "IQ4_NL", 20, 18)
};

/// A byte of exponent (e8m0, bias 127), 16 bytes of nibbles of e2m1. The scale is halved because the table is
/// doubled.
pub(super) static MXFP4: Format = Format {
    decode: |block, out| {
        let d = (2.0f64.powi(i32::from(block[0]) - 128)) as f32;
        for (element, weight) in out.iter_mut().enumerate() {
            *weight = d * f32::from(E2M1_DOUBLED[usize::from(nibble(&block[1..], element))]);
        }
    },
    sample: |next, block| {
        fill(next, block);
        // Scales 2^-8 to 2^-7, halved: the doubled values have a standard deviation of 5.6.
        block[0] = 128 - 8 + (next() & 1) as u8;
    },
    ..format("mxfp4", "MXFP4", 39, 17)
};

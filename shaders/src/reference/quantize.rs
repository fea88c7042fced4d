//! f32 rows to q8 rows, and the ways a kernel may emit a row.

use vkllm_runtime::{Call, Words};

use crate::ops::quantize::Push;

/// Words of a q8 block.
pub const Q8_WORDS: usize = 12;

/// Writes 32 values as one q8 block. A block below 1e-30 counts as zero: the reciprocal of its scale would
/// overflow.
pub fn q8_block(values: &[f32], y_q8: Words<'_>, at: usize) {
    let amax = values.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    let (d, inverse) = if amax >= 1e-30 { (amax * (1.0 / 127.0), 127.0 / amax) } else { (0.0, 0.0) };
    let q: Vec<i32> = values.iter().map(|value| (value * inverse).round_ties_even() as i32).collect();
    for (word, four) in q.chunks_exact(4).enumerate() {
        y_q8.set_u32(
            at + word,
            u32::from_le_bytes([four[0] as u8, four[1] as u8, four[2] as u8, four[3] as u8]),
        );
    }
    y_q8.set_f32(at + 8, d);
    y_q8.set_f32(at + 9, d * q[..16].iter().sum::<i32>() as f32);
    y_q8.set_f32(at + 10, d * q[16..].iter().sum::<i32>() as f32);
    y_q8.set_u32(at + 11, 0);
}

/// Writes row `row` of a kernel with the outputs `y` (bit 0 of `OUT`) and `y_q8` (bit 1).
pub fn emit_row(call: &Call<'_>, row: usize, values: &[f32]) {
    let out = call.spec("OUT").unwrap_or(1);
    if out & 1 != 0 {
        let y = call.arg("y");
        for (i, value) in values.iter().enumerate() {
            y.set_f32(row * values.len() + i, *value);
        }
    }
    if out & 2 != 0 {
        let y_q8 = call.arg("y_q8");
        let first = row * (values.len() / 32);
        for (block, values) in values.chunks_exact(32).enumerate() {
            q8_block(values, y_q8, (first + block) * Q8_WORDS);
        }
    }
}

/// Each block of 32 elements becomes 32 int8 with one scale.
pub fn quantize(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, y_q8) = (call.arg("x"), call.arg("y_q8"));
    for block in 0..push.rows as usize * (push.k as usize / 32) {
        let values: Vec<f32> = (0..32).map(|i| x.f32(block * 32 + i)).collect();
        q8_block(&values, y_q8, block * Q8_WORDS);
    }
}

//! f32 rows to rows of f16 with a power of two for each.

use half::f16;
use vkllm_runtime::Call;

use crate::ops::halve::Push;

/// Words behind the values of a row of f16.
pub const HALF_TAIL: usize = 4;

/// The power of two, as the bits of an f32, that brings the largest of the values to [2^14, 2^15), and its reciprocal.
pub fn powers(values: &[f32]) -> (f32, f32) {
    let largest = values.iter().map(|value| value.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let exponent = largest >> 23;
    let plain = (1..255).contains(&exponent);
    let raise = if plain { 268u32.saturating_sub(exponent).clamp(1, 253) } else { 127 };
    (f32::from_bits(raise << 23), f32::from_bits((254 - raise) << 23))
}

/// The words of one row.
pub fn half_row(values: &[f32]) -> Vec<u32> {
    let (factor, reciprocal) = powers(values);
    let half = |value: f32| u32::from(f16::from_f32(value * factor).to_bits());
    let pairs = values.chunks_exact(2).map(|pair| half(pair[0]) | half(pair[1]) << 16);
    pairs.chain([reciprocal.to_bits(), 0, 0, 0]).collect()
}

/// Each row becomes k / 2 words of f16, the reciprocal of its factor and three words of zeros.
pub fn halve(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, y) = (call.arg("x"), call.arg("y_half"));
    let k = push.k as usize;
    for row in 0..push.rows as usize {
        let values: Vec<f32> = (0..k).map(|i| x.f32(row * k + i)).collect();
        let words = half_row(&values);
        words.iter().enumerate().for_each(|(i, word)| y.set_u32(row * words.len() + i, *word));
    }
}

//! RMS norm of rows.

use vkllm_runtime::Call;

use super::quantize::emit_row;
use crate::ops::rms_norm::Push;

/// y = x / sqrt(mean(x²) + eps) · weight.
pub fn rms_norm(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, weight) = (call.arg("x"), call.arg("weight"));
    let k = push.k as usize;
    for row in 0..push.rows as usize {
        let value = |i: usize| f64::from(x.f32(row * k + i));
        let mean = (0..k).map(|i| value(i) * value(i)).sum::<f64>() / k as f64;
        let scale = 1.0 / (mean + f64::from(push.eps)).sqrt();
        let y: Vec<f32> = (0..k).map(|i| (value(i) * scale * f64::from(weight.f32(i))) as f32).collect();
        emit_row(call, row, &y);
    }
}

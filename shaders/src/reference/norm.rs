//! Norms of rows.

use vkllm_runtime::Call;

use super::quantize::emit_row;
use crate::ops::norm::Push;

/// y = x / sqrt(mean(x²) + eps) · weight + bias + residual, x without its mean where `CENTRE` says so; times
/// silu(residual) where `RESIDUAL` is 2.
pub fn norm(call: &Call<'_>) {
    let push = call.push::<Push>();
    let on = |name| call.spec(name) == Some(1);
    let (x, weight) = (call.arg("x"), call.arg("weight"));
    let k = push.k as usize;
    let weights = if on("GROUPED") { push.weights.max(1) as usize } else { 1 };
    for row in 0..push.rows as usize {
        let raw = |i: usize| f64::from(x.f32(row * push.x_stride as usize + i));
        let centre = if on("CENTRE") { (0..k).map(raw).sum::<f64>() / k as f64 } else { 0.0 };
        let mean = (0..k).map(|i| (raw(i) - centre).powi(2)).sum::<f64>() / k as f64;
        let scale = 1.0 / (mean + f64::from(push.eps)).sqrt();
        let value = |i: usize| {
            let mut y = (raw(i) - centre) * scale * f64::from(weight.f32(row % weights * k + i));
            if on("BIAS") {
                y += f64::from(call.arg("bias").f32(i));
            }
            if on("RESIDUAL") {
                y += f64::from(call.arg("residual").f32(row * k + i));
            }
            if call.spec("RESIDUAL") == Some(2) {
                let gate = f64::from(call.arg("residual").f32(row * k + i));
                y *= gate / (1.0 + (-gate).exp());
            }
            y as f32
        };
        let y: Vec<f32> = (0..k).map(value).collect();
        emit_row(call, row, &y);
    }
}

//! Activations, gated or not.

use vkllm_runtime::Call;

use super::quantize::emit_row;
use crate::ops::glu::Push;

/// y = act(gate) · up, or act(gate).
pub fn glu(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (gate, up) = (call.arg("gate"), call.arg("up"));
    let kind = call.spec("ACTIVATION").unwrap_or(0);
    let gated = call.spec("GATED") != Some(0);
    for row in 0..push.rows as usize {
        let y: Vec<f32> = (0..push.k as usize)
            .map(|i| {
                let g = f64::from(gate.f32(row * push.gate_stride as usize + i));
                let u = if gated { f64::from(up.f32(row * push.up_stride as usize + i)) } else { 1.0 };
                let inner = std::f64::consts::FRAC_2_PI.sqrt() * (g + 0.044715 * g * g * g);
                // 0.5·(1 + tanh x) is 1 / (1 + exp(-2x)), which keeps its digits in the lower tail.
                let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
                let y = match kind {
                    1 => g * logistic(2.0 * inner) * u,
                    2 => g.min(7.0) * logistic(1.702 * g.min(7.0)) * (u.clamp(-7.0, 7.0) + 1.0),
                    3 => g.max(0.0).powi(2) * u,
                    4 => logistic(g) * u,
                    5 => g * u,
                    _ => g * logistic(g) * u,
                };
                y as f32
            })
            .collect();
        emit_row(call, row, &y);
    }
}

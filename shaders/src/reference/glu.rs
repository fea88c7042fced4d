//! Gated activations.

use vkllm_runtime::Call;

use super::quantize::emit_row;
use crate::ops::glu::Push;

/// y = act(gate) · up.
pub fn glu(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (gate, up) = (call.arg("gate"), call.arg("up"));
    let gelu = call.spec("ACTIVATION") == Some(1);
    for row in 0..push.rows as usize {
        let y: Vec<f32> = (0..push.k as usize)
            .map(|i| {
                let g = f64::from(gate.f32(row * push.gate_stride as usize + i));
                let u = f64::from(up.f32(row * push.up_stride as usize + i));
                let inner = std::f64::consts::FRAC_2_PI.sqrt() * (g + 0.044715 * g * g * g);
                // 0.5·(1 + tanh x) is 1 / (1 + exp(-2x)), which keeps its digits in the lower tail.
                let act = g / (1.0 + (if gelu { -2.0 * inner } else { -g }).exp());
                (act * u) as f32
            })
            .collect();
        emit_row(call, row, &y);
    }
}

//! AltUp: streams that a router mixes, and corrects by what a layer computed of one of them.

use half::{bf16, f16};
use vkllm_runtime::Call;

use crate::ops::altup::Push;

/// `x[j] += Σ c[j][i] x[i]`, or `x[j] += (1 + c[j]) (computed - x[active])`, c = C · tanh(logits); y is the active stream.
pub fn altup(call: &Call<'_>) {
    let push = call.push::<Push>();
    let spec = |name| call.spec(name).unwrap_or(0) as usize;
    let (streams, correct, active) = (spec("STREAMS"), spec("CORRECT") == 1, push.active_stream as usize);
    let (x, y, k) = (call.arg("x"), call.arg("y"), push.k as usize);
    let coefficient = |i: usize| {
        let words = call.arg("coefficients");
        let half = |i: usize| (words.u32(i / 2) >> (16 * (i % 2))) as u16;
        match spec("TYPE") {
            0 => f64::from(words.f32(i)),
            1 => f16::from_bits(half(i)).to_f64(),
            _ => bf16::from_bits(half(i)).to_f64(),
        }
    };
    for row in 0..push.rows as usize {
        let logit = |t: usize| f64::from(call.arg("logits").f32(row * streams + t)).tanh();
        let mixed = |i: usize| (0..streams).map(|t| coefficient(i * streams + t) * logit(t)).sum::<f64>();
        let count = if correct { streams } else { streams * streams };
        let c: Vec<f64> = (0..count).map(mixed).collect();
        for e in 0..k {
            let at = |stream: usize| (stream * push.rows as usize + row) * k + e;
            let old: Vec<f64> = (0..streams).map(|i| f64::from(x.f32(at(i)))).collect();
            for j in 0..streams {
                let change = if correct {
                    (1.0 + c[j]) * (f64::from(call.arg("computed").f32(row * k + e)) - old[active])
                } else {
                    (0..streams).map(|i| c[j * streams + i] * old[i]).sum()
                };
                let value = (old[j] + change) as f32;
                x.set_f32(at(j), value);
                if j == active {
                    let factor = if correct { call.arg("factor").f32(e) } else { 1.0 };
                    y.set_f32(row * k + e, value * factor);
                }
            }
        }
    }
}

//! Multiplies and adds floats to measure how fast.

use vkllm_runtime::Call;

use crate::ops::probe_fma::Push;

/// `y[i]` is the sum of 32 chains `v = v · factor + term` of `rounds` steps that begin at `(i + chain) % 8`. In f64: kernels
/// agree bit for bit while every value is a whole number that their type holds.
pub fn probe_fma(call: &Call<'_>) {
    let push = call.push::<Push>();
    let y = call.arg("y");
    let (factor, term) = (f64::from(push.factor), f64::from(push.term));
    for lane in 0..call.grid[0] * call.spec("WG").unwrap_or(1) {
        let chain = |start: u32| (0..push.rounds).fold(f64::from(start % 8), |v, _| v * factor + term);
        y.set_f32(lane as usize, (0..32).map(|i| chain(lane + i)).sum::<f64>() as f32);
    }
}

//! Rows of which the largest values alone are left.

use vkllm_runtime::Call;

use crate::ops::sparsify::Push;

/// y = max(0, y - mean - deviations · σ), in place; σ is that of all values of the row.
pub fn sparsify(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (y, k) = (call.arg("y"), push.k as usize);
    for row in 0..push.rows as usize {
        let first = row * push.stride as usize;
        let values: Vec<f64> = (first..first + k).map(|at| f64::from(y.f32(at))).collect();
        let mean = values.iter().sum::<f64>() / k as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / k as f64;
        let least = mean + f64::from(push.deviations) * variance.sqrt();
        for (at, value) in (first..).zip(values) {
            y.set_f32(at, (value - least).max(0.0) as f32);
        }
    }
}

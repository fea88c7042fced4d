//! Values held within a cap.

use vkllm_runtime::Call;

use crate::ops::soft_cap::Push;

/// y = cap · tanh(y / cap), in place.
pub fn soft_cap(call: &Call<'_>) {
    let push = call.push::<Push>();
    let y = call.arg("y");
    for i in 0..push.count as usize {
        y.set_f32(i, capped(f64::from(y.f32(i)), push.cap) as f32);
    }
}

/// cap · tanh(value / cap).
pub fn capped(value: f64, cap: f32) -> f64 {
    let cap = f64::from(cap);
    cap * (value / cap).tanh()
}

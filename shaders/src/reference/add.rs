//! Sums.

use vkllm_runtime::Call;

use crate::ops::add::Push;

/// y = (y + x) · scale, in place; values of x repeat.
pub fn add(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, y) = (call.arg("x"), call.arg("y"));
    for i in 0..push.count as usize {
        let sum = f64::from(y.f32(i)) + f64::from(x.f32(i % push.x_count as usize));
        y.set_f32(i, (sum * f64::from(push.scale)) as f32);
    }
}

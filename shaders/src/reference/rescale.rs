//! Rows of the size of others.

use vkllm_runtime::Call;

use crate::ops::rescale::Push;

/// y = x · sqrt(mean(size²) / max(mean(x²), least)), added to y where `ADD` says so.
pub fn rescale(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, size, y, k) = (call.arg("x"), call.arg("size"), call.arg("y"), push.k as usize);
    for row in 0..push.rows as usize {
        let other = row % push.size_rows as usize;
        let mean = |value: &dyn Fn(usize) -> f32| {
            (0..k).map(|e| f64::from(value(e)).powi(2)).sum::<f64>() / k as f64
        };
        let own = mean(&|e| x.f32(row * k + e)).max(f64::from(push.least));
        let scale = (mean(&|e| size.f32(other * k + e)) / own).sqrt();
        for at in row * k..(row + 1) * k {
            let value = f64::from(x.f32(at)) * scale;
            let old = if call.spec("ADD") == Some(1) { f64::from(y.f32(at)) } else { 0.0 };
            y.set_f32(at, (old + value) as f32);
        }
    }
}

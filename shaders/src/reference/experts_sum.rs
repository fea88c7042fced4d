//! What a row's experts give.

use vkllm_runtime::Call;

use crate::ops::experts_sum::Push;

/// y = residual + scale · (Σ weight · part + share · common_part).
pub fn experts_sum(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (k, used) = (push.k as usize, push.used as usize);
    let value = |name: &str, at: usize| f64::from(call.arg(name).f32(at));
    let kind = call.spec("SHARED").unwrap_or(0);
    for row in 0..call.grid[1] as usize {
        let share = if kind == 2 { 1.0 / (1.0 + (-value("share", row)).exp()) } else { 1.0 };
        for i in 0..k {
            let slots = row * used..(row + 1) * used;
            let mut sum: f64 = slots.map(|a| value("weights", a) * value("part", a * k + i)).sum();
            if kind != 0 {
                sum += share * value("common_part", row * k + i);
            }
            let y = value("residual", row * k + i) + f64::from(push.scale) * sum;
            call.arg("y").set_f32(row * k + i, y as f32);
        }
    }
}

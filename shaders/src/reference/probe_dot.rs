//! Multiplies and adds bytes to measure how fast.

use vkllm_runtime::Call;

use crate::ops::probe_dot::Push;

/// `y[i]` is the sum of 16 chains `v = v + dot(v, factor)` of `rounds` steps that begin at `i + chain`; the dot product is
/// that of four signed bytes, words wrap around.
pub fn probe_dot(call: &Call<'_>) {
    let push = call.push::<Push>();
    let y = call.arg("y");
    let dot = |a: u32, b: u32| -> i32 {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        (0..4).map(|i| i32::from(a[i] as i8) * i32::from(b[i] as i8)).sum()
    };
    for lane in 0..call.grid[0] * call.spec("WG").unwrap_or(1) {
        let chain =
            |start| (0..push.rounds).fold(start, |v: u32, _| v.wrapping_add(dot(v, push.factor) as u32));
        let sum = (0..16).map(|i| chain(lane + i)).fold(0u32, u32::wrapping_add);
        y.set_u32(lane as usize, sum);
    }
}

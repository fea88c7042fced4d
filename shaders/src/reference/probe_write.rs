//! Writes memory to measure it.

use vkllm_runtime::Call;

use crate::ops::probe_write::Push;

/// `y[i] = i ^ seed`.
pub fn probe_write(call: &Call<'_>) {
    let push = call.push::<Push>();
    let y = call.arg("y");
    for word in 0..4 * push.quads {
        y.set_u32(word as usize, word ^ push.seed);
    }
}

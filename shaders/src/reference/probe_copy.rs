//! Copies memory to measure it.

use vkllm_runtime::Call;

use crate::ops::probe_copy::Push;

/// `y = x`.
pub fn probe_copy(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, y) = (call.arg("x"), call.arg("y"));
    for word in 0..4 * push.quads as usize {
        y.set_u32(word, x.u32(word));
    }
}

//! Rows side by side.

use vkllm_runtime::Call;

use crate::ops::join::Push;

/// y = (a, b), row by row.
pub fn join(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (a, b, y) = (call.arg("a"), call.arg("b"), call.arg("y"));
    let (width, first) = ((push.a_width + push.b_width) as usize, push.a_width as usize);
    for row in 0..push.rows as usize {
        for e in 0..width {
            let word = if e < first {
                a.u32(row * push.a_stride as usize + e)
            } else {
                b.u32(row * push.b_stride as usize + e - first)
            };
            y.set_u32(row * width + e, word);
        }
    }
}

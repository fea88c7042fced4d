//! Rows of the vocabulary.

use vkllm_runtime::Call;

use crate::formats;
use crate::ops::embed::Push;

/// `y[r] = scale · W[token of row r]`, for the rows whose token lies in the view's window of the vocabulary.
pub fn embed(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (weights, rows, y) = (call.arg("weights"), call.arg("rows"), call.arg("y"));
    let Some(format) = formats::by_name(call.kernel.axis("FORMAT")) else { return };
    let (k, bytes) = (push.k as usize, push.row_bytes as usize);
    let mut decoded = vec![0.0; k];
    for row in 0..push.rows as usize {
        let index = rows.u32(row * 8).wrapping_sub(push.first);
        if index < push.count {
            format.decode_row(&weights.bytes(index as usize * bytes, bytes), &mut decoded);
            for (i, weight) in decoded.iter().enumerate() {
                y.set_f32(row * k + i, push.scale * weight);
            }
        }
    }
}

//! Logits of few tokens among all.

use vkllm_runtime::Call;

use crate::ops::spread::Push;

/// `y[row][t]` = `x[row][places[t]]`, negative infinity where that place is beyond the row.
pub fn spread(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, places, y) = (call.arg("x"), call.arg("places"), call.arg("y"));
    for row in 0..call.grid[1] as usize {
        for token in 0..push.n as usize {
            let place = places.u32(token);
            let bits = if place < push.count {
                x.u32(row * push.count as usize + place as usize)
            } else {
                0xff80_0000
            };
            y.set_u32(row * push.n as usize + token, bits);
        }
    }
}

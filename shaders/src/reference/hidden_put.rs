//! Hidden rows kept for layers that predict further tokens.

use vkllm_runtime::Call;

use crate::ops::hidden_put::Push;

/// hidden[session of the row][position modulo the ring] = `x[row]`.
pub fn hidden_put(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (rows, x, hidden) = (call.arg("rows"), call.arg("x"), call.arg("hidden"));
    let k = push.k as usize;
    for row in 0..push.row_count as usize {
        let (position, session) = (rows.u32(row * 8 + 1), rows.u32(row * 8 + 4));
        let place = (session * push.ring + position % push.ring) as usize;
        for e in 0..k {
            hidden.set_u32(place * k + e, x.u32(row * k + e));
        }
    }
}

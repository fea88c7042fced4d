//! Hidden rows before the rows of a step.

use vkllm_runtime::Call;

use crate::ops::hidden_get::Push;

/// Bit of a row's flags: the hidden row before it is not in the ring.
pub const ROW_BARE: u32 = 4;

/// `y[row]` = hidden[session of the row][(position - 1) modulo the ring]; zeros at position 0 and where it is not known.
pub fn hidden_get(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (rows, hidden, y) = (call.arg("rows"), call.arg("hidden"), call.arg("y"));
    let k = push.k as usize;
    for row in 0..push.row_count as usize {
        let (position, session, flags) =
            (rows.u32(row * 8 + 1), rows.u32(row * 8 + 4), rows.u32(row * 8 + 7));
        let known = position > 0 && flags & ROW_BARE == 0;
        let place = (session * push.ring + position.wrapping_sub(1) % push.ring) as usize;
        for e in 0..k {
            y.set_u32(row * k + e, if known { hidden.u32(place * k + e) } else { 0 });
        }
    }
}

//! The tokens a session has seen.

use vkllm_runtime::Call;

use super::sampler::sampler;
use crate::ops::sample_history::Push;

/// history[ring of the row's sampler][position modulo the ring] = token, for samplers with penalties.
pub fn sample_history(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (rows, history) = (call.arg("rows"), call.arg("history"));
    for row in 0..push.row_count as usize {
        let sampler = sampler(call.arg("samplers"), rows.u32(row * 8 + 4));
        if sampler.penalty_window != 0 {
            let slot = sampler.history + rows.u32(row * 8 + 1) % push.ring;
            history.set_u32(slot as usize, rows.u32(row * 8));
        }
    }
}

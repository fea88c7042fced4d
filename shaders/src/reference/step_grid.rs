//! The grid of a step's attention.

use vkllm_runtime::Call;

use super::KV_BLOCK;
use crate::ops::step_grid::Push;

/// args = (tiles, KV heads, chunks of the longest row, at most as many as a row sees).
pub fn step_grid(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (rows, args) = (call.arg("rows"), call.arg("args"));
    let last = (0..push.row_count as usize).map(|row| rows.u32(row * 8 + 1)).max().unwrap_or(0);
    args.set_u32(0, push.tiles);
    args.set_u32(1, push.n_kv);
    args.set_u32(2, (last / KV_BLOCK as u32 + 1).min(push.chunks_max));
}

//! Attention's parts to its result.

use vkllm_runtime::Call;

use super::quantize::emit_row;
use super::{KV_BLOCK, window_begin, window_chunk};
use crate::ops::attention_combine::Push;

/// y = Σ exp(m - max) · acc / Σ exp(m - max) · l over the row's own chunks; a sink adds to the denominator alone.
pub fn attention_combine(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (part, rows) = (call.arg("part"), call.arg("rows"));
    let size = call.spec("HEAD_V").unwrap_or(0) as usize;
    let (n_head, chunks) = (push.n_head as usize, push.chunks_max as usize);
    for row in 0..push.row_count as usize {
        let position = rows.u32(row * 8 + 1) as usize;
        let begin = window_begin(rows.u32(row * 8 + 3) as usize, position, push.window);
        let base = window_chunk(begin, push.window);
        let own = begin / KV_BLOCK - base..=(position / KV_BLOCK - base).min(chunks - 1);
        let mut y = Vec::with_capacity(n_head * size);
        for head in 0..n_head {
            let word = |chunk: usize, i: usize| {
                f64::from(part.f32(((row * n_head + head) * chunks + chunk) * (size + 2) + i))
            };
            let sink = (call.spec("SINKS") == Some(1)).then(|| f64::from(call.arg("sinks").f32(head)));
            let top = own.clone().map(|chunk| word(chunk, 0)).fold(sink.unwrap_or(-3.0e38), f64::max);
            let weights: Vec<(usize, f64)> = own.clone().map(|c| (c, (word(c, 0) - top).exp())).collect();
            let sum = |i: usize| weights.iter().map(|&(chunk, weight)| weight * word(chunk, i)).sum::<f64>();
            let total = sum(1) + sink.map_or(0.0, |sink| (sink - top).exp());
            y.extend((0..size).map(|i| if total > 0.0 { (sum(2 + i) / total) as f32 } else { 0.0 }));
        }
        emit_row(call, row, &y);
    }
}

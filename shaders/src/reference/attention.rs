//! Attention of each row and head over each chunk of positions.

use vkllm_runtime::Call;

use super::KV_BLOCK;
use super::kv::KV_FORMATS;
use super::soft_cap::capped;
use super::{window_begin, window_chunk};
use crate::ops::attention::Push;

/// Per row, head and visible chunk: maximum score, sum of exponentials, weighted sum of values. The parts of
/// other chunks stay as they are.
pub fn attention(call: &Call<'_>) {
    let push = call.push::<Push>();
    let spec = |name| call.spec(name).unwrap_or(0) as usize;
    let (head, head_v) = (spec("HEAD"), spec("HEAD_V"));
    let (k_type, v_type) = (&KV_FORMATS[spec("K_TYPE")], &KV_FORMATS[spec("V_TYPE")]);
    // Values may be the ends of keys.
    let (v_cell, skipped) = if spec("V_IN_K") == 1 { (head, head - head_v) } else { (head_v, 0) };
    let (q, rows, part) = (call.arg("q"), call.arg("rows"), call.arg("part"));
    let (n_head, n_kv, chunks) = (push.n_head as usize, push.n_kv as usize, push.chunks_max as usize);
    for row in 0..push.row_count as usize {
        let record = |word: usize| rows.u32(row * 8 + word) as usize;
        let (position, table) = (record(1), record(2));
        let begin = window_begin(record(3), position, push.window);
        let base = window_chunk(begin, push.window);
        for (chunk, h) in
            (begin / KV_BLOCK..=position / KV_BLOCK).flat_map(|c| (0..n_head).map(move |h| (c, h)))
        {
            let visible = begin.max(chunk * KV_BLOCK)..=position.min(chunk * KV_BLOCK + KV_BLOCK - 1);
            let block = call.arg("block_table").u32(table + chunk) as usize;
            let tile = (block * n_kv + h / (n_head / n_kv)) * KV_BLOCK;
            let (k_tile, v_tile) = (tile * k_type.row_words(head), tile * v_type.row_words(v_cell));
            let slots: Vec<usize> = visible.map(|p| p % KV_BLOCK).collect();
            let scores: Vec<f64> = slots
                .iter()
                .map(|&slot| {
                    let query = |i: usize| f64::from(q.f32(row * push.q_stride as usize + h * head + i));
                    let key = |i: usize| f64::from(k_type.load(call.arg("k_cache"), k_tile, slot, head, i));
                    let score = (0..head).map(|i| query(i) * key(i)).sum::<f64>() * f64::from(push.scale);
                    if spec("CAP") == 1 { capped(score, push.cap) } else { score }
                })
                .collect();
            let top = scores.iter().copied().fold(-3.0e38, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
            let at = ((row * n_head + h) * chunks + chunk - base) * (head_v + 2);
            part.set_f32(at, top as f32);
            part.set_f32(at + 1, weights.iter().sum::<f64>() as f32);
            for i in 0..head_v {
                let value = |slot: usize| {
                    f64::from(v_type.load(call.arg("v_cache"), v_tile, slot, v_cell, skipped + i))
                };
                let sum: f64 = slots.iter().zip(&weights).map(|(&slot, weight)| weight * value(slot)).sum();
                part.set_f32(at + 2 + i, sum as f32);
            }
        }
    }
}

//! Heads of a row on their way from projection to attention.

use vkllm_runtime::{Call, Words};

use super::KV_BLOCK;
use super::kv::KV_FORMATS;
use crate::ops::heads::Push;

/// Norm, RoPE and scale of q in place; norm and RoPE of k, and v, into the KV pools.
pub fn heads(call: &Call<'_>) {
    let push = call.push::<Push>();
    let spec = |name| call.spec(name).unwrap_or(0) as usize;
    let (head, head_v, n_kv) = (spec("HEAD"), spec("HEAD_V"), push.n_kv as usize);
    let (q, rows) = (call.arg("q"), call.arg("rows"));
    for row in 0..push.row_count as usize {
        let position = rows.u32(row * 8 + 1) as usize;
        let block =
            call.arg("block_table").u32(rows.u32(row * 8 + 2) as usize + position / KV_BLOCK) as usize;
        let (k_type, v_type) = (&KV_FORMATS[spec("K_TYPE")], &KV_FORMATS[spec("V_TYPE")]);
        let tile = |kv, row_words| (block * n_kv + kv) * KV_BLOCK * row_words;
        let slot = position % KV_BLOCK;
        for h in 0..push.n_head as usize {
            let at = row * push.q_stride as usize + h * head;
            let scale = if spec("QSCALE") == 1 { f64::from(call.arg("q_scale").f32(position)) } else { 1.0 };
            let turned = turned(call, load(q, at, head), "q_norm", push.eps, position);
            for (i, value) in turned.into_iter().enumerate() {
                q.set_f32(at + i, (value * scale) as f32);
            }
        }
        for h in (0..n_kv).filter(|_| push.stored > 0) {
            let k = load(call.arg("k"), row * push.k_stride as usize + h * head, head);
            let k = turned(call, k, "k_norm", push.eps, position);
            let tile_at = tile(h, k_type.row_words(head));
            k_type.store(call.arg("k_cache"), tile_at, slot, &narrow(&k));
            if push.stored == 1 {
                continue;
            }
            let mut v = load(call.arg("v"), row * push.v_stride as usize + h * head_v, head_v);
            if spec("V_NORM") == 1 {
                let mean = v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64;
                v.iter_mut().for_each(|x| *x /= (mean + f64::from(push.eps)).sqrt());
            }
            let tile_at = tile(h, v_type.row_words(head_v));
            v_type.store(call.arg("v_cache"), tile_at, slot, &narrow(&v));
        }
    }
}

fn load(words: Words<'_>, at: usize, len: usize) -> Vec<f64> {
    (at..at + len).map(|i| f64::from(words.f32(i))).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// Norm and rotation of one head.
fn turned(call: &Call<'_>, mut x: Vec<f64>, norm: &str, eps: f32, position: usize) -> Vec<f64> {
    let spec = |name| call.spec(name).unwrap_or(0) as usize;
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let normalise = |x: &mut [f64]| {
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        for (i, x) in x.iter_mut().enumerate() {
            *x *= scale * f64::from(call.arg(norm).f32(i));
        }
    };
    if spec("NORM") == 1 {
        normalise(&mut x);
    }
    let (half, pairing) = (spec("ROT") / 2, spec("PAIRING"));
    for i in 0..if pairing == 0 { 0 } else { half } {
        let (a, b) = if pairing == 1 { (2 * i, 2 * i + 1) } else { (i, i + half) };
        let turn = load(call.arg("rope"), (position * half + i) * 2, 2);
        (x[a], x[b]) = (x[a] * turn[0] - x[b] * turn[1], x[a] * turn[1] + x[b] * turn[0]);
    }
    if spec("NORM") == 2 {
        normalise(&mut x);
    }
    x
}

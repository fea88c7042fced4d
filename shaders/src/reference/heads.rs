//! Heads of a row on their way from projection to attention.

use half::f16;
use vkllm_runtime::{Call, Words};

use super::KV_BLOCK;
use crate::ops::heads::Push;

/// Norm, RoPE and scale of q in place; norm and RoPE of k, and plain v, into the KV pools.
pub fn heads(call: &Call<'_>) {
    let push = call.push::<Push>();
    let spec = |name| call.spec(name).unwrap_or(0) as usize;
    let (head, head_v, n_kv) = (spec("HEAD"), spec("HEAD_V"), push.n_kv as usize);
    let (q, rows) = (call.arg("q"), call.arg("rows"));
    for row in 0..push.row_count as usize {
        let position = rows.u32(row * 8 + 1) as usize;
        let block =
            call.arg("block_table").u32(rows.u32(row * 8 + 2) as usize + position / KV_BLOCK) as usize;
        let cell = |kv, size| ((block * n_kv + kv) * KV_BLOCK + position % KV_BLOCK) * size;
        for h in 0..push.n_head as usize {
            let at = row * push.q_stride as usize + h * head;
            let scale = if spec("QSCALE") == 1 { f64::from(call.arg("q_scale").f32(position)) } else { 1.0 };
            let turned = turned(call, load(q, at, head), "q_norm", push.eps, position);
            for (i, value) in turned.into_iter().enumerate() {
                q.set_f32(at + i, (value * scale) as f32);
            }
        }
        for h in 0..n_kv {
            let k = load(call.arg("k"), row * push.k_stride as usize + h * head, head);
            let k = turned(call, k, "k_norm", push.eps, position);
            store(call.arg("k_cache"), cell(h, head), &k, spec("K_TYPE"));
            let v = load(call.arg("v"), row * push.v_stride as usize + h * head_v, head_v);
            store(call.arg("v_cache"), cell(h, head_v), &v, spec("V_TYPE"));
        }
    }
}

fn load(words: Words<'_>, at: usize, len: usize) -> Vec<f64> {
    (at..at + len).map(|i| f64::from(words.f32(i))).collect()
}

/// Stores into a pool of type 0 (f32) or 1 (f16, saturating).
fn store(cache: Words<'_>, at: usize, values: &[f64], kind: usize) {
    for (i, &value) in values.iter().enumerate() {
        match kind {
            0 => cache.set_f32(at + i, value as f32),
            _ => cache.set_u16(at + i, f16::from_f32((value as f32).clamp(-65504.0, 65504.0)).to_bits()),
        }
    }
}

/// Norm and rotation of one head.
fn turned(call: &Call<'_>, mut x: Vec<f64>, norm: &str, eps: f32, position: usize) -> Vec<f64> {
    let spec = |name| call.spec(name).unwrap_or(0) as usize;
    if spec("NORM") == 1 {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        for (i, x) in x.iter_mut().enumerate() {
            *x *= scale * f64::from(call.arg(norm).f32(i));
        }
    }
    let (half, pairing) = (spec("ROT") / 2, spec("PAIRING"));
    for i in 0..if pairing == 0 { 0 } else { half } {
        let (a, b) = if pairing == 1 { (2 * i, 2 * i + 1) } else { (i, i + half) };
        let turn = load(call.arg("rope"), (position * half + i) * 2, 2);
        (x[a], x[b]) = (x[a] * turn[0] - x[b] * turn[1], x[a] * turn[1] + x[b] * turn[0]);
    }
    x
}

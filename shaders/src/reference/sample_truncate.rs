//! What truncation leaves of a row of logits.

use vkllm_runtime::Call;

use super::sample::{ranked, truncate};
use super::sampler::sampler;
use crate::ops::sample_truncate::Push;

/// Logits of tokens that the row's sampler removes become negative infinity; those of greedy rows stay.
pub fn sample_truncate(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, rows) = (call.arg("logits"), call.arg("rows"));
    for row in 0..call.grid[1] as usize {
        let sampler = sampler(call.arg("samplers"), rows.u32(row * 8 + 4));
        let at = row * push.stride as usize;
        let words: Vec<u32> = (at..at + push.n as usize).map(|i| logits.u32(i)).collect();
        let mut keys = ranked(&words);
        if sampler.inverse_temperature == 0.0 || keys.is_empty() {
            continue;
        }
        truncate(&mut keys, &sampler);
        (at..at + push.n as usize).for_each(|i| logits.set_f32(i, f32::NEG_INFINITY));
        keys.iter().for_each(|&(_, id)| logits.set_u32(at + id as usize, words[id as usize]));
    }
}

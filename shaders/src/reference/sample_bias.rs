//! Biases of single tokens.

use vkllm_runtime::Call;

use super::sampler::{key_of, sampler};
use crate::ops::sample_bias::Push;

/// Each token that the row's conversation names: its bias is added to its logit, if that can be chosen at all.
pub fn sample_bias(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, rows, biases) = (call.arg("logits"), call.arg("rows"), call.arg("biases"));
    for row in 0..call.grid[1] as usize {
        let sampler = sampler(call.arg("samplers"), rows.u32(row * 8 + 4));
        for i in 0..sampler.bias_count as usize {
            let entry = sampler.biases as usize + 2 * i;
            let (token, bias) = (biases.u32(entry), biases.f32(entry + 1));
            let at = row * push.stride as usize + token as usize;
            if token < push.n && key_of(logits.u32(at)).is_some() {
                logits.set_f32(at, logits.f32(at) + bias);
            }
        }
    }
}

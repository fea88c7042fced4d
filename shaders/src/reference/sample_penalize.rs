//! Repetition, frequency and presence penalties.

use std::collections::BTreeMap;

use vkllm_runtime::Call;

use super::sampler::{key_of, sampler};
use crate::ops::sample_penalize::Push;

/// For each token that occurs c times among the last ones: its logit is divided by the repetition penalty (multiplied
/// when it is not positive), then loses c · frequency penalty and the presence penalty.
pub fn sample_penalize(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, rows, history) = (call.arg("logits"), call.arg("rows"), call.arg("history"));
    for row in 0..call.grid[1] as usize {
        let sampler = sampler(call.arg("samplers"), rows.u32(row * 8 + 4));
        let position = rows.u32(row * 8 + 1);
        let mut counts = BTreeMap::<u32, u32>::new();
        for back in 0..sampler.penalty_window.min(position + 1).min(push.ring) {
            let token = history.u32((sampler.history + (position - back) % push.ring) as usize);
            *counts.entry(token).or_default() += 1;
        }
        for (&token, &count) in counts.range(..push.n) {
            let at = row * push.stride as usize + token as usize;
            if key_of(logits.u32(at)).is_some() {
                let logit = logits.f32(at);
                let scale = if logit > 0.0 { sampler.repeat_inverse } else { sampler.repeat_penalty };
                let penalty = count as f32 * sampler.frequency_penalty;
                logits.set_f32(at, logit * scale - penalty - sampler.presence_penalty);
            }
        }
    }
}

//! The largest logit of each slice of a row.

use vkllm_runtime::Call;

use super::sampler::{PARTIAL_WORDS, SLICE, distance_of, key_of, mass_of};
use crate::ops::argmax::Push;

/// part = for each slice: largest key, lowest id that has it, Σ exp(logit - largest) in units of 2^-21; then zeros.
pub fn argmax(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, part) = (call.arg("logits"), call.arg("part"));
    let [slices, rows, _] = call.grid.map(|count| count as usize);
    for row in 0..rows {
        let at = row * push.part_stride as usize;
        for slice in 0..slices {
            let ids = slice * SLICE..((slice + 1) * SLICE).min(push.n as usize);
            let keys: Vec<(u32, u32)> = ids
                .filter_map(|id| Some((key_of(logits.u32(row * push.stride as usize + id))?, id as u32)))
                .collect();
            let top =
                keys.iter().fold((0, u32::MAX), |best, &next| if next.0 > best.0 { next } else { best });
            let mass = keys.iter().map(|&(key, _)| (mass_of(distance_of(key, top.0)) + 512) >> 10).sum();
            let at = at + slice * PARTIAL_WORDS;
            [top.0, top.1, mass].into_iter().enumerate().for_each(|(i, word)| part.set_u32(at + i, word));
        }
        for word in 0..push.clear as usize {
            part.set_u32(at + slices * PARTIAL_WORDS + word, 0);
        }
    }
}

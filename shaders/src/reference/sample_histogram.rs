//! Tokens and mass of a sampled row by distance from its largest logit.

use vkllm_runtime::Call;

use super::sampler::{
    BIN_WORDS, BINS, Layout, NEGLIGIBLE, PARTIAL_WORDS, bin_of, distance_of, key_of, mass_of, sampler,
};
use crate::ops::sample_histogram::Push;

/// bins = tokens and mass per bin, as far as top-k and top-p can reach; the header says how far that is.
pub fn sample_histogram(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, part, rows) = (call.arg("logits"), call.arg("part"), call.arg("rows"));
    let layout = Layout::new(push.n as usize);
    for row in 0..call.grid[1] as usize {
        let sampler = sampler(call.arg("samplers"), rows.u32(row * 8 + 4));
        let at = row * push.part_stride as usize;
        let top_k = if sampler.top_k < push.n { sampler.top_k as usize } else { 0 };
        let tops =
            (0..layout.slices).map(|slice| part.u32(at + slice * PARTIAL_WORDS)).filter(|&key| key != 0);
        let Some(top) = tops.clone().max() else { continue };
        if sampler.inverse_temperature == 0.0 || (top_k == 0 && sampler.top_p == 0) {
            continue;
        }
        // At least k slices have their largest logit in the bins up to that of the k-th of them.
        let mut reached: Vec<u32> = tops.map(|key| bin_of(distance_of(key, top))).collect();
        reached.sort_unstable();
        let limit = match top_k {
            0 => bin_of(NEGLIGIBLE),
            k => reached.get(k - 1).copied().unwrap_or(BINS as u32 - 1),
        };
        let mut bins = vec![(0_u32, 0_u64); BINS];
        for id in 0..push.n as usize {
            let Some(key) = key_of(logits.u32(row * push.stride as usize + id)) else { continue };
            let distance = distance_of(key, top);
            let bin = &mut bins[bin_of(distance) as usize];
            *bin = (bin.0 + 1, bin.1 + u64::from(mass_of(distance)));
        }
        part.set_u32(at + layout.head, limit);
        for (bin, &(count, mass)) in bins.iter().enumerate().take(limit as usize + 1) {
            let at = at + layout.bins + bin * BIN_WORDS;
            part.set_u32(at, count);
            part.set_u32(at + 1, mass as u32);
            part.set_u32(at + 2, (mass >> 32) as u32);
        }
    }
}

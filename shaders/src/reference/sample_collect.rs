//! What a sampled row keeps for certain, and what remains to be decided.

use vkllm_runtime::Call;

use super::sampler::{
    BIN_WORDS, GROUP, Layout, NO_BIN, NO_TOKEN, PARTIAL_WORDS, PURPOSE_DRAW, SLICE, bin_of, distance_of,
    key_of, philox_token, sampler, score_of, share_of,
};
use crate::ops::sample_collect::Push;

/// Header = the bins in which top-k and top-p end; draws = the best token of each group among those certainly kept;
/// list = the tokens of the bins in which an end lies (its order means nothing).
pub fn sample_collect(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, part, rows) = (call.arg("logits"), call.arg("part"), call.arg("rows"));
    let layout = Layout::new(push.n as usize);
    for row in 0..call.grid[1] as usize {
        let sampler = sampler(call.arg("samplers"), rows.u32(row * 8 + 4));
        if sampler.inverse_temperature == 0.0 {
            continue;
        }
        let position = rows.u32(row * 8 + 1) + 1;
        let at = row * push.part_stride as usize;
        let top = (0..layout.slices).map(|slice| part.u32(at + slice * PARTIAL_WORDS)).max().unwrap_or(0);
        let head = at + layout.head;
        let top_k = if sampler.top_k < push.n { sampler.top_k } else { 0 };

        let (mut k_bin, mut first, mut last) = (NO_BIN, NO_BIN, NO_BIN);
        if top != 0 && (top_k != 0 || sampler.top_p != 0) {
            let bins: Vec<(u32, u64)> = (0..=part.u32(head))
                .map(|bin| at + layout.bins + bin as usize * BIN_WORDS)
                .map(|at| (part.u32(at), u64::from(part.u32(at + 2)) << 32 | u64::from(part.u32(at + 1))))
                .collect();
            let count_to = |bin: usize| bins[..bin].iter().map(|bin| bin.0).sum::<u32>();
            let mass_to = |bin: usize| bins[..bin].iter().map(|bin| bin.1).sum::<u64>();
            let k = (0..bins.len()).find(|&bin| top_k != 0 && count_to(bin + 1) >= top_k);
            let (least, most) =
                k.map_or((mass_to(bins.len()), mass_to(bins.len())), |k| (mass_to(k), mass_to(k + 1)));
            let crossing = |want: u64| (0..bins.len()).find(|&bin| mass_to(bin + 1) >= want);
            let [p, q] = match sampler.top_p {
                0 => [k; 2],
                share => [least, most].map(|mass| crossing(share_of(mass, share))),
            };
            [k_bin, first, last] = [k, p, q].map(|bin| bin.map_or(NO_BIN, |bin| bin as u32));
            let before = if sampler.top_p == 0 { 0 } else { p.map_or(0, mass_to) };
            let need = sampler.top_k.wrapping_sub(k.map_or(0, count_to));
            let words =
                [need, least as u32, (least >> 32) as u32, first, last, before as u32, (before >> 32) as u32];
            words.into_iter().enumerate().for_each(|(i, word)| part.set_u32(head + 3 + i, word));
        }
        part.set_u32(head + 2, k_bin);
        part.set_u32(head + 6, first);

        let mut best = vec![(f32::NEG_INFINITY, NO_TOKEN); layout.groups];
        let mut listed = 0;
        for id in 0..push.n {
            let Some(key) = key_of(logits.u32(row * push.stride as usize + id as usize)) else { continue };
            let distance = distance_of(key, top);
            let bin = bin_of(distance);
            if bin < first && distance <= sampler.min_p_distance {
                let word = philox_token(&sampler, position, id, PURPOSE_DRAW);
                let score = score_of(distance, sampler.inverse_temperature, word);
                let best = &mut best[id as usize / (SLICE * GROUP)];
                if score > best.0 {
                    *best = (score, id);
                }
            } else if bin >= first && (bin <= last || bin == k_bin) {
                if listed < push.list {
                    let at = at + layout.list + 2 * listed as usize;
                    part.set_u32(at, key);
                    part.set_u32(at + 1, id);
                }
                listed += 1;
            }
        }
        part.set_u32(head + 1, listed);
        for (group, (score, id)) in best.into_iter().enumerate() {
            let key = if id == NO_TOKEN { None } else { key_of(score.to_bits()) };
            part.set_u32(at + layout.draws + 2 * group, key.unwrap_or(0));
            part.set_u32(at + layout.draws + 2 * group + 1, id);
        }
    }
}

//! How a token is drawn from what truncation left, by itself or against a draft.

use vkllm_runtime::Call;

use super::sample::{draw, leave, ranked};
use super::sampler::{
    NO_TOKEN, PARTIAL_WORDS, PURPOSE_ACCEPT, PURPOSE_REST, ROW_IDLE, SLICE, distance_of, float_of, gumbel_of,
    key_of, ln_of, mass_of, philox, philox_token, sampler,
};
use crate::ops::sample_draw::Push;
use crate::records::Sampler;

/// Integer weights of a row at the sampler's temperature, by token; `top` is the key of its largest logit.
fn weights(logits: &[u32], top: u32, sampler: &Sampler) -> Vec<u32> {
    let weight = |&bits: &u32| {
        key_of(bits).map_or(0, |key| mass_of(distance_of(key, top).min(1.0e30) * sampler.inverse_temperature))
    };
    logits.iter().map(weight).collect()
}

/// The draft, with the quotient of its probabilities p / q at most; else a token with a probability in proportion to
/// where p exceeds q. Both rows are as long as the target's.
fn judge(own: &[u32], offered: &[u32], sampler: &Sampler, position: u32, draft: u32) -> u32 {
    let masses = [own, offered].map(|row| float_of(row.iter().map(|&weight| u64::from(weight)).sum()));
    let pair = |id: usize| (own[id] as f32 * masses[1], offered[id] as f32 * masses[0]);
    let word = philox([0, position, PURPOSE_ACCEPT, 0], [sampler.seed_low, sampler.seed_high])[0];
    let (target, drafter) = pair(draft as usize);
    if (word as f32 + 0.5) * 2.328_306_4e-10 * drafter < target {
        return draft;
    }
    let score = |id: usize| {
        let (p, q) = pair(id);
        let noise = || gumbel_of(philox_token(sampler, position, id as u32, PURPOSE_REST));
        (p - q > 0.0).then(|| noise() + ln_of(p - q))
    };
    let scores = (0..own.len()).filter_map(|id| Some((score(id)?, id)));
    scores.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map_or(draft, |(_, id)| id as u32)
}

/// `results[out_index]` = token, ln p, position, segment; the row moves on to the token. ln p is of the row before
/// truncation, which the partial results of `argmax` hold.
pub fn sample_draw(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, part, rows) = (call.arg("logits"), call.arg("part"), call.arg("rows"));
    let offers = call.arg("offers");
    let n = push.n as usize;
    for row in 0..call.grid[1] as usize {
        let [position, index, segment] = [1, 4, 5].map(|word| rows.u32(row * 8 + word));
        let sampler = sampler(call.arg("samplers"), index);
        let words: Vec<u32> = (0..n).map(|i| logits.u32(row * push.stride as usize + i)).collect();
        let slices = (0..n.div_ceil(SLICE)).map(|slice| {
            let at = row * push.part_stride as usize + slice * PARTIAL_WORDS;
            (part.u32(at), part.u32(at + 1), part.u32(at + 2))
        });
        let slices: Vec<_> = slices.filter(|slice| slice.0 != 0).collect();
        let best = slices.iter().copied().reduce(|best, next| if next.0 > best.0 { next } else { best });
        let next = row + 1;
        let follows = call.spec("OFFERS").unwrap_or(0) != 0
            && next < push.row_count as usize
            && rows.u32(next * 8 + 5) == segment
            && rows.u32(next * 8 + 7) & ROW_IDLE == 0
            && rows.u32(next * 8) < push.n;
        let token = best.and_then(|(top, first, _)| {
            if sampler.inverse_temperature == 0.0 {
                return Some(first);
            }
            if !follows {
                return Some(draw(&ranked(&words), top, &sampler, position + 1, push.purpose)?.1);
            }
            let offer = |i: usize| offers.u32(row * push.offer_stride as usize + i);
            let known =
                |i: usize| if i < push.offer_n as usize { offer(i) } else { f32::NEG_INFINITY.to_bits() };
            let offered: Vec<u32> = (0..n).map(known).collect();
            let offer_top = (0..push.offer_n as usize).filter_map(|i| key_of(offer(i))).max();
            let Some(offer_top) = offer_top else {
                return Some(draw(&ranked(&words), top, &sampler, position + 1, push.purpose)?.1);
            };
            let (own, offered) = (weights(&words, top, &sampler), weights(&offered, offer_top, &sampler));
            Some(judge(&own, &offered, &sampler, position + 1, rows.u32(next * 8)))
        });
        let ln_p = match (token, best) {
            (Some(token), Some((top, ..))) => {
                let unit = f64::exp2(-21.0);
                let mass: f64 = slices
                    .iter()
                    .map(|&(key, _, mass)| f64::from(mass) * unit * f64::from(-distance_of(key, top)).exp())
                    .sum();
                let key = key_of(words[token as usize]).unwrap_or_default();
                (-f64::from(distance_of(key, top)) - mass.ln()) as f32
            }
            _ => 0.0,
        };
        let token = token.unwrap_or(NO_TOKEN);
        leave(call, row, token, ln_p);
    }
}

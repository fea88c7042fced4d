//! How a token is chosen from a row of logits: the definition that the stages on a device carry out without sorting.

use std::cmp::Reverse;

use vkllm_runtime::Call;

use super::sampler::{
    NO_TOKEN, PURPOSE_DRAW, RESULT_WORDS, ROW_ADVANCE, distance_of, far_of, key_of, mass_of, philox_token,
    sampler, score_of, share_of,
};
use crate::ops::sample::Push;
use crate::records::Sampler;

/// The tokens of a row that can be chosen, as (key, id) in falling order of logits, equal ones in rising order of ids.
pub fn ranked(logits: &[u32]) -> Vec<(u32, u32)> {
    let mut keys: Vec<(u32, u32)> =
        logits.iter().enumerate().filter_map(|(id, &bits)| Some((key_of(bits)?, id as u32))).collect();
    keys.sort_unstable_by_key(|&(key, id)| (Reverse(key), id));
    keys
}

/// Takes out of ranked tokens what a sampler removes: top-k keeps the first k; typical-p those whose distances from the
/// first are next to the mean distance, until their mass reaches its share; top-p the fewest first ones whose mass reaches
/// its share of what is left; min-p those not too far below the first that is left.
pub fn truncate(keys: &mut Vec<(u32, u32)>, sampler: &Sampler) {
    let Some(&(top, _)) = keys.first() else { return };
    if sampler.top_k != 0 {
        keys.truncate(sampler.top_k as usize);
    }
    let distance = |key: u32| distance_of(key, top);
    let mass = |key: u32| u64::from(mass_of(distance(key)));
    let reach = |keys: &mut Vec<(u32, u32)>, share: u32| {
        let want = share_of(keys.iter().map(|&(key, _)| mass(key)).sum(), share);
        let mut sum = 0;
        keys.retain(|&(key, _)| {
            let keep = sum < want;
            sum += mass(key);
            keep
        });
    };
    if sampler.typical_p != 0 {
        keys.retain(|&(key, _)| mass(key) != 0);
        let all: u64 = keys.iter().map(|&(key, _)| mass(key)).sum();
        let weighted: u64 = keys.iter().map(|&(key, _)| mass(key) * u64::from(far_of(distance(key)))).sum();
        let mean = (weighted / all) as u32;
        keys.sort_unstable_by_key(|&(key, id)| (far_of(distance(key)).abs_diff(mean), id));
        reach(keys, sampler.typical_p);
        keys.sort_unstable_by_key(|&(key, id)| (Reverse(key), id));
    }
    if sampler.top_p != 0 {
        reach(keys, sampler.top_p);
    }
    let first = keys[0].0;
    keys.retain(|&(key, _)| distance_of(key, first) <= sampler.min_p_distance);
}

/// The token a sampler chooses for `position`, and ln of its probability before truncation. Logits as bits of f32.
///
/// Of the tokens that [`truncate`] leaves the one with the largest logit / temperature + Gumbel noise is chosen.
pub fn choose(logits: &[u32], sampler: &Sampler, position: u32) -> Option<(u32, f32)> {
    let mut keys = ranked(logits);
    let top = keys.first()?.0;
    let mut chosen = keys[0];
    let ln_mass = ln_mass(&keys);
    if sampler.inverse_temperature != 0.0 {
        truncate(&mut keys, sampler);
        chosen = draw(&keys, top, sampler, position, PURPOSE_DRAW)?;
    }
    Some((chosen.1, (-f64::from(distance_of(chosen.0, top)) - ln_mass) as f32))
}

/// ln of the mass of ranked tokens, in units of the first one's.
pub fn ln_mass(keys: &[(u32, u32)]) -> f64 {
    let top = keys.first().map_or(0, |first| first.0);
    keys.iter().map(|&(key, _)| f64::from(-distance_of(key, top)).exp()).sum::<f64>().ln()
}

/// The token with the largest logit / temperature + Gumbel noise, in ties the lower id.
pub fn draw(
    keys: &[(u32, u32)],
    top: u32,
    sampler: &Sampler,
    position: u32,
    purpose: u32,
) -> Option<(u32, u32)> {
    let score = |&(key, id): &(u32, u32)| {
        let word = philox_token(sampler, position, id, purpose);
        score_of(distance_of(key, top), sampler.inverse_temperature, word)
    };
    keys.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)).then(b.1.cmp(&a.1)))
}

/// Leaves the token that was chosen for a row, with its log probability, and moves the row on where it asks for that.
pub fn leave(call: &Call<'_>, row: usize, token: u32, ln_p: f32) {
    let (rows, results) = (call.arg("rows"), call.arg("results"));
    let [position, segment, out, flags] = [1, 5, 6, 7].map(|word| rows.u32(row * 8 + word));
    let record = [token, ln_p.to_bits(), position + 1, segment];
    let at = out as usize * RESULT_WORDS;
    record.into_iter().enumerate().for_each(|(i, word)| results.set_u32(at + i, word));
    if flags & ROW_ADVANCE != 0 && token != NO_TOKEN {
        rows.set_u32(row * 8, token);
        rows.set_u32(row * 8 + 1, position + 1);
    }
}

/// `results[out_index]` = token, ln p, position, segment; the row moves on to the token. Looks at nothing but logits,
/// whatever the stages before left in `part`.
pub fn sample(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, rows) = (call.arg("logits"), call.arg("rows"));
    for row in 0..call.grid[1] as usize {
        let [position, index] = [1, 4].map(|word| rows.u32(row * 8 + word));
        let mut sampler = sampler(call.arg("samplers"), index);
        if call.spec("SAMPLED") == Some(0) {
            sampler.inverse_temperature = 0.0;
        }
        let at = row * push.stride as usize;
        let logits: Vec<u32> = (at..at + push.n as usize).map(|i| logits.u32(i)).collect();
        let (token, ln_p) = choose(&logits, &sampler, position + 1).unwrap_or((NO_TOKEN, 0.0));
        leave(call, row, token, ln_p);
    }
}

//! How a token is chosen from a row of logits: the definition that the stages on a device carry out without sorting.

use std::cmp::Reverse;

use vkllm_runtime::Call;

use super::sampler::{
    NO_TOKEN, PURPOSE_DRAW, RESULT_WORDS, ROW_ADVANCE, distance_of, key_of, mass_of, philox_token, sampler,
    score_of, share_of,
};
use crate::ops::sample::Push;
use crate::records::Sampler;

/// The token a sampler chooses for `position`, and ln of its probability before truncation. Logits as bits of f32.
///
/// Tokens stand in falling order of logits, equal ones in rising order of ids; top-k keeps the first k, top-p the
/// fewest whose mass reaches its share of what top-k left, min-p those not too far below the first. Of these the
/// one with the largest logit / temperature + Gumbel noise is chosen.
pub fn choose(logits: &[u32], sampler: &Sampler, position: u32) -> Option<(u32, f32)> {
    let mut keys: Vec<(u32, u32)> =
        logits.iter().enumerate().filter_map(|(id, &bits)| Some((key_of(bits)?, id as u32))).collect();
    keys.sort_unstable_by_key(|&(key, id)| (Reverse(key), id));
    let top = keys.first()?.0;
    let ln_mass = keys.iter().map(|&(key, _)| f64::from(-distance_of(key, top)).exp()).sum::<f64>().ln();

    let mut chosen = keys[0];
    if sampler.inverse_temperature != 0.0 {
        if sampler.top_k != 0 {
            keys.truncate(sampler.top_k as usize);
        }
        let mass = |key: u32| u64::from(mass_of(distance_of(key, top)));
        if sampler.top_p != 0 {
            let want = share_of(keys.iter().map(|&(key, _)| mass(key)).sum(), sampler.top_p);
            let mut sum = 0;
            keys.retain(|&(key, _)| {
                let keep = sum < want;
                sum += mass(key);
                keep
            });
        }
        keys.retain(|&(key, _)| distance_of(key, top) <= sampler.min_p_distance);
        let score = |&(key, id): &(u32, u32)| {
            let word = philox_token(sampler, position, id, PURPOSE_DRAW);
            score_of(distance_of(key, top), sampler.inverse_temperature, word)
        };
        chosen = keys.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)).then(b.1.cmp(&a.1)))?;
    }
    Some((chosen.1, (-f64::from(distance_of(chosen.0, top)) - ln_mass) as f32))
}

/// `results[out_index]` = token, ln p, position, segment; the row moves on to the token. Looks at nothing but logits,
/// whatever the stages before left in `part`.
pub fn sample(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (logits, rows, results) = (call.arg("logits"), call.arg("rows"), call.arg("results"));
    for row in 0..call.grid[1] as usize {
        let [position, index, segment, out, flags] = [1, 4, 5, 6, 7].map(|word| rows.u32(row * 8 + word));
        let mut sampler = sampler(call.arg("samplers"), index);
        if call.spec("SAMPLED") == Some(0) {
            sampler.inverse_temperature = 0.0;
        }
        let at = row * push.stride as usize;
        let logits: Vec<u32> = (at..at + push.n as usize).map(|i| logits.u32(i)).collect();
        let (token, ln_p) = choose(&logits, &sampler, position + 1).unwrap_or((NO_TOKEN, 0.0));
        let record = [token, ln_p.to_bits(), position + 1, segment];
        let at = out as usize * RESULT_WORDS;
        record.into_iter().enumerate().for_each(|(i, word)| results.set_u32(at + i, word));
        if flags & ROW_ADVANCE != 0 && token != NO_TOKEN {
            rows.set_u32(row * 8, token);
            rows.set_u32(row * 8 + 1, position + 1);
        }
    }
}

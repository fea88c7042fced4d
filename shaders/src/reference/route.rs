//! The experts of each row.

use vkllm_runtime::Call;

use crate::ops::route::Push;

/// Below every score that can be chosen.
const LOWEST: f64 = -3.0e38;

/// Index of the largest value that is not taken, the lowest of equal ones.
fn best(scores: &[f64], taken: &[bool]) -> usize {
    let free = (0..scores.len()).filter(|i| !taken[*i]);
    free.fold(None, |best: Option<usize>, i| best.filter(|b| scores[*b] >= scores[i]).or(Some(i)))
        .unwrap_or(0)
}

fn indices(scores: &[f64], count: usize) -> Vec<usize> {
    let mut taken = vec![false; scores.len()];
    let choose = |_| {
        let index = best(scores, &taken);
        taken[index] = true;
        index
    };
    (0..count).map(choose).collect()
}

/// ids and weights of the `used` experts of each row; of one row also the tiles and the order for `linear`.
pub fn route(call: &Call<'_>) {
    let push = call.push::<Push>();
    let spec = |name| call.spec(name).unwrap_or(0);
    let (experts, used) = (spec("EXPERTS") as usize, push.used as usize);
    for row in 0..push.rows as usize {
        let logits: Vec<f64> =
            (0..experts).map(|e| f64::from(call.arg("logits").f32(row * experts + e))).collect();
        let softmax = |values: &[f64]| -> Vec<f64> {
            let top = values.iter().copied().fold(LOWEST, f64::max);
            let powers: Vec<f64> = values.iter().map(|value| (value - top).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.iter().map(|power| power / sum).collect()
        };
        let shares = match spec("GATING") {
            0 => softmax(&logits),
            1 => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
            _ => logits.clone(),
        };
        let mut scores: Vec<f64> = (0..experts)
            .map(|e| shares[e] + if spec("BIAS") == 1 { f64::from(call.arg("bias").f32(e)) } else { 0.0 })
            .map(|score| if score.is_nan() { LOWEST } else { score.max(LOWEST) })
            .collect();
        if push.groups > 1 {
            let size = experts / push.groups as usize;
            let of_group = |group: &[f64]| {
                let mut sorted = group.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                sorted.iter().take(2).sum::<f64>().max(LOWEST)
            };
            let groups: Vec<f64> = scores.chunks_exact(size).map(of_group).collect();
            let kept = indices(&groups, push.groups_used as usize);
            (0..experts).filter(|e| !kept.contains(&(e / size))).for_each(|e| scores[e] = LOWEST);
        }
        let ids = indices(&scores, used);
        let mut weights: Vec<f64> = ids.iter().map(|id| shares[*id]).collect();
        if spec("GATING") == 2 {
            weights = softmax(&weights);
        } else if push.normalise == 1 {
            // The smallest normal f16 keeps the quotient finite.
            let sum = weights.iter().sum::<f64>();
            let sum = if sum < 6.103515625e-5 { 6.103515625e-5 } else { sum };
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        for (slot, (id, weight)) in ids.iter().zip(weights).enumerate() {
            let at = row * used + slot;
            call.arg("ids").set_u32(at, *id as u32);
            call.arg("weights").set_f32(at, (weight * f64::from(push.scale)) as f32);
            if push.rows == 1 {
                let words = [*id as u32, slot as u32, 1, 0];
                words
                    .into_iter()
                    .enumerate()
                    .for_each(|(i, word)| call.arg("tiles").set_u32(slot * 4 + i, word));
                call.arg("order").set_u32(slot, slot as u32);
            }
        }
    }
}

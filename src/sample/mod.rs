//! What a user asks of a sampler, checked and turned into the record the shaders read.
//!
//! A token is chosen on the device: biases, penalties, then top-k, typical-p, top-p, min-p, then temperature. Random words depend on seed,
//! position and token id only, so the text does not depend on how many rows stand beside a row, nor on a drafter.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use vkllm_shaders::records::Sampler;

use crate::error::{Error, Result};
use crate::ops::MOST_BIASES;

/// Tokens that the penalties can look back on.
pub const MAX_PENALTY_WINDOW: u32 = 1024;
/// How tokens are chosen. Names and meanings as users of llama.cpp know them; the truncations look at probabilities
/// at temperature 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// 0 or less: always the most likely token, whatever else is set.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Of those keep the ones whose surprise is next to the expected one, until their probabilities reach this share of
    /// their sum; 1 keeps all. Locally typical sampling, Meister et al. 2023.
    pub typical_p: f32,
    /// Of those keep the fewest whose probabilities reach this share of their sum; 1 keeps all.
    pub top_p: f32,
    /// Of those keep the ones at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    pub seed: u64,
    /// Divides positive logits of recent tokens and multiplies others; 1 is off.
    pub repeat_penalty: f32,
    /// Lowers the logit of a recent token, for each time it occurred.
    pub frequency_penalty: f32,
    /// Lowers the logit of a recent token, once.
    pub presence_penalty: f32,
    /// How many tokens are recent, the prompt's included; 0 switches the penalties off.
    pub repeat_last_n: u32,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            typical_p: 1.0,
            top_p: 0.95,
            min_p: 0.05,
            seed: 0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
        }
    }
}

impl SamplerOptions {
    /// Always the most likely token, no penalties.
    pub fn greedy() -> Self {
        SamplerOptions { temperature: 0.0, ..Self::default() }
    }

    /// True when no random word is drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }

    /// True when the logits depend on earlier tokens, so that a step must record penalties.
    pub fn has_penalties(&self) -> bool {
        let off = self.repeat_penalty == 1.0 && self.frequency_penalty == 0.0 && self.presence_penalty == 0.0;
        self.repeat_last_n != 0 && !off
    }

    /// The options, if each of them can be honoured.
    ///
    /// Errors: [`Error::Argument`] naming the option, what was found and what is allowed.
    pub fn check(self) -> Result<Self> {
        let within = |what: &str, value: f32, low: f32, high: f32, allowed: &str| {
            if (low..=high).contains(&value) { Ok(()) } else { Err(argument(what, value, allowed)) }
        };
        if !self.is_greedy() {
            let allowed = "0 or less (greedy), or 0.001 to 1000";
            within("the temperature", self.temperature, 0.001, 1000.0, allowed)?;
        }
        within("typical-p", self.typical_p, 0.0, 1.0, "0 to 1")?;
        within("top-p", self.top_p, 0.0, 1.0, "0 to 1")?;
        within("min-p", self.min_p, 0.0, 1.0, "0 to 1")?;
        within("the repetition penalty", self.repeat_penalty, 0.01, 100.0, "0.01 to 100")?;
        within("the frequency penalty", self.frequency_penalty, -100.0, 100.0, "-100 to 100")?;
        within("the presence penalty", self.presence_penalty, -100.0, 100.0, "-100 to 100")?;
        if self.repeat_last_n > MAX_PENALTY_WINDOW {
            let allowed = format!("0 to {MAX_PENALTY_WINDOW}");
            return Err(argument(
                "the number of tokens that penalties look back on",
                self.repeat_last_n,
                &allowed,
            ));
        }
        Ok(self)
    }

    /// The token that these options choose among logits for `position`, as the device does it but for biases and penalties: the
    /// same token, for the same logits. With its logarithm of the probability at temperature 1; `None` when no logit is a
    /// number. What a sampler of one's own excludes is set to negative infinity before.
    ///
    /// Errors: as [`SamplerOptions::check`].
    pub fn choose(&self, logits: &[f32], position: u32) -> Result<Option<(u32, f32)>> {
        let record = self.record(0)?;
        Ok(vkllm_shaders::reference::sample::choose(bytemuck::cast_slice(logits), &record, position))
    }

    /// Lowers the logits of recent tokens among `tokens`, the conversation so far, as the device does before it chooses.
    pub fn penalize(&self, logits: &mut [f32], tokens: &[u32]) {
        if !self.has_penalties() {
            return;
        }
        let recent = &tokens[tokens.len().saturating_sub(self.repeat_last_n as usize)..];
        let mut counts = BTreeMap::<u32, u32>::new();
        for &token in recent {
            *counts.entry(token).or_default() += 1;
        }
        for (token, count) in counts {
            if let Some(logit) = logits.get_mut(token as usize).filter(|logit| !logit.is_nan()) {
                let scale = if *logit > 0.0 { 1.0 / self.repeat_penalty } else { self.repeat_penalty };
                *logit = *logit * scale - count as f32 * self.frequency_penalty - self.presence_penalty;
            }
        }
    }

    /// The record the shaders read. The session's ring of tokens begins at word `history` of the history buffer.
    ///
    /// Errors: as [`SamplerOptions::check`].
    pub fn record(&self, history: u32) -> Result<Sampler> {
        let options = self.check()?;
        Ok(Sampler {
            inverse_temperature: if options.is_greedy() { 0.0 } else { 1.0 / options.temperature },
            top_k: options.top_k,
            top_p: share(options.top_p),
            typical_p: share(options.typical_p),
            min_p_distance: if options.min_p > 0.0 {
                (-f64::from(options.min_p).ln()).max(0.0) as f32
            } else {
                3.0e38
            },
            seed_low: options.seed as u32,
            seed_high: (options.seed >> 32) as u32,
            repeat_penalty: options.repeat_penalty,
            repeat_inverse: 1.0 / options.repeat_penalty,
            frequency_penalty: options.frequency_penalty,
            presence_penalty: options.presence_penalty,
            penalty_window: if options.has_penalties() { options.repeat_last_n } else { 0 },
            history,
            ..Sampler::default()
        })
    }
}

/// What is given to or taken from the logits of single tokens, for a vocabulary of `vocab` tokens: the sum for tokens that
/// are named more than once.
///
/// Errors: a token the vocabulary does not have, a bias that is no number or plus infinity, more than 1024 tokens.
pub(crate) fn biases(list: &[(u32, f32)], vocab: u32) -> Result<Vec<(u32, f32)>> {
    let mut sums = std::collections::BTreeMap::new();
    for &(token, bias) in list {
        if token >= vocab {
            return Err(Error::NoSuchToken { found: token, allowed: vocab });
        }
        let sum = sums.entry(token).or_insert(0.0);
        *sum += bias;
        if sum.is_nan() || *sum == f32::INFINITY {
            return Err(argument("the bias of a token", *sum, "a number, or minus infinity"));
        }
    }
    if sums.len() > MOST_BIASES as usize {
        let allowed = format!("at most {MOST_BIASES}");
        return Err(argument("the number of tokens with biases", sums.len(), &allowed));
    }
    Ok(sums.into_iter().collect())
}

fn argument(what: &str, found: impl ToString, allowed: &str) -> Error {
    Error::Argument { what: what.to_owned(), found: found.to_string(), allowed: allowed.to_owned() }
}

/// A share in units of 2^-32, never 0 unless it is the whole, which the shaders take as off.
fn share(of_one: f32) -> u32 {
    if of_one >= 1.0 { 0 } else { ((f64::from(of_one) * 4_294_967_296.0) as u32).max(1) }
}

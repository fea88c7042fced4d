//! Tokens that are chosen on the host, by a caller's sampler or within a constraint, one at a time or in rounds: drafts
//! stand for no more than rows that are computed together, so the text is what it is without them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::generation::Source;
use super::{CancelToken, Session};
use crate::engine::{Drawn, MOST_DRAFTS, MOST_MODEL_DRAFTS};
use crate::error::{Error, Result};
use crate::sample::SamplerOptions;
use crate::speculate::{Decision, Method, Offer, Round, Times};

/// Chooses a token from logits, which it may change, for a position. `None` ends the generation.
pub(super) type Choose<'a> = Box<dyn FnMut(&mut [f32], u32) -> Option<u32> + Send + 'a>;

/// What a text must look like, token by token. It is asked for each token once, in order, and only after it was told of the
/// one before: whatever is drafted, it never has to take anything back.
pub trait Constraint: Send {
    /// Sets the logits, `[vocab]`, of tokens that cannot come next to negative infinity. False when the text is complete
    /// and nothing can follow.
    ///
    /// Errors: [`Error::Constraint`].
    fn mask(&mut self, logits: &mut [f32]) -> Result<bool>;

    /// The token that came next.
    ///
    /// Errors: [`Error::Constraint`], as for a token that the mask excludes.
    fn push(&mut self, token: u32) -> Result<()>;

    /// Tokens that are the only way to go on, as far as it is easily told: they are drafted.
    fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }
}

/// Who chooses.
pub(super) enum Chooser<'a> {
    Caller(Choose<'a>),
    /// The session's sampler, among the tokens that may come.
    Constrained(Box<dyn Constraint + 'a>),
}

impl Chooser<'_> {
    /// A token for the position after `tokens`, from raw logits; `None` ends the text. Sampler and biases of single tokens are
    /// the session's.
    fn choose(
        &mut self,
        (sampler, biases): (&SamplerOptions, &[(u32, f32)]),
        tokens: &[u32],
        raw: &[f32],
    ) -> Result<Option<Drawn>> {
        let position = tokens.len() as u32;
        let top = raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mass: f64 = raw.iter().map(|&l| f64::from(l - top).exp()).filter(|e| !e.is_nan()).sum();
        let mut logits = raw.to_vec();
        let token = match self {
            Chooser::Caller(choose) => choose(&mut logits, position),
            Chooser::Constrained(constraint) => {
                biases.iter().for_each(|&(token, bias)| logits[token as usize] += bias);
                sampler.penalize(&mut logits, tokens);
                if constraint.mask(&mut logits)? {
                    let Some((token, _)) = sampler.choose(&logits, position)? else {
                        return Err(Error::NotFinite { position: position - 1 });
                    };
                    constraint.push(token)?;
                    Some(token)
                } else {
                    None
                }
            }
        };
        let Some(token) = token else { return Ok(None) };
        let Some(&logit) = raw.get(token as usize) else {
            return Err(Error::NoSuchToken { found: token, allowed: raw.len() as u32 });
        };
        Ok(Some(Drawn { token, logprob: (f64::from(logit - top) - mass.ln()) as f32, position }))
    }

    pub(super) fn is_constraint(&self) -> bool {
        matches!(self, Chooser::Constrained(_))
    }

    fn forced(&mut self) -> Vec<u32> {
        match self {
            Chooser::Caller(_) => Vec::new(),
            Chooser::Constrained(constraint) => constraint.forced(),
        }
    }
}

/// Where the tokens of a round go.
pub(super) struct Chosen<'a> {
    pub(super) tokens: &'a mut VecDeque<(Result<Drawn>, Source)>,
    /// Tokens that end the text are chosen as others are.
    pub(super) ignore_end: bool,
    /// Set when nothing follows them.
    pub(super) over: bool,
}

/// What a round drafted, for whom it is counted.
enum Draft {
    None,
    /// The constraint leaves no other tokens.
    Forced(Vec<u32>),
    By(Method, Vec<u32>),
}

impl Draft {
    fn tokens(&self) -> &[u32] {
        match self {
            Draft::None => &[],
            Draft::Forced(tokens) | Draft::By(_, tokens) => tokens,
        }
    }
}

/// Longest draft of at most `count` tokens for which a recording is worth keeping.
fn size_of(count: usize) -> usize {
    [64, 31, 16, 11].into_iter().find(|&size| size <= count).unwrap_or(count.min(8))
}

impl Session {
    /// Computes the prompt and chooses the first token. False when it was cancelled.
    pub(super) fn choose_first(
        &mut self,
        prompt: &[u32],
        cancel: &CancelToken,
        chooser: &mut Chooser<'_>,
        chosen: &mut Chosen<'_>,
    ) -> Result<bool> {
        let Some(logits) = self.logits_of(prompt, cancel)? else { return Ok(false) };
        match chooser.choose((&self.sampler, &self.biases), &self.tokens, &logits)? {
            Some(drawn) => chosen.tokens.push_back((Ok(drawn), Source::Target)),
            None => chosen.over = true,
        }
        Ok(true)
    }

    /// One round that chooses at least one of at most `left` tokens, unless the text is over. `Some` for a session that
    /// speculates.
    pub(super) fn choose_more(
        &mut self,
        left: usize,
        chooser: &mut Chooser<'_>,
        chosen: &mut Chosen<'_>,
    ) -> Result<Option<Round>> {
        let began = Instant::now();
        self.resettle()?;
        let base = self.tokens.len() - 1;
        let room = (self.model.context() as usize - 1 - base).min(left - 1).min(MOST_DRAFTS as usize);
        let made = self.model.engine().recordings_made();
        let (mut draft, mut decision, mut round) = (Draft::None, None, Round::default());
        let mut forced = chooser.forced();
        forced.truncate(size_of(forced.len().min(room)));
        if !forced.is_empty() {
            draft = Draft::Forced(forced);
        } else if self.speculation.is_some() {
            let (by, why) = self.propose(room, &mut round)?;
            decision = Some(why);
            draft = by;
        }
        let drafts = draft.tokens();
        let before = self.model.engine().times.device;
        let rows = if drafts.is_empty() {
            let cancel = self.cancel.clone();
            self.logits_of(&[], &cancel)?.unwrap_or_default()
        } else {
            let mut engine = self.model.engine();
            let rows = [&self.tokens[base..], drafts].concat();
            let slot = self.slot;
            let logits =
                engine.until(self.cancel.flag(), |engine| engine.verified(slot, &rows, base as u32))?;
            self.stats.decode_time += began.elapsed();
            logits
        };
        let engine = self.model.engine();
        round.times.verify = engine.times.device.map(|after| after - before.unwrap_or_default());
        round.recorded |= engine.recordings_made() != made;
        let vocab = engine.vocab() as usize;
        let model = self.model.clone();
        drop(engine);
        // What was chosen stands behind the conversation's tokens until it is handed out.
        let mut tokens = self.tokens.clone();
        let mut accepted = 0;
        for (place, logits) in rows.chunks(vocab).enumerate() {
            let Some(drawn) = chooser.choose((&self.sampler, &self.biases), &tokens, logits)? else {
                chosen.over = true;
                break;
            };
            tokens.push(drawn.token);
            let same = drafts.get(place) == Some(&drawn.token);
            let source = match draft {
                Draft::By(method, _) if same => Source::Draft { method, place },
                Draft::Forced(_) if same => Source::Forced { place },
                _ => Source::Target,
            };
            chosen.tokens.push_back((Ok(drawn), source));
            let ends = !chosen.ignore_end && model.vocabulary().is_some_and(|v| v.is_end(drawn.token));
            if !same || ends {
                break;
            }
            accepted += 1;
        }
        round.drafted = drafts.len();
        round.accepted = accepted.min(drafts.len());
        round.wall = began.elapsed();
        Ok(self.account(base, &draft, decision, round))
    }

    /// What drafters propose, within `room`, and what the governor made of it.
    fn propose(&mut self, room: usize, round: &mut Round) -> Result<(Draft, Option<Decision>)> {
        let base = self.tokens.len() - 1;
        let Some(speculation) = &mut self.speculation else { return Ok((Draft::None, None)) };
        let offered = speculation.chain.draft(&self.tokens, room, &mut speculation.found);
        let history = offered.map(|method| (method, speculation.found.len()));
        let lag = speculation.rounds.lag(base as u32) as usize;
        let decision = speculation.governor.choose(&Offer { history, lag, room });
        let k = size_of(decision.k.min(room));
        round.asked = k;
        let draft = match decision.method {
            Some(method) if k > 0 && !method.is_history() => {
                let made = speculation.rounds.made();
                let (mut target, mut engine) = self.model.engines(speculation.draft.as_ref());
                let count = (k as u32).min(MOST_MODEL_DRAFTS);
                let (mut tokens, times) = match engine.as_deref_mut() {
                    Some(engine) => target.until(self.cancel.flag(), |target| {
                        speculation.rounds.propose(target, engine, &self.tokens, count)
                    })?,
                    None => Default::default(),
                };
                tokens.truncate(size_of(tokens.len()));
                round.method = Some(method);
                round.catch_up = lag.saturating_sub(1);
                round.times = Times { catch_up: times.catch_up, draft: times.draft, ..Times::default() };
                round.recorded = speculation.rounds.made() != made;
                Draft::By(method, tokens)
            }
            Some(method) if k > 0 => {
                round.method = Some(method);
                Draft::By(method, speculation.found[..k.min(speculation.found.len())].to_vec())
            }
            _ => Draft::None,
        };
        Ok((draft, Some(decision)))
    }

    /// Tells drafters and governor what came of a round, or of a step they had no part in.
    fn account(
        &mut self,
        base: usize,
        draft: &Draft,
        decision: Option<Option<Decision>>,
        round: Round,
    ) -> Option<Round> {
        let speculation = self.speculation.as_mut()?;
        match draft {
            Draft::By(method, _) if !method.is_history() => {
                speculation.rounds.settled(base as u32, round.asked as u32, round.accepted as u32);
            }
            Draft::By(_, tokens) => {
                speculation.chain.result(tokens, round.accepted);
                speculation.rounds.moved(base as u32 + 1);
            }
            _ => speculation.rounds.moved(base as u32 + 1),
        }
        let decision = decision.flatten()?;
        speculation.governor.observe(&round);
        speculation.statistics.add(&round, &decision);
        if round.recorded {
            self.stats.rerecorded += 1;
        } else {
            self.stats.host_steps += 1;
            self.stats.replay_time += round.wall;
            self.stats.host_time += round.wall.saturating_sub(round.times.busy().unwrap_or(Duration::ZERO));
        }
        Some(round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_come_in_few_sizes() {
        assert_eq!([0, 1, 6, 8, 10, 13, 30, 40, 64].map(size_of), [0, 1, 6, 8, 8, 11, 16, 31, 64]);
    }
}

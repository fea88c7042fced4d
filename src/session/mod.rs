//! One conversation with a model: its tokens, its place in the cache, and the text that comes out.

mod batch;
mod cancel;
mod choice;
mod generation;
mod snapshot;
mod speculation;
#[cfg(feature = "stream")]
mod stream;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use batch::Batch;
pub use cancel::CancelToken;
pub use choice::Constraint;
pub use generation::{Event, Finish, GenerateOptions, Generation, Source, Token};
pub use snapshot::Snapshot;
pub use speculation::{DraftHead, SpecOptions};
#[cfg(feature = "stream")]
pub use stream::EventStream;

use crate::engine::{Drawn, Engine, MOST_ROWS, Model, Tail};
use crate::error::{Error, Result};
use crate::ops::{Choice, Draw, Path};
use crate::sample::SamplerOptions;
use crate::speculate::Statistics;
use speculation::Speculation;

/// See [`engine::SHORT_PROMPT`](crate::engine::SHORT_PROMPT).
const SHORT_PROMPT: usize = crate::engine::SHORT_PROMPT as usize;

/// Where time went since the session began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub prompt_tokens: u64,
    pub prompt_time: Duration,
    pub generated: u64,
    pub decode_time: Duration,
    /// Host time of the decode steps after the first: writing, submitting and reading, not waiting.
    pub host_time: Duration,
    /// Wall time of the same steps. Where nothing executes (a simulated device) all of it is host time.
    pub replay_time: Duration,
    /// Decode steps that `host_time` and `replay_time` cover.
    pub host_steps: u64,
    /// Recordings made during those steps; 0 when all were replayed.
    pub rerecorded: u64,
}

/// Positions that one path computed together, up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    end: usize,
    path: Path,
}

impl Span {
    /// As one word of a snapshot: the lowest bit says that the kernels of prompts computed it.
    fn word(self) -> u64 {
        (self.end as u64) << 1 | u64::from(self.path == Path::Prefill)
    }

    fn of(word: u64) -> Self {
        let path = if word & 1 == 1 { Path::Prefill } else { Path::Rows };
        Span { end: usize::try_from(word >> 1).unwrap_or(usize::MAX), path }
    }
}

/// One conversation.
pub struct Session {
    model: Model,
    slot: u32,
    tokens: Vec<u32>,
    /// Positions whose keys and values are in the cache; the token drawn last is not among them.
    computed: usize,
    /// Positions that were computed since all began anew, drafts included.
    reached: usize,
    /// How they were computed, in order.
    spans: Vec<Span>,
    /// The engine in which `slot` is a place.
    epoch: u64,
    sampler: SamplerOptions,
    /// Biases of single tokens.
    biases: Vec<(u32, f32)>,
    stats: Stats,
    speculation: Option<Speculation>,
    /// Ends the generation under way.
    cancel: CancelToken,
    /// Rows of one prefill step; at most 16 means that the decode kernels compute prompts too.
    batch: u32,
}

impl Session {
    /// Starts a conversation.
    ///
    /// Errors: sampler options out of range, no free place in the model.
    pub fn new(model: &Model, sampler: SamplerOptions) -> Result<Self> {
        let sampler = sampler.check()?;
        let mut engine = model.engine();
        let slot = engine.take_slot()?;
        let record = sampler.record(engine.history_of(slot))?;
        let written = engine.set_sampler(slot, &record, &[]);
        let (batch, epoch) = (engine.batch(), engine.epoch());
        if let Err(error) = written {
            engine.free_slot(slot);
            return Err(error);
        }
        drop(engine);
        Ok(Session {
            model: model.clone(),
            slot,
            tokens: Vec::new(),
            computed: 0,
            reached: 0,
            spans: Vec::new(),
            epoch,
            sampler,
            biases: Vec::new(),
            stats: Stats::default(),
            speculation: None,
            cancel: CancelToken::new(),
            batch,
        })
    }

    /// Adds to the logits of single tokens, before anything else: minus infinity forbids a token. At most 1024 tokens; those
    /// that are named twice get the sum. Comes before [`Session::with_draft`] and [`Session::with_history`].
    ///
    /// Errors: a token the vocabulary does not have, a bias that is not a number, a session that drafts already.
    pub fn with_logit_bias(mut self, biases: &[(u32, f32)]) -> Result<Self> {
        if self.speculation.is_some() {
            return Err(Error::Argument {
                what: "the session that gets biases".into(),
                found: "one that drafts".into(),
                allowed: "one that does not yet".into(),
            });
        }
        self.biases = crate::sample::biases(biases, self.model.config().vocab)?;
        self.place_sampler(&mut self.model.engine(), self.slot)?;
        Ok(self)
    }

    /// Draws with another seed from now on.
    ///
    /// Errors: the device's.
    pub fn reseed(&mut self, seed: u64) -> Result<()> {
        self.resettle()?;
        self.sampler.seed = seed;
        self.place_sampler(&mut self.model.engine(), self.slot)?;
        match self.speculation.as_ref().and_then(Speculation::draft) {
            Some((draft, slot)) => self.place_sampler(&mut draft.engine(), slot),
            None => Ok(()),
        }
    }

    /// Writes what draws tokens to a place in an engine.
    fn place_sampler(&self, engine: &mut Engine, slot: u32) -> Result<()> {
        let record = self.sampler.record(engine.history_of(slot))?;
        engine.set_sampler(slot, &record, &self.biases)
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens of the conversation so far, prompts and answers.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Forgets the conversation. What was recorded and learnt of speeds and drafters stays, so that the next one is faster
    /// to begin than in a new session; its text is the same.
    pub fn clear(&mut self) {
        self.rewind(0);
    }

    /// Forgets all tokens but the first `tokens`. What was computed for those is kept; where a model with a window no longer
    /// has it, it is computed again with the next prompt.
    pub fn rewind(&mut self, tokens: usize) {
        if tokens >= self.tokens.len() {
            return;
        }
        self.reached = self.reached.max(self.computed + MOST_ROWS as usize);
        self.tokens.truncate(tokens);
        if let Some(speculation) = &mut self.speculation {
            speculation.rewound(tokens);
        }
        self.computed = self.computed.min(tokens);
        if !self.model.engine().keeps(self.slot, self.computed as u32, self.reached as u32) {
            self.computed = 0;
        }
        if self.computed == 0 {
            self.reached = 0;
        }
    }

    /// How the positions below `end` were computed.
    fn spans_to(&self, end: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut begin = 0;
        for span in &self.spans {
            if begin < end {
                spans.push(Span { end: span.end.min(end), ..*span });
            }
            begin = span.end;
        }
        spans
    }

    /// Notes that `path` computed the positions up to `end`.
    fn computed_by(&mut self, path: Path, end: usize) {
        if self.spans.last().is_some_and(|last| last.end > self.computed) {
            self.spans = self.spans_to(self.computed);
        }
        match self.spans.last_mut() {
            // Rows do not depend on those beside them, so their number need not be remembered.
            Some(last) if path == Path::Rows && last.path == path => last.end = last.end.max(end),
            _ if end > self.computed => self.spans.push(Span { end, path }),
            _ => {}
        }
        self.computed = end;
    }

    /// Finds a place in the engine of a model that was recovered, and computes there what was computed before, every span the
    /// way it was computed first, so that what follows is the same to the bit.
    ///
    /// Errors: the device is lost, or was lost again.
    fn resettle(&mut self) -> Result<()> {
        if self.model.engine().epoch() == self.epoch {
            return Ok(());
        }
        let model = self.model.clone();
        let predicts = self.speculation.as_ref().is_some_and(|speculation| speculation.predicts);
        let (mut engine, mut predictor) = model.engines(model.predictor().filter(|_| predicts));
        let slot = engine.take_slot()?;
        let mut replay = || {
            self.place_sampler(&mut engine, slot)?;
            if let Some(predictor) = &mut predictor {
                predictor.take_slot_of(slot)?;
            }
            let mut start = 0;
            for span in self.spans_to(self.computed) {
                let most = if span.path == Path::Rows {
                    SHORT_PROMPT.min(self.batch as usize)
                } else {
                    span.end - start
                };
                while start < span.end {
                    let end = span.end.min(start + most);
                    let chunk = &self.tokens[start..end];
                    engine.tokens(slot, chunk, start as u32, span.path, Tail::None)?;
                    if let Some(predictor) = &mut predictor {
                        predictor.reads(&engine, slot);
                        predictor.tokens(slot, chunk, start as u32, span.path, Tail::None)?;
                    }
                    start = end;
                }
            }
            match self.tokens.get(self.computed) {
                Some(&drawn) if self.tokens.len() == self.computed + 1 => {
                    engine.set_cursor(slot, drawn, self.computed as u32)
                }
                _ => Ok(()),
            }
        };
        let replayed = replay();
        if let Err(error) = replayed {
            engine.free_slot(slot);
            if let Some(predictor) = &mut predictor {
                predictor.free_slot(slot);
            }
            return Err(error);
        }
        let epoch = engine.epoch();
        drop((engine, predictor));
        self.slot = slot;
        let respeculated = self.respeculate();
        match respeculated {
            Ok(()) => self.epoch = epoch,
            Err(_) => model.engine().free_slot(slot),
        }
        respeculated
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.config().vocab;
        if let Some(&found) = tokens.iter().find(|&&token| token >= vocab) {
            return Err(Error::NoSuchToken { found, allowed: vocab });
        }
        let room = (self.model.context() as usize).saturating_sub(self.tokens.len());
        if tokens.len() > room {
            return Err(Error::PromptTooLong { found: tokens.len(), allowed: room });
        }
        Ok(())
    }

    /// Kernels and step size for a prompt.
    fn path(&self, tokens: usize) -> (Path, usize) {
        if tokens <= SHORT_PROMPT || self.batch as usize <= SHORT_PROMPT {
            (Path::Rows, SHORT_PROMPT.min(self.batch as usize))
        } else {
            (Path::Prefill, self.batch as usize)
        }
    }

    fn draw(&self) -> Draw {
        let choice = if self.sampler.is_greedy() { Choice::Greedy } else { Choice::Sampled };
        let penalties = self.sampler.has_penalties();
        let typical = choice == Choice::Sampled && self.sampler.typical_p < 1.0;
        Draw { choice, biases: !self.biases.is_empty(), penalties, typical }
    }

    /// What drafting came to, for a session that speculates.
    pub fn speculation(&self) -> Option<&Statistics> {
        self.speculation.as_ref().map(Speculation::statistics)
    }

    /// Logits of every given token, `[tokens, vocab]`; the tokens join the conversation.
    ///
    /// Errors: a token the vocabulary does not have, more tokens than the context holds.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let (path, size) = self.path(tokens.len());
        self.compute(tokens, path, size)
    }

    /// As [`Session::forward`], by the kernels that decode and verify, in steps of at most 65 rows. The bits are those of
    /// one row at a time.
    ///
    /// Errors: as [`Session::forward`].
    pub fn verify(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.compute(tokens, Path::Rows, MOST_ROWS as usize)
    }

    fn compute(&mut self, tokens: &[u32], path: Path, size: usize) -> Result<Vec<f32>> {
        self.check(tokens)?;
        let mut logits = self.appending(tokens, |session| session.compute_logits(path, size))?;
        logits.drain(..logits.len() - tokens.len() * self.model.config().vocab as usize);
        Ok(logits)
    }

    /// Logits of the tokens that were not computed yet.
    fn compute_logits(&mut self, path: Path, size: usize) -> Result<Vec<f32>> {
        let model = self.model.clone();
        let size = size.min(model.engine().most_logits() as usize);
        let mut all = Vec::new();
        while self.computed < self.tokens.len() {
            let mut engine = model.engine();
            let chunk = &self.tokens[self.computed..self.tokens.len().min(self.computed + size)];
            engine.tokens(self.slot, chunk, self.computed as u32, path, Tail::Logits)?;
            all.extend(engine.logits(chunk.len() as u32)?);
            drop(engine);
            self.computed_by(path, self.computed + chunk.len());
            self.follow(path)?;
        }
        Ok(all)
    }

    /// Has a predictor compute what was just computed.
    fn follow(&mut self, path: Path) -> Result<()> {
        let tokens = &self.tokens[..self.computed];
        self.speculation.as_mut().map_or(Ok(()), |speculation| speculation.follow(&self.model, tokens, path))
    }

    /// Generates on from the token drawn last, as after an error or a generation that was dropped.
    ///
    /// Errors: nothing was drawn since the last prompt, the device's.
    pub fn resume(&mut self, options: GenerateOptions) -> Result<Generation<'_>> {
        if self.tokens.len() != self.computed + 1 {
            return Err(Error::Argument {
                what: "the number of drawn tokens to go on from".into(),
                found: (self.tokens.len() - self.computed).to_string(),
                allowed: "1".into(),
            });
        }
        self.resettle()?;
        if let Some(&drawn) = self.tokens.last() {
            self.model.engine().set_cursor(self.slot, drawn, self.computed as u32)?;
        }
        if let Some(speculation) = &mut self.speculation {
            speculation.begin(&self.tokens, &[]);
        }
        Ok(Generation::new(self, &[], options))
    }

    /// Appends the prompt and generates: an iterator of events that computes one token at a time. Dropping it stops.
    ///
    /// Errors: an empty prompt, tokens the vocabulary does not have, a prompt longer than the context has room for.
    pub fn generate(&mut self, prompt: &[u32], options: GenerateOptions) -> Result<Generation<'_>> {
        self.begin(prompt)?;
        Ok(Generation::new(self, prompt, options))
    }

    fn begin(&mut self, prompt: &[u32]) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::Argument {
                what: "the number of prompt tokens".into(),
                found: "0".into(),
                allowed: "1 or more".into(),
            });
        }
        self.check(prompt)?;
        if let Some(speculation) = &mut self.speculation {
            speculation.begin(&self.tokens, prompt);
        }
        Ok(())
    }

    /// Computes the prompt and draws the first token; `None` when it was cancelled, which leaves what was computed.
    fn prefill(&mut self, prompt: &[u32], cancel: &CancelToken) -> Result<Option<Drawn>> {
        let began = Instant::now();
        let tail = Tail::Sample(self.draw());
        if self.advance(prompt, tail, cancel)?.is_none() {
            return Ok(None);
        }
        let drawn = self.model.engine().drawn(self.slot)?;
        self.stats.prompt_tokens += prompt.len() as u64;
        self.stats.prompt_time += began.elapsed();
        Ok(Some(drawn))
    }

    /// Appends tokens and computes all that is not; the last row gets `tail`, and its logits come back if that wants them.
    /// `None` when it was cancelled.
    fn advance(&mut self, tokens: &[u32], tail: Tail, cancel: &CancelToken) -> Result<Option<Vec<f32>>> {
        self.appending(tokens, |session| session.advance_by(tokens.len(), tail, cancel))
    }

    /// Appends tokens and computes; where that fails the conversation is what it was.
    fn appending<T>(&mut self, tokens: &[u32], compute: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.resettle()?;
        let (before, computed) = (self.tokens.len(), self.computed);
        self.tokens.extend_from_slice(tokens);
        let done = compute(self);
        if done.is_err() {
            // What the failed step did to states is not known, so the conversation goes on from what they are sure to hold.
            self.computed = self.computed.min(computed);
            self.rewind(before);
        } else {
            self.model.came_further();
        }
        done
    }

    /// Computes all that is not, of which the last `count` tokens were just appended.
    fn advance_by(&mut self, count: usize, tail: Tail, cancel: &CancelToken) -> Result<Option<Vec<f32>>> {
        let before = self.tokens.len() - count;
        let left = before - self.computed;
        let (path, size) = self.path(count + if left > 1 { left } else { 0 });
        let model = self.model.clone();
        let mut logits = Vec::new();
        while self.computed < self.tokens.len() {
            if cancel.is_cancelled() {
                // A token that was drawn before stays, computed or not.
                self.tokens.truncate(self.computed.max(before));
                return Ok(None);
            }
            let end = self.tokens.len().min(self.computed + size);
            let tail = if end == self.tokens.len() { tail } else { Tail::None };
            let chunk = &self.tokens[self.computed..end];
            // Other sessions get their turn between steps.
            let mut engine = model.engine();
            let (slot, start) = (self.slot, self.computed as u32);
            let done = engine.until(cancel.flag(), |engine| engine.tokens(slot, chunk, start, path, tail));
            // What a step wrote that did not end may lie where a window's oldest keys were.
            self.reached = self.reached.max(end);
            match done {
                Err(Error::Cancelled) => continue,
                done => done?,
            }
            self.computed_by(path, end);
            if tail == Tail::LastLogits {
                logits = engine.last_logits()?;
            }
            drop(engine);
            self.follow(path)?;
        }
        Ok(Some(logits))
    }

    /// As [`Session::prefill`] and [`Session::decode`], but the logits come back and somebody else chooses. `tokens` is the
    /// prompt, or empty to compute the token drawn last.
    fn logits_of(&mut self, tokens: &[u32], cancel: &CancelToken) -> Result<Option<Vec<f32>>> {
        let began = Instant::now();
        if tokens.is_empty() {
            self.resettle()?;
            let position = self.tokens.len() - 1;
            let mut engine = self.model.engine();
            let (slot, last) = (self.slot, &self.tokens[position..]);
            engine.until(cancel.flag(), |engine| {
                engine.tokens(slot, last, position as u32, Path::Rows, Tail::LastLogits)
            })?;
            let logits = engine.last_logits()?;
            self.stats.decode_time += began.elapsed();
            return Ok(Some(logits));
        }
        let logits = self.advance(tokens, Tail::LastLogits, cancel)?;
        self.stats.prompt_tokens += tokens.len() as u64;
        self.stats.prompt_time += began.elapsed();
        Ok(logits)
    }

    /// Computes the token drawn last and draws the next.
    fn decode(&mut self) -> Result<Drawn> {
        let began = Instant::now();
        self.resettle()?;
        let draw = self.draw();
        let position = self.tokens.len() as u32 - 1;
        let mut engine = self.model.engine();
        let (host, made) = (engine.times.host, engine.recordings_made());
        let slot = self.slot;
        let drawn = engine.until(self.cancel.flag(), |engine| engine.decode(slot, position, draw))?;
        // The first decode step of a session may record; the rest must replay.
        if self.stats.generated > 1 {
            self.stats.host_time += engine.times.host - host;
            self.stats.replay_time += began.elapsed();
            self.stats.host_steps += 1;
            self.stats.rerecorded += engine.recordings_made() - made;
        }
        drop(engine);
        self.model.came_further();
        self.stats.decode_time += began.elapsed();
        Ok(drawn)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // First a predictor's place, which is the conversation's: who takes the one takes the other.
        if let Some(speculation) = &self.speculation {
            speculation.free();
        }
        let mut engine = self.model.engine();
        // A place in an engine that is gone went with it.
        if engine.epoch() == self.epoch {
            engine.free_slot(self.slot);
        }
    }
}

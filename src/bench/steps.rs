//! Tests of one model: prompts, generation, both, and verification of so many rows, at a depth.

use std::fmt;
use std::time::{Duration, Instant};

use super::Attribution;
use crate::engine::{Drafts, Engine, MOST_ROWS, Model, RoundOptions, Rounds, SHORT_PROMPT, Tail};
use crate::error::{Error, Result};
use crate::ops::{Choice, Draw, Path};
use crate::{Profile, SamplerOptions};

/// The most likely token is drawn: its cost is that of every choice but for the sums.
const DRAW: Draw = Draw { choice: Choice::Greedy, biases: false, penalties: false, typical: false };
/// Verifications of one sample.
const VERIFICATIONS: u32 = 8;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A prompt of so many tokens; the last draws a token.
    Prompt(u32),
    /// So many tokens, one after the other; a first one is given.
    Generate(u32),
    /// A prompt and what follows.
    Both(u32, u32),
    /// Verification of so many rows: the cursor and drafts, draws and acceptance; 1 is a decode step.
    Rows(u32),
    /// Tokens of so many conversations that decode together.
    Sessions(u32),
}

/// A test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Test {
    pub kind: Kind,
    /// Positions that are in the cache before it begins.
    pub depth: u32,
}

impl Test {
    /// Tokens, or rows, that a sample computes.
    pub fn tokens(&self) -> u64 {
        match self.kind {
            Kind::Prompt(n) | Kind::Generate(n) => u64::from(n),
            Kind::Both(prompt, generated) => u64::from(prompt) + u64::from(generated),
            Kind::Rows(rows) | Kind::Sessions(rows) => u64::from(rows) * u64::from(VERIFICATIONS),
        }
    }

    /// Positions that the context must hold.
    pub fn positions(&self) -> u32 {
        let new = match self.kind {
            Kind::Prompt(n) | Kind::Generate(n) => n,
            Kind::Both(prompt, generated) => prompt.saturating_add(generated),
            // The cursor moves one on where a draft happens to be right; idle rows have positions too.
            Kind::Rows(_) => 2 * MOST_ROWS,
            Kind::Sessions(_) => VERIFICATIONS,
        };
        self.depth.saturating_add(new).saturating_add(1)
    }

    /// (prompt tokens, generated tokens), as llama-bench has them.
    pub fn counts(&self) -> (u32, u32) {
        match self.kind {
            Kind::Prompt(n) => (n, 0),
            Kind::Generate(n) => (0, n),
            Kind::Both(prompt, generated) => (prompt, generated),
            Kind::Rows(_) => (0, 0),
            Kind::Sessions(count) => (0, count * VERIFICATIONS),
        }
    }

    /// Errors: nothing to compute, more rows than a step of them can have.
    pub fn check(&self) -> Result<()> {
        let argument = |what: &str, found: u32, allowed: String| {
            Err(Error::Argument { what: what.into(), found: found.to_string(), allowed })
        };
        match self.kind {
            Kind::Prompt(0) | Kind::Generate(0) | Kind::Both(0, _) | Kind::Both(_, 0) => {
                argument("the number of tokens of a test", 0, "1 or more".into())
            }
            Kind::Sessions(count) if !(1..=MOST_ROWS).contains(&count) => {
                argument("the number of conversations of a step", count, format!("1 to {MOST_ROWS}"))
            }
            Kind::Rows(rows) if !(1..=MOST_ROWS).contains(&rows) => {
                argument("the number of rows of a verification", rows, format!("1 to {MOST_ROWS}"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Prompt(n) => write!(f, "pp{n}")?,
            Kind::Generate(n) => write!(f, "tg{n}")?,
            Kind::Both(prompt, generated) => write!(f, "pp{prompt}+tg{generated}")?,
            Kind::Rows(rows) => write!(f, "rows{rows}")?,
            Kind::Sessions(count) => write!(f, "sessions{count}")?,
        }
        if self.depth > 0 { write!(f, " @ d{}", self.depth) } else { Ok(()) }
    }
}

/// One repetition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub wall: Duration,
    /// Of the device, by its own clock; `None` where it tells none.
    pub device: Option<Duration>,
    /// Host time of steps: writing, submitting, reading; not waiting.
    pub host: Duration,
}

/// Runs tests on a model, in a place of its own.
pub struct Runner {
    model: Model,
    slot: u32,
    /// Positions that hold what was computed for a depth.
    filled: u32,
    /// Places of further conversations, each with its positions that hold what was computed for a depth.
    others: Vec<(u32, u32)>,
    /// State of the tokens' generator.
    state: u64,
    rounds: Option<Rounds>,
}

impl Runner {
    /// Errors: no free place in the model.
    pub fn new(model: &Model) -> Result<Self> {
        let slot = model.engine().take_slot()?;
        let runner =
            Runner { model: model.clone(), slot, filled: 0, others: Vec::new(), state: 1, rounds: None };
        let mut engine = model.engine();
        let record = SamplerOptions::greedy().record(engine.history_of(slot))?;
        engine.set_sampler(slot, &record, &[])?;
        drop(engine);
        Ok(runner)
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens drawn at random, the same in every run: Knuth's generator, its upper half.
    fn tokens(&mut self, count: u32) -> Vec<u32> {
        let vocab = u64::from(self.model.config().vocab);
        let mut next = || {
            self.state =
                self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (((self.state >> 32) * vocab) >> 32) as u32
        };
        (0..count).map(|_| next()).collect()
    }

    /// Fills the cache up to the test's depth, unless it is. Positions below a depth stay when tests run beyond them.
    ///
    /// Errors: as running, a context that is too short.
    pub fn prepare(&mut self, test: &Test) -> Result<()> {
        test.check()?;
        if test.positions() > self.model.context() {
            return Err(Error::Argument {
                what: format!("the number of positions of {test}"),
                found: test.positions().to_string(),
                allowed: format!(
                    "{}, the model's context; choose a larger one with -c",
                    self.model.context()
                ),
            });
        }
        self.fill(self.slot, self.filled, test.depth)?;
        self.filled = test.depth;
        if let Kind::Sessions(count) = test.kind {
            while self.others.len() + 1 < count as usize {
                let model = self.model.clone();
                let mut engine = model.engine();
                let slot = engine.take_slot()?;
                self.others.push((slot, 0));
                let record = SamplerOptions::greedy().record(engine.history_of(slot))?;
                engine.set_sampler(slot, &record, &[])?;
            }
            for at in 0..count as usize - 1 {
                let (slot, filled) = self.others[at];
                self.fill(slot, filled, test.depth)?;
                self.others[at].1 = test.depth;
            }
        }
        Ok(())
    }

    /// Computes a conversation's positions up to a depth.
    fn fill(&mut self, slot: u32, mut filled: u32, depth: u32) -> Result<()> {
        let tokens = self.tokens(depth.saturating_sub(filled));
        let model = self.model.clone();
        let mut engine = model.engine();
        let size = engine.batch() as usize;
        for chunk in tokens.chunks(size) {
            engine.tokens(slot, chunk, filled, Path::Prefill, Tail::None)?;
            filled += chunk.len() as u32;
        }
        Ok(())
    }

    /// Runs a prepared test once.
    ///
    /// Errors: the device's.
    pub fn sample(&mut self, test: &Test) -> Result<Sample> {
        let tokens = match test.kind {
            Kind::Prompt(n) | Kind::Both(n, _) => self.tokens(n),
            Kind::Generate(_) => self.tokens(1),
            Kind::Rows(rows) | Kind::Sessions(rows) => self.tokens(rows),
        };
        let model = self.model.clone();
        let mut engine = model.engine();
        if let Kind::Rows(2..) = test.kind
            && self.rounds.is_none()
        {
            self.rounds = Some(Rounds::new(&engine, self.slot, DRAW, None, RoundOptions::default())?);
        }
        let before = engine.times;
        let began = Instant::now();
        let mut rounds = Some(Duration::ZERO);
        match test.kind {
            Kind::Prompt(_) => self.prompt(&mut engine, &tokens, test.depth)?,
            Kind::Generate(count) => self.generate(&mut engine, tokens[0], test.depth, count)?,
            Kind::Both(prompt, count) => {
                self.prompt(&mut engine, &tokens, test.depth)?;
                self.decode(&mut engine, test.depth + prompt, count)?;
            }
            Kind::Sessions(_) => self.together(&mut engine, &tokens, test.depth)?,
            Kind::Rows(_) => {
                for _ in 0..VERIFICATIONS {
                    let round = self.verify(&mut engine, &tokens, test.depth)?;
                    rounds = rounds.zip(round).map(|(sum, round)| sum + round);
                }
            }
        }
        let wall = began.elapsed();
        let after = engine.times;
        let device = match test.kind {
            Kind::Rows(_) => rounds,
            _ => after.device.map(|after| after - before.device.unwrap_or_default()),
        };
        Ok(Sample {
            wall,
            device: device.filter(|time| *time > Duration::ZERO),
            host: after.host - before.host,
        })
    }

    fn prompt(&self, engine: &mut Engine, tokens: &[u32], depth: u32) -> Result<()> {
        let short = tokens.len() <= SHORT_PROMPT as usize || engine.batch() <= SHORT_PROMPT;
        let (path, size) = if short {
            (Path::Rows, engine.batch().min(SHORT_PROMPT))
        } else {
            (Path::Prefill, engine.batch())
        };
        let mut start = depth;
        let chunks = tokens.chunks(size as usize);
        let last = chunks.len() - 1;
        for (index, chunk) in chunks.enumerate() {
            let tail = if index == last { Tail::Sample(DRAW) } else { Tail::None };
            engine.tokens(self.slot, chunk, start, path, tail)?;
            start += chunk.len() as u32;
        }
        engine.drawn(self.slot).map(|_| ())
    }

    fn generate(&self, engine: &mut Engine, token: u32, depth: u32, count: u32) -> Result<()> {
        engine.set_cursor(self.slot, token, depth)?;
        self.decode(engine, depth, count)
    }

    /// End tokens are tokens like all others.
    fn decode(&self, engine: &mut Engine, from: u32, count: u32) -> Result<()> {
        (from..from + count).try_for_each(|position| engine.decode(self.slot, position, DRAW).map(|_| ()))
    }

    /// A token of each conversation in each step.
    fn together(&self, engine: &mut Engine, tokens: &[u32], depth: u32) -> Result<()> {
        let slots = std::iter::once(self.slot).chain(self.others.iter().map(|(slot, _)| *slot));
        let mut from: Vec<(u32, u32, u32)> =
            slots.zip(tokens).map(|(slot, &token)| (slot, token, depth)).collect();
        for _ in 0..VERIFICATIONS {
            let drawn = engine.decode_rows(&from, DRAW)?;
            for (row, drawn) in from.iter_mut().zip(drawn) {
                *row = (row.0, drawn?.token, row.2 + 1);
            }
        }
        Ok(())
    }

    /// Verifies all but the first of `tokens` as drafts; gives the device's time.
    fn verify(&mut self, engine: &mut Engine, tokens: &[u32], depth: u32) -> Result<Option<Duration>> {
        engine.set_cursor(self.slot, tokens[0], depth)?;
        let Some(rounds) = self.rounds.as_mut().filter(|_| tokens.len() > 1) else {
            let before = engine.times.device;
            engine.decode(self.slot, depth, DRAW)?;
            return Ok(engine.times.device.map(|after| after - before.unwrap_or_default()));
        };
        // Only how many tokens came before matters to drafts that are given.
        let text = vec![0; depth as usize + 1];
        let times = rounds.run(engine, None, &text, Drafts::Given(&tokens[1..]))?.times;
        Ok(times
            .verify
            .map(|verify| verify + times.accept.unwrap_or_default() + times.idle.unwrap_or_default()))
    }

    /// Runs a prepared test once more with every command measured; `None` where the device tells no times. `keep` keeps
    /// the recordings one by one.
    ///
    /// Errors: as [`Runner::sample`].
    pub fn attribute(&mut self, test: &Test, keep: bool) -> Result<Option<Attribution>> {
        self.set_profiling(true);
        let run = |runner: &mut Self| -> Result<(Profile, Duration)> {
            // The first run records.
            runner.sample(test)?;
            let spans = keep.then(Vec::new);
            runner.model.engine().profile = Profile { spans, ..Profile::default() };
            let device = runner.model.device();
            let before = device.reading();
            let wall = runner.sample(test)?.wall;
            let mut profile = std::mem::take(&mut runner.model.engine().profile);
            profile.clocks = before.zip(device.reading()).map(<[_; 2]>::from);
            Ok((profile, wall))
        };
        let run = run(self);
        self.set_profiling(false);
        let (profile, wall) = run?;
        Ok(Attribution::new(profile, test.tokens(), wall))
    }

    fn set_profiling(&mut self, profiling: bool) {
        self.rounds = None;
        self.model.engine().set_profiling(profiling);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let mut engine = self.model.engine();
        engine.free_slot(self.slot);
        self.others.iter().for_each(|(slot, _)| engine.free_slot(*slot));
    }
}

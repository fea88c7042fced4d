//! What rounds cost on this device: the target's step by rows, the draft's step, and what lies between.
//!
//! All times are in seconds. Before anything is measured, a plain step is 1 and the rest follows from priors, which is
//! enough to compare.

use super::samples::Samples;
use crate::speculate::{MOST_HISTORY, Method, Round, Times};

/// Rows of the longest verification.
const ROWS: usize = MOST_HISTORY + 1;
/// Cost of one row more in a step that is bound by reading weights, in plain steps: lowest that is assumed.
const ROW: f64 = 0.03;
/// Rows that one pass over the weights serves.
const TILE: usize = 16;
/// Rounds after which a measurement of a row count no longer counts as one.
const EXPIRES: u64 = 2048;

/// Seconds of the target's step for each number of rows.
#[derive(Clone, Debug)]
struct Table {
    /// By rows - 1.
    measured: [Samples; ROWS],
    /// Monotone, for all numbers of rows.
    fit: [f64; ROWS],
}

/// What passes over the weights cost before anything is measured, in plain steps.
fn shape(rows: usize) -> f64 {
    let tiles = rows.div_ceil(TILE);
    tiles as f64 + ROW * (rows - tiles) as f64
}

impl Table {
    fn new() -> Self {
        let mut table = Table { measured: [Samples::default(); ROWS], fit: [0.0; ROWS] };
        table.refit();
        table
    }

    /// Least squares under the condition that more rows never cost less (pooled neighbours), linear between measured
    /// numbers of rows, and beyond the last half as steep as up to there: unknown numbers of rows look a little too
    /// good, so they are tried when that would pay.
    fn refit(&mut self) {
        let mut pools: [(f64, f64, usize); ROWS] = [(0.0, 0.0, 0); ROWS];
        let mut count = 0;
        for samples in &self.measured {
            let Some(estimate) = samples.estimate() else { continue };
            let weight = samples.len() as f64;
            pools[count] = (estimate * weight, weight, 1);
            count += 1;
            while count > 1
                && pools[count - 2].0 / pools[count - 2].1 > pools[count - 1].0 / pools[count - 1].1
            {
                let (sum, weight, members) = pools[count - 1];
                count -= 1;
                let pool = &mut pools[count - 1];
                *pool = (pool.0 + sum, pool.1 + weight, pool.2 + members);
            }
        }
        let mut values =
            pools[..count].iter().flat_map(|&(sum, weight, n)| std::iter::repeat_n(sum / weight, n));
        let mut last: Option<usize> = None;
        for i in 0..ROWS {
            if self.measured[i].estimate().is_none() {
                continue;
            }
            let value = values.next().unwrap_or_default();
            match last {
                None => (0..i).for_each(|j| self.fit[j] = value * shape(j + 1) / shape(i + 1)),
                Some(l) => {
                    let (from, step) = (self.fit[l], (value - self.fit[l]) / (i - l) as f64);
                    (l + 1..i).for_each(|j| self.fit[j] = from + step * (j - l) as f64);
                }
            }
            self.fit[i] = value;
            last = Some(i);
        }
        let Some(last) = last else {
            self.fit = std::array::from_fn(|i| shape(i + 1));
            return;
        };
        let plain = self.fit[0];
        let slope = if last > 0 { (self.fit[last] - plain) / last as f64 / 2.0 } else { 0.0 };
        for i in last + 1..ROWS {
            let tiles = ((i + 1).div_ceil(TILE) - (last + 1).div_ceil(TILE)) as f64;
            self.fit[i] = self.fit[last] + slope.max(ROW * plain) * (i - last) as f64 + tiles * plain;
        }
    }
}

/// Who drafts, as far as costs differ.
fn kind(method: Method) -> usize {
    usize::from(!method.is_history())
}

/// Everything that is known about costs.
#[derive(Clone, Debug)]
pub(super) struct Costs {
    /// One for history drafters, one for the draft model: without device times a table also holds what is not the
    /// target's. With device times both hold the same.
    tables: [Table; 2],
    step: Samples,
    /// Time of a catch-up over what it was expected to take.
    catch_up: Samples,
    /// Acceptance and waiting in plain rounds and in others; only with device times.
    between: [Samples; 2],
    /// A draft step in plain steps, before it is measured.
    draft_cost: f64,
    rounds: u64,
}

impl Costs {
    pub(super) fn new(draft_cost: f64) -> Self {
        Costs {
            tables: [Table::new(), Table::new()],
            step: Samples::default(),
            catch_up: Samples::default(),
            between: [Samples::default(); 2],
            draft_cost: if draft_cost.is_finite() { draft_cost.clamp(0.001, 1000.0) } else { 1.0 },
            rounds: 0,
        }
    }

    /// Plain rounds that were measured, as far as they are kept.
    pub(super) fn plain_samples(&self) -> usize {
        self.tables[0].measured[0].len()
    }

    fn between(&self, drafted: bool) -> f64 {
        let other = self.between[usize::from(!drafted)].estimate();
        self.between[usize::from(drafted)].estimate().or(other).unwrap_or(0.0)
    }

    /// A plain round.
    pub(super) fn plain(&self) -> f64 {
        self.tables[0].fit[0] + self.between(false)
    }

    /// One draft step.
    pub(super) fn step(&self) -> f64 {
        self.step.estimate().unwrap_or(self.draft_cost * self.tables[0].fit[0])
    }

    fn catch_up_prior(&self, rows: usize) -> f64 {
        if rows == 0 { 0.0 } else { self.step() * (1.0 + rows as f64 / (2 * TILE) as f64) }
    }

    /// Computing rows that the draft's cache lacks, before the first draft step.
    pub(super) fn catch_up(&self, rows: usize) -> f64 {
        self.catch_up_prior(rows) * self.catch_up.estimate().unwrap_or(1.0)
    }

    /// A round that verifies `k` drafted tokens after `steps` draft steps.
    pub(super) fn round(&self, method: Method, k: usize, steps: f64) -> f64 {
        let draft = if method.is_history() { 0.0 } else { steps * self.step() };
        draft + self.tables[kind(method)].fit[k.min(MOST_HISTORY)] + self.between(true)
    }

    /// As [`Costs::round`] if rows beyond those measured cost next to nothing.
    pub(super) fn round_at_best(&self, method: Method, k: usize, steps: f64) -> f64 {
        let table = &self.tables[kind(method)];
        let last =
            (0..=k.min(MOST_HISTORY)).rev().find(|&i| table.measured[i].estimate().is_some()).unwrap_or(0);
        let best = table.fit[last] + ROW * table.fit[0] * (k - last) as f64;
        self.round(method, k, steps) - table.fit[k.min(MOST_HISTORY)] + best
    }

    /// Whether a verification of `k` drafted tokens was measured.
    pub(super) fn is_measured(&self, method: Method, k: usize) -> bool {
        self.tables[kind(method)].measured[k.min(MOST_HISTORY)].estimate().is_some()
    }

    /// Measured times of the target's step by number of rows.
    pub(super) fn measured(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        let [history, model] = &self.tables;
        (0..ROWS)
            .filter_map(|i| Some((i + 1, model.measured[i].estimate().or(history.measured[i].estimate())?)))
    }

    pub(super) fn measured_step(&self) -> Option<f64> {
        self.step.estimate()
    }

    /// Learns from a round.
    pub(super) fn observe(&mut self, round: &Round) {
        self.rounds += 1;
        let now = self.rounds;
        let steps = if round.method.is_some_and(|m| !m.is_history()) { steps(round) } else { 0 };
        let known = round.times.verify.map(|t| t.as_secs_f64());
        let Times { draft, catch_up, accept, idle, .. } = round.times;
        if let (Some(draft), 1..) = (draft, steps) {
            self.step.push(draft.as_secs_f64() / steps as f64, now);
        }
        if let (Some(time), 1..) = (catch_up, round.catch_up) {
            self.catch_up.push(time.as_secs_f64() / self.catch_up_prior(round.catch_up), now);
        }
        if known.is_some() && !round.recorded {
            let between = accept.unwrap_or_default() + idle.unwrap_or_default();
            self.between[usize::from(round.method.is_some())].push(between.as_secs_f64(), now);
        }
        let wall = || {
            let rest = steps as f64 * self.step() + self.catch_up(round.catch_up);
            // What was assumed of the draft may be too much, but some of the time was the target's.
            let wall = round.wall.as_secs_f64();
            (!round.recorded).then(|| (wall - rest).max(wall / 4.0))
        };
        let Some(time) = known.or_else(wall) else { return };
        let row = round.asked.min(MOST_HISTORY);
        match round.method {
            None => self.push_plain(time),
            Some(method) => {
                for table in 0..2 {
                    if known.is_some() || table == kind(method) {
                        self.tables[table].measured[row].push(time, now);
                    }
                }
            }
        }
        for table in &mut self.tables {
            for samples in &mut table.measured[1..] {
                if samples.newest() + EXPIRES < now {
                    *samples = Samples::default();
                }
            }
            table.refit();
        }
    }

    /// When the device became slower or faster, what was not measured since becomes so in proportion.
    fn push_plain(&mut self, time: f64) {
        let now = self.rounds;
        let before = self.tables[0].measured[0];
        self.tables.iter_mut().for_each(|table| table.measured[0].push(time, now));
        let after = self.tables[0].measured[0];
        if let (Some(old), Some(new)) = (before.estimate(), after.estimate()) {
            let rest = self.tables.iter_mut().flat_map(|table| &mut table.measured[1..]);
            for samples in rest.chain([&mut self.step]) {
                if samples.newest() < before.newest() {
                    samples.scale(new / old);
                }
            }
        }
    }
}

/// Draft steps that ran: one more than tokens where an unsure one ended the draft.
pub(super) fn steps(round: &Round) -> usize {
    (round.drafted + 1).min(round.asked)
}

//! What the pieces of a compiled recording took, by timestamps or else by the host's clock, and what they are expected to
//! take next.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::encode::Encoded;
use crate::slice::{Cost, Cut, should_recut};
use crate::trace::{LabelTime, Times, spans};
use crate::vulkan::lock;

/// Times of a compiled recording's pieces.
pub(crate) struct Measured {
    pub(crate) costs: Vec<Cost>,
    /// The submission whose timestamps these are, by its value on the timeline.
    read: u64,
    ticks: Vec<Option<u64>>,
    /// How often in a row the recording was found to be cut badly.
    bad: u32,
}

impl Measured {
    pub(crate) fn new(cuts: &[Cut]) -> Self {
        let costs = cuts.iter().map(|cut| Cost { expected: cut.estimate, measured: false }).collect();
        Measured { costs, read: 0, ticks: Vec::new(), bad: 0 }
    }
}

/// Runs that must be long before a recording is cut anew: one may have been held up by others.
const PATIENCE: u32 = 2;

impl Encoded {
    /// Timestamps of the last run, which was waited for. Empty where there are none.
    fn ticks(&self) -> Vec<Option<u64>> {
        let last = self.last.load(Ordering::Acquire);
        let mut measured = lock(&self.measured);
        if last > 0 && measured.read != last {
            measured.read = last;
            measured.ticks = self.read_ticks();
            let took = self.took(&measured.ticks);
            self.take_in(&mut measured, 0..self.cuts.len(), &took);
        }
        measured.ticks.clone()
    }

    /// Nanoseconds of each piece.
    fn took(&self, ticks: &[Option<u64>]) -> Vec<Option<u64>> {
        let Some(period) = self.period() else { return vec![None; self.cuts.len()] };
        let tick = |index: u32| ticks.get(index as usize).copied().flatten();
        let ends = self.stamps.iter().map(|stamps| [tick(stamps.start), tick(stamps.end - 1)]);
        // A device that executes nothing has equal ticks, which are no times.
        ends.map(|ends| spans(&ends, period)[0].filter(|&took| took > 0)).collect()
    }

    fn take_in(&self, measured: &mut Measured, pieces: Range<usize>, took: &[Option<u64>]) {
        if took.iter().all(Option::is_none) {
            return;
        }
        let pace = self.pace();
        let first = measured.costs[pieces.clone()].iter().any(|cost| !cost.measured);
        for (cost, took) in measured.costs[pieces.clone()].iter_mut().zip(took) {
            if let Some(took) = took {
                cost.update(*took);
            }
        }
        let bad = should_recut(&self.cuts, &measured.costs, pace.budget);
        measured.bad = if bad { measured.bad + 1 } else { 0 };
        if first || bad {
            pace.learn(&self.cuts[pieces], &self.work, took);
        }
    }

    /// What each piece is expected to take.
    pub(crate) fn costs(&self) -> Vec<Cost> {
        lock(&self.measured).costs.clone()
    }

    /// Nanoseconds that some pieces are expected to take together.
    pub(crate) fn expected(&self, pieces: &Range<usize>) -> f64 {
        lock(&self.measured).costs[pieces.clone()].iter().map(|cost| cost.expected).sum()
    }

    /// Takes in what some pieces took together by the host's clock, where the device tells no times. Called after the run.
    pub(crate) fn took_by_host(&self, pieces: Range<usize>, all: Duration) {
        let mut measured = lock(&self.measured);
        if pieces.is_empty() {
            return;
        }
        let whole: f64 = measured.costs[pieces.clone()].iter().map(|cost| cost.expected).sum();
        let nanoseconds = all.as_nanos() as f64;
        let count = pieces.len() as f64;
        let share = |cost: &Cost| if whole > 0.0 { cost.expected / whole } else { 1.0 / count };
        let took: Vec<_> = measured.costs[pieces.clone()]
            .iter()
            .map(|cost| Some((nanoseconds * share(cost)) as u64))
            .collect();
        self.take_in(&mut measured, pieces, &took);
    }

    /// When some pieces of the last run began and ended on the device's clock, in nanoseconds.
    pub(crate) fn span(&self, pieces: &Range<usize>) -> Option<(u64, u64)> {
        let ticks = self.ticks();
        let period = f64::from(self.period()?);
        let tick = |index: u32| ticks.get(index as usize).copied().flatten();
        let first = tick(self.stamps.get(pieces.start)?.start)?;
        let last = tick(self.stamps.get(pieces.end.checked_sub(1)?)?.end - 1)?;
        (last > first).then_some(((first as f64 * period) as u64, (last as f64 * period) as u64))
    }

    /// Whether it should be compiled anew: times have shown that it is cut badly.
    pub(crate) fn should_recut(&self) -> bool {
        lock(&self.measured).bad >= PATIENCE
    }

    /// Times of the last run, which was waited for. A query that has no result is "no time known".
    pub(crate) fn times(&self) -> Times {
        let ticks = self.ticks();
        let (Some(period), Some(first), Some(last)) = (self.period(), ticks.first(), ticks.last()) else {
            return Times::default();
        };
        let mut labels: Vec<LabelTime> = Vec::new();
        if !self.labels.is_empty() {
            for (cut, stamps) in self.cuts.iter().zip(&self.stamps) {
                let piece = spans(&ticks[stamps.start as usize..stamps.end as usize], period);
                for (index, nanoseconds) in cut.commands.clone().zip(piece) {
                    let Some(nanoseconds) = nanoseconds else { continue };
                    let (label, kernel, bytes) = &self.labels[index];
                    // Of a dispatch in shares this is one more.
                    let continues = cut.share.is_some_and(|share| share.first > 0);
                    match labels.last_mut().filter(|_| continues) {
                        Some(last) => last.nanoseconds += nanoseconds,
                        None => labels.push(LabelTime {
                            label: label.clone(),
                            kernel,
                            nanoseconds,
                            constant_bytes: *bytes,
                        }),
                    }
                }
            }
        }
        Times {
            total_nanoseconds: spans(&[*first, *last], period)[0].filter(|&t| t > 0),
            began_nanoseconds: first.map(|tick| (tick as f64 * f64::from(period)) as u64),
            labels,
        }
    }
}

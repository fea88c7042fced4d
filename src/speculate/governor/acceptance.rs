//! How likely a drafted token is accepted, by its position in the draft.

use crate::speculate::{MOST_HISTORY, Round};

/// Weight of the old counts at each new one: the last 50 count.
const DECAY: f64 = 0.98;
/// Weight of a rate below [`PRIOR`] at each round that passed the method over: after a hundred it is as good as unknown.
const AGE: f64 = 0.98;
/// Acceptance before anything is known, and how many observations that is worth.
const PRIOR: f64 = 0.6;
const WEIGHT: f64 = 2.0;

/// A rate that drifts.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    yes: f64,
    all: f64,
}

impl Rate {
    fn push(&mut self, yes: bool) {
        self.yes = self.yes * DECAY + f64::from(u8::from(yes));
        self.all = self.all * DECAY + 1.0;
    }

    fn age(&mut self, factor: f64) {
        self.yes *= factor;
        self.all *= factor;
    }

    fn estimate(&self, prior: f64) -> f64 {
        (self.yes + WEIGHT * prior) / (self.all + WEIGHT)
    }
}

/// What is known about one method's drafts.
#[derive(Clone, Debug)]
pub(super) struct Acceptance {
    /// The token at a position is accepted, those before it being so. An early stop counts as not accepted.
    accepted: [Rate; MOST_HISTORY],
    /// The token at a position is drafted, those before it being so.
    drafted: [Rate; MOST_HISTORY],
}

impl Acceptance {
    pub(super) fn new() -> Self {
        Acceptance { accepted: [Rate::default(); MOST_HISTORY], drafted: [Rate::default(); MOST_HISTORY] }
    }

    /// The method could have drafted and was passed over. What is bad is forgotten, so that it is tried again; what is
    /// good was passed over for its cost.
    pub(super) fn pass_over(&mut self) {
        let bad = |rate: &&mut Rate| rate.yes < rate.all * PRIOR;
        self.accepted.iter_mut().filter(bad).for_each(|rate| rate.age(AGE));
    }

    /// Gives what was learned less weight.
    pub(super) fn weaken(&mut self, factor: f64) {
        self.accepted.iter_mut().chain(&mut self.drafted).for_each(|rate| rate.age(factor));
    }

    pub(super) fn observe(&mut self, round: &Round) {
        let asked = round.asked.min(MOST_HISTORY);
        for i in 0..asked.min(round.accepted + 1) {
            self.accepted[i].push(i < round.accepted);
        }
        for i in 0..asked.min(round.drafted + 1) {
            self.drafted[i].push(i < round.drafted);
        }
    }

    /// For k = 1, 2, …: tokens a round is expected to commit, and draft steps it is expected to take. A position of which
    /// little is known is like the one before it.
    pub(super) fn expected(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let (mut accepted, mut drafted) = (PRIOR, 1.0);
        let (mut all_accepted, mut all_drafted) = (1.0, 1.0);
        let (mut tokens, mut steps) = (1.0, 0.0);
        self.accepted.iter().zip(&self.drafted).map(move |(a, d)| {
            steps += all_drafted;
            accepted = a.estimate(accepted);
            drafted = d.estimate(drafted);
            all_accepted *= accepted;
            all_drafted *= drafted;
            tokens += all_accepted;
            (tokens, steps)
        })
    }
}

//! A device and a drafter that exist only as numbers, for tests of the governor: what a conversation would take.

use std::time::Duration;

use super::{Governor, Offer};
use crate::speculate::tests::Random;
use crate::speculate::{Method, Round, Times};

/// What the device does.
pub(super) struct Device {
    /// Milliseconds of the target's step for n rows at round r.
    pub(super) verify: Box<dyn Fn(usize, u64) -> f64>,
    /// Milliseconds of a draft step at round r.
    pub(super) step: Box<dyn Fn(u64) -> f64>,
    /// Milliseconds of acceptance and waiting in any round.
    pub(super) between: f64,
    /// Relative deviation of each time, and how often one is ten times too long.
    pub(super) noise: (f64, f64),
    pub(super) clock: Clock,
}

/// What the device tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Clock {
    Device,
    Wall,
    None,
}

/// A target's step that is bound by reading weights: `row` of it more for each row.
pub(super) fn memory_bound(ms: f64, row: f64) -> Box<dyn Fn(usize, u64) -> f64> {
    Box::new(move |n, _| ms * (n.div_ceil(16) as f64 + row * (n - 1) as f64))
}

impl Device {
    pub(super) fn new(row: f64, draft: f64) -> Self {
        Device {
            verify: memory_bound(40.0, row),
            step: Box::new(move |_| 40.0 * draft),
            between: 0.2,
            noise: (0.02, 0.0),
            clock: Clock::Device,
        }
    }

    /// Milliseconds of a round of k drafted tokens without noise and catching up.
    pub(super) fn round(&self, k: usize, model: bool, round: u64) -> f64 {
        (self.verify)(k + 1, round) + if model { k as f64 * (self.step)(round) } else { 0.0 } + self.between
    }

    /// Tokens per millisecond of the best fixed k for a constant acceptance.
    pub(super) fn best(&self, acceptance: f64, most: usize) -> f64 {
        let tokens = |k: usize| (0..=k).map(|i| acceptance.powi(i as i32)).sum::<f64>();
        (0..=most).map(|k| tokens(k) / self.round(k, true, 0)).fold(0.0, f64::max)
    }
}

/// What came of a simulated conversation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Milliseconds it took, and would have taken without drafts.
    pub(super) time: f64,
    pub(super) plain: f64,
    pub(super) tokens: usize,
    pub(super) drafted: usize,
    /// Rounds that drafted, and changes of k.
    pub(super) rounds: usize,
    pub(super) changes: usize,
}

/// Runs until `tokens` are committed. `accept` says how likely the drafted token at a position is accepted at a round,
/// given the k that was chosen; `history` is the length of the history's draft, 0 for the draft model.
pub(super) fn run(
    governor: &mut Governor,
    device: &Device,
    seed: u64,
    tokens: usize,
    history: usize,
    accept: &dyn Fn(u64, usize, usize) -> f64,
) -> Outcome {
    let mut random = Random(seed);
    let mut out = Outcome::default();
    let (mut lag, mut round, mut last) = (0usize, 0u64, 0usize);
    let method = Method::all().find(|m| m.is_history() == (history > 0)).unwrap_or(Method::DRAFT_MODEL);
    while out.tokens < tokens {
        let room = tokens - out.tokens;
        let offer = Offer { history: (history > 0).then_some((method, history)), lag, room };
        let decision = governor.choose(&offer);
        assert!(decision.k <= room && decision.tokens >= 1.0 && decision.cost > 0.0, "{decision:?}");
        let k = decision.k;
        let model = k > 0 && history == 0;
        let mut noisy = |ms: f64| {
            let factor = 1.0 + device.noise.0 * (2.0 * random.share() - 1.0);
            let outlier = random.share() < device.noise.1;
            ms * factor * if outlier { 10.0 } else { 1.0 }
        };
        let catch_up_rows = if model { lag.saturating_sub(1) } else { 0 };
        let step = (device.step)(round);
        let catch_up = noisy(if catch_up_rows > 0 { step * (1.0 + lag as f64 / 32.0) } else { 0.0 });
        let draft = noisy(if model { k as f64 * step } else { 0.0 });
        let verify = noisy((device.verify)(k + 1, round));
        let between = noisy(device.between);
        let accepted = (0..k).take_while(|&i| random.share() < accept(round, i, k)).count();
        let time = catch_up + draft + verify + between;
        let span = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let known = |ms: f64| (device.clock == Clock::Device).then(|| span(ms));
        governor.observe(&Round {
            method: decision.method,
            asked: k,
            drafted: k,
            accepted,
            catch_up: catch_up_rows,
            times: Times {
                catch_up: known(catch_up).filter(|_| catch_up_rows > 0),
                draft: known(draft).filter(|_| model),
                verify: known(verify),
                accept: None,
                idle: known(between),
            },
            wall: if device.clock == Clock::None { Duration::ZERO } else { span(time) },
            recorded: false,
        });
        lag = if model { usize::from(accepted == k) } else { lag + 1 + accepted };
        out.time += time;
        out.plain += (1 + accepted) as f64 * device.round(0, false, round);
        out.tokens += 1 + accepted;
        out.drafted += k;
        out.rounds += usize::from(k > 0);
        out.changes += usize::from(k != last);
        last = k;
        round += 1;
    }
    out
}

//! How many tokens to draft: the k that commits most tokens per millisecond on this device with this drafter.
//!
//! The governor multiplies what it saw: the time of a draft step and of a verification of n rows ([`cost`]), and how
//! often a token at each position of a draft was accepted ([`acceptance`]). What it does not know looks a little better
//! than it is, so it is tried when trying could pay.
//!
//! *Never slower than plain decoding* is an account, in plain steps. Every round pays in what it gained over plain
//! decoding, or takes out what it lost; each token pays in [`SHARE`] besides. A draft is made only if the account could
//! bear that all of it is rejected. So whatever the drafter does, a conversation of n tokens takes at most the time of
//! `n * (1 + SHARE) + OPENING` plain steps, and any part of it loses at most what the account can hold, [`MOST_SAVED`],
//! more. That holds as far as the plain step's time is known: a relative error of it counts in full.

mod acceptance;
mod cost;
mod samples;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use super::{METHODS, MOST_HISTORY, Method, Round};
use acceptance::Acceptance;
use cost::Costs;

/// Share of the time that may be lost to trying.
const SHARE: f64 = 0.01;
/// Plain steps that may be lost to trying besides, at the beginning.
const OPENING: f64 = 4.0;
/// Plain steps that gains are remembered for.
const MOST_SAVED: f64 = 12.0;
/// A choice stays while no other is better by this factor.
const HYSTERESIS: f64 = 1.03;
/// Plain rounds that are measured before anything is drafted, and rounds after which it is given up.
const FIRST_PLAIN: usize = 2;
const PATIENCE: u64 = 5;
/// Rounds in a row that draft, after which a plain one is measured; more while that is as expected.
const PLAIN_AFTER: (u64, u64) = (48, 384);
/// Relative errors of an expected time that count as little, and as a surprise.
const LITTLE: f64 = 0.1;
const SURPRISE: f64 = 0.25;
/// Plain rounds that are measured when times are not as expected.
const AGAIN: u32 = 2;
/// Rounds between trials of a k whose cost is unknown; doubled after each.
const TRY_AFTER: u64 = 8;
/// How much better an unknown k must look, at best, to be tried.
const PROMISE: f64 = 1.1;
/// Rounds over which catching up is spread when a draft is compared: so many profit from it.
const STAY: f64 = 16.0;

/// What the governor may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GovernorOptions {
    /// Always this k, as far as the drafter and the room allow; `None` lets the governor choose.
    pub fixed: Option<usize>,
    /// Drafts shorter than this are not used.
    pub least: usize,
    /// Longest draft.
    pub most: usize,
    /// Whether there is a draft model.
    pub model: bool,
    /// Whose steps those are: a draft model's or a predictor's.
    pub drafter: Method,
    /// Cost of a draft step in steps of the target before it is measured: the quotient of the bytes both read.
    pub draft_cost: f64,
}

impl Default for GovernorOptions {
    fn default() -> Self {
        GovernorOptions {
            fixed: None,
            least: 0,
            most: MOST_HISTORY,
            model: false,
            drafter: Method::DRAFT_MODEL,
            draft_cost: 0.25,
        }
    }
}

/// What a round could draft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The draft that a history drafter found: whose, and how many tokens.
    pub history: Option<(Method, usize)>,
    /// Rows that the draft model's cache lacks beside the last committed token's; the first draft step takes one of
    /// them, more are computed first.
    pub lag: usize,
    /// Most tokens that may be drafted: what context, wanted length and supported rows leave.
    pub room: usize,
}

/// Why a k was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The user fixed k.
    Fixed,
    /// Nobody can draft, or only less than the user wants.
    NoDraft,
    /// The plain step is measured before anything is drafted, or was not for long.
    Measure,
    /// It commits most tokens per time.
    Best,
    /// Others would not be better by enough to change.
    Keep,
    /// Another would be better, but drafts lost time, and this is what the account can bear.
    Account,
    /// The cost of this k is unknown and may be low.
    Try,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Fixed => "fixed",
            Why::NoDraft => "nothing to draft",
            Why::Measure => "measuring a plain step",
            Why::Best => "best",
            Why::Keep => "others are hardly better",
            Why::Account => "drafts lost time before",
            Why::Try => "trying an unknown k",
        })
    }
}

/// What the governor chose, with the numbers it chose by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Who drafts; `None` when k is 0.
    pub method: Option<Method>,
    /// Tokens to draft.
    pub k: usize,
    pub why: Why,
    /// Tokens the round is expected to commit.
    pub tokens: f64,
    /// Time the round is expected to take, in plain steps.
    pub cost: f64,
    /// Of that, computing what the draft model's cache lacks.
    pub catch_up: f64,
    /// Plain steps that may be lost before drafting stops.
    pub account: f64,
    /// What a plain round takes; `None` until one was measured.
    pub plain: Option<Duration>,
}

fn seconds(round: &Round) -> Option<f64> {
    round.time().map(|time| time.as_secs_f64())
}

impl Decision {
    /// Expected speed over that of plain decoding, catching up spread over the rounds that profit from it.
    pub fn speed_up(&self) -> f64 {
        self.tokens / (self.cost - self.catch_up * (1.0 - 1.0 / STAY))
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.method.map_or("plain", Method::name);
        write!(f, "k {} {name} ({}): {:.2} tokens in {:.2} steps", self.k, self.why, self.tokens, self.cost)
    }
}

/// Chooses k each round and learns from what came of it.
#[derive(Clone, Debug)]
pub struct Governor {
    options: GovernorOptions,
    costs: Costs,
    /// By [`Method::index`].
    acceptance: Vec<Acceptance>,
    /// In plain steps.
    account: f64,
    last: Option<(Method, usize)>,
    rounds: u64,
    /// Rounds that drafted since a plain one, and at how many of them one is due.
    in_a_row: u64,
    plain_after: u64,
    /// Plain rounds to measure now.
    measure: u32,
    /// Whether the last round that drafted took much more or less time than expected.
    surprised: bool,
    /// Round of the next trial, and rounds to the one after it.
    next_try: (u64, u64),
}

impl Governor {
    /// A governor that knows nothing yet.
    pub fn new(options: GovernorOptions) -> Self {
        Governor {
            options,
            costs: Costs::new(options.draft_cost),
            acceptance: vec![Acceptance::new(); METHODS.len()],
            account: OPENING,
            last: None,
            rounds: 0,
            in_a_row: 0,
            plain_after: PLAIN_AFTER.0,
            measure: 0,
            surprised: false,
            next_try: (TRY_AFTER, TRY_AFTER),
        }
    }

    /// Another text begins: what rounds cost is still known, how good drafts are only half. The account stays as it is,
    /// so that many short texts lose no more than a long one.
    pub fn begin(&mut self) {
        self.acceptance.iter_mut().for_each(|acceptance| acceptance.weaken(0.5));
        self.last = None;
    }

    /// Chooses who drafts the next round, and how many tokens. Call it once a round.
    pub fn choose(&mut self, offer: &Offer) -> Decision {
        let decision = self.decide(offer);
        self.last = decision.method.map(|method| (method, decision.k));
        if decision.why != Why::Measure {
            for (method, _) in self.drafters(offer).filter(|&(method, _)| decision.method != Some(method)) {
                self.acceptance[method.index()].pass_over();
            }
        }
        decision
    }

    /// Learns from a round. Rounds may be observed after later ones were chosen, in the order in which they ran.
    pub fn observe(&mut self, round: &Round) {
        self.rounds += 1;
        let mut gain = SHARE * round.tokens() as f64;
        match round.method {
            None => self.observe_plain(round),
            Some(method) => {
                let expected = self.expected(round, method);
                self.costs.observe(round);
                self.acceptance[method.index()].observe(round);
                // A single time that is far off says more about the machine than about drafting.
                let likely = self.expected(round, method);
                let time = seconds(round).unwrap_or(likely).clamp(likely / 2.0, likely * 2.0);
                gain += round.tokens() as f64 - time / self.costs.plain();
                // Twice in a row: the device may have changed its speed, and the plain step's time with it.
                let surprise = (time / expected - 1.0).abs() > SURPRISE;
                if surprise && self.surprised {
                    self.measure = AGAIN;
                }
                self.in_a_row += 1;
                self.surprised = surprise && !self.surprised;
            }
        }
        self.account = (self.account + gain).min(MOST_SAVED);
    }

    fn observe_plain(&mut self, round: &Round) {
        let expected = self.costs.plain();
        self.costs.observe(round);
        let overdue = std::mem::take(&mut self.in_a_row) >= self.plain_after;
        if self.measure > 0 {
            self.measure -= 1;
        } else if let (true, Some(time)) = (overdue, seconds(round)) {
            let little = (time / expected - 1.0).abs() < LITTLE;
            self.plain_after = if little { (self.plain_after * 2).min(PLAIN_AFTER.1) } else { PLAIN_AFTER.0 };
            self.measure = if little { 0 } else { AGAIN };
        }
    }

    /// Seconds that a round that drafted should take, by what is known now.
    fn expected(&self, round: &Round, method: Method) -> f64 {
        let steps = if method.is_history() { 0 } else { cost::steps(round) };
        self.costs.round(method, round.asked, steps as f64) + self.costs.catch_up(round.catch_up)
    }

    /// Measured seconds of the target's step by number of rows, ascending.
    pub fn verify_times(&self) -> Vec<(usize, f64)> {
        self.costs.measured().collect()
    }

    /// What a plain round takes; `None` until one was measured.
    pub fn plain_time(&self) -> Option<Duration> {
        (self.costs.plain_samples() > 0).then(|| Duration::from_secs_f64(self.costs.plain()))
    }

    /// Measured seconds of a draft step.
    pub fn step_time(&self) -> Option<f64> {
        self.costs.measured_step()
    }

    fn plain(&self, why: Why) -> Decision {
        Decision {
            method: None,
            k: 0,
            why,
            tokens: 1.0,
            cost: 1.0,
            catch_up: 0.0,
            account: self.account,
            plain: self.plain_time(),
        }
    }

    /// Who could draft, and how many tokens at most: the history's draft first.
    fn drafters(&self, offer: &Offer) -> impl Iterator<Item = (Method, usize)> + use<> {
        let most = self.options.most.min(offer.room);
        let least = self.options.least.max(1);
        let by = self.options.drafter;
        let model = self.options.model.then_some((by, by.row().most));
        let drafters = [offer.history, model].into_iter().flatten();
        drafters
            .map(move |(method, k)| (method, k.min(most).min(method.row().most)))
            .filter(move |&(_, k)| k >= least)
    }

    /// What drafts of 1 to `most` tokens would bring if each token were accepted at this rate, those before it being so.
    pub fn predict(&self, method: Method, acceptance: f64, most: usize) -> Vec<Decision> {
        let mut tokens = 1.0;
        let draft = |k: usize| {
            tokens += acceptance.powi(k as i32);
            self.draft(method, k, (tokens, k as f64), 0.0)
        };
        (1..=most).map(draft).collect()
    }

    /// A draft of `k` tokens that is expected to commit `tokens` after `steps` draft steps.
    fn draft(&self, method: Method, k: usize, (tokens, steps): (f64, f64), catch_up: f64) -> Decision {
        let plain = self.costs.plain();
        Decision {
            method: Some(method),
            k,
            why: Why::Best,
            tokens,
            cost: (self.costs.round(method, k, steps) + catch_up) / plain,
            catch_up: catch_up / plain,
            account: self.account,
            plain: self.plain_time(),
        }
    }

    /// A draft of each length from 1 to `most`, with its numbers, and its draft steps.
    fn drafts(&self, method: Method, most: usize, lag: usize) -> impl Iterator<Item = (Decision, f64)> + '_ {
        // The first draft step takes two rows.
        let lag = if method.is_history() { 0 } else { lag.saturating_sub(1) };
        let catch_up = self.costs.catch_up(lag);
        let expected = self.acceptance[method.index()].expected().take(most);
        expected.zip(1..).map(move |(expected, k)| (self.draft(method, k, expected, catch_up), expected.1))
    }

    fn decide(&mut self, offer: &Offer) -> Decision {
        let least = self.options.least.max(1);
        if let Some(fixed) = self.options.fixed {
            let drafter = self.drafters(offer).next();
            let (Some((method, most)), 1..) = (drafter, fixed) else {
                return self.plain(if fixed == 0 { Why::Fixed } else { Why::NoDraft });
            };
            let k = fixed.clamp(least.min(most), most);
            let draft = self.drafts(method, k, offer.lag).last();
            return draft.map_or(self.plain(Why::NoDraft), |(d, _)| Decision { why: Why::Fixed, ..d });
        }
        if self.drafters(offer).next().is_none() {
            return self.plain(Why::NoDraft);
        }
        let first = self.costs.plain_samples() < FIRST_PLAIN && self.rounds < PATIENCE;
        if first || self.measure > 0 || self.in_a_row >= self.plain_after {
            return self.plain(Why::Measure);
        }
        let plain = self.plain(Why::Best);
        let (mut best, mut wanted) = (plain, plain);
        let mut kept = self.last.is_none().then_some(plain);
        let mut unknown: Option<(Decision, f64)> = None;
        for (method, most) in self.drafters(offer) {
            for (draft, steps) in self.drafts(method, most, offer.lag).skip(least - 1) {
                if draft.speed_up() > wanted.speed_up() {
                    wanted = draft;
                }
                // If all is rejected the round commits one token. Half of the account at most is risked, so that some
                // misfortune does not end drafting; the shortest draft may risk all of it.
                let most = if draft.k == least { self.account } else { self.account / 2.0 };
                if draft.cost - 1.0 > most {
                    continue;
                }
                if draft.speed_up() > best.speed_up() {
                    best = draft;
                }
                if self.last == Some((method, draft.k)) {
                    kept = Some(draft);
                }
                if !self.costs.is_measured(method, draft.k) {
                    let cost = self.costs.round_at_best(method, draft.k, steps) / self.costs.plain()
                        + draft.catch_up;
                    let at_best = draft.tokens / cost;
                    if unknown.is_none_or(|(_, other)| at_best > other) {
                        unknown = Some((draft, at_best));
                    }
                }
            }
        }
        if let Some(kept) = kept
            && best.speed_up() < kept.speed_up() * HYSTERESIS
        {
            let why = if kept == best { Why::Best } else { Why::Keep };
            best = Decision { why, ..kept };
        } else if wanted.speed_up() > best.speed_up() * HYSTERESIS {
            best.why = Why::Account;
        }
        match unknown {
            Some((draft, at_best))
                if self.rounds >= self.next_try.0 && at_best > best.speed_up() * PROMISE =>
            {
                self.next_try = (self.rounds + self.next_try.1, self.next_try.1 * 2);
                Decision { why: Why::Try, ..draft }
            }
            _ => best,
        }
    }
}

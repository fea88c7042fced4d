//! What one round did: the record that the governor learns from and the statistics count.

use std::time::Duration;

use super::Method;

/// Times of the device in one round. `None` where they are not known, as on a device without timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Computing the rows that the draft model's cache lacked.
    pub catch_up: Option<Duration>,
    /// All draft steps.
    pub draft: Option<Duration>,
    /// The target's step: verification, or the decode step of a plain round.
    pub verify: Option<Duration>,
    /// Acceptance and commit.
    pub accept: Option<Duration>,
    /// Between the end of the round before and the begin of this one.
    pub idle: Option<Duration>,
}

impl Times {
    /// Device time that was spent working; `None` unless the target's time is known.
    pub fn busy(&self) -> Option<Duration> {
        let rest = [self.catch_up, self.draft, self.accept].into_iter().flatten().sum::<Duration>();
        self.verify.map(|verify| verify + rest)
    }
}

/// One round, after it was read back. A plain decode step is a round that drafted nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Who drafted; `None` in a plain round.
    pub method: Option<Method>,
    /// The k that was chosen: the drafter was asked for so many tokens.
    pub asked: usize,
    /// Tokens that were verified; fewer than `asked` where the drafter was unsure.
    pub drafted: usize,
    /// Drafted tokens that were accepted, at most `drafted`. The round commits one token more.
    pub accepted: usize,
    /// Rows that the draft model's cache lacked and that were computed first.
    pub catch_up: usize,
    pub times: Times,
    /// Time on the host's clock from the end of the round before (or the submission, if later) to the end of this one.
    pub wall: Duration,
    /// Something was recorded or compiled during the round, so `wall` says nothing about the next one.
    pub recorded: bool,
}

impl Round {
    /// Tokens that the round committed.
    pub fn tokens(&self) -> usize {
        self.accepted + 1
    }

    /// What the round took, by the device's clock or else the host's; `None` where neither tells.
    pub fn time(&self) -> Option<Duration> {
        let wall = (!self.recorded && !self.wall.is_zero()).then_some(self.wall);
        self.times.busy().map(|busy| busy + self.times.idle.unwrap_or_default()).or(wall)
    }
}

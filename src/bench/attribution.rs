//! Where the time of a test went: every label's time beside the bytes and operations behind it and what the device can do.

use std::time::Duration;

use super::Ceilings;
use crate::{LabelTotal, Profile, Work};

/// What keeps a label from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Bandwidth,
    Compute,
    /// Starting dispatches and waiting for each other takes most of the time.
    Launch,
    /// None of the ceilings explains half of the time.
    Unexplained,
}

impl Bound {
    pub fn name(self) -> &'static str {
        match self {
            Bound::Bandwidth => "bandwidth",
            Bound::Compute => "compute",
            Bound::Launch => "launch",
            Bound::Unexplained => "-",
        }
    }
}

/// One label.
#[derive(Clone, Debug)]
pub struct Part {
    pub label: String,
    pub total: LabelTotal,
}

impl Part {
    /// Bytes per second.
    pub fn bandwidth(&self) -> Option<f64> {
        per_second(self.total.work.bytes(), self.total.nanoseconds)
    }

    /// Operations per second.
    pub fn arithmetic(&self) -> Option<f64> {
        per_second(self.total.work.operations, self.total.nanoseconds)
    }

    /// Shares of the label's time that bytes, operations and launches explain at the ceilings.
    fn explained(&self, ceilings: &Ceilings) -> [(Bound, f64); 3] {
        let seconds = self.total.nanoseconds as f64 / 1e9;
        let share = |amount: f64, ceiling: Option<f64>| {
            ceiling.filter(|ceiling| *ceiling > 0.0 && seconds > 0.0).map_or(0.0, |c| amount / c / seconds)
        };
        let arithmetic = ceilings.arithmetic_for(self.total.kernel);
        let launches = self.total.dispatches as f64;
        let launch = ceilings.timed_launch.map(|launch| 1.0 / launch.as_secs_f64().max(1e-12));
        [
            (Bound::Bandwidth, share(self.total.work.bytes() as f64, ceilings.read())),
            (Bound::Compute, share(self.total.work.operations as f64, arithmetic)),
            (Bound::Launch, share(launches, launch)),
        ]
    }

    /// Bandwidth as a share of the read ceiling.
    pub fn share_of_ceiling(&self, ceilings: &Ceilings) -> Option<f64> {
        Some(self.bandwidth()? / ceilings.read()?)
    }

    /// The ceiling that explains most of the time, if it explains half.
    pub fn bound(&self, ceilings: &Ceilings) -> Bound {
        let best = self.explained(ceilings).into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        best.filter(|(_, share)| *share >= 0.5).map_or(Bound::Unexplained, |(bound, _)| bound)
    }

    /// Whether what it reads fits into a cache that explains more than the memory's bandwidth.
    pub fn is_cached(&self, ceilings: &Ceilings) -> bool {
        let each = self.total.work.bytes() / self.total.dispatches.max(1);
        self.share_of_ceiling(ceilings).is_some_and(|share| share > 1.0)
            && ceilings.cache.is_some_and(|cache| each <= cache)
    }
}

fn per_second(amount: u64, nanoseconds: u64) -> Option<f64> {
    (amount > 0 && nanoseconds > 0).then(|| amount as f64 * 1e9 / nanoseconds as f64)
}

/// A run of a test with every command measured.
#[derive(Clone, Debug)]
pub struct Attribution {
    /// Largest time first.
    pub parts: Vec<Part>,
    /// Tokens, or rows, that the run computed.
    pub tokens: u64,
    /// On the host's clock, begin to end.
    pub wall: Duration,
    /// Of the device, begin to end of each recording.
    pub device: Duration,
    /// Everything together.
    pub work: Work,
    /// The recordings one by one.
    pub profile: Profile,
}

impl Attribution {
    /// `None` where the device tells no times.
    pub fn new(profile: Profile, tokens: u64, wall: Duration) -> Option<Self> {
        let parts = profile.labels.iter().map(|(label, total)| Part { label: label.clone(), total: *total });
        let mut parts: Vec<Part> = parts.collect();
        if parts.iter().all(|part| part.total.nanoseconds == 0) {
            return None;
        }
        parts.sort_by_key(|part| std::cmp::Reverse(part.total.nanoseconds));
        let mut work = Work::default();
        parts.iter().for_each(|part| work += part.total.work);
        let device = Duration::from_nanos(profile.nanoseconds);
        Some(Attribution { parts, tokens: tokens.max(1), wall, device, work, profile })
    }

    /// Time of all labels.
    pub fn labels(&self) -> Duration {
        Duration::from_nanos(self.parts.iter().map(|part| part.total.nanoseconds).sum())
    }

    /// Time in which the device had nothing to do: before, between and after the recordings.
    pub fn idle(&self) -> Duration {
        self.wall.saturating_sub(self.device)
    }

    /// Bytes per second over the wall time.
    pub fn bandwidth(&self) -> f64 {
        self.work.bytes() as f64 / self.wall.as_secs_f64().max(1e-12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(nanoseconds: u64, dispatches: u64, weights: u64, operations: u64) -> Part {
        let work = Work { weights, operations, ..Work::default() };
        let total = LabelTotal { dispatches, nanoseconds, work, kernel: "linear.matvec.q4_k.q8" };
        Part { label: "ffn_down".into(), total }
    }

    fn ceilings() -> Ceilings {
        Ceilings {
            memory: vec![super::super::MemoryRates {
                name: "weights".into(),
                bytes: 1 << 28,
                read: 100e9,
                write: 50e9,
                copy: 80e9,
            }],
            f32: Some(4e12),
            int8: Some(16e12),
            timed_launch: Some(Duration::from_micros(2)),
            cache: Some(1 << 20),
            ..Ceilings::default()
        }
    }

    #[test]
    fn the_ceiling_that_explains_most_is_the_bound() {
        let c = ceilings();
        // 80 MB in a millisecond are 80 % of 100 GB/s.
        assert_eq!(part(1_000_000, 1, 80_000_000, 1_000_000).bound(&c), Bound::Bandwidth);
        assert_eq!(part(1_000_000, 1, 1_000_000, 9_000_000_000).bound(&c), Bound::Compute);
        assert_eq!(part(100_000, 40, 1_000_000, 0).bound(&c), Bound::Launch);
        assert_eq!(part(1_000_000, 1, 1_000_000, 0).bound(&c), Bound::Unexplained);
        let share = part(1_000_000, 1, 80_000_000, 0).share_of_ceiling(&c).unwrap();
        assert!((share - 0.8).abs() < 1e-9, "{share}");
    }

    #[test]
    fn more_than_everything_is_a_cache_or_a_riddle() {
        let c = ceilings();
        assert!(part(1_000, 1, 1 << 19, 0).is_cached(&c));
        assert!(!part(10_000_000, 1, 2_000_000_000, 0).is_cached(&c));
        assert!(!part(1_000_000, 1, 1 << 19, 0).is_cached(&c));
    }

    #[test]
    fn no_times_are_no_attribution() {
        assert!(Attribution::new(Profile::default(), 1, Duration::from_secs(1)).is_none());
    }
}

//! Numbers that are noisy and drift: the last few of them, and their middle.

/// Samples that are kept.
const KEPT: usize = 15;
/// Rounds after which a sample is dropped when a newer one comes, and when that contradicts the others.
const OLD: u64 = 1024;
const OLD_IF_CONTRADICTED: u64 = 96;
/// How much a sample that contradicts the others differs from their middle.
const CONTRADICTS: f64 = 0.1;

/// The last samples of a positive quantity. Outliers on either side do not move the estimate, and a lasting change has
/// moved it after eight samples, or at once when the others are old.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Samples {
    /// Oldest first, each with its round.
    values: [(f64, u64); KEPT],
    count: usize,
    middle: f64,
}

impl Samples {
    pub(super) fn push(&mut self, value: f64, round: u64) {
        if !(value.is_finite() && value > 0.0) {
            return;
        }
        let contradicts = self.count > 0 && (value / self.middle - 1.0).abs() > CONTRADICTS;
        let lives = if contradicts { OLD_IF_CONTRADICTED } else { OLD };
        let old = self.values[..self.count].iter().take_while(|(_, at)| at + lives < round).count();
        let old = old.max(usize::from(self.count == KEPT));
        self.values.copy_within(old..self.count, 0);
        self.count -= old;
        self.values[self.count] = (value, round);
        self.count += 1;
        let mut sorted = self.values.map(|(value, _)| value);
        let sorted = &mut sorted[..self.count];
        sorted.sort_by(f64::total_cmp);
        // Of two, the smaller: what disturbs a time makes it longer. Of five or more the mean of the middle half.
        let half = (sorted.len() - 1) / 2;
        let cut = sorted.len() / 4;
        let middle = if sorted.len() < 5 { &sorted[half..=half] } else { &sorted[cut..sorted.len() - cut] };
        self.middle = middle.iter().sum::<f64>() / middle.len() as f64;
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Round of the newest sample; 0 if there is none.
    pub(super) fn newest(&self) -> u64 {
        self.values[..self.count].last().map_or(0, |&(_, at)| at)
    }

    pub(super) fn estimate(&self) -> Option<f64> {
        (self.count > 0).then_some(self.middle)
    }

    /// Multiplies all samples.
    pub(super) fn scale(&mut self, factor: f64) {
        self.values.iter_mut().for_each(|(value, _)| *value *= factor);
        self.middle *= factor;
    }
}

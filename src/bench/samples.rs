//! Statistics of repeated measurements: summaries, and whether two of them differ.

/// Resamples of a comparison.
const RESAMPLES: usize = 4000;
/// Share of resamples inside an interval: at 95 % one in twenty comparisons of equal things would claim a difference.
const CONFIDENCE: f64 = 0.99;
/// Deviation, as a share of the mean, above which a measurement is marked.
pub const UNSTEADY: f64 = 0.05;

/// What repeated measurements came to, in their own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub count: usize,
    pub mean: f64,
    /// Standard deviation of the sample (n - 1); 0 for a single one.
    pub deviation: f64,
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// The value below which a share `q` of sorted values lies, interpolated.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which a share of the values lies; `None` without values.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    (!values.is_empty()).then(|| quantile(&sorted(values), share))
}

impl Summary {
    /// `None` without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        Some(Summary { count: values.len(), mean, deviation, median: quantile(&sorted, 0.5), least, most })
    }

    /// Deviation as a share of the mean.
    pub fn spread(&self) -> f64 {
        if self.mean == 0.0 { 0.0 } else { self.deviation / self.mean.abs() }
    }
}

/// How much the medians of two halves of a series differ, as a share: below zero when it became slower.
pub fn drift(rates: &[f64]) -> Option<f64> {
    let half = rates.len() / 2;
    if half < 2 {
        return None;
    }
    let (early, late) = (Summary::of(&rates[..half])?, Summary::of(&rates[rates.len() - half..])?);
    (early.median > 0.0).then(|| late.median / early.median - 1.0)
}

/// Two series held against each other: medians of `b` over those of `a`, less one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    pub a: Summary,
    pub b: Summary,
    pub change: f64,
    /// Interval that holds the true change with a confidence of 99 %, by bootstrap.
    pub low: f64,
    pub high: f64,
}

/// What a comparison says of rates, of which more is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Faster,
    Slower,
    /// A difference larger than this share would have been seen.
    NoneAbove(f64),
    /// Too few samples to say anything.
    Unknown,
}

/// Numbers for resampling: SplitMix64 (Steele et al. 2014), the same in every run.
struct Draws(u64);

impl Draws {
    fn index(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ z >> 31) * below as u128) >> 64) as usize
    }

    fn median(&mut self, values: &[f64], scratch: &mut Vec<f64>) -> f64 {
        scratch.clear();
        scratch.extend((0..values.len()).map(|_| values[self.index(values.len())]));
        scratch.sort_by(f64::total_cmp);
        quantile(scratch, 0.5)
    }
}

impl Comparison {
    /// `None` without samples on both sides, or with rates that are not above zero.
    pub fn of(a: &[f64], b: &[f64]) -> Option<Self> {
        let (first, second) = (Summary::of(a)?, Summary::of(b)?);
        if first.least <= 0.0 || second.least <= 0.0 {
            return None;
        }
        let (mut draws, mut scratch) = (Draws(1), Vec::new());
        let mut changes: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let below = draws.median(a, &mut scratch);
                draws.median(b, &mut scratch) / below - 1.0
            })
            .collect();
        changes.sort_by(f64::total_cmp);
        Some(Comparison {
            a: first,
            b: second,
            change: second.median / first.median - 1.0,
            low: quantile(&changes, (1.0 - CONFIDENCE) / 2.0),
            high: quantile(&changes, (1.0 + CONFIDENCE) / 2.0),
        })
    }

    pub fn verdict(&self) -> Verdict {
        if self.a.count < 4 || self.b.count < 4 {
            Verdict::Unknown
        } else if self.low > 0.0 {
            Verdict::Faster
        } else if self.high < 0.0 {
            Verdict::Slower
        } else {
            Verdict::NoneAbove(self.low.abs().max(self.high.abs()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_those_of_textbooks() {
        let s = Summary::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!((s.count, s.mean, s.median, s.least, s.most), (8, 5.0, 4.5, 2.0, 9.0));
        assert!((s.deviation - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Summary::of(&[3.0]).unwrap().deviation, 0.0);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(percentile(&[4.0, 1.0, 2.0, 3.0], 0.5), Some(2.5));
        assert_eq!(drift(&[10.0, 10.0, 9.0, 9.0]), Some(9.0 / 10.0 - 1.0));
        assert_eq!(drift(&[10.0, 9.0, 9.0]), None);
    }

    /// Rates around `mean` with a deviation of `share`, nearly normal.
    fn rates(draws: &mut Draws, mean: f64, share: f64) -> Vec<f64> {
        let mut normal =
            || (0..12).map(|_| draws.index(1 << 20) as f64 / (1 << 20) as f64).sum::<f64>() - 6.0;
        (0..10).map(|_| mean * (1.0 + share * normal())).collect()
    }

    #[test]
    fn ten_samples_show_five_percent_and_equal_things_are_equal() {
        let mut draws = Draws(20_260_417);
        let (mut missed, mut cried) = (0, 0);
        for _ in 0..200 {
            let plain = rates(&mut draws, 20.0, 0.015);
            let slower = rates(&mut draws, 19.0, 0.015);
            let same = rates(&mut draws, 20.0, 0.015);
            missed += usize::from(Comparison::of(&plain, &slower).unwrap().verdict() != Verdict::Slower);
            let verdict = Comparison::of(&plain, &same).unwrap().verdict();
            cried += usize::from(!matches!(verdict, Verdict::NoneAbove(_)));
        }
        println!("{missed} of 200 slowdowns missed, {cried} of 200 equal pairs called different");
        assert!(missed <= 2 && cried <= 6, "{missed} {cried}");
    }

    #[test]
    fn what_is_the_same_is_no_difference_and_little_is_not_enough() {
        let a = [10.0, 10.1, 9.9, 10.0, 10.05];
        let same = Comparison::of(&a, &a).unwrap();
        assert_eq!(same.change, 0.0);
        assert!(matches!(same.verdict(), Verdict::NoneAbove(above) if above < 0.05));
        assert_eq!(Comparison::of(&a[..3], &a).unwrap().verdict(), Verdict::Unknown);
        assert_eq!(Comparison::of(&a, &[]), None);
    }
}

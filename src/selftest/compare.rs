//! Comparisons. They say where the first difference is and how many there are; none may be an outlier.

use std::fmt::Display;

use super::{Check, Fault, ensure};

/// Largest share of the largest expected value that a tolerance may be.
const ABSURD: f64 = 1.0 / 64.0;

fn report<T: Display>(what: &dyn Display, wrong: &[(usize, T)], of: usize) -> Check {
    match wrong.first() {
        None => Ok(()),
        Some((index, text)) => {
            let count = wrong.len();
            Err(Fault::Wrong(format!(
                "{what}: {count} of {of} values are wrong; the first at {index}: {text}"
            )))
        }
    }
}

fn lengths(what: &dyn Display, got: usize, want: usize) -> Check {
    ensure(got == want, || format!("{what}: {got} values, expected {want}"))
}

/// Equal bits.
pub fn bits(what: &dyn Display, got: &[u32], want: &[u32]) -> Check {
    lengths(what, got.len(), want.len())?;
    let wrong: Vec<_> = (0..got.len())
        .filter(|&i| got[i] != want[i])
        .map(|i| {
            let (a, b) = (f32::from_bits(got[i]), f32::from_bits(want[i]));
            (i, format!("{:#010x} ({a:e}), expected {:#010x} ({b:e})", got[i], want[i]))
        })
        .collect();
    report(what, &wrong, got.len())
}

/// Equal values: both zeros are one, and where a word keeps its old bits (NaN included) it is equal too.
pub fn values(what: &dyn Display, got: &[u32], want: &[u32]) -> Check {
    let one =
        |words: &[u32]| -> Vec<u32> { words.iter().map(|w| if *w == 1 << 31 { 0 } else { *w }).collect() };
    bits(what, &one(got), &one(want))
}

/// Every element within its own bound.
///
/// Fails as well when a bound is no bound: not finite, negative, or above 1/64 of the largest expected value.
pub fn within(what: &dyn Display, got: &[f32], want: &[f64], bound: &[f64]) -> Check {
    lengths(what, got.len(), want.len())?;
    lengths(what, bound.len(), want.len())?;
    let finite = want.iter().all(|value| value.is_finite());
    ensure(finite, || format!("{what}: the expectation is not finite"))?;
    let largest = want.iter().fold(0.0f64, |max, value| max.max(value.abs()));
    for (index, limit) in bound.iter().enumerate() {
        let sane = *limit >= 0.0 && *limit <= largest * ABSURD + f64::from(f32::MIN_POSITIVE);
        ensure(sane, || {
            format!("{what}: the tolerance {limit:e} at {index} is absurd, values reach {largest:e}")
        })?;
    }
    let wrong: Vec<_> = (0..got.len())
        .filter(|&i| got[i].is_nan() || (f64::from(got[i]) - want[i]).abs() > bound[i])
        .map(|i| (i, format!("{:e}, expected {:e} within {:e}", got[i], want[i], bound[i])))
        .collect();
    report(what, &wrong, got.len())
}

/// Every element within `share` of the largest expected value of its group of `size` elements.
pub fn within_groups(what: &dyn Display, got: &[f32], want: &[f64], size: usize, share: f64) -> Check {
    let largest = |group: &[f64]| group.iter().fold(0.0f64, |max, value| max.max(value.abs()));
    let bound: Vec<f64> = want.chunks(size).flat_map(|g| vec![largest(g) * share; g.len()]).collect();
    within(what, got, want, &bound)
}

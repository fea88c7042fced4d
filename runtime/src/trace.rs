//! Measured times: of a whole submission and of each labelled command. "No time known" is a value: a device without
//! timestamps, or a simulated one, gives `None`.

use std::time::{Duration, Instant};

/// Time of one command.
#[derive(Clone, Debug)]
pub struct LabelTime {
    pub label: String,
    /// Kernel name, or `copy` and `fill`.
    pub kernel: &'static str,
    pub nanoseconds: u64,
    /// Bytes of constant data the command reads.
    pub constant_bytes: u64,
}

/// Times of the last submission of a compiled recording.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// From the first command's start to the last one's end.
    pub total_nanoseconds: Option<u64>,
    /// The first command's start on the device's clock, whose zero means nothing.
    pub began_nanoseconds: Option<u64>,
    /// Per command, when the recording was compiled for it.
    pub labels: Vec<LabelTime>,
}

/// The device's clock read between two readings of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// In the middle of the two.
    pub at: Instant,
    /// The device's clock, as [`Times::began_nanoseconds`] has it.
    pub nanoseconds: u64,
    /// How far apart from each other the two clocks were read at most.
    pub within: Duration,
}

/// Where the host's clock stood when the device's was at `nanoseconds`, from a reading before and one after. `None` where the
/// device's clock stood still in between.
pub fn host_time(nanoseconds: u64, before: &Reading, after: &Reading) -> Option<Instant> {
    let ticked = after.nanoseconds.checked_sub(before.nanoseconds).filter(|&ticked| ticked > 0)?;
    // The two clocks do not run equally fast.
    let pace = after.at.saturating_duration_since(before.at).as_secs_f64() / ticked as f64;
    let since = nanoseconds as f64 - before.nanoseconds as f64;
    let moved = Duration::try_from_secs_f64(since.abs() * pace).ok()?;
    if since < 0.0 { before.at.checked_sub(moved) } else { before.at.checked_add(moved) }
}

/// Differences of consecutive ticks in nanoseconds, or `None` where a tick is missing.
pub(crate) fn spans(ticks: &[Option<u64>], period: f32) -> Vec<Option<u64>> {
    ticks
        .windows(2)
        .map(|pair| match (pair[0], pair[1]) {
            (Some(a), Some(b)) => Some((b.saturating_sub(a) as f64 * f64::from(period)) as u64),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tick_is_no_time() {
        assert_eq!(spans(&[Some(10), Some(14), None, Some(20)], 10.0), [Some(40), None, None]);
    }

    #[test]
    fn two_readings_lay_the_clocks_over_each_other() {
        let at = Instant::now() + Duration::from_secs(100);
        let within = Duration::ZERO;
        let before = Reading { at, nanoseconds: 5_000, within };
        // The host's clock runs twice as fast.
        let after = Reading { at: at + Duration::from_micros(4), nanoseconds: 7_000, within };
        let host = |nanoseconds| host_time(nanoseconds, &before, &after);
        assert_eq!(host(6_000), Some(at + Duration::from_micros(2)));
        assert_eq!(host(4_000), Some(at - Duration::from_micros(2)));
        assert_eq!(host(8_000), Some(at + Duration::from_micros(6)));
        assert_eq!(host_time(6_000, &before, &before), None);
        assert_eq!(host_time(6_000, &after, &before), None);
    }

    #[test]
    fn ticks_that_run_backwards_are_zero() {
        assert_eq!(spans(&[Some(14), Some(10)], 1.0), [Some(0)]);
    }
}

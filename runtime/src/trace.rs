//! Measured times: of a whole submission and of each labelled command. "No time known" is a value: a device without
//! timestamps, or a simulated one, gives `None`.

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
    fn ticks_that_run_backwards_are_zero() {
        assert_eq!(spans(&[Some(14), Some(10)], 1.0), [Some(0)]);
    }
}

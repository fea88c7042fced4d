//! Where recordings are cut, so that no submission takes long: pure functions of estimates and of times that were measured.
//! A recording is cut into pieces, each a command buffer; pieces are grouped into submissions by what they took before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use crate::caps::DeviceKind;
use crate::kernel::Kernel;
use crate::recording::{Command, Dispatch, Grid, Recording};
use crate::vulkan::lock;

/// Time of the device that a submission is to take at most, unless somebody says otherwise.
const BUDGET: Duration = Duration::from_millis(100);
/// Budgets are halved after losses down to this.
const LEAST: Duration = Duration::from_millis(5);
/// What was never measured is submitted in pieces of this share of the budget.
const CAUTION: f64 = 4.0;
/// Most parts of one dispatch.
const MOST_SHARES: f64 = 64.0;
/// Where nothing executes, work takes no time; a rate of zero could never rise again.
const LEAST_RATE: f64 = 1e-9;
/// Products of a matrix that take as long as moving one word.
const PRODUCTS_PER_WORD: f64 = 8.0;

/// The budget that options ask for; `None` when nothing is to be cut.
pub(crate) fn budget(wanted: Option<Duration>) -> Option<Duration> {
    Some(wanted.unwrap_or(BUDGET)).filter(|budget| !budget.is_zero())
}

/// The budget after a loss: submissions that took long are what is lost most often.
pub(crate) fn halved(wanted: Option<Duration>) -> Option<Duration> {
    Some(budget(wanted).map_or(Duration::ZERO, |budget| (budget / 2).max(LEAST.min(budget))))
}

/// Part of a dispatch: workgroups `first..first + count` of one axis of its grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) axis: usize,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// What one command buffer holds: some commands, or a share of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) commands: Range<usize>,
    pub(crate) share: Option<Share>,
    /// Share of its commands' work: 1 but for a share of one.
    pub(crate) fraction: f64,
    /// Nanoseconds that it may take.
    pub(crate) estimate: f64,
    /// It could be cut again.
    pub(crate) divisible: bool,
}

/// Nanoseconds per unit of work, by kernel, as far as it was seen; submissions are cut by it before they were measured.
pub(crate) struct Pace {
    pub(crate) budget: Option<Duration>,
    /// For kernels that were never seen.
    unknown: f64,
    seen: Mutex<HashMap<&'static str, f64>>,
}

impl Pace {
    pub(crate) fn new(kind: DeviceKind, budget: Option<Duration>) -> Self {
        // Slower than any device of the kind that is worth using.
        let unknown = match kind {
            DeviceKind::Discrete => 0.004,
            DeviceKind::Integrated | DeviceKind::Virtual => 0.02,
            DeviceKind::Cpu | DeviceKind::Reference | DeviceKind::Other => 0.2,
        };
        Pace { budget, unknown, seen: Mutex::default() }
    }

    /// Nanoseconds that each command may take.
    fn estimates(&self, recording: &Recording) -> Vec<f64> {
        let seen = lock(&self.seen);
        let rate = |command: &Command| seen.get(name(command)).copied().unwrap_or(self.unknown);
        recording.commands.iter().map(|command| work(command) * rate(command)).collect()
    }

    /// Cuts a recording. Pieces are small enough to be submitted before anybody knows how long they take.
    pub(crate) fn cut(&self, recording: &Recording) -> Vec<Cut> {
        let Some(budget) = self.budget else {
            let commands = 0..recording.commands.len();
            return vec![Cut { commands, share: None, fraction: 1.0, estimate: 0.0, divisible: false }];
        };
        cut(&recording.commands, &self.estimates(recording), budget.as_nanos() as f64 / CAUTION)
    }

    /// Learns what the pieces of a recording took, in nanoseconds, where that is known. `work` is the kernel and the work of
    /// each of its commands.
    pub(crate) fn learn(&self, cuts: &[Cut], work: &[(&'static str, f64)], took: &[Option<u64>]) {
        let mut seen = lock(&self.seen);
        let known = || cuts.iter().zip(took).filter_map(|(cut, took)| took.map(|took| (cut, took as f64)));
        let kernels = |cut: &Cut| -> BTreeSet<&'static str> {
            work[cut.commands.clone()].iter().map(|(kernel, _)| *kernel).collect()
        };
        let mut alone: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
        for (cut, took) in known() {
            let kernels = kernels(cut);
            if let Some(kernel) = kernels.first().filter(|_| kernels.len() == 1) {
                let units: f64 = work[cut.commands.clone()].iter().map(|(_, work)| work).sum();
                let sum = alone.entry(kernel).or_default();
                *sum = (sum.0 + took, sum.1 + units * cut.fraction);
            }
        }
        seen.extend(alone.iter().map(|(kernel, (took, units))| (*kernel, (took / units).max(LEAST_RATE))));
        // Of several kernels in one piece nobody knows which took how long.
        for (cut, took) in known() {
            let commands = &work[cut.commands.clone()];
            let rate = |kernel| seen.get(kernel).copied().unwrap_or(self.unknown);
            let expected: f64 = commands.iter().map(|(kernel, work)| work * rate(kernel)).sum();
            let ratio = (took / expected.max(LEAST_RATE)).clamp(0.5, 4.0);
            for kernel in kernels(cut).into_iter().filter(|kernel| !alone.contains_key(kernel)) {
                *seen.entry(kernel).or_insert(self.unknown) *= ratio;
            }
        }
    }
}

/// Name of a command's kernel.
pub(crate) fn name(command: &Command) -> &'static str {
    match command {
        Command::Dispatch(dispatch) => dispatch.kernel.name,
        Command::Copy { .. } => "copy",
        Command::Fill { .. } => "fill",
    }
}

/// Units of work: products of a matrix if the views are those of a product, and what is moved. Too much for most other
/// kernels, which is learnt.
pub(crate) fn work(command: &Command) -> f64 {
    let (mut most, mut second, mut words) = (1.0f64, 1.0f64, 0.0);
    let mut written = f64::MAX;
    for (view, reads, writes) in command.accesses() {
        let len = view.len as f64 / 4.0;
        if reads {
            words += len;
            second = second.max(most.min(len));
            most = most.max(len);
        }
        if writes {
            written = written.min(len);
        }
    }
    let written = if written == f64::MAX { 1.0 } else { written };
    let products = match command {
        Command::Dispatch(_) => (most * second * written).sqrt(),
        Command::Copy { .. } | Command::Fill { .. } => 0.0,
    };
    products + PRODUCTS_PER_WORD * (words + written)
}

/// Whether a kernel asks how many workgroups there are. Such kernels ask for the first axis alone, which then must stay whole.
fn counts_groups(kernel: &Kernel) -> bool {
    const OP_DECORATE: u32 = 71;
    const BUILT_IN: u32 = 11;
    const NUM_WORKGROUPS: u32 = 24;
    let word = |at: usize| {
        let bytes = kernel.spirv.get(4 * at..4 * at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    };
    let mut at = 5;
    while 4 * at < kernel.spirv.len() {
        let head = word(at);
        if head & 0xffff == OP_DECORATE && word(at + 2) == BUILT_IN && word(at + 3) == NUM_WORKGROUPS {
            return true;
        }
        at += (head >> 16).max(1) as usize;
    }
    false
}

/// The axis along which a dispatch can be cut, with its workgroups. A grid that the device computes stays whole.
fn axis(dispatch: &Dispatch) -> Option<(usize, u32)> {
    let Grid::Fixed(grid) = &dispatch.grid else { return None };
    let first = usize::from(counts_groups(dispatch.kernel));
    (first..3).map(|axis| (axis, grid[axis])).max_by_key(|(_, count)| *count).filter(|(_, count)| *count > 1)
}

fn cut(commands: &[Command], estimates: &[f64], most: f64) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let mut open = Cut { commands: 0..0, share: None, fraction: 1.0, estimate: 0.0, divisible: false };
    let close = |open: &mut Cut, cuts: &mut Vec<Cut>, next: usize| {
        let fresh = Cut { commands: next..next, share: None, fraction: 1.0, estimate: 0.0, divisible: false };
        let done = std::mem::replace(open, fresh);
        if !done.commands.is_empty() {
            cuts.push(done);
        }
    };
    for (index, (command, &estimate)) in commands.iter().zip(estimates).enumerate() {
        let found = match command {
            Command::Dispatch(dispatch) if estimate > 2.0 * most => axis(dispatch),
            _ => None,
        };
        if open.estimate + estimate > most {
            close(&mut open, &mut cuts, index);
        }
        match found {
            None => {
                open.divisible = !open.commands.is_empty();
                open.commands.end = index + 1;
                open.estimate += estimate;
            }
            Some((axis, groups)) => {
                let parts = (estimate / most).ceil().min(MOST_SHARES).min(f64::from(groups)) as u32;
                let size = groups.div_ceil(parts);
                for first in (0..groups).step_by(size as usize) {
                    let count = size.min(groups - first);
                    let fraction = f64::from(count) / f64::from(groups);
                    cuts.push(Cut {
                        commands: index..index + 1,
                        share: Some(Share { axis, first, count }),
                        fraction,
                        estimate: estimate * fraction,
                        divisible: count > 1,
                    });
                }
                open.commands = index + 1..index + 1;
            }
        }
    }
    let end = commands.len();
    close(&mut open, &mut cuts, end);
    if cuts.is_empty() {
        cuts.push(open);
    }
    // A dispatch alone can be cut again when its grid can.
    for cut in cuts.iter_mut().filter(|cut| cut.share.is_none() && cut.commands.len() == 1) {
        cut.divisible = matches!(&commands[cut.commands.start], Command::Dispatch(d) if axis(d).is_some());
    }
    cuts
}

/// What a piece is expected to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    /// Nanoseconds.
    pub(crate) expected: f64,
    /// It was measured once.
    pub(crate) measured: bool,
}

impl Cost {
    /// Takes a measurement in: a rise at once, a fall slowly.
    pub(crate) fn update(&mut self, took: u64) {
        let took = took as f64;
        self.expected =
            if self.measured && took < self.expected { 0.75 * self.expected + 0.25 * took } else { took };
        self.measured = true;
    }

    fn cautious(&self) -> f64 {
        if self.measured { self.expected } else { 2.0 * self.expected }
    }
}

/// For each piece, whether a submission begins with it. What was measured fills the budget, what was not half of it.
pub(crate) fn group(costs: &[Cost], budget: Option<Duration>) -> Vec<bool> {
    let most = budget.map_or(f64::INFINITY, |budget| budget.as_nanos() as f64);
    let mut sum = 0.0;
    costs
        .iter()
        .enumerate()
        .map(|(index, cost)| {
            let begins = index == 0 || sum + cost.cautious() > most;
            sum = if begins { cost.cautious() } else { sum + cost.cautious() };
            begins
        })
        .collect()
}

/// Whether a recording of such pieces should be cut anew, now that they were measured: one of them is too long, or
/// dispatches were cut that need not be.
pub(crate) fn should_recut(cuts: &[Cut], costs: &[Cost], budget: Option<Duration>) -> bool {
    let Some(budget) = budget.map(|budget| budget.as_nanos() as f64) else { return false };
    let long = cuts.iter().zip(costs).any(|(cut, cost)| cut.divisible && cost.expected > 1.25 * budget);
    let needed = costs.iter().map(|cost| cost.expected).sum::<f64>() / (budget / CAUTION);
    let shares = cuts.iter().filter(|cut| cut.share.is_some()).count();
    costs.iter().all(|cost| cost.measured) && (long || shares as f64 > 4.0 * needed + 16.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(expected: f64, measured: bool) -> Cost {
        Cost { expected, measured }
    }

    #[test]
    fn pieces_fill_submissions_up_to_the_budget() {
        let budget = Some(Duration::from_nanos(100));
        let costs = [40.0, 50.0, 20.0, 300.0, 10.0, 90.0].map(|expected| cost(expected, true));
        assert_eq!(group(&costs, budget), [true, false, true, true, true, false]);
        assert_eq!(group(&costs, None), [true, false, false, false, false, false]);
        // What was never measured may take twice as long.
        assert_eq!(group(&[cost(30.0, false), cost(30.0, false)], budget), [true, true]);
    }

    #[test]
    fn expectations_rise_at_once_and_fall_slowly() {
        let mut one = cost(5.0, false);
        one.update(100);
        assert_eq!(one, cost(100.0, true));
        one.update(20);
        assert_eq!(one, cost(80.0, true));
        one.update(200);
        assert_eq!(one, cost(200.0, true));
    }

    #[test]
    fn budgets_are_halved_down_to_a_least() {
        let ms = Duration::from_millis;
        assert_eq!(halved(None), Some(ms(50)));
        assert_eq!(halved(Some(ms(8))), Some(ms(5)));
        assert_eq!(halved(Some(ms(2))), Some(ms(2)));
        assert_eq!(halved(Some(Duration::ZERO)), Some(Duration::ZERO));
        assert_eq!(budget(Some(Duration::ZERO)), None);
    }

    #[test]
    fn rates_are_learnt_from_what_pieces_took() {
        let pace = Pace::new(DeviceKind::Cpu, Some(Duration::from_millis(1)));
        let cut =
            |commands, fraction| Cut { commands, share: None, fraction, estimate: 1.0, divisible: false };
        let cuts = [cut(0..1, 0.5), cut(0..1, 0.5), cut(1..3, 1.0)];
        let work = [("a", 100.0), ("a", 10.0), ("b", 1000.0)];
        pace.learn(&cuts, &work, &[Some(300), Some(100), Some(1_000_000)]);
        let seen = lock(&pace.seen);
        assert_eq!(seen["a"], 4.0);
        // 4 · 10 + 0.2 · 1000 were expected.
        assert_eq!(seen["b"], 0.8);
    }

    #[test]
    fn a_recording_is_cut_anew_where_times_ask_for_it() {
        let budget = Some(Duration::from_nanos(100));
        let cut = |divisible| Cut { commands: 0..2, share: None, fraction: 1.0, estimate: 1.0, divisible };
        assert!(should_recut(&[cut(true)], &[cost(126.0, true)], budget));
        assert!(!should_recut(&[cut(false)], &[cost(126.0, true)], budget));
        assert!(!should_recut(&[cut(true)], &[cost(126.0, false)], budget));
        let share = Cut { share: Some(Share { axis: 0, first: 0, count: 1 }), ..cut(true) };
        assert!(should_recut(&vec![share.clone(); 40], &[cost(1.0, true); 40], budget));
        assert!(!should_recut(&vec![share; 40], &[cost(20.0, true); 40], budget));
    }
}

//! Tests the kernels that a model would use on a device and chooses other ways in place of those that fail, which are
//! tested in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use vkllm_runtime::{Device, Error as DeviceError};

use crate::engine::{ModelFile, ModelOptions};
use crate::error::{Error, Result};
use crate::selftest::{Bench, Case, Fault, cases};

/// What the tests of a kernel came to.
#[derive(Clone, Debug)]
pub struct KernelReport {
    pub kernel: &'static str,
    pub op: &'static str,
    /// Cases that ran, of which some found nothing to test here, and how many there are.
    pub ran: usize,
    pub skipped: usize,
    pub cases: usize,
    /// Names and faults of the cases that blame it.
    pub failed: Vec<(String, String)>,
    pub time: Duration,
}

/// What a device was found to be.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    pub kernels: Vec<KernelReport>,
    /// Kernels that are not to be used, by name.
    pub avoid: Vec<String>,
    /// Kernels that stand in for them.
    pub instead: Vec<&'static str>,
    /// Why there is no way to run the model without the failing kernels.
    pub no_way: Option<String>,
    /// The device failed; what follows was not tested.
    pub device_error: Option<DeviceError>,
    pub time: Duration,
}

impl Examination {
    /// Whether everything passed.
    pub fn is_well(&self) -> bool {
        self.avoid.is_empty() && self.device_error.is_none() && self.no_way.is_none()
    }
}

/// Tests every kernel that a model would use, round by round, each kernel's most telling cases first, until all have run
/// or `budget` is over; every kernel is tested with its first cases whatever they take. Call with a device that avoids
/// nothing.
///
/// Errors: what is wrong with the model's file for this device.
pub fn examine(
    device: &Device,
    file: &ModelFile,
    options: &ModelOptions,
    seed: u64,
    budget: Duration,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Examination> {
    let start = Instant::now();
    let mut all = Examination::default();
    let mut caps = device.caps().clone();
    let list = cases(&caps);
    let first = file.kernels(&caps, options)?;
    let mut wanted = first.clone();
    loop {
        let fresh: BTreeSet<&'static str> =
            wanted.iter().filter(|name| all.kernels.iter().all(|k| k.kernel != **name)).copied().collect();
        if fresh.is_empty() {
            break;
        }
        let end = start + budget;
        let (reports, lost) = test_kernels(device, &list, &fresh, seed, end, progress);
        all.avoid.extend(reports.iter().filter(|r| !r.failed.is_empty()).map(|r| r.kernel.to_owned()));
        all.kernels.extend(reports);
        if lost.is_some() {
            all.device_error = lost;
            break;
        }
        caps.avoid.clone_from(&all.avoid);
        match file.kernels(&caps, options) {
            Ok(names) => wanted = names,
            Err(error @ Error::NoKernel { .. }) => {
                all.no_way = Some(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if !all.avoid.is_empty() && all.no_way.is_none() {
        all.instead = wanted.difference(&first).copied().collect();
    }
    all.time = start.elapsed();
    Ok(all)
}

/// Cases of one kind: a name without its numbers, but for the rows that choose a pipeline.
fn kind(case: &Case) -> String {
    let name = case.name();
    let rows = name.rsplit_once("rows ").filter(|(_, tail)| tail.bytes().all(|b| b.is_ascii_digit()));
    let (head, tail) = rows.unwrap_or((name, ""));
    head.chars().filter(|c| !c.is_ascii_digit()).chain(tail.chars()).collect()
}

/// Cases by how much they tell: exact ones, then bounds.
fn weight(case: &Case) -> u8 {
    let name = case.name();
    let exact = ["one-hot", "integers", "exact", "definition", "codes", "first of the largest"];
    if exact.iter().any(|word| name.contains(word)) {
        0
    } else if name.contains("bound") {
        1
    } else {
        2
    }
}

/// A kernel's cases in the order in which they are run: one of each kind, then the second of each.
fn ordered<'a>(list: &'a [Case], kernel: &str) -> Vec<(usize, &'a Case)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let own = list.iter().filter(|case| case.kernel().name == kernel);
    let mut all: Vec<(usize, &Case)> = own
        .map(|case| {
            let count = counts.entry(kind(case)).or_default();
            *count += 1;
            (*count - 1, case)
        })
        .collect();
    all.sort_by_key(|(nth, case)| (*nth, weight(case)));
    all
}

/// Tests some kernels, each with its most telling cases first: one of each kind whatever it takes, and others until `end`.
/// What the device fails with is returned beside the reports.
pub fn test_kernels(
    device: &Device,
    list: &[Case],
    kernels: &BTreeSet<&'static str>,
    seed: u64,
    end: Instant,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> (Vec<KernelReport>, Option<DeviceError>) {
    let bench = Bench::new(device.clone(), seed);
    let mut queues: Vec<(&'static str, Vec<(usize, &Case)>)> =
        kernels.iter().map(|name| (*name, ordered(list, name))).collect();
    let mut reports: BTreeMap<&str, KernelReport> = BTreeMap::new();
    for (name, queue) in &queues {
        let op = queue.first().map_or("", |(_, case)| case.op());
        let (cases, failed, time) = (queue.len(), Vec::new(), Duration::ZERO);
        reports.insert(name, KernelReport { kernel: name, op, ran: 0, skipped: 0, cases, failed, time });
    }
    let total: usize = queues.iter().map(|(_, queue)| queue.len()).sum();
    let mut failures: Vec<(&Case, String)> = Vec::new();
    let mut lost = None;
    let (mut done, mut round) = (0, 0);
    'rounds: while queues.iter().any(|(_, queue)| round < queue.len()) {
        for (name, queue) in &mut queues {
            let Some(&(nth, case)) = queue.get(round) else { continue };
            // One case of each kind is the least.
            if nth > 0 && Instant::now() > end {
                continue;
            }
            progress(name, done, total);
            done += 1;
            let before = Instant::now();
            let result = case.run(&bench);
            if let Some(report) = reports.get_mut(name) {
                report.time += before.elapsed();
                report.ran += 1;
                report.skipped += usize::from(matches!(result, Err(Fault::Skipped(_))));
            }
            match result {
                Ok(()) | Err(Fault::Skipped(_)) => {}
                Err(Fault::Wrong(text)) => {
                    failures.push((case, text));
                    // What fails is known; the rest of its cases would only cost time.
                    queue.truncate(round + 1);
                }
                Err(Fault::Device(error)) => {
                    failures.push((case, error.to_string()));
                    lost = Some(error);
                    break 'rounds;
                }
            }
        }
        round += 1;
    }
    // A case of several kernels blames the one that also fails alone.
    let alone: BTreeSet<&str> = failures
        .iter()
        .filter(|(case, _)| case.kernels().len() == 1)
        .map(|(case, _)| case.kernel().name)
        .collect();
    for (case, text) in failures {
        let known = case.kernels().iter().any(|kernel| alone.contains(kernel.name));
        if let Some(report) = reports.get_mut(case.kernel().name)
            && (!known || alone.contains(case.kernel().name))
        {
            report.failed.push((case.name().to_owned(), text));
        }
    }
    (reports.into_values().collect(), lost)
}

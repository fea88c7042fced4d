//! `vkllm selftest`: the kernel suite on the user's device. No model is needed.

mod expect;
mod explain;
mod report;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use regex_automata::meta::Regex;
use vkllm_runtime::{Device, Error as DeviceError};

use super::args::SelftestArgs;
use super::{Failure, input, interrupt_flag, load};
use crate::selftest::corpus::BUGS;
use crate::selftest::{Bench, Case, Fault, SEED, cases};
use expect::Expectations;
use report::{Outcome, Report, Row};

/// Something is wrong, and nothing could be tested: `git bisect run` skips the latter.
const FAILED: u8 = 1;
const UNTESTABLE: u8 = 125;

pub(super) fn run(args: &SelftestArgs) -> Result<(), Failure> {
    let filters = patterns("--filter", &args.filter)?;
    let device = load::open(&args.device)?.map_err(untestable)?;
    let driver = device.caps().driver.clone();
    let read = |path| Expectations::read(path, &driver);
    let expectations = args.expect.as_deref().map(read).transpose()?.unwrap_or_default();
    if let Some(op) = &args.explain {
        return explain::print(op, &device, &mut io::stdout().lock());
    }
    let all = cases(device.caps());
    let looking: BTreeSet<&str> =
        BUGS.iter().flat_map(|bug| bug.cases(&all)).filter(|_| args.corpus).map(Case::name).collect();
    let chosen: Vec<&Case> = all
        .iter()
        .filter(|case| filters.is_empty() || filters.iter().any(|regex| regex.is_match(case.name())))
        .filter(|case| !args.corpus || looking.contains(case.name()))
        .collect();
    if chosen.is_empty() {
        let sentence = format!("--filter matches none of the {} cases; --list prints their names", all.len());
        return Err(input(sentence));
    }
    if args.list {
        let mut out = io::stdout().lock();
        return Ok(chosen.iter().try_for_each(|case| writeln!(out, "{}", case.name()))?);
    }
    let report = measure(args, &device, &chosen, &expectations);
    if let Some(path) = &args.junit {
        let written = std::fs::write(path, report.junit()?);
        written.map_err(|error| input(format!("{}: {error}", path.display())))?;
    }
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report.json())?;
        writeln!(out)?;
    } else {
        report.print(&mut out)?;
        if args.corpus {
            corpus(&report, &all, &mut out)?;
        }
    }
    conclude(&report)
}

/// What became of each known fault.
fn corpus(report: &Report<'_>, all: &[Case], out: &mut dyn Write) -> io::Result<()> {
    for bug in BUGS {
        let names: BTreeSet<&str> = bug.cases(all).into_iter().map(Case::name).collect();
        let own = report.rows.iter().filter(|row| names.contains(row.case.name()));
        let count = |wanted| own.clone().filter(|row| row.outcome == wanted).count();
        let (passed, failed) = (count(Outcome::Passed), count(Outcome::Failed));
        let state = match (passed, failed) {
            (0, 0) => "not tested here",
            (_, 0) => "not here",
            _ => "HERE",
        };
        writeln!(
            out,
            "{state:15} {} ({passed} cases passed, {failed} failed): {} ({})",
            bug.name, bug.story, bug.cites
        )?;
    }
    Ok(())
}

/// Runs the cases until they end, the device fails or somebody presses Ctrl-C.
fn measure<'a>(
    args: &SelftestArgs,
    device: &Device,
    chosen: &[&'a Case],
    expectations: &Expectations,
) -> Report<'a> {
    let seed = args.seed.unwrap_or(SEED);
    let bench = Bench::new(device.clone(), seed);
    let stop = interrupt_flag();
    let bar = progress(chosen.len());
    let mut report = Report::new(device.caps(), seed, chosen.len(), repeat_prefix(args, seed));
    let start = Instant::now();
    for case in chosen {
        if stop.load(Ordering::Relaxed) {
            report.interrupted = true;
            break;
        }
        bar.set_message(case.kernel().name);
        let before = Instant::now();
        let result = case.run(&bench);
        let (outcome, detail) = match result {
            Ok(()) => (Outcome::Passed, String::new()),
            Err(Fault::Skipped(reason)) => (Outcome::Skipped, reason),
            Err(Fault::Wrong(text)) => (Outcome::Failed, text),
            Err(Fault::Device(error)) => {
                report.device_error = Some(format!("{}: {error}", case.name()));
                (Outcome::Failed, error.to_string())
            }
        };
        let expected = expectations.reason(case.name()).map(str::to_owned);
        report.rows.push(Row { case, outcome, detail, expected, time: before.elapsed() });
        bar.inc(1);
        if report.device_error.is_some() {
            break;
        }
    }
    bar.finish_and_clear();
    report.time = start.elapsed();
    for message in device.take_messages() {
        report.messages.push(format!("{}: {}", message.id, message.text));
    }
    report
}

/// The exit code.
fn conclude(report: &Report<'_>) -> Result<(), Failure> {
    if let Some(error) = &report.device_error {
        return Err(Failure::Told(error.clone(), super::DEVICE));
    }
    if report.interrupted {
        return Err(Failure::Interrupted);
    }
    let (failed, surprises) = (report.failures().count(), report.surprises().count());
    if failed + surprises + report.messages.len() > 0 {
        let mut parts = Vec::new();
        if failed > 0 {
            parts.push(format!("{failed} of {} cases failed", report.rows.len()));
        }
        if surprises > 0 {
            parts.push(format!("{surprises} cases passed although --expect says that they fail"));
        }
        if let Some(first) = report.messages.first() {
            let count = report.messages.len();
            parts.push(format!("the validation layers gave {count} messages; the first, {first}"));
        }
        return Err(Failure::Told(parts.join("; "), FAILED));
    }
    if report.rows.iter().all(|row| row.outcome == Outcome::Skipped) {
        let sentence = format!("nothing could be tested: all {} cases were skipped", report.rows.len());
        return Err(Failure::Told(sentence, UNTESTABLE));
    }
    Ok(())
}

/// Without a driver or a device there is nothing to test; everything else is the device's failure.
fn untestable(error: DeviceError) -> Failure {
    match error {
        DeviceError::NoLoader { .. } | DeviceError::NoDevice { .. } | DeviceError::Incapable { .. } => {
            Failure::Told(error.to_string(), UNTESTABLE)
        }
        other => other.into(),
    }
}

fn patterns(option: &str, texts: &[String]) -> Result<Vec<Regex>, Failure> {
    texts
        .iter()
        .map(|text| {
            Regex::new(text)
                .map_err(|error| input(format!("{option} is \"{text}\", not a regular expression: {error}")))
        })
        .collect()
}

/// The command that repeats a case, but for its name.
fn repeat_prefix(args: &SelftestArgs, seed: u64) -> String {
    let device = &args.device;
    let mut command = "vkllm selftest".to_owned();
    for (option, value) in [("--device", device.device.clone()), ("--caps", device.caps.clone())] {
        if let Some(value) = value {
            command += &format!(" {option} '{value}'");
        }
    }
    if let Some(lanes) = device.subgroup {
        command += &format!(" --subgroup {lanes}");
    }
    command + &format!(" --seed {seed}")
}

/// A bar on a terminal, from the first second on.
fn progress(cases: usize) -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg} {eta}");
    let bar = indicatif::ProgressBar::new(cases as u64)
        .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

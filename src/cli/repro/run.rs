//! `vkllm repro run`: a case in a child process, which may hang or crash.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use vkllm_runtime::{Device, DeviceOptions, Faults};

use super::super::{Failure, INPUT, input, load};
use super::RunArgs;
use crate::repro::{Case, Stage, Verdict, replay};

/// A child that was told to end is looked at this often.
const POLL: Duration = Duration::from_millis(10);

/// The child: its stages go to standard output, one per line, so that the parent knows where it hung.
pub(super) fn here(args: &RunArgs) -> Result<(), Failure> {
    let tell = |stage: &str| {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "stage {stage}").and_then(|()| out.flush());
    };
    tell("read");
    let module = args
        .shader
        .as_ref()
        .map(|path| std::fs::read(path).map_err(|error| input(format!("{}: {error}", path.display()))));
    let case = Case::read_with(&args.case, args.raw, module.transpose()?).map_err(input)?;
    tell("open");
    let opened = match args.fail_call {
        None => load::open(&args.device)?,
        Some(nth) => Device::open(&DeviceOptions {
            faults: Some(Faults::new(nth, args.fail_how)),
            ..load::device_options(&args.device)?
        }),
    };
    let device = match opened {
        Ok(device) => device,
        Err(error) => return conclude(args, &Verdict::Unsupported(error.to_string()), 0, None),
    };
    let subgroup = device.caps().subgroup;
    if let Some(lanes) = case.capsule.spec("SG").filter(|lanes| *lanes != subgroup) {
        let range = device.caps().subgroup_range;
        if !(range.0..=range.1).contains(&lanes) {
            let reason = format!("it needs subgroups of {lanes}, the device has {} to {}", range.0, range.1);
            return conclude(args, &Verdict::Unsupported(reason), subgroup, None);
        }
    }
    let replayed = replay(&device, &case, args.times, &mut |stage: Stage| tell(stage.name()));
    conclude(args, &replayed.verdict, subgroup, Some((replayed.same_bits, replayed.deterministic)))
}

fn conclude(
    args: &RunArgs,
    verdict: &Verdict,
    subgroup: u32,
    runs: Option<(Option<bool>, bool)>,
) -> Result<(), Failure> {
    let sentence = verdict.sentence(subgroup);
    let mut out = io::stdout().lock();
    if args.json {
        let object = serde_json::json!({
            "code": verdict.code(),
            "verdict": sentence,
            "same_bits_as_captured": runs.and_then(|(same, _)| same),
            "deterministic": runs.map(|(_, deterministic)| deterministic),
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{sentence}")?;
        if let Some((same, deterministic)) = runs {
            if let Some(same) = same {
                writeln!(out, "the bits are {} of the capture", if same { "those" } else { "not those" })?;
            }
            if !deterministic {
                writeln!(out, "the runs differ")?;
            }
        }
    }
    match verdict.code() {
        0 => Ok(()),
        code => Err(Failure::Told(sentence, code)),
    }
}

/// What came of a child: its exit code with what it printed, or what is to be said of its end.
enum End {
    Told { code: u8, out: String, errors: String },
    Ended(Verdict),
}

/// Runs a child with some arguments; it has `limit` to end.
fn child(arguments: &[std::ffi::OsString], limit: Duration) -> io::Result<End> {
    let mut child = Process::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before the child ended is kept.
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = reader(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let err = reader(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if start.elapsed() > limit => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(POLL),
        }
    };
    let out = out.join().unwrap_or_default();
    let errors = err.join().unwrap_or_default();
    let stage =
        out.lines().filter_map(|line| line.strip_prefix("stage ")).next_back().unwrap_or("start").to_owned();
    Ok(match status.map(|status| (status.code(), status)) {
        None => {
            End::Ended(Verdict::Hang(format!("no end after {} s, at stage \"{stage}\"", limit.as_secs_f64())))
        }
        Some((Some(code @ (0 | 1 | 2 | 3 | 10..=13 | 125)), _)) => {
            End::Told { code: code as u8, out, errors }
        }
        // A panic is ours, on a case that nobody should have written.
        Some((Some(101), _)) => {
            End::Ended(Verdict::BadCase(format!("it cannot be run, at stage \"{stage}\"")))
        }
        Some((_, status)) => {
            End::Ended(Verdict::CompileFailure(format!("the driver crashed at stage \"{stage}\": {status}")))
        }
    })
}

/// The exit code of a run of a case in a child.
pub(super) fn code(case: &Path, device: Option<&str>, limit: Duration) -> io::Result<u8> {
    let mut arguments =
        vec!["repro".into(), "run".into(), case.into(), "--raw".into(), "--in-process".into()];
    arguments.extend(device.into_iter().flat_map(|device| ["--device".into(), device.into()]));
    Ok(match child(&arguments, limit)? {
        End::Told { code, .. } => code,
        End::Ended(verdict) => verdict.code(),
    })
}

/// The parent: it survives what the child does not.
pub(super) fn apart(args: &RunArgs) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Told(format!("the child process: {error}"), INPUT);
    let limit = Duration::try_from_secs_f64(args.timeout)
        .map_err(|_| input(format!("--timeout is {}; allowed are seconds above 0", args.timeout)))?;
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    arguments.push("--in-process".into());
    match child(&arguments, limit).map_err(failed)? {
        End::Ended(verdict) => conclude(args, &verdict, 0, None),
        End::Told { code, out, errors } => {
            let mut stdout = io::stdout().lock();
            for line in out.lines().filter(|line| !line.starts_with("stage ")) {
                writeln!(stdout, "{line}")?;
            }
            if code == 0 {
                return Ok(());
            }
            let told = errors.lines().next_back().unwrap_or_default();
            let told = told.strip_prefix("vkllm: ").unwrap_or(told);
            Err(Failure::Told(told.to_owned(), code))
        }
    }
}

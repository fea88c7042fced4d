//! `vkllm repro reduce`: a smaller case with the same exit code, and the script that spirv-reduce asks.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::{CHECK, Failure, input, load};
use super::ReduceArgs;
use crate::repro::{self, Capsule, Case, Shrink};

/// Exit codes that a smaller case is to keep.
const KEPT: &[u8] = &[1, 10, 11, 12, 13];

/// What spirv-reduce asks: whether a smaller module still ends with the code.
fn interesting(code: u8, seconds: f64) -> String {
    format!(
        "#!/bin/sh\n\
         # spirv-reduce shader.spv -o reduced.spv -- ./interesting.sh\n\
         here=$(dirname \"$0\")\n\
         \"${{VKLLM:-vkllm}}\" repro run \"$here\" --raw --timeout {seconds} --shader \"$1\" >/dev/null 2>&1\n\
         test $? -eq {code}\n"
    )
}

/// A folder that goes when it is no longer needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn run(args: &ReduceArgs) -> Result<(), Failure> {
    let case = Case::read(&args.case, args.raw).map_err(input)?;
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value)
            .map_err(|_| input(format!("{name} is {value}; allowed are seconds above 0")))
    };
    let (limit, each) = (seconds("--seconds", args.seconds)?, seconds("--timeout", args.timeout)?);
    let selector = args.device.device.as_deref();
    let failed = |error: io::Error| Failure::Told(format!("the child process: {error}"), CHECK);
    let code = super::run::code(&args.case, selector, each).map_err(failed)?;
    if !KEPT.contains(&code) {
        return Err(Failure::Told(
            format!("the case ends with code {code} on this device; reduced are those with 1 and 10 to 13"),
            CHECK,
        ));
    }
    let end = Instant::now() + limit;
    let device = load::device(&args.device)?;
    let scratch = Scratch(std::env::temp_dir().join(format!("vkllm-reduce-{}", std::process::id())));
    let finding = case.manifest.finding.clone();
    let (capsule, done) = if code == 1 {
        let mut still = |capsule: &Capsule| {
            // A smaller dispatch of a damaged case may be none that an operation is defined for.
            let judged = std::panic::catch_unwind(|| {
                let ran = capsule.run(&device).ok()?;
                let outputs = repro::judge(capsule, &ran.state, &capsule.meaning());
                Some(ran.disturbed.is_some() || outputs.iter().any(|output| !output.wrong.is_empty()))
            });
            matches!(judged, Ok(Some(true)))
        };
        repro::reduce(&case.capsule, Shrink::Values, &mut still, end)
    } else {
        // What hangs or crashes is asked in children alone.
        let mut still = |capsule: &Capsule| {
            let smaller = std::panic::catch_unwind(|| Case::new(capsule, device.caps(), finding.clone()));
            let written = smaller.is_ok_and(|smaller| smaller.write(&scratch.0).is_ok());
            written && super::run::code(&scratch.0, selector, each).is_ok_and(|found| found == code)
        };
        repro::reduce(&case.capsule, Shrink::Fate, &mut still, end)
    };
    let mut smaller = Case::new(&capsule, device.caps(), finding);
    smaller.manifest.synthetic = case.manifest.synthetic;
    if code == 1 {
        smaller.actual = Some(smaller.capsule.run(&device)?.state);
    }
    smaller.write(&args.output).map_err(input)?;
    if args.output.is_dir() {
        let script = args.output.join("interesting.sh");
        std::fs::write(&script, interesting(code, args.timeout))?;
        executable(&script)?;
    }
    let (inputs, outputs) = (done.inputs, done.outputs);
    writeln!(
        io::stdout().lock(),
        "inputs that are not zero: {} of {}; rows and outputs: {} of {}; {} runs, exit code {code}",
        inputs.1,
        inputs.0,
        outputs.1,
        outputs.0,
        done.tries
    )?;
    Ok(())
}

#[cfg(unix)]
fn executable(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn executable(_: &std::path::Path) -> io::Result<()> {
    Ok(())
}

//! `vkllm repro`: finds a wrong dispatch, captures it, runs it alone, reduces and exports it.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use vkllm_runtime::{DeviceOptions, Executable, Inspector};

use super::args::{DeviceArgs, ModelArgs};
use super::{CHECK, Failure, INPUT, input, load};
use crate::repro::{
    Capsule, Case, FindOptions, Finding, Stage, Tracker, Verdict, has_ids, replay, synthetic,
};
use crate::text::EncodeOptions;
use crate::{Model, SamplerOptions, repro};

/// Seed of made-up data.
const SEED: u64 = 1;
/// A child that was told to end is looked at this often.
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(super) struct ReproArgs {
    #[command(subcommand)]
    command: ReproCommand,
}

#[derive(Debug, Subcommand)]
enum ReproCommand {
    /// Run a prompt and name the first dispatch that a device computes wrongly
    #[command(after_help = "Exit codes: 0 nothing is wrong, 1 something is, 2 usage, 3 device error.")]
    Find(FindArgs),
    /// Put one dispatch into a folder or a .tar.zst that needs no model
    Capture(CaptureArgs),
    /// Run a captured case in a child process
    #[command(
        after_help = "Exit codes: 0 match, 1 mismatch, 2 usage or bad case, 10 device lost, 11 hang, 12 pipeline compile \
                      failure or crash, 13 validation message, 125 not supported here."
    )]
    Run(RunArgs),
    /// Make a case smaller while it is still a mismatch
    Reduce(ReduceArgs),
    /// Write a case as others read it: an Amber script, a program in C, an issue
    Export(ExportArgs),
}

#[derive(Debug, Args)]
struct StepArgs {
    /// Model file; without it the small model that ships with the program
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Prompt [default: Once upon a time]
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Prompt as token ids
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    tokens: Option<Vec<u32>>,
    /// Tokens to generate after the prompt
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 2)]
    n_predict: usize,
    /// Draw at this temperature; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temp: f32,
    /// Only commands whose label contains this, for example blk.3.
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Only this operation
    #[arg(long, value_name = "OP")]
    op: Option<String>,
    /// Where to write the case: a folder, or a file that ends in .tar.zst
    #[arg(short = 'o', long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Put made-up data in place of the model's, when they show the same fault
    #[arg(long)]
    synthetic: bool,
    /// Write cases of operations whose data are token ids
    #[arg(long)]
    include_ids: bool,
    #[command(flatten)]
    common: ModelArgs,
}

#[derive(Debug, Args)]
struct FindArgs {
    #[command(flatten)]
    step: StepArgs,
    /// Runs of every dispatch, which must agree
    #[arg(long, value_name = "N", default_value_t = 2)]
    times: u32,
    /// Go on after the first finding
    #[arg(long)]
    full: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CaptureArgs {
    #[command(flatten)]
    step: StepArgs,
    /// Which of the dispatches that fit, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    nth: usize,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Folder or .tar.zst
    case: PathBuf,
    /// Runs
    #[arg(long, value_name = "N", default_value_t = 1)]
    times: u32,
    /// Seconds until the run is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    timeout: f64,
    /// Give the driver SPIR-V that is not of this program, unchecked
    #[arg(long)]
    raw: bool,
    /// Run this module in place of the case's own
    #[arg(long, value_name = "FILE", requires = "raw")]
    shader: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Without a child process
    #[arg(long, hide = true)]
    in_process: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Args)]
struct ReduceArgs {
    /// Folder or .tar.zst
    case: PathBuf,
    /// Where to write the smaller case; a folder also gets a script for spirv-reduce
    #[arg(short = 'o', long, value_name = "PATH")]
    output: PathBuf,
    /// Seconds after which what was reached is written
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    seconds: f64,
    /// Take SPIR-V that is not of this program
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Folder or .tar.zst
    case: PathBuf,
    /// Script for Amber; large buffers become files beside it
    #[arg(long, value_name = "FILE")]
    amber: Option<PathBuf>,
    /// One file of C that needs Vulkan's headers alone
    #[arg(long, value_name = "FILE")]
    c: Option<PathBuf>,
    /// Text of an issue, on standard output: mesa, nvidia, intel or moltenvk
    #[arg(long, value_name = "TRACKER")]
    issue: Option<String>,
    /// Take SPIR-V that is not of this program
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) fn run(args: &ReproArgs) -> Result<(), Failure> {
    match &args.command {
        ReproCommand::Find(args) => find(args),
        ReproCommand::Capture(args) => capture(args),
        ReproCommand::Run(args) if args.in_process => run_here(args),
        ReproCommand::Run(args) => run_apart(args),
        ReproCommand::Reduce(args) => reduce(args),
        ReproCommand::Export(args) => export(args),
    }
}

fn prompt(args: &StepArgs, model: &Model) -> Result<Vec<u32>, Failure> {
    if let Some(tokens) = &args.tokens {
        return Ok(tokens.clone());
    }
    let Some(vocabulary) = model.vocabulary() else {
        return Err(input("the model has no vocabulary; give the prompt as ids with --tokens 1,2,3"));
    };
    let text = args.prompt.as_deref().unwrap_or("Once upon a time");
    Ok(vocabulary.encode(text, EncodeOptions { add_bos: true, parse_special: false }))
}

fn options(args: &StepArgs) -> Result<FindOptions, Failure> {
    let sampler = SamplerOptions { temperature: args.temp, seed: SEED, ..SamplerOptions::default() };
    Ok(FindOptions {
        tokens: args.n_predict,
        sampler: if args.temp == 0.0 { SamplerOptions::greedy() } else { sampler.check()? },
        label: args.label.clone(),
        op: args.op.clone(),
        ..FindOptions::default()
    })
}

fn open(args: &StepArgs) -> Result<(vkllm_runtime::Device, Model), Failure> {
    let file = load::file(args.model.as_deref())?.without_predictor();
    let device = load::device(&args.common.device)?;
    let mut options = load::options(&args.common, &file, &device)?;
    // The cache is read from the device at every step.
    options.context = options.context.or(Some(512.min(file.config.context)));
    let model = load::model(&device, &file, &options)?;
    Ok((device, model))
}

fn find(args: &FindArgs) -> Result<(), Failure> {
    let (device, model) = open(&args.step)?;
    let most = if args.full { usize::MAX } else { 1 };
    let options = FindOptions { times: args.times.max(1), most, ..options(&args.step)? };
    let bar = if io::stderr().is_terminal() {
        let style = indicatif::ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}");
        let style = style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
        indicatif::ProgressBar::new(0).with_style(style)
    } else {
        indicatif::ProgressBar::hidden()
    };
    let shown = bar.clone();
    let ids = prompt(&args.step, &model)?;
    let found = repro::find(&model, &ids, &options, move |step, done, all| {
        shown.set_length(all as u64);
        shown.set_position(done as u64);
        shown.set_message(step.to_owned());
    });
    bar.finish_and_clear();
    let found = found?;
    let subgroup = device.caps().subgroup;
    let mut out = io::stdout().lock();
    if args.json {
        let findings: Vec<_> = found.findings.iter().map(|finding| finding_json(finding, subgroup)).collect();
        let object = serde_json::json!({
            "device": device.caps().name,
            "driver": device.caps().driver,
            "steps": found.steps,
            "dispatches": found.dispatches,
            "words": found.words,
            "findings": findings,
        });
        serde_json::to_writer_pretty(&mut out, &object)?;
        writeln!(out)?;
    } else {
        let (steps, dispatches, words) = (found.steps, found.dispatches, found.words);
        writeln!(
            out,
            "{} compared {dispatches} dispatches of {steps} steps, {words} words",
            device.caps().name
        )?;
        for finding in &found.findings {
            writeln!(
                out,
                "step {}, command {}: {}",
                finding.step,
                finding.command,
                finding.sentence(subgroup)
            )?;
        }
    }
    let Some(first) = found.findings.first() else {
        return load::no_messages(&device);
    };
    if let Some(path) = &args.step.output {
        let sentence = first.sentence(subgroup);
        save(&device, &args.step, &first.capsule, Some(sentence), path)?;
    }
    Err(Failure::Told(
        format!("{} of {} dispatches are wrong", found.findings.len(), found.dispatches),
        CHECK,
    ))
}

fn finding_json(finding: &Finding, subgroup: u32) -> serde_json::Value {
    let capsule = &finding.capsule;
    let outputs: Vec<_> = finding
        .outputs
        .iter()
        .map(|output| {
            let first: Vec<_> =
                output.wrong.iter().take(8).map(|w| format!("{}: {}", w.index, w.text)).collect();
            serde_json::json!({
                "binding": output.binding,
                "words": output.words,
                "wrong": output.wrong.len(),
                "pattern": repro::pattern(output, subgroup),
                "first": first,
            })
        })
        .collect();
    serde_json::json!({
        "step": finding.step,
        "command": finding.command,
        "label": capsule.label,
        "op": capsule.kernel.op,
        "kernel": capsule.kernel.name,
        "sentence": finding.sentence(subgroup),
        "outputs": outputs,
    })
}

fn capture(args: &CaptureArgs) -> Result<(), Failure> {
    let path = args.step.output.as_ref().ok_or_else(|| input("say where to write the case, with -o"))?;
    let (device, model) = open(&args.step)?;
    let ids = prompt(&args.step, &model)?;
    let capsule = repro::capture(&model, &ids, &options(&args.step)?, args.nth)?
        .ok_or_else(|| input("no dispatch fits --label, --op and --nth"))?;
    save(&device, &args.step, &capsule, None, path)
}

/// Writes a case with what the device makes of it.
fn save(
    device: &vkllm_runtime::Device,
    args: &StepArgs,
    capsule: &Capsule,
    finding: Option<String>,
    path: &Path,
) -> Result<(), Failure> {
    let op = capsule.kernel.op;
    if has_ids(op) && !args.include_ids {
        return Err(input(format!("a case of {op} holds token ids; --include-ids writes them")));
    }
    let made = args.synthetic.then(|| synthetic(capsule, SEED));
    let mut case = Case::new(made.as_ref().unwrap_or(capsule), device.caps(), finding);
    case.manifest.synthetic = args.synthetic;
    let ran = case.capsule.run(device)?;
    if args.synthetic && case.manifest.finding.is_some() {
        let outputs = repro::judge(&case.capsule, &ran.state, &case.expected);
        if ran.disturbed.is_none() && outputs.iter().all(|output| output.wrong.is_empty()) {
            return Err(Failure::Told(
                "the fault does not show with made-up data; leave out --synthetic".into(),
                CHECK,
            ));
        }
    }
    case.actual = Some(ran.state);
    case.write(path).map_err(input)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}: {} in {}", path.display(), capsule.kernel.name, capsule.label)?;
    Ok(())
}

/// What spirv-reduce asks: whether a smaller module is still a mismatch.
const INTERESTING: &str = "#!/bin/sh\n\
# spirv-reduce shader.spv -o reduced.spv -- ./interesting.sh\n\
here=$(dirname \"$0\")\n\
vkllm repro run \"$here\" --raw --shader \"$1\" >/dev/null 2>&1\n\
test $? -eq 1\n";

fn reduce(args: &ReduceArgs) -> Result<(), Failure> {
    let case = Case::read(&args.case, args.raw).map_err(input)?;
    let device = load::device(&args.device)?;
    let limit = Duration::try_from_secs_f64(args.seconds)
        .map_err(|_| input(format!("--seconds is {}; allowed are seconds above 0", args.seconds)))?;
    let mut still = |capsule: &Capsule| {
        // A smaller dispatch of a damaged case may be none that an operation is defined for.
        let judged = std::panic::catch_unwind(|| {
            let ran = capsule.run(&device).ok()?;
            let outputs = repro::judge(capsule, &ran.state, &capsule.meaning());
            Some(outputs.iter().any(|output| !output.wrong.is_empty()))
        });
        matches!(judged, Ok(Some(true)))
    };
    if !still(&case.capsule) {
        return Err(Failure::Told(
            "the case is no mismatch on this device; only mismatches are reduced".into(),
            CHECK,
        ));
    }
    let (capsule, done) = repro::reduce(&case.capsule, &mut still, Instant::now() + limit);
    let mut smaller = Case::new(&capsule, device.caps(), case.manifest.finding);
    smaller.manifest.synthetic = case.manifest.synthetic;
    smaller.actual = Some(smaller.capsule.run(&device)?.state);
    smaller.write(&args.output).map_err(input)?;
    if args.output.is_dir() {
        std::fs::write(args.output.join("interesting.sh"), INTERESTING)?;
    }
    let (inputs, outputs) = (done.inputs, done.outputs);
    writeln!(
        io::stdout().lock(),
        "inputs that are not zero: {} of {}; rows and outputs: {} of {}; {} runs",
        inputs.1,
        inputs.0,
        outputs.1,
        outputs.0,
        done.tries
    )?;
    Ok(())
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    if args.amber.is_none() && args.c.is_none() && args.issue.is_none() {
        return Err(input("say what to write: --amber FILE, --c FILE or --issue TRACKER"));
    }
    let case = Case::read(&args.case, args.raw).map_err(input)?;
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).map_err(|error| input(format!("{}: {error}", path.display())))
    };
    if let Some(path) = &args.amber {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let (script, files) = repro::amber(&case, &stem).map_err(input)?;
        write(path, script.as_bytes())?;
        for (name, bytes) in files {
            write(&path.with_file_name(name), &bytes)?;
        }
    }
    if let Some(path) = &args.c {
        write(path, repro::c(&case).map_err(input)?.as_bytes())?;
    }
    if let Some(name) = &args.issue {
        let tracker = Tracker::ALL.into_iter().find(|tracker| tracker.name() == name).ok_or_else(|| {
            let known = Tracker::ALL.map(Tracker::name).join(", ");
            input(format!("--issue is \"{name}\"; allowed are {known}"))
        })?;
        let executables = executables(args, &case).unwrap_or_else(|error| {
            tracing::warn!(%error, "the driver tells nothing of the pipeline");
            Vec::new()
        });
        io::stdout().lock().write_all(repro::issue(&case, tracker, &executables).as_bytes())?;
    }
    Ok(())
}

/// What the driver at hand makes of the case's kernel.
fn executables(args: &ExportArgs, case: &Case) -> Result<Vec<Executable>, vkllm_runtime::Error> {
    let selector = load::selector(args.device.device.as_deref());
    let inspector = Inspector::open(&DeviceOptions { selector, ..DeviceOptions::default() })?;
    let kernel = case.capsule.kernel;
    let specs: Vec<_> =
        kernel.specs.iter().zip(&case.capsule.specs).map(|(spec, value)| (spec.name, *value)).collect();
    inspector.compile(kernel, &specs, false)
}

/// The child: its stages go to standard output, one per line, so that the parent knows where it hung.
fn run_here(args: &RunArgs) -> Result<(), Failure> {
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
    let device = match load::open(&args.device)? {
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

/// The parent: it survives what the child does not.
fn run_apart(args: &RunArgs) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Told(format!("the child process: {error}"), INPUT);
    let limit = Duration::try_from_secs_f64(args.timeout)
        .map_err(|_| input(format!("--timeout is {}; allowed are seconds above 0", args.timeout)))?;
    let mut child = Process::new(std::env::current_exe().map_err(failed)?)
        .args(std::env::args_os().skip(1))
        .arg("--in-process")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
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
        match child.try_wait().map_err(failed)? {
            Some(status) => break Some(status),
            None if start.elapsed() > limit => {
                child.kill().map_err(failed)?;
                child.wait().map_err(failed)?;
                break None;
            }
            None => std::thread::sleep(POLL),
        }
    };
    let text = out.join().unwrap_or_default();
    let errors = err.join().unwrap_or_default();
    let stage =
        text.lines().filter_map(|line| line.strip_prefix("stage ")).next_back().unwrap_or("start").to_owned();
    let verdict = match status.map(|status| (status.code(), status)) {
        None => Verdict::Hang(format!("no end after {} s, at stage \"{stage}\"", args.timeout)),
        Some((Some(code @ (0 | 1 | 2 | 3 | 10..=13 | 125)), _)) => {
            let mut stdout = io::stdout().lock();
            for line in text.lines().filter(|line| !line.starts_with("stage ")) {
                writeln!(stdout, "{line}")?;
            }
            if code == 0 {
                return Ok(());
            }
            let told = errors.lines().next_back().unwrap_or_default();
            let told = told.strip_prefix("vkllm: ").unwrap_or(told);
            return Err(Failure::Told(told.to_owned(), code as u8));
        }
        // A panic is ours, on a case that nobody should have written.
        Some((Some(101), _)) => Verdict::BadCase(format!("it cannot be run, at stage \"{stage}\"")),
        Some((_, status)) => {
            Verdict::CompileFailure(format!("the driver crashed at stage \"{stage}\": {status}"))
        }
    };
    conclude(args, &verdict, 0, None)
}

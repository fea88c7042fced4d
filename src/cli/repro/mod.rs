//! `vkllm repro`: finds a wrong dispatch, captures it, runs it alone, reduces and exports it.

mod export;
mod reduce;
mod run;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::args::{DeviceArgs, ModelArgs};
use super::{CHECK, Failure, input, load};
use crate::repro::{Capsule, Case, FindOptions, Finding, has_ids, synthetic};
use crate::text::EncodeOptions;
use crate::{Model, SamplerOptions, repro};

/// Seed of made-up data.
const SEED: u64 = 1;

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
    /// Make a case smaller while its exit code stays
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
    /// For tests: this call of the driver fails, counted from 1
    #[arg(long, hide = true, value_name = "N")]
    fail_call: Option<u64>,
    /// And which of the errors it may return
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    fail_how: usize,
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
    /// Seconds until a run is taken for a hang
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    timeout: f64,
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
    /// Library that simulates AMD's kernel driver, for machine code of its chips [default: where Mesa installs it]
    #[arg(long, value_name = "FILE")]
    amd_shim: Option<PathBuf>,
    /// Manifest of RADV of the same version [default: the installed one]
    #[arg(long, value_name = "FILE")]
    amd_driver: Option<PathBuf>,
    /// Print what the driver makes of the kernel
    #[arg(long, hide = true)]
    code: bool,
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
        ReproCommand::Run(args) if args.in_process => run::here(args),
        ReproCommand::Run(args) => run::apart(args),
        ReproCommand::Reduce(args) => reduce::run(args),
        ReproCommand::Export(args) => export::run(args),
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

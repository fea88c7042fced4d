//! `vkllm bench`: how fast a model runs here, how much of what the device can do that is, and where the rest went.

mod ab;
pub(super) mod args;
pub(super) mod compare;
mod kernels;
mod output;
mod plot;
mod report;
mod roofline;
mod row;
mod spec;
mod startup;
mod trace;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vkllm_runtime::{Device, DeviceKind};

use super::args::ActivationsArg;
use super::{Failure, input, interrupt_flag, load};
use crate::bench::{Ceilings, KernelTest, Kind, Machine, Runner, Test, ceilings};
use crate::{Activations, KvType, LoadMode, ModelFile, ModelOptions};
use args::{BenchArgs, BenchCommand, Format, RunArgs};
use output::Sheet;
use row::{Loaded, Place, Row, now};

/// Columns of the markdown table.
const BRIEF: &[&str] =
    &["model_type", "vk_test", "avg_ts", "stddev_ts", "vk_median_ts", "bw_gb_s", "bw_share", "vk_marks"];
/// Tests of a model that is given no others.
const PROMPT: u32 = 512;
const GENERATE: u32 = 128;

pub(super) fn run(args: &BenchArgs) -> Result<(), Failure> {
    match &args.command {
        None => measure(&args.run),
        Some(BenchCommand::Compare(args)) => compare::run(args),
        Some(BenchCommand::Ab(args)) => ab::run(args),
    }
}

/// What the program is doing, on a terminal.
struct Progress {
    bar: indicatif::ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Progress {
    fn new() -> Self {
        let bar = if io::stderr().is_terminal() {
            let style = indicatif::ProgressStyle::with_template("{elapsed} {spinner} {msg}");
            let bar = indicatif::ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        } else {
            indicatif::ProgressBar::hidden()
        };
        Progress { bar, stop: interrupt_flag() }
    }

    fn says(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A model with one way to load it and the tests it is for.
struct Plan {
    file: ModelFile,
    options: ModelOptions,
    activations: &'static str,
    tests: Vec<Test>,
}

fn activations(arg: ActivationsArg) -> (Activations, &'static str) {
    match arg {
        ActivationsArg::Float => (Activations::Float, "float"),
        ActivationsArg::Int8 => (Activations::Int8, "int8"),
        ActivationsArg::Half => (Activations::Half, "half"),
        ActivationsArg::Auto => (Activations::Auto, "auto"),
    }
}

/// The tests of a model, in the order in which they run: by depth, so that what is in the cache serves the next.
fn tests(args: &RunArgs, file: &ModelFile, built_in: bool) -> Result<Vec<Test>, Failure> {
    let pairs = args.pairs()?;
    let other = !pairs.is_empty() || args.rows.is_some() || args.spec.is_some() || args.model_draft.is_some();
    let other =
        other || args.sessions.is_some() || args.startup || args.soak.is_some() || !args.kernels.is_empty();
    // The number of tokens is then that of texts.
    let texts = args.spec.is_some() || args.model_draft.is_some();
    // The small model's context is small.
    let most = if built_in { file.config.context / 2 - 1 } else { u32::MAX };
    let named = |list: &Option<args::Numbers>, default: u32| match list {
        Some(list) => list.0.clone(),
        None if default == GENERATE && args.soak.is_some() => vec![GENERATE.min(most)],
        None if other || args.n_prompt.is_some() || args.n_gen.is_some() => Vec::new(),
        None => vec![default.min(most)],
    };
    let mut kinds: Vec<Kind> = Vec::new();
    kinds.extend(named(&args.n_prompt, PROMPT).into_iter().filter(|n| *n > 0).map(Kind::Prompt));
    if !texts {
        kinds.extend(named(&args.n_gen, GENERATE).into_iter().filter(|n| *n > 0).map(Kind::Generate));
    }
    kinds.extend(pairs.into_iter().map(|(prompt, generated)| Kind::Both(prompt, generated)));
    kinds.extend(args.rows.iter().flat_map(|rows| &rows.0).map(|rows| Kind::Rows(*rows)));
    kinds.extend(args.sessions.iter().flat_map(|counts| &counts.0).map(|count| Kind::Sessions(*count)));
    let mut depths = args.n_depth.0.clone();
    depths.sort_unstable();
    let mut all = Vec::new();
    for depth in depths {
        all.extend(kinds.iter().map(|&kind| Test { kind, depth }));
    }
    all.iter().try_for_each(Test::check)?;
    Ok(all)
}

fn cache_type(option: &str, name: &str) -> Result<KvType, Failure> {
    KvType::parse(name).ok_or_else(|| {
        let known = KvType::ALL.map(KvType::name).join(", ");
        input(format!("{option} is \"{name}\"; allowed are {known}"))
    })
}

fn choices(option: &str, names: &[String]) -> Result<Vec<Option<KvType>>, Failure> {
    if names.is_empty() {
        return Ok(vec![None]);
    }
    names.iter().map(|name| cache_type(option, name).map(Some)).collect()
}

/// Every combination of models and settings, each checked against the device before anything runs.
fn plans(args: &RunArgs, wanted: Option<&spec::Wanted>, device: &Device) -> Result<Vec<Plan>, Failure> {
    let weights = LoadMode::parse(&args.weights).ok_or_else(|| {
        let known: Vec<_> = LoadMode::ALL.iter().map(|mode| mode.name()).collect();
        input(format!("--weights is \"{}\"; allowed are {}", args.weights, known.join(", ")))
    })?;
    let (k_types, v_types) =
        (choices("--cache-type-k", &args.cache_type_k)?, choices("--cache-type-v", &args.cache_type_v)?);
    let paths: Vec<Option<&Path>> = if args.model.is_empty() {
        vec![None]
    } else {
        args.model.iter().map(|path| Some(path.as_path())).collect()
    };
    let mut all = Vec::new();
    for path in paths {
        for &batch in &args.ubatch_size.0 {
            for &arg in &args.activations {
                for &k_type in &k_types {
                    for &v_type in &v_types {
                        let file = spec::Wanted::target(wanted, load::file(path)?);
                        let tests = tests(args, &file, path.is_none())?;
                        let (activations, name) = activations(arg);
                        let needed = tests.iter().map(Test::positions).max().unwrap_or(0);
                        let texts = wanted.map_or(0, |wanted| wanted.positions(file.config.context));
                        let least = needed.max(texts).max(file.config.context.min(512));
                        let context = args.ctx_size.unwrap_or(least);
                        if needed > context || needed > file.config.context {
                            let longest = tests.iter().max_by_key(|test| test.positions());
                            return Err(input(format!(
                                "{}: {} needs a context of {needed} tokens; allowed are {}",
                                file.gguf.path().display(),
                                longest.map_or(String::new(), Test::to_string),
                                context.min(file.config.context),
                            )));
                        }
                        let together = args.sessions.iter().flat_map(|counts| &counts.0).max();
                        let options = ModelOptions {
                            sessions: together.copied().unwrap_or(1),
                            context: Some(context),
                            batch,
                            activations,
                            k_type,
                            v_type,
                            weights,
                            ..ModelOptions::default()
                        };
                        file.plan(device.caps(), &options)?.check(device)?;
                        all.push(Plan { file, options, activations: name, tests });
                    }
                }
            }
        }
    }
    Ok(all)
}

/// Architecture, size and the type of most weights.
fn kind_of(file: &ModelFile) -> (String, u64, u64) {
    let tensors = file.gguf.tensors();
    let (mut bytes, mut parameters) = (0, 0);
    let mut types: Vec<(&str, u64)> = Vec::new();
    for info in tensors {
        bytes += info.bytes;
        parameters += info.elements();
        match types.iter_mut().find(|(name, _)| *name == info.type_name()) {
            Some((_, count)) => *count += info.elements(),
            None => types.push((info.type_name(), info.elements())),
        }
    }
    let most = types.into_iter().max_by_key(|(_, count)| *count).map_or("", |(name, _)| name);
    let size = match parameters as f64 {
        p if p >= 1e9 => format!("{:.1}B", p / 1e9),
        p if p >= 1e6 => format!("{:.0}M", p / 1e6),
        p => format!("{:.0}K", p / 1e3),
    };
    (format!("{} {size} {most}", file.config.architecture.name), bytes, parameters)
}

/// Where everything is measured; the ceilings unless they are not wanted.
fn place(args: &RunArgs, device: &Device, progress: &Progress) -> Result<Place, Failure> {
    let caps = device.caps();
    let machine = Machine::of(caps);
    let mut found = if args.no_ceilings {
        Ceilings::default()
    } else {
        ceilings(device, &|what| {
            progress.says(format!("ceilings: {what}"));
            !progress.stopped()
        })?
    };
    found.cache = machine.cache;
    found.nominal = match (args.nominal, machine.nominal) {
        (Some(given), _) => Some((given * 1e9, "given".into())),
        (None, Some((bytes, who))) => Some((bytes, who.into())),
        (None, None) => None,
    };
    Ok(Place { device: caps.name.clone(), driver: caps.driver.clone(), machine, ceilings: found })
}

fn measure(args: &RunArgs) -> Result<(), Failure> {
    if args.repetitions == 0 {
        return Err(input("--repetitions is 0; allowed is 1 or more"));
    }
    if args.nominal.is_some_and(|gb| !gb.is_finite() || gb <= 0.0) {
        return Err(input("--nominal is not above 0; allowed are more than 0 GB/s"));
    }
    if args.soak.is_some_and(|minutes| !minutes.is_finite() || minutes <= 0.0) {
        return Err(input("--soak is not above 0; allowed are more than 0 minutes"));
    }
    args.plot.as_deref().map_or(Ok(()), plot::check)?;
    if args.trace.is_some() && args.no_labels {
        return Err(input(
            "--trace shows single commands, and --no-labels leaves them out; give one of them",
        ));
    }
    let wanted = spec::wanted(args)?;
    let mut kernel_tests = kernels::tests(args)?;
    let device = load::device(&args.device)?;
    if device.caps().kind == DeviceKind::Reference {
        return Err(input("the reference device says what kernels mean; how fast it does is of no interest"));
    }
    // Operations need no model, and a model that is named needs no other operations.
    let nothing_else = args.model.is_empty() && kernel_tests.is_empty();
    let lone_kernels =
        args.model.is_empty() && !kernel_tests.is_empty() && wanted.is_none() && !args.asks_for_a_model();
    let plans = if lone_kernels { Vec::new() } else { plans(args, wanted.as_ref(), &device)? };
    if nothing_else && wanted.is_none() && !args.asks_for_a_model() {
        kernel_tests = kernels::usual()?;
    }
    let progress = Progress::new();
    let place = Rc::new(place(args, &device, &progress)?);
    let mut found = Found::default();
    let failed =
        everything(args, wanted.as_ref(), &device, &plans, &kernel_tests, &place, &progress, &mut found);
    progress.bar.finish_and_clear();
    // What was measured before a failure is worth printing.
    let mut out = io::BufWriter::new(io::stdout().lock());
    write(args, &place, &found, &mut out)?;
    out.flush()?;
    if let Some(path) = &args.trace {
        trace::write(path, &found.rows)?;
    }
    if let Some(path) = &args.plot {
        plot::write(path, &place, &found.rows)?;
    }
    match failed.err() {
        Some(failure) => Err(failure),
        None if progress.stopped() => Err(Failure::Interrupted),
        None => load::no_messages(&device),
    }
}

/// What was measured.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    kernels: Vec<kernels::KernelRow>,
    starts: Vec<startup::StartRow>,
}

/// Everything that was asked for, until it ends, fails or is stopped.
fn everything(
    args: &RunArgs,
    wanted: Option<&spec::Wanted>,
    device: &Device,
    plans: &[Plan],
    kernel_tests: &[KernelTest],
    place: &Rc<Place>,
    progress: &Progress,
    found: &mut Found,
) -> Result<(), Failure> {
    for plan in plans {
        if progress.stopped() {
            return Ok(());
        }
        if args.startup {
            let options = load::device_options(&args.device)?;
            let name = kind_of(&plan.file).0;
            let what = (&plan.file, &plan.options, name.as_str());
            startup::measure(&options, what, args.repetitions, progress, &mut found.starts)?;
        }
        if !plan.tests.is_empty() || wanted.is_some() {
            model(args, wanted, device, plan, place, progress, &mut found.rows)?;
        }
    }
    kernels::measure(args, device, kernel_tests, progress, &mut found.kernels)
}

/// Runs the tests of one model.
fn model(
    args: &RunArgs,
    wanted: Option<&spec::Wanted>,
    device: &Device,
    plan: &Plan,
    place: &Rc<Place>,
    progress: &Progress,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let model = load::model(device, &plan.file, &plan.options)?;
    let (kind, bytes, parameters) = kind_of(&plan.file);
    let file = plan.file.gguf.path().display().to_string();
    let loaded = Rc::new(Loaded {
        file,
        kind,
        bytes,
        parameters,
        ubatch: plan.options.batch,
        k_type: model.plan().k_type.name(),
        v_type: model.plan().v_type.name(),
        activations: plan.activations,
        weights: model.load_report().mode.name(),
        layers: model.config().layers,
        context: model.context(),
    });
    steps(args, plan, Runner::new(&model)?, &loaded, place, progress, rows)?;
    match wanted {
        Some(wanted) if !progress.stopped() => {
            let file = (&plan.file, &plan.options);
            spec::measure(args, wanted, device, file, (&model, &loaded), place, progress, rows)
        }
        _ => Ok(()),
    }
}

/// Runs prompts, generation and verification.
fn steps(
    args: &RunArgs,
    plan: &Plan,
    mut runner: Runner,
    loaded: &Rc<Loaded>,
    place: &Rc<Place>,
    progress: &Progress,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    for test in &plan.tests {
        let says = |what: String| progress.says(format!("{} {test}: {what}", loaded.kind));
        if args.delay > 0 {
            says(format!("resting {} s", args.delay));
            std::thread::sleep(Duration::from_secs(args.delay));
        }
        says("preparing".into());
        runner.prepare(test)?;
        if !args.no_warmup {
            says("warming up".into());
            runner.sample(test)?;
        }
        let before = place.machine.snapshot();
        let mut samples = Vec::new();
        let began = Instant::now();
        let soak = args.soak.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        while !progress.stopped()
            && soak.map_or(samples.len() < args.repetitions, |soak| began.elapsed() < soak)
        {
            says(match soak {
                None => format!("{} of {}", samples.len() + 1, args.repetitions),
                Some(soak) => format!("{} of {} s", began.elapsed().as_secs(), soak.as_secs()),
            });
            let sample = runner.sample(test)?;
            tracing::debug!(%test, wall = ?sample.wall, "measured");
            samples.push(sample);
        }
        let after = place.machine.snapshot();
        if samples.is_empty() {
            return Ok(());
        }
        let attribution = if args.no_labels || progress.stopped() {
            None
        } else {
            says("measuring every command".into());
            runner.attribute(test, args.trace.is_some())?
        };
        let (n_prompt, n_gen) = test.counts();
        rows.push(Row {
            place: Rc::clone(place),
            loaded: Rc::clone(loaded),
            test: test.to_string(),
            n_prompt,
            n_gen,
            n_depth: test.depth,
            rows: if let Kind::Rows(rows) = test.kind { rows } else { 0 },
            tokens: test.tokens(),
            samples,
            attribution,
            spec: None,
            before,
            after,
            time: now(),
        });
    }
    Ok(())
}

fn write(args: &RunArgs, place: &Place, found: &Found, out: &mut dyn Write) -> Result<(), Failure> {
    let Found { rows, kernels, starts } = found;
    if args.output == Format::Table {
        report::place(place, out)?;
        starts.iter().try_for_each(|start| start.print(out))?;
        report::tests(rows, out)?;
        if !args.no_labels {
            rows.iter().try_for_each(|row| report::labels(row, out))?;
        }
        return kernels::print(kernels, place, out);
    }
    let sheets = [
        Sheet {
            name: "llama_bench",
            rows: rows.iter().map(|row| (row.columns(), row.json())).collect(),
            brief: BRIEF,
        },
        Sheet {
            name: "test_backend_ops",
            rows: kernels.iter().map(|row| (row.columns(place), row.json(place))).collect(),
            brief: &["op_name", "op_params", "time_us", "bandwidth_gb_s", "bw_share", "flops"],
        },
        Sheet {
            name: "vkllm_startup",
            rows: starts.iter().map(|row| (row.columns(), row.json())).collect(),
            brief: &[
                "model_type",
                "cache",
                "total_ms",
                "device_ms",
                "load_ms",
                "pipelines_ms",
                "first_token_ms",
            ],
        },
    ];
    if args.output == Format::Json {
        let all: Vec<_> = sheets.iter().flat_map(|sheet| sheet.rows.iter().map(|(_, value)| value)).collect();
        serde_json::to_writer_pretty(&mut *out, &all)?;
        return Ok(writeln!(out)?);
    }
    sheets.iter().try_for_each(|sheet| sheet.write(args.output, out))
}

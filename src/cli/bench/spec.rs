//! `vkllm bench --spec`: texts of several tasks, plain and with drafts.

use std::rc::Rc;

use serde_json::json;
use vkllm_runtime::Device;

use super::Progress;
use super::args::RunArgs;
use super::row::{Loaded, Place, Row, Spec, now};
use crate::bench::{Attribution, Summary, TASKS, continued, profiled, prompts};
use crate::cli::args::{AcceptArg, SpecArgs};
use crate::cli::{Failure, input, load, spec};
use crate::{Model, ModelFile, ModelOptions, SpecOptions};

/// Tokens of a prompt at most; positions that rounds may need beyond a text.
const PROMPT: usize = 256;
const BEYOND: u32 = 66;
/// Tokens of each text unless `-n` says otherwise.
const NEW: u32 = 128;

/// What drafts, how much, and on which texts.
pub(super) struct Wanted {
    options: SpecOptions,
    methods: String,
    lengths: Vec<Option<usize>>,
    tasks: Vec<&'static str>,
    new: u32,
}

/// What was asked for; `None` when nobody drafts.
pub(super) fn wanted(args: &RunArgs) -> Result<Option<Wanted>, Failure> {
    let typed = SpecArgs {
        draft_accept: AcceptArg::Same,
        draft_head: None,
        model_draft: args.model_draft.clone(),
        spec: args.spec.clone(),
        draft_max: "auto".into(),
        draft_min: 0,
        draft_p_min: None,
    };
    let Some(options) = spec::options(&typed, None)? else {
        let lone = [("--task", !args.task.is_empty()), ("--draft-max", args.draft_max != ["auto"])];
        return match lone.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(input(format!("{name} is for drafts; give --spec TYPE or -md FILE"))),
            None => Ok(None),
        };
    };
    let lengths: Vec<_> = args.draft_max.iter().map(|text| spec::length(text)).collect::<Result<_, _>>()?;
    let tasks = match &args.task[..] {
        [] => TASKS.iter().map(|(name, _)| *name).collect(),
        names => names
            .iter()
            .map(|name| {
                let known = TASKS.iter().map(|(task, _)| *task);
                known.clone().find(|task| task == name).ok_or_else(|| {
                    let known = known.collect::<Vec<_>>().join(", ");
                    input(format!("--task is \"{name}\"; allowed are {known}"))
                })
            })
            .collect::<Result<_, _>>()?,
    };
    let new = match args.n_gen.as_ref().map(|list| &list.0[..]) {
        None => NEW,
        Some([new]) if *new > 1 => *new,
        Some(_) => return Err(input("-n is a list or below 2; texts with drafts have one length")),
    };
    let names: Vec<&str> = options.methods.iter().map(|setting| setting.method.name()).collect();
    let methods = names.join(",");
    let most = options.methods.iter().map(|setting| setting.method.row().most).max().unwrap_or(0);
    if let Some(found) = lengths.iter().flatten().find(|length| **length > most) {
        return Err(input(format!("--draft-max is {found}; allowed are 0 to {most} with {methods}")));
    }
    Ok(Some(Wanted { options, methods, lengths, tasks, new }))
}

impl Wanted {
    /// A file with what drafts need of it.
    pub(super) fn target(wanted: Option<&Wanted>, file: ModelFile) -> ModelFile {
        spec::target(file, wanted.map(|wanted| &wanted.options))
    }

    /// Positions of the longest text; of a short context prompts leave room for it.
    pub(super) fn positions(&self, trained: u32) -> u32 {
        (PROMPT as u32 + self.new + BEYOND).min(trained)
    }

    fn prompt(&self, context: u32) -> usize {
        (context.saturating_sub(self.new + BEYOND) as usize).min(PROMPT)
    }
}

/// Runs the texts, plain first.
pub(super) fn measure(
    args: &RunArgs,
    wanted: &Wanted,
    device: &Device,
    (file, options): (&ModelFile, &ModelOptions),
    (model, loaded): (&Model, &Rc<Loaded>),
    place: &Rc<Place>,
    progress: &Progress,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let draft = spec::file(args.model_draft.as_deref(), device, file, options)?;
    let draft = draft.map(|(file, options)| load::model(device, &file, &options)).transpose()?;
    let most = wanted.prompt(model.context());
    if most == 0 {
        let (context, new) = (model.context(), wanted.new);
        return Err(input(format!(
            "the context of {context} tokens has no room for texts of {new}; choose fewer with -n"
        )));
    }
    for task in &wanted.tasks {
        let prompts = prompts(model, task, most);
        let mut plain: Option<f64> = None;
        let drafted = wanted
            .lengths
            .iter()
            .map(|length| Some(SpecOptions { draft_max: *length, ..wanted.options.clone() }));
        for options in std::iter::once(None).chain(drafted) {
            let length = options.as_ref().map_or(Some(0), |options| options.draft_max);
            let k = length.map_or("auto".to_owned(), |k| k.to_string());
            let name = match &options {
                None => format!("text{}/{task}", wanted.new),
                Some(_) => format!("spec{}/k={k}/{task}", wanted.new),
            };
            let run = || {
                let draft = draft.as_ref();
                continued(model, draft, &prompts, wanted.new as usize, options.as_ref())
            };
            progress.says(format!("{} {name}: warming up", loaded.kind));
            if !args.no_warmup {
                run()?;
            }
            let before = place.machine.snapshot();
            let (mut samples, mut last) = (Vec::new(), None);
            for repetition in 1..=args.repetitions {
                if progress.stopped() {
                    break;
                }
                progress.says(format!("{} {name}: {repetition} of {}", loaded.kind, args.repetitions));
                let texts = run()?;
                samples.push(texts.sample);
                last = Some(texts);
            }
            let Some(texts) = last else { return Ok(()) };
            let attribution = if args.no_labels || progress.stopped() {
                None
            } else {
                progress.says(format!("{} {name}: measuring every command", loaded.kind));
                let one = &prompts[..1];
                let (profile, tokens, wall) =
                    profiled(model, draft.as_ref(), one, wanted.new as usize, options.as_ref())?;
                // Prompts are measured too, so the wall time of decoding alone is not what labels add up to.
                let device = std::time::Duration::from_nanos(profile.nanoseconds);
                Attribution::new(profile, tokens, wall.max(device))
            };
            let mut row = Row {
                place: Rc::clone(place),
                loaded: Rc::clone(loaded),
                test: name,
                n_prompt: 0,
                n_gen: wanted.new,
                n_depth: 0,
                rows: 0,
                tokens: texts.tokens,
                samples,
                attribution,
                spec: None,
                before,
                after: place.machine.snapshot(),
                time: now(),
            };
            let median = Summary::of(&row.rates()).map(|summary| summary.median);
            plain = plain.or(median);
            let record = texts.statistics.record();
            row.spec = Some(Spec {
                methods: if options.is_some() { wanted.methods.clone() } else { "none".into() },
                length,
                task: (*task).to_owned(),
                acceptance: record.draft_acceptance_rate,
                mean_length: record.mean_acceptance_length,
                speed_up: median.zip(plain).map(|(median, plain)| median / plain),
                record: json!(record),
            });
            rows.push(row);
        }
    }
    Ok(())
}

//! `vkllm run`: text from a prompt.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::args::{ConstraintArgs, RunArgs, SamplerArgs};
use super::show::{self, shown};
use super::{Failure, input, interrupt_flag, load, spec, stats};
use crate::constrain::{Constraints, Grammar};
use crate::text::EncodeOptions;
use crate::{Event, Finish, GenerateOptions, Model, ModelOptions, SamplerOptions, Session, Source};

/// What the built-in model tells stories about when it is not asked for anything.
const OPENING: &str = "Once upon a time";

/// Sampler options from arguments.
pub(super) fn sampler(args: &SamplerArgs) -> SamplerOptions {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
    SamplerOptions {
        temperature: args.temp,
        top_k: args.top_k,
        typical_p: args.typical,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: args.seed.unwrap_or_else(clock),
        repeat_penalty: args.repeat_penalty,
        repeat_last_n: args.repeat_last_n,
        frequency_penalty: args.frequency_penalty,
        presence_penalty: args.presence_penalty,
    }
}

/// The prompt as ids, and as text when it was text.
fn prompt(args: &RunArgs, model: &Model) -> Result<(Vec<u32>, Option<String>), Failure> {
    if let Some(tokens) = &args.tokens {
        return Ok((tokens.clone(), None));
    }
    let Some(vocabulary) = model.vocabulary() else {
        return Err(input("the model has no vocabulary; give the prompt as ids with --tokens 1,2,3"));
    };
    let asked = load::text(args.prompt.as_deref(), args.file.as_deref())?.filter(|text| !text.is_empty());
    let text = if args.model.is_none() { asked.or_else(|| Some(OPENING.to_owned())) } else { asked };
    let text =
        text.ok_or_else(|| input("there is no prompt; give one with -p, -f, --tokens or on standard input"))?;
    let ids = vocabulary.encode(&text, EncodeOptions { add_bos: true, parse_special: args.special });
    if ids.is_empty() {
        return Err(input("the prompt is empty; give one with -p, -f, --tokens or on standard input"));
    }
    Ok((ids, Some(text)))
}

/// A file's text where there is one of that name, else the argument itself.
fn file_or_text(argument: &str) -> Result<String, Failure> {
    let path = Path::new(argument);
    if !argument.contains(['{', ':', '\n']) && path.exists() {
        return Ok(load::text(None, Some(path))?.unwrap_or_default());
    }
    Ok(argument.to_owned())
}

/// What the text must look like, if that was said.
fn constraint(args: &ConstraintArgs, model: &Model) -> Result<Option<Grammar>, Failure> {
    let ConstraintArgs { json_schema, regex, grammar } = args;
    Ok(match (json_schema, regex, grammar) {
        (Some(schema), ..) => Some(Constraints::new(model)?.json_schema(&file_or_text(schema)?)?),
        (_, Some(expression), _) => Some(Constraints::new(model)?.regex(expression)?),
        (.., Some(lark)) => Some(Constraints::new(model)?.grammar(&file_or_text(lark)?)?),
        _ => None,
    })
}

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let sampler = sampler(&args.sampler).check()?;
    let file = load::file(args.model.as_deref())?;
    let speculation = spec::options(&args.spec, Some(&file))?;
    let file = spec::target(file, speculation.as_ref());
    let device = load::device(&args.common.device)?;
    let options = ModelOptions { profile: args.stats, ..load::options(&args.common, &file, &device)? };
    let draft = spec::file(args.spec.model_draft.as_deref(), &device, &file, &options)?;
    let model = load::model(&device, &file, &options)?;
    let draft = draft.map(|(file, options)| load::model(&device, &file, &options)).transpose()?;
    let (ids, text) = prompt(args, &model)?;
    let constraint = constraint(&args.constraint, &model)?;
    let stop = interrupt_flag();
    let session = Session::new(&model, sampler)?.with_logit_bias(&args.sampler.logit_bias)?;
    let mut session = spec::session(session, draft.as_ref(), speculation.as_ref())?;
    let options =
        GenerateOptions { max_tokens: usize::try_from(args.n_predict).ok(), ignore_end: args.ignore_eos };
    // A prompt that is refused is not echoed.
    let events = match constraint {
        Some(constraint) => session.generate_within(&ids, options, constraint)?,
        None => session.generate(&ids, options)?,
    };
    let mut out = io::stdout().lock();
    let terminal = io::stdout().is_terminal();
    let mut answer = String::new();
    let mut tokens = Vec::new();
    let mut sources = Vec::new();
    let mut finish = None;
    if let (false, false, Some(text)) = (args.json, args.no_display_prompt, &text) {
        out.write_all(shown(text, terminal).as_bytes())?;
        out.flush()?;
    }
    let mut failure = None;
    for event in events {
        if stop.load(Ordering::Relaxed) {
            failure = Some(Failure::Interrupted);
            break;
        }
        let mut source = Source::Target;
        let piece = match event {
            Ok(Event::Token(token)) => {
                tokens.push(token.id);
                source = token.source;
                sources.push(match source {
                    Source::Target => "target",
                    Source::Draft { method, .. } => method.name(),
                    Source::Forced { .. } => "forced",
                });
                if model.vocabulary().is_some() { token.text } else { format!("{} ", token.id) }
            }
            Ok(Event::Round(_)) => continue,
            Ok(Event::Done { finish: reason, text }) => {
                finish = Some(reason);
                text
            }
            Err(error) => {
                failure = Some(error.into());
                break;
            }
        };
        if !args.json {
            let colour = if args.show_source { show::source(&out, source) } else { "" };
            let end = if colour.is_empty() { "" } else { show::dim(&out, false) };
            write!(out, "{colour}{}{end}", shown(&piece, terminal))?;
            out.flush()?;
        }
        answer.push_str(&piece);
    }
    let report = stats::Report::new(&device, &model, &session, sampler.seed);
    if args.json {
        let finish = finish.map_or("stopped", |finish| match finish {
            Finish::End => "end",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Stop => "stop",
            Finish::Cancelled => "cancelled",
        });
        let object = serde_json::json!({
            "prompt_tokens": ids,
            "tokens": tokens,
            "sources": args.show_source.then_some(sources),
            "text": model.vocabulary().map(|_| answer),
            "finish": finish,
            "stats": report.json(),
        });
        serde_json::to_writer(&mut out, &object)?;
    }
    writeln!(out)?;
    out.flush()?;
    if args.stats {
        report.print(&mut io::stderr().lock())?;
    }
    load::no_messages(&device)?;
    failure.map_or(Ok(()), Err)
}

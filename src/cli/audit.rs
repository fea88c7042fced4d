//! `vkllm audit`: plain and speculative decoding over a set of prompts, compared bit for bit.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::args::AuditArgs;
use super::{CHECK, Failure, input, interrupt_flag, load, spec};
use crate::audit::{Audit, Row};
use crate::selftest::Rng;
use crate::speculate::{Method, Setting};
use crate::text::EncodeOptions;
use crate::{Model, ModelFile, SamplerOptions};

/// Prompts: pieces of a text, spread over it, or tokens drawn at random.
fn prompts(args: &AuditArgs, model: &Model, seed: u64) -> Result<Vec<Vec<u32>>, Failure> {
    let (count, length) = (args.prompts, args.prompt_tokens);
    if count == 0 || length == 0 || args.n_predict == 0 {
        return Err(input("--prompts, --prompt-tokens and -n must be 1 or more"));
    }
    let Some(path) = &args.file else {
        let mut rng = Rng::new(seed, "prompts");
        let last = i32::try_from(model.config().vocab - 1).unwrap_or(i32::MAX);
        return Ok((0..count).map(|_| (0..length).map(|_| rng.int(0, last) as u32).collect()).collect());
    };
    let vocabulary = model
        .vocabulary()
        .ok_or_else(|| input("the model has no vocabulary, so it cannot read -f; leave it out"))?;
    let text = load::text(None, Some(path))?.unwrap_or_default();
    let ids = vocabulary.encode(&text, EncodeOptions { add_bos: false, parse_special: false });
    let spare = ids.len().checked_sub(length).ok_or_else(|| {
        input(format!(
            "{} has {} tokens, fewer than the {length} of one prompt (--prompt-tokens)",
            path.display(),
            ids.len()
        ))
    })?;
    Ok((0..count).map(|i| ids[spare * i / count..][..length].to_vec()).collect())
}

/// One sampler of each kind.
fn samplers(seed: u64) -> Vec<(String, SamplerOptions)> {
    let open = SamplerOptions { top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..SamplerOptions::default() };
    [
        ("greedy", SamplerOptions::greedy()),
        ("t 0.7", SamplerOptions { temperature: 0.7, ..open }),
        ("t 1 top-k 40", SamplerOptions { temperature: 1.0, top_k: 40, ..open }),
        ("t 1 typical 0.6", SamplerOptions { temperature: 1.0, typical_p: 0.6, ..open }),
        ("t 1 top-p 0.9", SamplerOptions { temperature: 1.0, top_p: 0.9, ..open }),
        ("t 1 min-p 0.05", SamplerOptions { temperature: 1.0, min_p: 0.05, ..open }),
        (
            "t 0.7 penalties",
            SamplerOptions {
                temperature: 0.7,
                repeat_penalty: 1.2,
                frequency_penalty: 0.1,
                presence_penalty: 0.1,
                ..open
            },
        ),
    ]
    .map(|(name, options)| (name.to_owned(), options))
    .into()
}

/// Drafters as `--drafter` names them, else every one there is.
fn drafters(args: &AuditArgs, file: &ModelFile) -> Result<Vec<(String, Vec<Setting>)>, Failure> {
    let lists = if args.drafter.is_empty() {
        let usable = |method: &Method| match *method {
            Method::DRAFT_MODEL => args.model_draft.is_some(),
            Method::MTP => file.config.predictors > 0,
            _ => true,
        };
        let methods = Method::all().filter(usable);
        let names = methods.flat_map(|method| match method {
            // A draft model that is unsure leaves lengths untested, one that is sure the steps that do not run.
            Method::DRAFT_MODEL => vec!["draft-model:p-min=0".to_owned(), "draft-model".to_owned()],
            Method::MTP => vec!["mtp:p-min=0".to_owned(), "mtp".to_owned()],
            other => vec![other.name().to_owned()],
        });
        names.collect()
    } else {
        args.drafter.clone()
    };
    let read = |list: String| -> Result<_, Failure> {
        let methods = Setting::parse_list(&list)?;
        let model = methods.iter().any(|setting| setting.method == Method::DRAFT_MODEL);
        if model && args.model_draft.is_none() {
            return Err(input("--drafter names draft-model, but no model drafts; give one with -md FILE"));
        }
        let predicts = methods.iter().any(|setting| setting.method == Method::MTP);
        if predicts && file.config.predictors == 0 {
            return Err(input(
                "--drafter names mtp, but the model has no layers that predict further tokens",
            ));
        }
        Ok((list, methods))
    };
    lists.into_iter().map(read).collect()
}

fn lengths(args: &AuditArgs) -> Result<Vec<Option<usize>>, Failure> {
    args.draft_max.iter().map(|text| spec::length(text)).collect()
}

fn shown(length: Option<usize>) -> String {
    length.map_or_else(|| "auto".to_owned(), |length| length.to_string())
}

pub(super) fn run(args: &AuditArgs) -> Result<(), Failure> {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
    let seed = args.seed.unwrap_or_else(clock);
    let file = load::file(args.model.as_deref())?;
    let (drafters, lengths) = (drafters(args, &file)?, lengths(args)?);
    let device = load::device(&args.common.device)?;
    let options = load::options(&args.common, &file, &device)?;
    let draft = spec::file(args.model_draft.as_deref(), &device, &file, &options)?;
    let model = load::model(&device, &file, &options)?;
    let draft = draft.map(|(file, options)| load::model(&device, &file, &options)).transpose()?;
    let prompts = prompts(args, &model, seed)?;
    let samplers = samplers(seed);
    let audit = Audit {
        target: &model,
        draft: draft.as_ref(),
        prompts: &prompts,
        samplers: &samplers,
        drafters: &drafters,
        lengths: &lengths,
        new: args.n_predict,
    };
    let stop = interrupt_flag();
    let bar = match io::stderr().is_terminal() {
        true => indicatif::ProgressBar::new(audit.rows() as u64),
        false => indicatif::ProgressBar::hidden(),
    };
    let rows = audit.run(|_| {
        bar.inc(1);
        !stop.load(Ordering::Relaxed)
    })?;
    bar.finish_and_clear();
    let texts: usize = rows.iter().map(|row| row.texts).sum();
    let differing: usize = rows.iter().map(|row| row.differences.len()).sum();
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report(&rows, &device.caps().name, seed, texts, differing))?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table(&rows))?;
        writeln!(
            out,
            "{differing} of {texts} texts differ from plain decoding on {}; seed {seed}",
            device.caps().name
        )?;
    }
    load::no_messages(&device)?;
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted);
    }
    let first = rows.iter().find_map(|row| row.differences.first().map(|first| (row, first)));
    first.map_or(Ok(()), |(row, first)| {
        let sentence = format!(
            "{} at {} with {} changes prompt {} at token {}",
            row.drafter,
            shown(row.length),
            row.sampler,
            first.prompt,
            first.at
        );
        Err(Failure::Told(sentence, CHECK))
    })
}

fn report(rows: &[Row], device: &str, seed: u64, texts: usize, differing: usize) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let differences: Vec<_> = row
                .differences
                .iter()
                .map(|d| json!({ "prompt": d.prompt, "at": d.at, "plain": d.plain, "found": d.found }))
                .collect();
            json!({
                "sampler": row.sampler,
                "drafter": row.drafter,
                "draft_max": row.length,
                "texts": row.texts,
                "tokens": row.tokens,
                "rounds": row.rounds,
                "drafted": row.drafted,
                "accepted": row.accepted,
                "differences": differences,
            })
        })
        .collect();
    json!({
        "device": device,
        "version": env!("CARGO_PKG_VERSION"),
        "shaders": crate::SHADER_HASH,
        "seed": seed,
        "texts": texts,
        "differing": differing,
        "rows": rows,
    })
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["drafter", "k", "sampler", "texts", "rounds", "drafted", "accepted", "differ"]);
    for row in rows {
        table.add_row([
            row.drafter.clone(),
            shown(row.length),
            row.sampler.clone(),
            row.texts.to_string(),
            row.rounds.to_string(),
            row.drafted.to_string(),
            row.accepted.to_string(),
            row.differences.len().to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

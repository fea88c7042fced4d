//! `vkllm spec`: whether a draft model fits a target, what both cost, and which draft length would pay.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::PairArgs;
use super::{CHECK, Failure, input, load};
use crate::gguf::Gguf;
use crate::models;
use crate::speculate::{
    Decision, Governor, GovernorOptions, MOST_MODEL, Method, Round, Shared, Times, compare_models,
};
use crate::text::EncodeOptions;
use crate::{Event, GenerateOptions, Model, ModelFile, SamplerOptions, Session};

/// What the models continue when no prompt is given: prose and code, as both occur.
const PROMPT: &str = "The history of the lighthouse begins in the year 1811, when three ships were lost in a single \
    night on the rocks below the village. The keeper wrote in his diary:";
/// Numbers of rows whose step is measured, and times each is repeated after one to warm up.
const ROWS: [usize; 4] = [2, 4, 8, 16];
const REPEATS: usize = 3;
/// Tokens whose logits the draft computes at once.
const CHUNK: usize = 32;
/// Acceptance that is assumed when it is neither given nor measured.
const ASSUMED: f64 = 0.7;

/// What a step of a model costs.
struct Cost {
    bytes: u64,
    /// One plain step.
    step: Duration,
}

/// Where the acceptance comes from.
#[derive(Clone, Copy)]
enum Acceptance {
    Given(f64),
    /// Accepted and compared tokens.
    Measured(usize, usize),
    Assumed,
}

impl Acceptance {
    fn rate(self) -> f64 {
        match self {
            Acceptance::Given(rate) => rate,
            Acceptance::Measured(yes, all) => yes as f64 / all.max(1) as f64,
            Acceptance::Assumed => ASSUMED,
        }
    }
}

/// Bytes of weights that a decoded token reads: all tensors but an embedding that is not the output matrix too.
fn bytes_per_token(file: &ModelFile) -> Result<u64, Failure> {
    let tensors = models::required_tensors(&file.gguf, &file.config)?;
    let untied = tensors.iter().any(|info| info.name == "output.weight");
    let read = tensors.iter().filter(|info| !(untied && info.name == "token_embd.weight"));
    Ok(read.map(|info| info.bytes).sum())
}

fn share(option: &str, value: f64) -> Result<f64, Failure> {
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(input(format!("{option} is {value}; allowed is 0 to 1")))
}

/// Continues the prompt greedily; gives the tokens and the time of a plain step.
fn continued(model: &Model, prompt: &[u32], tokens: usize) -> Result<(Vec<u32>, Duration), Failure> {
    let mut session = Session::new(model, SamplerOptions::greedy())?;
    let options = GenerateOptions { max_tokens: Some(tokens), ignore_end: true };
    let mut text = Vec::new();
    for event in session.generate(prompt, options)? {
        if let Event::Token(token) = event? {
            text.push(token.id);
        }
    }
    let stats = session.stats();
    let steps = u32::try_from(stats.host_steps).unwrap_or(u32::MAX).max(1);
    Ok((text, stats.replay_time / steps))
}

/// Time of a step of so many rows, logits of all rows read back: the shortest, because what disturbs makes it longer.
fn rows_time(model: &Model, tokens: &[u32], rows: usize) -> Result<Duration, Failure> {
    let mut session = Session::new(model, SamplerOptions::greedy())?;
    let mut times = Vec::new();
    for repeat in 0..=REPEATS {
        let rows: Vec<u32> = (0..rows).map(|row| tokens[(repeat + row) % tokens.len()]).collect();
        let began = Instant::now();
        session.forward(&rows)?;
        times.push(began.elapsed());
    }
    Ok(times.into_iter().skip(1).min().unwrap_or_default())
}

/// How many tokens of the target's text the draft would have drafted, each after the true text before it. That is the
/// acceptance of a draft, position by position: a token counts only when those before it were accepted.
fn agreement(draft: &Model, prompt: &[u32], text: &[u32]) -> Result<(usize, usize), Failure> {
    let mut session = Session::new(draft, SamplerOptions::greedy())?;
    let vocabulary = draft.config().vocab;
    // What the draft cannot read ends the comparison.
    let readable = text.iter().take_while(|&&token| token < vocabulary).count();
    let all: Vec<u32> = prompt.iter().chain(&text[..readable]).copied().collect();
    let mut right = 0;
    for (chunk, tokens) in all.chunks(CHUNK).enumerate() {
        let logits = session.forward(tokens)?;
        for (row, logits) in logits.chunks(vocabulary as usize).enumerate() {
            let next = chunk * CHUNK + row + 1;
            if next < prompt.len() || next >= all.len() {
                continue;
            }
            let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            right += usize::from(best == Some(all[next] as usize));
        }
    }
    Ok((right, readable))
}

/// Runs both models for a moment.
fn measured(args: &PairArgs, files: [&ModelFile; 2]) -> Result<(Governor, [Cost; 2], Acceptance), Failure> {
    let device = load::device(&args.common.device)?;
    let options = load::options(&args.common, files[0], &device)?;
    let target = load::model(&device, files[0], &options)?;
    let given = args.prompt.as_deref().or(if args.file.is_some() { None } else { Some(PROMPT) });
    let prompt = load::text(given, args.file.as_deref())?.unwrap_or_default();
    let prompt = match target.vocabulary() {
        Some(vocabulary) => vocabulary.encode(&prompt, EncodeOptions { add_bos: true, parse_special: false }),
        None => (0..16).map(|id| id % target.config().vocab).collect(),
    };
    if prompt.is_empty() {
        return Err(input("the prompt is empty; give one with -p or -f"));
    }
    let tokens = args.n_predict.max(4);
    let (text, step) = continued(&target, &prompt, tokens)?;
    let one = rows_time(&target, &text, 1)?;
    let mut rows = Vec::new();
    for n in ROWS {
        // Reading logits back is no part of a verification, but most of it is in the time of one row too.
        rows.push((n, step + rows_time(&target, &text, n)?.saturating_sub(one)));
    }
    let draft = load::model(&device, files[1], &options)?;
    let (_, draft_step) = continued(&draft, &prompt, tokens)?;
    let acceptance = match args.acceptance {
        Some(rate) => Acceptance::Given(rate),
        None => {
            let (right, all) = agreement(&draft, &prompt, &text)?;
            Acceptance::Measured(right, all)
        }
    };
    load::no_messages(&device)?;
    let costs = [
        Cost { bytes: target.bytes_per_token(), step },
        Cost { bytes: draft.bytes_per_token(), step: draft_step },
    ];
    Ok((governor(&costs, &rows), costs, acceptance))
}

/// A governor that knows these times.
fn governor(costs: &[Cost; 2], rows: &[(usize, Duration)]) -> Governor {
    let draft_cost = costs[1].bytes as f64 / costs[0].bytes.max(1) as f64;
    let mut governor =
        Governor::new(GovernorOptions { model: true, draft_cost, ..GovernorOptions::default() });
    let plain = Times { verify: Some(costs[0].step), ..Times::default() };
    governor.observe(&Round { times: plain, ..Round::default() });
    let method = Some(Method::DRAFT_MODEL);
    for &(n, time) in rows {
        let times =
            Times { draft: Some(costs[1].step * (n - 1) as u32), verify: Some(time), ..Times::default() };
        governor.observe(&Round {
            method,
            asked: n - 1,
            drafted: n - 1,
            accepted: 0,
            times,
            ..Round::default()
        });
    }
    governor
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%,:=".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// Everything the command found.
struct Report<'a> {
    args: &'a PairArgs,
    shared: Shared,
    costs: [Cost; 2],
    acceptance: Acceptance,
    predictions: Vec<Decision>,
}

impl Report<'_> {
    /// The draft length that pays most; `None` when none pays.
    fn best(&self) -> Option<&Decision> {
        let best = self.predictions.iter().max_by(|a, b| a.speed_up().total_cmp(&b.speed_up()));
        best.filter(|best| best.speed_up() > 1.0)
    }

    fn command(&self) -> String {
        let draft = self.best().map(|_| format!(" -md {}", quoted(&self.args.model_draft)));
        format!("vkllm run -m {}{}", quoted(&self.args.model), draft.unwrap_or_default())
    }

    fn json(&self) -> Value {
        let cost = |path: &Path, cost: &Cost| {
            json!({
                "file": path.display().to_string(),
                "weight_bytes_per_token": cost.bytes,
                "step_seconds": cost.step.as_secs_f64(),
            })
        };
        let (source, compared) = match self.acceptance {
            Acceptance::Given(_) => ("given", None),
            Acceptance::Measured(_, all) => ("measured", Some(all)),
            Acceptance::Assumed => ("assumed", None),
        };
        json!({
            "vocabulary": {
                "shared": self.shared.tokens,
                "target_only": self.shared.target_only,
                "draft_only": self.shared.draft_only,
                "renamed": self.shared.renamed,
            },
            "target": cost(&self.args.model, &self.costs[0]),
            "draft": cost(&self.args.model_draft, &self.costs[1]),
            "acceptance": { "rate": self.acceptance.rate(), "source": source, "tokens": compared },
            "predictions": self.predictions.iter().map(|p| json!({
                "k": p.k, "tokens": p.tokens, "plain_steps": p.cost, "speed_up": p.speed_up(),
            })).collect::<Vec<_>>(),
            "best_k": self.best().map_or(0, |best| best.k),
            "command": self.command(),
        })
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let s = self.shared;
        write!(out, "vocabulary  {} tokens are the same", s.tokens - s.renamed)?;
        for (count, what) in [
            (s.renamed, "differ in name only"),
            (s.target_only, "only in the target"),
            (s.draft_only, "only in the draft model"),
        ] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        writeln!(out)?;
        for (what, path, cost) in
            [("target", &self.args.model, &self.costs[0]), ("draft", &self.args.model_draft, &self.costs[1])]
        {
            writeln!(
                out,
                "{what:<11} {}: {:.1} MB per token, {:.3} ms",
                name(path),
                cost.bytes as f64 / 1e6,
                cost.step.as_secs_f64() * 1e3,
            )?;
        }
        let source = match self.acceptance {
            Acceptance::Given(_) => "as given".to_owned(),
            Acceptance::Measured(yes, all) => format!("{yes} of {all} tokens, greedy"),
            Acceptance::Assumed => {
                "assumed; give --acceptance, or leave --bandwidth away to measure".to_owned()
            }
        };
        writeln!(out, "acceptance  {:.1} % ({source})", self.acceptance.rate() * 100.0)?;
        writeln!(out, "{:>4} {:>8} {:>12} {:>9}", "k", "tokens", "plain steps", "speed-up")?;
        let best = self.best().map(|best| best.k);
        for p in &self.predictions {
            let mark = if best == Some(p.k) { "  best" } else { "" };
            writeln!(out, "{:>4} {:>8.2} {:>12.2} {:>9.2}{mark}", p.k, p.tokens, p.cost, p.speed_up())?;
        }
        if best.is_none() {
            writeln!(out, "No draft length pays here; plain decoding is as fast.")?;
        }
        writeln!(out, "{}", self.command())
    }
}

pub(super) fn run(args: &PairArgs) -> Result<(), Failure> {
    args.acceptance.map(|rate| share("--acceptance", rate)).transpose()?;
    if let Some(bandwidth) = args.bandwidth
        && !(bandwidth.is_finite() && bandwidth > 0.0)
    {
        return Err(input(format!("--bandwidth is {bandwidth}; allowed are more than 0 GB/s")));
    }
    let open = |path: &Path| -> Result<ModelFile, Failure> {
        Ok(ModelFile::new(Gguf::open(&super::fetch::resolve(path)?)?)?.without_predictor())
    };
    let (target, draft) = (open(&args.model)?, open(&args.model_draft)?);
    let words = [target.vocabulary()?, draft.vocabulary()?];
    let shared =
        compare_models((words[0].as_ref(), target.config.vocab), (words[1].as_ref(), draft.config.vocab))
            .map_err(|mismatch| Failure::Told(crate::Error::from(mismatch).to_string(), CHECK))?;
    let (governor, costs, acceptance) = match args.bandwidth {
        None => measured(args, [&target, &draft])?,
        Some(bandwidth) => {
            let cost = |file| -> Result<Cost, Failure> {
                let bytes = bytes_per_token(file)?;
                Ok(Cost { bytes, step: Duration::from_secs_f64(bytes as f64 / (bandwidth * 1e9)) })
            };
            let costs = [cost(&target)?, cost(&draft)?];
            let acceptance = args.acceptance.map_or(Acceptance::Assumed, Acceptance::Given);
            (governor(&costs, &[]), costs, acceptance)
        }
    };
    let predictions = governor.predict(Method::DRAFT_MODEL, acceptance.rate(), MOST_MODEL);
    let report = Report { args, shared, costs, acceptance, predictions };
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report.json())?;
        writeln!(out)?;
    } else {
        report.print(&mut out)?;
    }
    Ok(out.flush()?)
}

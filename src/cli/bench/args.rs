//! What can be typed after `vkllm bench`. Letters are those of llama-bench where the meaning is the same.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};

use super::super::args::{ActivationsArg, DeviceArgs};
use crate::cli::Failure;
use crate::cli::input;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// Aligned columns to read
    #[default]
    Table,
    Md,
    Csv,
    Json,
    Jsonl,
    Sql,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct BenchArgs {
    #[command(subcommand)]
    pub(super) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Hold two result files against each other: json or jsonl of this program or of llama-bench
    #[command(after_help = "Exit codes: 0 nothing is slower than allowed, 1 something is, 2 usage.")]
    Compare(CompareArgs),
    /// Run two settings in turns and compare them
    Ab(AbArgs),
}

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    pub(super) a: PathBuf,
    pub(super) b: PathBuf,
    /// Fail when B is slower beyond doubt and its median by more than this
    #[arg(long, value_name = "PERCENT")]
    pub(super) fail_above: Option<Percent>,
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct AbArgs {
    /// First setting: NAME=VALUE of environment variables and options of `vkllm bench`, in one argument
    #[arg(long, value_name = "SETTING", allow_hyphen_values = true)]
    pub(super) a: String,
    /// Second setting
    #[arg(long, value_name = "SETTING", allow_hyphen_values = true)]
    pub(super) b: String,
    /// Rounds; each runs both settings once, in turns first and second
    #[arg(short = 'r', long, value_name = "N", default_value_t = 10)]
    pub(super) repetitions: usize,
    /// Fail when B is slower beyond doubt and its median by more than this
    #[arg(long, value_name = "PERCENT")]
    pub(super) fail_above: Option<Percent>,
    #[arg(long)]
    pub(super) json: bool,
    /// Options of `vkllm bench` for both, after --
    #[arg(last = true, value_name = "OPTION")]
    pub(super) options: Vec<String>,
}

/// A share that is typed in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Percent(pub(super) f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
        match number {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Percent(percent / 100.0)),
            _ => Err("allowed are 0% to 100%".into()),
        }
    }
}

/// Numbers as llama-bench takes them: `1,2,8`, `1-8`, `1-8+2`, `1-64*2`, and `1..8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbers(pub(super) Vec<u32>);

/// A list longer than this is a slip of the finger.
const MOST: usize = 1000;

fn span(item: &str) -> Option<Vec<u32>> {
    let item = item.replace("..", "-");
    let Some((first, rest)) = item.split_once('-') else { return Some(vec![item.parse().ok()?]) };
    let (last, step): (&str, Box<dyn Fn(u32) -> Option<u32>>) =
        if let Some((last, step)) = rest.split_once('+') {
            let step: u32 = step.parse().ok().filter(|step| *step > 0)?;
            (last, Box::new(move |n| n.checked_add(step)))
        } else if let Some((last, factor)) = rest.split_once('*') {
            let factor: u32 = factor.parse().ok().filter(|factor| *factor > 1)?;
            (last, Box::new(move |n| n.checked_mul(factor).filter(|next| *next > n)))
        } else {
            (rest, Box::new(|n: u32| n.checked_add(1)))
        };
    let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    let all: Vec<u32> =
        std::iter::successors(Some(first), |n| step(*n)).take_while(|n| *n <= last).take(MOST + 1).collect();
    (!all.is_empty()).then_some(all)
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "allowed are numbers and ranges: 1,2,8 or 1-8 or 1-8+2 or 1-64*2".to_owned();
        let mut all = Vec::new();
        for item in text.split(',') {
            all.extend(span(item.trim()).ok_or_else(wrong)?);
        }
        if all.len() > MOST { Err(format!("it names more than {MOST} numbers")) } else { Ok(Numbers(all)) }
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Model files; without any the small model that ships with the program, and kernels at the shapes of real models
    #[arg(short = 'm', long, value_name = "FILE,…", value_delimiter = ',')]
    pub(super) model: Vec<PathBuf>,
    /// Tokens of prompts, 0 for no such test [default: 512]
    #[arg(short = 'p', long, value_name = "LIST")]
    pub(super) n_prompt: Option<Numbers>,
    /// Tokens to generate, 0 for no such test [default: 128]
    #[arg(short = 'n', long, value_name = "LIST")]
    pub(super) n_gen: Option<Numbers>,
    /// A prompt and what follows, PROMPT,TOKENS; may be repeated (also -pg)
    #[arg(long, value_name = "P,N")]
    pub(super) pg: Vec<String>,
    /// Positions in the cache before a test begins
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0")]
    pub(super) n_depth: Numbers,
    /// Verification of so many rows, for example 1-16
    #[arg(long, value_name = "LIST")]
    pub(super) rows: Option<Numbers>,
    /// So many conversations that decode together, a token of each in a step, for example 1,2,4,8
    #[arg(long, value_name = "LIST")]
    pub(super) sessions: Option<Numbers>,
    /// Repetitions of each test
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5)]
    pub(super) repetitions: usize,
    /// Do not run each test once before it is measured
    #[arg(long)]
    pub(super) no_warmup: bool,
    /// Seconds of rest before each test
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(super) delay: u64,
    /// How results are written
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(super) output: Format,
    /// Who drafts, as `vkllm run --spec` takes it: texts of several tasks with and without drafts
    #[arg(long, value_name = "TYPE[:NAME=VALUE…],…")]
    pub(super) spec: Option<String>,
    /// Model that drafts (also -md)
    #[arg(long, value_name = "FILE")]
    pub(super) model_draft: Option<PathBuf>,
    /// Tokens drafted each round, one test for each; auto is the governor's choice
    #[arg(long, value_name = "N|auto,…", value_delimiter = ',', default_value = "auto")]
    pub(super) draft_max: Vec<String>,
    /// Tasks of speculation: chat, code, extract, story
    #[arg(long, value_name = "TASK,…", value_delimiter = ',')]
    pub(super) task: Vec<String>,
    /// Measure loading, pipelines cold and warm, and the time to the first token
    #[arg(long)]
    pub(super) startup: bool,
    /// Generate for so many minutes and show how the speed holds
    #[arg(long, value_name = "MINUTES")]
    pub(super) soak: Option<f64>,
    /// Single operations at given formats and shapes, no model needed: OP[:format=F,…][:type=T,…][:SIZE=N,…]…, or all
    #[arg(long, value_name = "SPEC")]
    pub(super) kernels: Vec<String>,
    /// Bandwidth of the memory on paper
    #[arg(long, value_name = "GB/s")]
    pub(super) nominal: Option<f64>,
    /// Do not measure what the device can do at most
    #[arg(long)]
    pub(super) no_ceilings: bool,
    /// Do not measure single kinds of work
    #[arg(long)]
    pub(super) no_labels: bool,
    /// Write a trace for Perfetto or chrome://tracing of one run of each test
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// Draw the results: roofline and share of the ceiling per kind of work, speed against depth, speed-up against drafts
    #[arg(long, value_name = "FILE.svg|png")]
    pub(super) plot: Option<PathBuf>,
    /// Rows of one prefill step (also -ub)
    #[arg(short = 'b', long = "ubatch-size", value_name = "LIST", default_value = "512")]
    pub(super) ubatch_size: Numbers,
    /// Context in tokens [default: what the tests need]
    #[arg(short = 'c', long, value_name = "TOKENS")]
    pub(super) ctx_size: Option<u32>,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "auto")]
    pub(super) activations: Vec<ActivationsArg>,
    /// How weights get to the device, as `vkllm run --weights` takes it
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(super) weights: String,
    /// Types of cached keys (also -ctk)
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    pub(super) cache_type_k: Vec<String>,
    /// Types of cached values (also -ctv)
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    pub(super) cache_type_v: Vec<String>,
    #[command(flatten)]
    pub(super) device: DeviceArgs,
}

impl RunArgs {
    /// Whether a test was named that a model must run.
    pub(super) fn asks_for_a_model(&self) -> bool {
        let counts =
            self.n_prompt.is_some() || self.n_gen.is_some() || self.rows.is_some() || !self.pg.is_empty();
        counts || self.sessions.is_some() || self.startup || self.soak.is_some()
    }

    /// (prompt, generated) of the combined tests.
    pub(super) fn pairs(&self) -> Result<Vec<(u32, u32)>, Failure> {
        self.pg
            .iter()
            .map(|text| {
                let pair = text
                    .split_once(',')
                    .and_then(|(p, n)| Some((p.trim().parse().ok()?, n.trim().parse().ok()?)));
                pair.filter(|(p, n)| *p > 0 && *n > 0).ok_or_else(|| {
                    input(format!("--pg is \"{text}\"; allowed are two numbers above 0, for example 512,128"))
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<u32> {
        text.parse::<Numbers>().map(|numbers| numbers.0).unwrap_or_default()
    }

    #[test]
    fn lists_and_ranges_are_those_of_llama_bench() {
        assert_eq!(numbers("512"), [512]);
        assert_eq!(numbers("1,2,8"), [1, 2, 8]);
        assert_eq!(numbers("1-4"), [1, 2, 3, 4]);
        assert_eq!(numbers("1..4"), [1, 2, 3, 4]);
        assert_eq!(numbers("0-8+4,16"), [0, 4, 8, 16]);
        assert_eq!(numbers("128-1024*2"), [128, 256, 512, 1024]);
        for wrong in ["", "a", "4-1", "1-4+0", "1-4*1", "0-4*2", "1-", "0-4000000000"] {
            let what = numbers(wrong);
            assert!(what.is_empty() || what == [0], "{wrong}: {what:?}");
        }
    }

    #[test]
    fn percents_are_shares() {
        assert_eq!(("3%".parse(), "0.5".parse()), (Ok(Percent(0.03)), Ok(Percent(0.005))));
        assert!("-1%".parse::<Percent>().is_err() && "x".parse::<Percent>().is_err());
    }
}

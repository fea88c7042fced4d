//! What can be typed. Letters are those of llama.cpp where the meaning is the same.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

fn version() -> &'static str {
    static VERSION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    VERSION.get_or_init(|| format!("{} (shaders {})", env!("CARGO_PKG_VERSION"), crate::SHADER_HASH))
}

/// Large language models through Vulkan compute.
#[derive(Debug, Parser)]
#[command(name = "vkllm", version = version(), max_term_width = 100, arg_required_else_help = true)]
pub(super) struct Cli {
    /// Say more on standard error
    #[arg(short = 'v', long, global = true)]
    pub(super) verbose: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Generate text from a prompt
    Run(RunArgs),
    /// Talk with a model: history, commands, several lines; Ctrl-C ends an answer, not the conversation
    #[command(after_help = super::chat::HELP)]
    Chat(ChatArgs),
    /// Write the logits of given tokens as a .npy file
    Logits(LogitsArgs),
    /// Print the token ids of a text
    Tokenize(TokenizeArgs),
    /// Measure how well a model predicts a text
    Perplexity(super::perplexity::PerplexityArgs),
    /// Show what a model file says and the memory it would take
    Inspect(InspectArgs),
    /// Say whether a draft model fits a target and what drafting would bring
    Spec(PairArgs),
    /// Show that drafting does not change the text: compare it with plain decoding bit for bit
    #[command(after_help = "Exit codes: 0 all texts are the same, 1 some differ, 2 usage, 3 device error.")]
    Audit(AuditArgs),
    /// Measure how fast a model runs, how much of what the device can do that is, and where the rest went
    Bench(Box<super::bench::args::BenchArgs>),
    /// List the Vulkan devices
    Devices(DevicesArgs),
    /// Examine machine, drivers and the kernels of a model; what is wrong is not used again
    #[command(after_help = "Exit codes: 0 all is well, 1 kernels are wrong, 2 usage, 3 device error.")]
    Doctor(super::doctor::DoctorArgs),
    /// Find a dispatch that a device computes wrongly, and make it something that runs alone
    Repro(super::repro::ReproArgs),
    /// Test every kernel on a device; no model is needed
    #[command(
        after_help = "Exit codes: 0 all passed, 1 some failed or passed unexpectedly, 2 usage, 3 device error, \
                      125 nothing could be tested."
    )]
    Selftest(SelftestArgs),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

/// Reads `TOKEN+BIAS` or `TOKEN-BIAS`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let sign =
        text.find(['+', '-']).ok_or("allowed is a token, + or -, and a number, for example 15043-1")?;
    let (token, bias) = text.split_at(sign);
    let token = token.parse().map_err(|_| format!("\"{token}\" is no token"))?;
    bias.parse().map(|bias| (token, bias)).map_err(|_| format!("\"{bias}\" is no number"))
}

/// How activations enter matrix products
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ActivationsArg {
    /// f32 operands, f32 cache
    Float,
    /// int8 in blocks of 32 where the weights are quantised
    Int8,
    /// prompts in f16 where the device multiplies matrices of it, else as auto
    Half,
    /// int8 where the device has integer dot products; prompts in f16 where a GPU multiplies matrices
    #[default]
    Auto,
}

/// Layers that check every Vulkan call
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ValidateArg {
    Core,
    Sync,
    Gpu,
}

#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    /// Device: part of its name, its index in `vkllm devices`, or "reference" (the CPU interpreter)
    #[arg(long, value_name = "NAME|INDEX|reference")]
    pub(super) device: Option<String>,
    /// Run under the Vulkan validation layers; any message fails the command
    #[arg(long, value_name = "WHICH")]
    pub(super) validate: Option<ValidateArg>,
    /// Features to treat as absent, for tests: minus:fp16,intdot,…
    #[arg(long, value_name = "minus:FEATURE,…")]
    pub(super) caps: Option<String>,
    /// Make the device look like another, for tests: discrete, small, poor
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    pub(super) simulate: Vec<String>,
    /// For RenderDoc and GFXReconstruct: name every command, import no memory
    #[arg(long)]
    pub(super) capture_friendly: bool,
    /// Subgroup size to run with
    #[arg(long, value_name = "LANES")]
    pub(super) subgroup: Option<u32>,
    /// Time of the device that one submission takes at most; longer work is cut by measured times. 0 cuts nothing
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub(super) slice_ms: u32,
}

/// A number of tokens, or the largest that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContextArg {
    Tokens(u32),
    Auto,
}

impl std::str::FromStr for ContextArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(ContextArg::Auto),
            number => number.parse().map(ContextArg::Tokens).map_err(|e| format!("{e}; or auto")),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// Context in tokens; auto takes the largest that fits [default: the model's, at most 4096]
    #[arg(short = 'c', long, value_name = "TOKENS|auto")]
    pub(super) ctx_size: Option<ContextArg>,
    /// Rows of one prefill step (also -ub)
    #[arg(short = 'b', long = "ubatch-size", value_name = "ROWS", default_value_t = 512)]
    pub(super) ubatch_size: u32,
    #[arg(long, value_enum, default_value_t)]
    pub(super) activations: ActivationsArg,
    /// How weights get to the device: auto, direct (read into its memory), staging (copied there) or import (the device
    /// reads the mapped file; shortening that file meanwhile may end the program with a signal)
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(super) weights: String,
    #[command(flatten)]
    pub(super) cache: CacheArgs,
}

#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    /// Type of cached keys: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl (also -ctk)
    /// [default: f32 with float activations, else f16]
    #[arg(long, value_name = "TYPE")]
    pub(super) cache_type_k: Option<String>,
    /// Type of cached values, one of the same (also -ctv)
    #[arg(long, value_name = "TYPE")]
    pub(super) cache_type_v: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Model: a file, org/repo[:QUANT] of the Hugging Face hub, or ollama:NAME; without it the small model that ships with the program
    #[arg(short = 'm', long, value_name = "FILE")]
    pub(super) model: Option<PathBuf>,
    /// Prompt; standard input is read when there is none
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with_all = ["file", "tokens"])]
    pub(super) prompt: Option<String>,
    /// File that holds the prompt
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "tokens")]
    pub(super) file: Option<PathBuf>,
    /// Prompt as token ids
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub(super) tokens: Option<Vec<u32>>,
    /// Tokens to generate, -1 until the model ends or the context is full
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 128, allow_negative_numbers = true)]
    pub(super) n_predict: i64,
    /// Go on when the model ends the text
    #[arg(long)]
    pub(super) ignore_eos: bool,
    /// Read names of control tokens in the prompt as those tokens
    #[arg(long)]
    pub(super) special: bool,
    /// Do not print the prompt
    #[arg(long)]
    pub(super) no_display_prompt: bool,
    #[command(flatten)]
    pub(super) constraint: ConstraintArgs,
    #[command(flatten)]
    pub(super) sampler: SamplerArgs,
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    /// Colour the text by who proposed it: green is a draft model's, cyan is from the text's own history, and what has no
    /// colour is the target's; with --json, name them
    #[arg(long)]
    pub(super) show_source: bool,
    /// Print speed, host time and the time of each kind of work on standard error
    #[arg(long)]
    pub(super) stats: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) common: ModelArgs,
}

/// What the text must look like
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct ConstraintArgs {
    /// Generate JSON that this schema allows
    #[arg(long, value_name = "FILE|TEXT")]
    pub(super) json_schema: Option<String>,
    /// Generate text that this regular expression matches from begin to end
    #[arg(long, value_name = "EXPRESSION")]
    pub(super) regex: Option<String>,
    /// Generate text of this grammar, in llguidance's variant of Lark; it begins at the rule "start"
    #[arg(long, value_name = "FILE|TEXT")]
    pub(super) grammar: Option<String>,
}

/// What becomes of the model's thoughts
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ReasoningArg {
    /// Dim, before the answer
    #[default]
    Show,
    /// One line that says how long they are; /think shows them
    Fold,
    /// Nothing of them
    Hide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnOff {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    /// Model: a file, org/repo[:QUANT] of the Hugging Face hub, or ollama:NAME; without it the small model that ships with the program, which tells stories
    #[arg(short = 'm', long, value_name = "FILE")]
    pub(super) model: Option<PathBuf>,
    /// What the model is told before the conversation (also -sys)
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// Chat template: a Jinja file, "chatml", or "plain" (no format) [default: the model file's]
    #[arg(long, value_name = "FILE|chatml|plain")]
    pub(super) chat_template: Option<String>,
    /// Whether the model should think first, for templates that ask
    #[arg(long, value_name = "on|off")]
    pub(super) thinking: Option<OnOff>,
    /// What becomes of thoughts; where the answer goes to a file or pipe, they go to standard error
    #[arg(long, value_enum, default_value_t)]
    pub(super) reasoning: ReasoningArg,
    /// Tokens of one answer, -1 until the model ends it or the context is full
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = -1, allow_negative_numbers = true)]
    pub(super) n_predict: i64,
    /// Do not keep what was typed for the next conversation
    #[arg(long)]
    pub(super) no_history: bool,
    #[command(flatten)]
    pub(super) sampler: SamplerArgs,
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    /// Print the status line also where standard error is no terminal
    #[arg(long)]
    pub(super) stats: bool,
    #[command(flatten)]
    pub(super) common: ModelArgs,
}

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Model: a file, org/repo[:QUANT] of the Hugging Face hub, or ollama:NAME; without it the small model that ships with the program
    #[arg(short = 'm', long, value_name = "FILE")]
    pub(super) model: Option<PathBuf>,
    /// Smaller model with the same vocabulary that drafts (also -md)
    #[arg(long, value_name = "FILE")]
    pub(super) model_draft: Option<PathBuf>,
    /// Who drafts, as --spec takes it; may be repeated [default: every drafter, each alone]
    #[arg(long, value_name = "TYPE[:NAME=VALUE…],…")]
    pub(super) drafter: Vec<String>,
    /// Tokens drafted each round, one length after the other; "auto" is the governor's
    #[arg(long, value_name = "N|auto,…", value_delimiter = ',', default_value = "1,2,4,8,16,64,auto")]
    pub(super) draft_max: Vec<String>,
    /// Text whose pieces are the prompts; tokens drawn at random without it
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Number of prompts
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(super) prompts: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    pub(super) prompt_tokens: usize,
    /// Tokens to generate from each prompt
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 64)]
    pub(super) n_predict: usize,
    /// Seed of the random draws [default: chosen anew and shown]
    #[arg(short = 's', long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) common: ModelArgs,
}

/// How drafts are accepted
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum AcceptArg {
    /// While they are what the target draws itself
    #[default]
    Same,
    /// By rejection sampling
    Rejection,
}

/// Speculation: it changes the speed, never the text, unless drafts are accepted by rejection sampling.
#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// Smaller model with the same vocabulary that drafts (also -md)
    #[arg(long, value_name = "FILE")]
    pub(super) model_draft: Option<PathBuf>,
    /// Who drafts, asked in this order: draft-model (implied by -md), mtp (the model's own layers that predict further tokens;
    /// chosen where it has some), ngram-simple, ngram-map-k, ngram-mod, ngram-cache; or none
    #[arg(long, value_name = "TYPE[:NAME=VALUE…],…")]
    pub(super) spec: Option<String>,
    /// Tokens drafted each round; "auto" chooses by what costs and acceptance promise
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    pub(super) draft_max: String,
    /// Drafts shorter than this are not used
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) draft_min: usize,
    /// The draft model stops at a token less likely than this [default: 0.3, of mtp 0.2]
    #[arg(long, value_name = "P")]
    pub(super) draft_p_min: Option<f64>,
    /// How drafts of the draft model are accepted: while they are what the target draws itself, or by rejection sampling,
    /// which accepts more and gives another text of the same distribution
    #[arg(long, value_enum, default_value_t)]
    pub(super) draft_accept: AcceptArg,
    /// Tokens the draft model may propose, the most frequent ones; "auto" takes 32768 of a large vocabulary
    #[arg(long, value_name = "N|auto")]
    pub(super) draft_head: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct SamplerArgs {
    /// Temperature; 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub(super) temp: f32,
    /// Keep the k most likely tokens, 0 for all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub(super) top_k: u32,
    /// Keep the tokens whose surprise is next to the expected one, until they reach this share; 1 is off
    #[arg(long, visible_alias = "typical-p", value_name = "P", default_value_t = 1.0)]
    pub(super) typical: f32,
    /// Keep the fewest tokens that reach this share
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub(super) top_p: f32,
    /// Keep tokens at least this share as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub(super) min_p: f32,
    /// Seed of the random draws [default: chosen anew and shown by --stats]
    #[arg(short = 's', long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Add to the logit of a token, for example 15043+1, 15043-1 or 15043-inf; may be repeated
    #[arg(short = 'l', long, value_name = "TOKEN(+/-)BIAS", value_parser = bias)]
    pub(super) logit_bias: Vec<(u32, f32)>,
    /// Penalty on recent tokens, 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(super) repeat_penalty: f32,
    /// Tokens the penalties look back on
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(super) repeat_last_n: u32,
    /// Penalty per occurrence of a recent token
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(super) frequency_penalty: f32,
    /// Penalty on tokens that occurred recently
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(super) presence_penalty: f32,
}

#[derive(Debug, Args)]
pub(super) struct LogitsArgs {
    /// Model file
    #[arg(short = 'm', long, value_name = "FILE")]
    pub(super) model: PathBuf,
    /// Token ids
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    pub(super) tokens: Vec<u32>,
    /// File to write, float32 [tokens, vocabulary]; standard output by default
    #[arg(short = 'o', long, value_name = "FILE.npy")]
    pub(super) output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) common: ModelArgs,
}

#[derive(Debug, Args)]
pub(super) struct TokenizeArgs {
    /// Model file
    #[arg(short = 'm', long, value_name = "FILE")]
    pub(super) model: PathBuf,
    /// Text; standard input is read when there is none
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with = "file")]
    pub(super) prompt: Option<String>,
    /// File that holds the text
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Do not begin with the BOS token
    #[arg(long)]
    pub(super) no_bos: bool,
    /// Read names of control tokens as those tokens
    #[arg(long)]
    pub(super) special: bool,
    /// Print a JSON list of ids
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PairArgs {
    /// Target: the model that decides what the text is
    #[arg(short = 'm', long, value_name = "FILE")]
    pub(super) model: PathBuf,
    /// Draft model (also -md)
    #[arg(long, value_name = "FILE")]
    pub(super) model_draft: PathBuf,
    /// Share of drafted tokens that are accepted [default: measured]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(super) acceptance: Option<f64>,
    /// Compute times from bytes at this many GB/s, without a device
    #[arg(long, value_name = "GB/s", allow_negative_numbers = true, conflicts_with_all = ["prompt", "file"])]
    pub(super) bandwidth: Option<f64>,
    /// Prompt whose continuation is compared [default: a short text]
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with = "file")]
    pub(super) prompt: Option<String>,
    /// File that holds the prompt
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Tokens to compare
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 64)]
    pub(super) n_predict: usize,
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) common: ModelArgs,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Model file
    #[arg(short = 'm', long, value_name = "FILE")]
    pub(super) model: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub(super) tensors: bool,
    /// Plan the memory for the device, and say how weights would be loaded and which context would fit
    #[arg(long)]
    pub(super) plan: bool,
    #[command(flatten)]
    pub(super) common: ModelArgs,
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct SelftestArgs {
    /// Run the cases whose names match a regular expression; may be given more than once
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Vec<String>,
    /// Run the cases that look for faults of real drivers, and say which
    #[arg(long, conflicts_with = "filter")]
    pub(super) corpus: bool,
    /// Seed of the random inputs
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// File of expected failures, lines of PATTERN [@ DRIVER [>=VERSION] [<VERSION]] # REASON; a case that passes nevertheless fails the run
    #[arg(long, value_name = "FILE")]
    pub(super) expect: Option<PathBuf>,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    /// Print the results as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Print the names of the cases and run none
    #[arg(long, conflicts_with_all = ["json", "junit", "expect", "seed"])]
    pub(super) list: bool,
    /// Print which kernels this device uses for an operation, and why not the others
    #[arg(
        long,
        value_name = "OP",
        conflicts_with_all = ["json", "junit", "expect", "seed", "filter", "list"]
    )]
    pub(super) explain: Option<String>,
    #[command(flatten)]
    pub(super) device: DeviceArgs,
}

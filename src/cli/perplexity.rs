//! `vkllm perplexity`: how well a model predicts a text, in chunks of which the second half counts.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::args::ModelArgs;
use super::{Failure, input, interrupt_flag, load};
use crate::text::EncodeOptions;
use crate::{Model, SamplerOptions, Session};

/// Tokens of a chunk when none are asked for, as in published figures.
const CHUNK: u32 = 512;
/// Bytes of logits that are on the host at once.
const LOGITS: usize = 64 << 20;
/// Fewer tokens at once than these would be computed by the kernels of decoding.
const LEAST: usize = 32;

#[derive(Debug, Args)]
pub(super) struct PerplexityArgs {
    /// Model file, or a name as `run` takes it [default: the model that ships with the program]
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// File that holds the text; standard input is read when there is none
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "tokens")]
    file: Option<PathBuf>,
    /// Token ids instead of a text, for models without a vocabulary
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    tokens: Vec<u32>,
    /// Chunks at most [default: all whole ones]
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Compute by the kernels that decode and verify instead of those of prompts
    #[arg(long)]
    decode: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: ModelArgs,
}

/// Sums over the tokens that count.
#[derive(Default)]
struct Sums {
    tokens: u64,
    /// Of the negative logarithms of probabilities, and of their squares.
    nll: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, nll: f64) {
        self.tokens += 1;
        self.nll += nll;
        self.squares += nll * nll;
    }

    /// Perplexity and its standard error; the tokens are taken for independent.
    fn perplexity(&self) -> (f64, f64) {
        let count = self.tokens as f64;
        let mean = self.nll / count;
        let variance = (self.squares / count - mean * mean).max(0.0) / (count - 1.0).max(1.0);
        (mean.exp(), mean.exp() * variance.sqrt())
    }
}

/// -ln of the probability that a row of logits gives a token.
fn nll(logits: &[f32], token: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - highest)
}

/// Lengths of about equal parts of `total`, none above `most` and none so short that other kernels would take it.
fn parts(total: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = total.div_ceil(most.max(2 * LEAST)).max(1);
    (0..count).map(move |part| total * (part + 1) / count - total * part / count)
}

/// Adds what the second half of a chunk comes to.
fn measure(model: &Model, chunk: &[u32], decode: bool, sums: &mut Sums) -> Result<(), Failure> {
    let vocab = model.config().vocab as usize;
    let mut session = Session::new(model, SamplerOptions::greedy())?;
    let mut at = 0;
    for len in parts(chunk.len(), LOGITS / 4 / vocab) {
        let piece = &chunk[at..at + len];
        let logits = if decode { session.verify(piece)? } else { session.forward(piece)? };
        for (row, logits) in logits.chunks_exact(vocab).enumerate() {
            let next = at + row + 1;
            if next > chunk.len() / 2 && next < chunk.len() {
                sums.add(nll(logits, chunk[next]));
            }
        }
        at += len;
    }
    Ok(())
}

pub(super) fn run(args: &PerplexityArgs) -> Result<(), Failure> {
    let file = load::file(args.model.as_deref())?.without_predictor();
    let device = load::device(&args.common.device)?;
    let mut options = load::options(&args.common, &file, &device)?;
    let size = *options.context.get_or_insert(CHUNK);
    let size = size as usize;
    if size < 2 * LEAST {
        return Err(input(format!("-c is {size}; allowed are {} tokens and more", 2 * LEAST)));
    }
    options.logits = true;
    let model = load::model(&device, &file, &options)?;
    let vocabulary = model.vocabulary();
    let tokens = match vocabulary {
        _ if !args.tokens.is_empty() => args.tokens.clone(),
        None => {
            return Err(input(
                "the model has no vocabulary, so it cannot read a text; give ids with --tokens",
            ));
        }
        Some(vocabulary) => {
            let text = load::text(None, args.file.as_deref())?
                .ok_or_else(|| input("there is no text; give one with -f or on standard input"))?;
            vocabulary.encode(&text, EncodeOptions { add_bos: true, parse_special: false })
        }
    };
    // Every chunk begins as the text does.
    let bos = vocabulary.and_then(|v| v.bos()).filter(|bos| tokens.first() == Some(bos));
    let whole = tokens.len() / size;
    if whole == 0 {
        let found = tokens.len();
        return Err(input(format!(
            "the text has {found} tokens; allowed are {size} and more, one chunk (-c)"
        )));
    }
    let chunks = whole.min(args.chunks.unwrap_or(whole));
    if chunks == 0 {
        return Err(input("--chunks is 0; allowed are 1 and more"));
    }
    let bar = match io::stderr().is_terminal() {
        true => indicatif::ProgressBar::new(chunks as u64),
        false => indicatif::ProgressBar::hidden(),
    };
    let interrupted = interrupt_flag();
    let (mut sums, mut done) = (Sums::default(), 0);
    let began = Instant::now();
    for chunk in tokens.chunks_exact(size).take(chunks) {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        measure(&model, &chunk, args.decode, &mut sums)?;
        done += 1;
        bar.set_position(done);
    }
    bar.finish_and_clear();
    if sums.tokens > 0 {
        report(args, &sums, (done, size), began.elapsed().as_secs_f64())?;
    }
    load::no_messages(&device)?;
    if done < chunks as u64 { Err(Failure::Interrupted) } else { Ok(()) }
}

/// What was measured, also when it was ended early.
fn report(args: &PerplexityArgs, sums: &Sums, (chunks, size): (u64, usize), seconds: f64) -> io::Result<()> {
    let (perplexity, error) = sums.perplexity();
    let read = chunks * size as u64;
    let speed = read as f64 / seconds;
    let mut out = io::stdout().lock();
    if args.json {
        let object = json!({
            "perplexity": perplexity,
            "standard_error": error,
            "nll": sums.nll / sums.tokens as f64,
            "tokens_counted": sums.tokens,
            "chunks": chunks,
            "chunk_size": size,
            "kernels": if args.decode { "decode" } else { "prefill" },
            "seconds": seconds,
            "tokens_per_second": speed,
        });
        writeln!(out, "{object}")
    } else {
        writeln!(
            out,
            "perplexity {perplexity:.4} ± {error:.4}\n{} of {read} tokens counted, the second halves of {chunks} chunks \
             of {size}; {speed:.1} tokens/s",
            sums.tokens
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_are_as_perplexing_as_there_are_tokens() {
        let mut sums = Sums::default();
        (0..10).for_each(|token| sums.add(nll(&[3.5; 16], token)));
        let (perplexity, error) = sums.perplexity();
        assert!((perplexity - 16.0).abs() < 1e-9 && error < 1e-6, "{perplexity} ± {error}");
        assert!((nll(&[f32::NEG_INFINITY, 2.0], 1)).abs() < 1e-12);
    }

    #[test]
    fn parts_are_never_short() {
        for total in 2 * LEAST..1500 {
            for most in [1, 64, 100, 512, 4096] {
                let parts: Vec<usize> = parts(total, most).collect();
                assert_eq!(parts.iter().sum::<usize>(), total);
                assert!(
                    parts.iter().all(|part| *part >= LEAST && *part <= most.max(2 * LEAST)),
                    "{total} {most}"
                );
            }
        }
    }
}

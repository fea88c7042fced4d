//! Runs a case on a device and says what came of it.

use vkllm_runtime::{Device, Error};

use super::capsule::{Stage, State};
use super::case::Case;
use super::judge::{Output, judge};
use super::pattern::pattern;

/// What came of a run.
#[derive(Debug)]
pub enum Verdict {
    Match,
    Mismatch(Vec<Output>),
    /// Words that may not change did: where.
    Disturbed(String),
    BadCase(String),
    Lost(String),
    Hang(String),
    CompileFailure(String),
    Validation(String),
    Unsupported(String),
}

impl Verdict {
    /// The exit code of `vkllm repro run`.
    pub fn code(&self) -> u8 {
        match self {
            Verdict::Match => 0,
            Verdict::Mismatch(_) | Verdict::Disturbed(_) => 1,
            Verdict::BadCase(_) => 2,
            Verdict::Lost(_) => 10,
            Verdict::Hang(_) => 11,
            Verdict::CompileFailure(_) => 12,
            Verdict::Validation(_) => 13,
            Verdict::Unsupported(_) => 125,
        }
    }

    /// A sentence.
    pub fn sentence(&self, subgroup: u32) -> String {
        match self {
            Verdict::Match => "match: every value is within its bound".into(),
            Verdict::Mismatch(outputs) => {
                let of = |output: &Output| {
                    let first = output.wrong.first()?;
                    let pattern = pattern(output, subgroup)?;
                    Some(format!("{}: {pattern}; word {} is {}", output.binding, first.index, first.text))
                };
                let list: Vec<_> = outputs.iter().filter_map(of).collect();
                format!("mismatch: {}", list.join(". "))
            }
            Verdict::Disturbed(place) => format!("mismatch: it changed {place}, which it may not"),
            Verdict::BadCase(reason) => format!("bad case: {reason}"),
            Verdict::Lost(reason) => format!("device lost: {reason}"),
            Verdict::Hang(reason) => format!("hang: {reason}"),
            Verdict::CompileFailure(reason) => format!("compile failure: {reason}"),
            Verdict::Validation(reason) => format!("validation message: {reason}"),
            Verdict::Unsupported(reason) => format!("not supported here: {reason}"),
        }
    }
}

/// The outcome of several runs.
#[derive(Debug)]
pub struct Replay {
    pub verdict: Verdict,
    /// Whether the outputs have the bits that were captured; `None` where there are none.
    pub same_bits: Option<bool>,
    /// Whether all runs gave the same bits.
    pub deterministic: bool,
}

/// Runs a case `times` times. `stage` is told what is about to be done.
pub fn replay(device: &Device, case: &Case, times: u32, stage: &mut dyn FnMut(Stage)) -> Replay {
    let mut replay = Replay { verdict: Verdict::Match, same_bits: None, deterministic: true };
    let mut first: Option<Vec<u32>> = None;
    let words = |state: &State| -> Vec<u32> { case.written(state).collect() };
    for _ in 0..times.max(1) {
        let mut at = Stage::Memory;
        let ran = case.capsule.run_watched(device, &mut |now| {
            at = now;
            stage(now);
        });
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => {
                replay.verdict = failure(error, at);
                return replay;
            }
        };
        stage(Stage::Compare);
        let got = words(&ran.state);
        if let Some(actual) = &case.actual {
            replay.same_bits = Some(replay.same_bits != Some(false) && words(actual) == got);
        }
        replay.deterministic &= *first.get_or_insert_with(|| got.clone()) == got;
        let outputs = judge(&case.capsule, &ran.state, &case.expected);
        if outputs.iter().any(|output| !output.wrong.is_empty()) {
            replay.verdict = Verdict::Mismatch(outputs);
        } else if let Some((name, word)) = ran.disturbed {
            replay.verdict = Verdict::Disturbed(format!("word {word} of or around {name}"));
        }
    }
    if let Some(message) = device.take_messages().first() {
        replay.verdict = Verdict::Validation(format!("{}: {}", message.id, message.text));
    }
    replay
}

fn failure(error: Error, at: Stage) -> Verdict {
    let text = error.to_string();
    match error {
        Error::Lost { .. } => Verdict::Lost(text),
        Error::Timeout { .. } => Verdict::Hang(text),
        Error::Recording { .. } => Verdict::BadCase(text),
        // Compilers that give up say so as well; the buffers have their memory by then.
        Error::OutOfMemory { .. } if at == Stage::Compile => Verdict::CompileFailure(text),
        Error::Unsupported { .. } | Error::Limit { .. } | Error::OutOfMemory { .. } => {
            Verdict::Unsupported(text)
        }
        _ if at == Stage::Compile => Verdict::CompileFailure(text),
        _ => Verdict::Lost(text),
    }
}

//! Rounds whose drafts are accepted as a test wants it, on models with recurrent layers: the text is that of plain decoding,
//! whatever was accepted, taken back by the host or decoded plainly in between.

mod predictor;

use std::path::Path;

use vkllm_runtime::{Device, DeviceKind, DeviceOptions, Error, Selector};

use super::{CancelToken, GenerateOptions, Session};
use crate::engine::{Drafts, Model, ModelOptions, RoundOptions, Rounds};
use crate::ops::Activations;
use crate::sample::SamplerOptions;
use crate::session::Event;

const NEW: usize = 32;

/// The reference, and the device where there is one.
fn devices() -> Vec<Device> {
    let reference = DeviceOptions { selector: Selector::Reference, ..DeviceOptions::default() };
    [DeviceOptions::default(), reference]
        .iter()
        .filter_map(|options| match Device::open(options) {
            Ok(device) => Some(device),
            Err(error @ (Error::NoLoader { .. } | Error::NoDevice { .. } | Error::Incapable { .. })) => {
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        })
        .collect()
}

fn model(device: &Device, name: &str) -> Option<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden").join(name);
    if !path.exists() {
        println!("skipped: ../shared/golden/{name} is not there");
        return None;
    }
    let activations = Activations::Float;
    let options = ModelOptions { context: Some(256), activations, ..ModelOptions::default() };
    Some(Model::open(device, &path, &options, &|_, _| true).expect("it loads"))
}

fn plain(model: &Model, prompt: &[u32]) -> Vec<u32> {
    let mut session = Session::new(model, SamplerOptions::greedy()).expect("a session");
    let options = GenerateOptions { max_tokens: Some(NEW), ignore_end: true };
    let events = session.generate(prompt, options).expect("it fits");
    events
        .filter_map(|event| match event.expect("no failure") {
            Event::Token(token) => Some(token.id),
            _ => None,
        })
        .collect()
}

/// How many of `k` drafts of a round are right.
type Pattern = (&'static str, fn(usize, usize) -> usize);

const PATTERNS: [Pattern; 5] = [
    ("all", |_, k| k),
    ("none", |_, _| 0),
    ("alternating", |round, k| if round.is_multiple_of(2) { k } else { 0 }),
    ("half", |_, k| k / 2),
    ("random", |round, k| (round.wrapping_mul(2_654_435_761) >> 7) % (k + 1)),
];

/// Rounds of `k` drafts, of which the pattern says how many are the model's own text.
fn rounds(model: &Model, prompt: &[u32], text: &[u32], k: usize, (name, right): Pattern, others: bool) {
    let mut session = Session::new(model, SamplerOptions::greedy()).expect("a session");
    let draw = session.draw();
    let first = session.prefill(prompt, &CancelToken::new()).expect("computed").expect("drawn").token;
    let mut engine = model.engine();
    let mut rounds = Rounds::new(&engine, session.slot, draw, None, RoundOptions::default()).expect("rounds");
    let whole = [prompt, text].concat();
    let mut tokens = [prompt, &[first]].concat();
    let mut round = 0;
    while tokens.len() + k < whole.len() {
        let what = format!("{name}, {k} drafts, round {round}");
        assert_eq!(tokens, whole[..tokens.len()], "{what}");
        let at = tokens.len();
        let accepted = right(round, k).min(k);
        let mut drafts = whole[at..at + k].to_vec();
        if accepted < k {
            drafts[accepted] = (drafts[accepted] + 1) % model.config().vocab;
        }
        let outcome = rounds.run(&mut engine, None, &tokens, Drafts::Given(&drafts)).expect("a round");
        assert_eq!((outcome.drafted as usize, outcome.accepted as usize), (k, accepted), "{what}");
        let drawn: Vec<u32> = outcome.drawn.iter().map(|d| d.as_ref().expect("a token").token).collect();
        assert_eq!(drawn, whole[at..=at + accepted], "{what}");
        // Some of it is not taken after all, as at the end of a text; the conversation goes on from there.
        let taken = if others && round % 3 == 1 { drawn.len().div_ceil(2) } else { drawn.len() };
        tokens.extend_from_slice(&drawn[..taken]);
        if taken < drawn.len() {
            let last = tokens.len() - 1;
            engine.set_cursor(session.slot, tokens[last], last as u32).expect("a cursor");
        }
        if others && round % 2 == 0 && tokens.len() < whole.len() {
            let position = tokens.len() as u32 - 1;
            let drawn = engine.decode(session.slot, position, draw).expect("a token").token;
            assert_eq!(drawn, whole[tokens.len()], "{what}: the plain step after it");
            tokens.push(drawn);
        }
        round += 1;
    }
    assert!(round > 0, "{name}: no round of {k}");
}

fn all(name: &str, ks: &[usize]) {
    for device in devices() {
        let Some(model) = model(&device, name) else { return };
        let prompt: Vec<u32> = (0..21).map(|i| (i * 37 + 5) % model.config().vocab).collect();
        let text = plain(&model, &prompt);
        assert_eq!(text.len(), NEW);
        // The reference is slow, and its kernels are the same for any number of rows.
        let reference = device.caps().kind == DeviceKind::Reference;
        for &k in if reference { &ks[1..2] } else { ks } {
            for pattern in if reference { &PATTERNS[3..] } else { &PATTERNS[..] } {
                rounds(&model, &prompt, &text, k, *pattern, k % 2 == 0);
                if k == 5 {
                    rounds(&model, &prompt, &text, k, *pattern, true);
                }
            }
        }
    }
}

#[test]
fn rejected_rows_leave_no_trace_in_delta_networks() {
    all("qwen35-f16.gguf", &[1, 2, 3, 5, 8, 20]);
}

#[test]
fn rejected_rows_leave_no_trace_in_mamba() {
    all("nemotron_h-f16.gguf", &[1, 4, 17]);
}

#[test]
fn rejected_rows_leave_no_trace_in_convolutions() {
    all("lfm2-f16.gguf", &[1, 4, 17]);
}

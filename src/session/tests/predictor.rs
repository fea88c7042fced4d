//! Layers that predict further tokens: their logits are the reference's, and what their cache holds does not depend on which
//! drafts were accepted before.

use std::path::{Path as FilePath, PathBuf};

use serde_json::Value;
use vkllm_runtime::{Device, DeviceKind};

use super::{PATTERNS, Pattern, devices, plain};
use crate::engine::{Drafts, Model, ModelOptions, RoundOptions, Rounds, Tail};
use crate::ops::{Activations, Path};
use crate::sample::SamplerOptions;
use crate::session::{CancelToken, GenerateOptions, Session, SpecOptions};
use crate::speculate::Setting;

const NAMES: [&str; 3] = ["qwen35-f16", "qwen35moe-f16", "glm4moe-f16"];

/// The reference ran the files as they are, with activations in f16: what that may cost.
const F16: f64 = 2e-5;

fn golden(name: &str) -> Option<PathBuf> {
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden").join(name);
    if !path.exists() {
        println!("skipped: ../shared/golden/{name} is not there");
        return None;
    }
    Some(path)
}

fn model(device: &Device, name: &str) -> Option<Model> {
    let path = golden(&format!("{name}.gguf"))?;
    let options = ModelOptions {
        context: Some(256),
        batch: 64,
        sessions: 2,
        activations: Activations::Float,
        ..ModelOptions::default()
    };
    Some(Model::open(device, &path, &options, &|_, _| true).expect("it loads"))
}

/// Draft logits of the reference: tokens, rows that were kept, [rows, vocab], and each row's best with its lead.
struct Want {
    tokens: Vec<u32>,
    rows: Vec<usize>,
    logits: Vec<f32>,
    best: Vec<u32>,
    lead: Vec<f64>,
}

fn want(name: &str) -> Option<Want> {
    let text = std::fs::read_to_string(golden(&format!("{name}.mtp.json"))?).expect("readable");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let numbers = |key: &str| -> Vec<f64> {
        json[key].as_array().expect(key).iter().map(|value| value.as_f64().expect("a number")).collect()
    };
    let bytes = std::fs::read(golden(&format!("{name}.mtp.npy"))?).expect("readable");
    let begin = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    Some(Want {
        tokens: numbers("tokens").into_iter().map(|id| id as u32).collect(),
        rows: numbers("rows").into_iter().map(|row| row as usize).collect(),
        logits: bytes[begin..].as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect(),
        best: numbers("argmax").into_iter().map(|id| id as u32).collect(),
        lead: numbers("top2_gap"),
    })
}

/// Draft logits of all tokens, in steps of so many.
fn predicted(model: &Model, tokens: &[u32], path: Path, step: usize) -> Vec<f32> {
    let session = Session::new(model, SamplerOptions::greedy()).expect("a session");
    let (mut target, predictor) = model.engines(model.predictor());
    let mut predictor = predictor.expect("the file has a predictor");
    predictor.take_slot_of(session.slot).expect("a place");
    let mut all = Vec::new();
    for (chunk, rows) in tokens.chunks(step).enumerate() {
        let start = (chunk * step) as u32;
        target.tokens(session.slot, rows, start, path, Tail::None).expect("a step");
        predictor.reads(&target, session.slot);
        predictor.tokens(session.slot, rows, start, path, Tail::Logits).expect("a step");
        all.extend(predictor.logits(rows.len() as u32).expect("logits"));
    }
    drop(target);
    predictor.free_slot(session.slot);
    all
}

#[test]
fn predictions_are_the_references() {
    for device in devices() {
        for name in NAMES {
            let (Some(model), Some(want)) = (model(&device, name), want(name)) else { continue };
            let vocab = model.config().vocab as usize;
            for (path, step) in [(Path::Prefill, 64), (Path::Prefill, 40), (Path::Rows, 16), (Path::Rows, 1)]
            {
                if step == 1 && device.caps().kind == DeviceKind::Reference {
                    continue;
                }
                let what = format!("{name}, {path:?} of {step} on {}", device.caps().name);
                let got = predicted(&model, &want.tokens, path, step);
                let mut worst: f64 = 0.0;
                for (&row, want) in want.rows.iter().zip(want.logits.chunks(vocab)) {
                    let square = |x: f32| f64::from(x).powi(2);
                    let pairs = got[row * vocab..].iter().zip(want);
                    let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
                    worst = worst.max(error / want.iter().copied().map(square).sum::<f64>());
                }
                println!("{what}: worst {worst:.2e}");
                assert!(worst <= F16, "{what}: worst {worst:.2e}");
                for (row, logits) in got.chunks(vocab).enumerate().filter(|(row, _)| want.lead[*row] > 0.05) {
                    let best = (0..vocab).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
                    assert_eq!(best, Some(want.best[row] as usize), "{what}: row {row}");
                }
            }
        }
    }
}

/// Drafts whatever their probability.
fn sure_of_all() -> SpecOptions {
    let methods = Setting::parse_list("mtp:p-min=0").expect("a method");
    SpecOptions { methods, ..SpecOptions::default() }
}

/// What the predictor proposes after `tokens`, whose every row it computed one after the other.
fn proposed_afresh(model: &Model, tokens: &[u32], count: u32) -> Vec<u32> {
    let mut session = Session::new(model, SamplerOptions::greedy())
        .and_then(|session| session.with_mtp(&sure_of_all()))
        .expect("a session");
    let (last, known) = tokens.split_last().expect("tokens");
    for chunk in known.chunks(16) {
        session.advance(chunk, Tail::None, &CancelToken::new()).expect("computed");
    }
    session.tokens.push(*last);
    let speculation = session.speculation.as_mut().expect("it drafts");
    let (mut target, predictor) = model.engines(model.predictor());
    let mut predictor = predictor.expect("a predictor");
    speculation.rounds.propose(&mut target, &mut predictor, tokens, count).expect("proposed").0
}

/// Rounds of `k` drafts, of which the pattern says how many are right, with rounds of the predictor's own in between.
fn rounds(model: &Model, prompt: &[u32], text: &[u32], k: usize, (name, right): Pattern) {
    let mut session = Session::new(model, SamplerOptions::greedy()).expect("a session");
    let draw = session.draw();
    session.prefill(prompt, &CancelToken::new()).expect("computed").expect("drawn");
    let (mut target, predictor) = model.engines(model.predictor());
    let mut predictor = predictor.expect("a predictor");
    predictor.take_slot_of(session.slot).expect("a place");
    let side = Some((&*predictor, session.slot));
    let mut rounds = Rounds::new(&target, session.slot, draw, side, RoundOptions::default()).expect("rounds");
    let whole = [prompt, text].concat();
    let mut tokens = whole[..=prompt.len()].to_vec();
    let (mut round, mut drafted) = (0, 0);
    while tokens.len() + k < whole.len() {
        let what = format!("{name}, {k} drafts, round {round}");
        let at = tokens.len();
        let outcome = if round % 2 == 1 {
            let drafts = Drafts::Model(k as u32);
            let outcome = rounds.run(&mut target, Some(&mut predictor), &tokens, drafts).expect("a round");
            drafted += outcome.drafted;
            outcome
        } else {
            let accepted = right(round / 2, k).min(k);
            let mut drafts = whole[at..at + k].to_vec();
            if accepted < k {
                drafts[accepted] = (drafts[accepted] + 1) % model.config().vocab;
            }
            let outcome = rounds
                .run(&mut target, Some(&mut predictor), &tokens, Drafts::Given(&drafts))
                .expect("a round");
            assert_eq!(outcome.accepted as usize, accepted, "{what}");
            outcome
        };
        let drawn: Vec<u32> = outcome.drawn.iter().map(|d| d.as_ref().expect("a token").token).collect();
        assert_eq!(drawn, whole[at..at + drawn.len()], "{what}");
        tokens.extend(drawn);
        round += 1;
    }
    assert!(round < 2 || drafted > 0, "{name}, {k}: the predictor never drafted");
    let proposed = rounds.propose(&mut target, &mut predictor, &tokens, 4).expect("proposed").0;
    predictor.free_slot(session.slot);
    drop((target, predictor, session));
    assert_eq!(proposed, proposed_afresh(model, &tokens, 4), "{name}, {k} drafts: the predictor's own state");
}

#[test]
fn a_predictor_does_not_depend_on_what_was_accepted() {
    for device in devices() {
        let reference = device.caps().kind == DeviceKind::Reference;
        for name in if reference { &NAMES[..1] } else { &NAMES[..] } {
            let Some(model) = model(&device, name) else { continue };
            let prompt: Vec<u32> = (0..13).map(|i| (i * 37 + 5) % model.config().vocab).collect();
            let text = plain(&model, &prompt);
            let ks = if reference { 3..=3 } else { 1..=8 };
            for k in ks.filter(|k| reference || *name == NAMES[0] || k % 3 == 1) {
                for pattern in if reference { &PATTERNS[3..4] } else { &PATTERNS[..] } {
                    rounds(&model, &prompt, &text, k, *pattern);
                }
            }
        }
    }
}

/// A conversation that grew by plain steps alone, beyond what is kept of hidden rows, drafts as before.
#[test]
fn a_predictor_follows_plain_steps() {
    let Some(device) = devices().into_iter().next() else { return };
    let Some(model) = model(&device, NAMES[0]) else { return };
    let never = SpecOptions { draft_max: Some(0), ..SpecOptions::default() };
    let mut session = Session::new(&model, SamplerOptions::greedy())
        .and_then(|session| session.with_mtp(&never))
        .expect("a session");
    let options = GenerateOptions { max_tokens: Some(200), ignore_end: true };
    let events = session.generate(&[1, 2, 3], options).expect("it fits");
    events.for_each(|event| drop(event.expect("no failure")));
    let speculation = session.speculation.as_ref().expect("it drafts");
    let lag = speculation.rounds.lag(session.tokens.len() as u32 - 1);
    assert!(lag < 128, "{lag} positions are missing");
}

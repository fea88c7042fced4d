//! What decides tokens beside probabilities: biases, seeds, drafts of few tokens, and rejection sampling, whose text is
//! another one with the same distribution.

use std::collections::BTreeMap;
use std::path::PathBuf;

use vkllm::{Device, DraftHead, Error, Event, GenerateOptions, Model, SamplerOptions, Session, SpecOptions};

use super::built_in;
use super::reference;
use super::speculation::{load, open, shuffled_among, spec};
use crate::harness;

const OPEN: SamplerOptions = SamplerOptions {
    temperature: 1.0,
    top_k: 0,
    typical_p: 1.0,
    top_p: 1.0,
    min_p: 0.0,
    seed: 3,
    repeat_penalty: 1.0,
    frequency_penalty: 0.0,
    presence_penalty: 0.0,
    repeat_last_n: 64,
};

fn assets() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/stories260k.q8_0.gguf"))
}

/// A model that tells stories, and one that agrees with it now and then: its last layers are shuffled.
fn pair(device: &Device) -> (Model, Model) {
    let last = |name: &str| name.starts_with("blk.4.") || name.starts_with("blk.3.");
    (load(device, built_in()), load(device, shuffled_among(&assets(), last)))
}

fn prompt(model: &Model) -> Vec<u32> {
    let options = vkllm::text::EncodeOptions { add_bos: true, parse_special: false };
    model.vocabulary().expect("a vocabulary").encode("Once upon a time there was", options)
}

/// The tokens, and how many drafts were accepted.
fn told(session: &mut Session, prompt: &[u32], count: usize) -> (Vec<u32>, usize) {
    let options = GenerateOptions { max_tokens: Some(count), ignore_end: true };
    let (mut tokens, mut accepted) = (Vec::new(), 0);
    for event in session.generate(prompt, options).expect("it fits") {
        match event.expect("an event") {
            Event::Token(token) => tokens.push(token.id),
            Event::Round(round) => accepted += round.accepted,
            Event::Done { .. } => {}
        }
    }
    (tokens, accepted)
}

#[test]
fn biases_forbid_and_force_tokens() {
    for device in [harness::device(), Some(reference())].into_iter().flatten() {
        let (target, draft) = pair(device);
        let prompt = prompt(&target);
        for sampler in [SamplerOptions::greedy(), OPEN] {
            let count = if std::ptr::eq(device, reference()) { 6 } else { 24 };
            let new = || Session::new(&target, sampler).expect("a session");
            let (plain, _) = told(&mut new(), &prompt, count);
            let forbidden: Vec<(u32, f32)> = plain.iter().map(|&token| (token, f32::NEG_INFINITY)).collect();
            let with = |session: Session, biases: &[(u32, f32)]| {
                session.with_logit_bias(biases).expect("biases that are allowed")
            };
            let (other, _) = told(&mut with(new(), &forbidden), &prompt, count);
            assert!(plain.iter().all(|token| !other.contains(token)), "{plain:?} {other:?}");
            let drafted = with(new(), &forbidden).with_draft(&draft, &spec("draft-model:p-min=0", Some(4)));
            assert_eq!(told(&mut drafted.expect("a draft"), &prompt, count).0, other);
            // Twice 30 is 60, which no other token reaches.
            let (forced, _) = told(&mut with(new(), &[(300, 30.0), (300, 30.0)]), &prompt, 4);
            assert_eq!(forced, [300; 4]);
            let (same, _) = told(&mut with(new(), &[]), &prompt, count);
            assert_eq!(same, plain);
        }
    }
}

#[test]
fn biases_that_cannot_be_are_refused() {
    let target = load(reference(), built_in());
    let refused = |biases: &[(u32, f32)]| {
        let session = Session::new(&target, OPEN).expect("a session");
        match session.with_logit_bias(biases) {
            Err(error @ (Error::Argument { .. } | Error::NoSuchToken { .. })) => error.to_string(),
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    assert!(refused(&[(512, 1.0)]).contains("512"));
    assert!(refused(&[(1, f32::NAN)]).contains("NaN"));
    assert!(refused(&[(1, f32::INFINITY)]).contains("inf"));
}

/// A draft model that may propose few tokens changes nothing but how often it is right.
#[test]
fn a_trimmed_draft_head_changes_no_text() {
    for device in [harness::device(), Some(reference())].into_iter().flatten() {
        let (target, draft) = (load(device, built_in()), load(device, built_in()));
        let prompt = prompt(&target);
        let count = if std::ptr::eq(device, reference()) { 6 } else { 40 };
        for sampler in [SamplerOptions::greedy(), SamplerOptions { temperature: 0.7, ..OPEN }] {
            let (plain, _) = told(&mut Session::new(&target, sampler).expect("a session"), &prompt, count);
            let accepted = [1, 100, 290, 511, 512].map(|tokens| {
                let draft_head = DraftHead::Tokens(tokens);
                let options = SpecOptions { draft_head, ..spec("draft-model:p-min=0", Some(3)) };
                let session = Session::new(&target, sampler).expect("a session");
                let mut session = session.with_draft(&draft, &options).expect("a draft");
                let (text, accepted) = told(&mut session, &prompt, count);
                assert_eq!(text, plain, "{tokens} tokens, {sampler:?}");
                accepted
            });
            println!("accepted with 1, 100, 290, 511 and all tokens: {accepted:?}");
            assert!(accepted[4] > 0 && accepted[0] <= accepted[4]);
        }
    }
}

const SAMPLER: SamplerOptions = SamplerOptions { temperature: 1.3, top_k: 3, ..OPEN };
/// Tokens of an outcome.
const LENGTH: usize = 4;

/// Probability of every outcome, from logits.
fn exact(model: &Model, prompt: &[u32]) -> BTreeMap<Vec<u32>, f64> {
    let mut session = Session::new(model, SAMPLER).expect("a session");
    let mut all = BTreeMap::from([(Vec::new(), 1.0)]);
    for _ in 0..LENGTH {
        let mut next = BTreeMap::new();
        for (begin, p) in all {
            session.clear();
            let logits = session.forward(&[prompt, &begin].concat()).expect("logits");
            let last = &logits[logits.len() - model.config().vocab as usize..];
            let mut ids: Vec<u32> = (0..last.len() as u32).collect();
            ids.sort_by(|&a, &b| last[b as usize].total_cmp(&last[a as usize]));
            ids.truncate(SAMPLER.top_k as usize);
            let weight =
                |id: u32| f64::from((last[id as usize] - last[ids[0] as usize]) / SAMPLER.temperature).exp();
            let sum: f64 = ids.iter().map(|&id| weight(id)).sum();
            next.extend(ids.iter().map(|&id| ([&begin[..], &[id]].concat(), p * weight(id) / sum)));
        }
        all = next;
    }
    all
}

/// Deviations by which χ² of the counts is too large, bins with expectations below 5 pooled (Wilson and Hilferty 1931):
/// 3.09 has a probability of 0.001.
fn surprise(counts: &BTreeMap<Vec<u32>, u32>, expected: &BTreeMap<Vec<u32>, f64>) -> f64 {
    let total = f64::from(counts.values().sum::<u32>());
    let (mut chi, mut bins) = (0.0, 0);
    let mut pool = (0.0, 0.0);
    let mut add = |(seen, want): (f64, f64)| {
        chi += (seen - want) * (seen - want) / want;
        bins += 1;
    };
    for (outcome, p) in expected {
        let pair = (f64::from(*counts.get(outcome).unwrap_or(&0)), p * total);
        if pair.1 < 5.0 {
            pool = (pool.0 + pair.0, pool.1 + pair.1);
        } else {
            add(pair);
        }
    }
    if pool.1 > 0.0 {
        add(pool);
    }
    let impossible = counts.keys().any(|outcome| !expected.contains_key(outcome));
    let freedom = f64::from(bins - 1).max(1.0);
    let unit = 2.0 / (9.0 * freedom);
    if impossible { f64::INFINITY } else { ((chi / freedom).cbrt() - (1.0 - unit)) / unit.sqrt() }
}

fn counts(session: &mut Session, prompt: &[u32], seed: u64, count: u64) -> (BTreeMap<Vec<u32>, u32>, usize) {
    let (mut counts, mut accepted) = (BTreeMap::new(), 0);
    let (last, begin) = prompt.split_last().expect("a prompt");
    told(session, begin, 1);
    for draw in 0..count {
        session.reseed(seed << 32 | draw).expect("a seed");
        session.rewind(begin.len());
        // One token more, so that a round may draft all of the others.
        let (mut outcome, more) = told(session, &[*last], LENGTH + 1);
        outcome.truncate(LENGTH);
        *counts.entry(outcome).or_default() += 1;
        accepted += more;
    }
    (counts, accepted)
}

fn distributions(device: &Device, seeds: &[u64], count: u64) {
    let (target, draft) = pair(device);
    let prompt = prompt(&target);
    let (expected, other) = (exact(&target, &prompt), exact(&draft, &prompt));
    assert!((expected.values().sum::<f64>() - 1.0).abs() < 1e-9);
    let options = SpecOptions { rejection: true, ..spec("draft-model:p-min=0", Some(3)) };
    for &seed in seeds {
        for rejection in [false, true] {
            let mut session = Session::new(&target, SAMPLER).expect("a session");
            if rejection {
                session = session.with_draft(&draft, &options).expect("a draft");
            }
            let (counts, accepted) = counts(&mut session, &prompt, seed, count);
            let (ours, wrong) = (surprise(&counts, &expected), surprise(&counts, &other));
            println!(
                "seed {seed}, rejection {rejection}, {count} continuations, {} outcomes, {accepted} drafts accepted: \
                 {ours:.2} deviations, {wrong:.1} from the draft's distribution",
                expected.len()
            );
            assert!(ours < 3.09, "seed {seed}, rejection {rejection}: χ² is {ours} deviations too large");
            assert!(wrong > 3.09, "the test cannot tell target and draft apart");
            assert!(!rejection || accepted as u64 > count / 10, "{accepted} drafts were accepted");
        }
    }
}

#[test]
fn rejection_sampling_keeps_the_distribution() {
    let Some(device) = harness::device() else { return };
    distributions(device, &[1], 600);
}

/// As the test above, as often as small errors take to show; minutes.
#[test]
#[ignore = "20,000 continuations for each of three seeds"]
fn rejection_sampling_keeps_the_distribution_in_full() {
    let Some(device) = harness::device() else { return };
    distributions(device, &[1, 2, 3], 20_000);
}

/// Rounds that judge drafts are one submission as well, and record nothing after the first of a size.
#[test]
fn judged_rounds_are_one_submission() {
    let Some(device) = harness::device() else { return };
    let device = Device::open(&harness::uncut()).unwrap_or_else(|_| device.clone());
    let target = load(&device, open(&assets()));
    let draft = load(&device, open(&assets()));
    let options = SpecOptions { rejection: true, ..spec("draft-model:p-min=0.2", Some(4)) };
    let mut session =
        Session::new(&target, OPEN).expect("a session").with_draft(&draft, &options).expect("a draft");
    let (mut rounds, mut before) = (0, device.calls());
    let wanted = GenerateOptions { max_tokens: Some(60), ignore_end: true };
    let mut seen = std::collections::BTreeSet::new();
    for event in session.generate(&prompt(&target), wanted).expect("it fits") {
        let event = event.expect("an event");
        let calls = device.calls();
        if let Event::Round(round) = event
            && !seen.insert(round.asked)
        {
            rounds += 1;
            let made = (
                calls.submits - before.submits,
                calls.waits - before.waits,
                calls.recorded - before.recorded,
            );
            assert_eq!(made, (1, 1, 0), "{round:?}");
            // The draft knows what the target knows: nothing is rejected.
            assert_eq!(round.accepted, round.drafted, "{round:?}");
        }
        before = calls;
    }
    assert!(rounds > 5, "{rounds} rounds");
}

/// The draft model's part comes back with the conversation: the first round has nothing to catch up, and the text is the same.
#[test]
fn a_draft_is_restored_with_its_session() {
    let Some(device) = harness::device() else { return };
    let (target, draft) = pair(device);
    let new = || {
        let session = Session::new(&target, SamplerOptions::greedy()).expect("a session");
        session.with_draft(&draft, &spec("draft-model:p-min=0", Some(4))).expect("a draft")
    };
    let mut session = new();
    told(&mut session, &prompt(&target), 40);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.snapshot");
    session.snapshot().and_then(|snapshot| snapshot.write(&path)).expect("written");
    let lag = |session: &mut Session| {
        let options = GenerateOptions { max_tokens: Some(20), ignore_end: true };
        let events: Vec<Event> = session
            .generate(&[300, 301], options)
            .expect("it fits")
            .map(|event| event.expect("an event"))
            .collect();
        let rounds = events.iter().filter_map(|event| match event {
            Event::Round(round) => Some(round.catch_up),
            _ => None,
        });
        (rounds.clone().next(), session.tokens().to_vec())
    };
    drop(session);
    let mut restored = new();
    restored.restore(&vkllm::Snapshot::read(&path).expect("readable")).expect("restored");
    let (with, text) = lag(&mut restored);
    drop(restored);
    let mut alone = Session::new(&target, SamplerOptions::greedy()).expect("a session");
    alone.restore(&vkllm::Snapshot::read(&path).expect("readable")).expect("restored");
    let without = told(&mut alone, &[300, 301], 20).0;
    assert_eq!(text[text.len() - 20..], without);
    assert!(with.is_some_and(|rows| rows <= 8), "{with:?} rows were computed again");
}

//! Models with recurrent layers: every drafter leaves the text what it is, and conversations are forked, saved, taken back
//! and recovered with their states.

use vkllm::{Activations, Event, GenerateOptions, Model, ModelOptions, SamplerOptions, Session, Snapshot};
use vkllm_runtime::Device;

use super::golden::Golden;
use super::{beside, open, options, reference, speculation};
use crate::harness;

/// A hybrid, a model of states alone, and one of convolutions.
const MODELS: [&str; 3] = ["qwen35-f16", "mamba2-f16", "lfm2-f16"];

fn goldens() -> Vec<Golden> {
    let found: Vec<Golden> =
        MODELS.iter().filter_map(|name| Golden::named(&beside("golden"), name)).collect();
    if found.is_empty() {
        harness::skip("../shared/golden is not there");
    }
    found
}

fn model(device: &Device, golden: &Golden) -> Model {
    let options = ModelOptions {
        context: Some(256),
        batch: 64,
        sessions: 3,
        activations: Activations::Float,
        ..ModelOptions::default()
    };
    Model::open(device, &golden.path, &options, &|_, _| true).expect("a model")
}

/// Ids and log probabilities, bit for bit; of the end of the session where there is no prompt.
fn told(session: &mut Session, prompt: &[u32], count: usize) -> Vec<(u32, u32)> {
    let options = GenerateOptions { max_tokens: Some(count), ignore_end: true };
    let events = if prompt.is_empty() { session.resume(options) } else { session.generate(prompt, options) };
    let tokens = events.expect("it fits").filter_map(|event| match event.expect("no failure") {
        Event::Token(token) => Some((token.id, token.logprob.to_bits())),
        _ => None,
    });
    tokens.collect()
}

#[test]
fn speculation_never_changes_the_text_of_hybrids() {
    let Some(device) = harness::device() else { return };
    let path = beside("models/tiny-hybrid.q8_0.gguf");
    let Some((_, draft, _, prompts)) = speculation::pair(device) else { return };
    let [target, same] = [(), ()].map(|()| speculation::load(device, speculation::open(&path)));
    speculation::matrix(device, &target, &[("itself", &same)], &prompts, 32);
    // And a hybrid's text with a plain model that drafts, which is rejected more often.
    let mut plain = Session::new(&target, SamplerOptions::greedy()).expect("a session");
    let want = told(&mut plain, &prompts[0], 40);
    let session = Session::new(&target, SamplerOptions::greedy()).expect("a session");
    let mut session = session.with_draft(&draft, &vkllm::SpecOptions::default()).expect("they fit");
    assert_eq!(told(&mut session, &prompts[0], 40), want);
}

/// Drafts of the model's own layer, with a fixed length: how many an independent implementation accepted, and how far ours may
/// be from that, because its text is another one and few drafts are counted; later places also fed by other rows.
#[test]
fn a_predictor_is_accepted_as_elsewhere() {
    let Some(device) = harness::device() else { return };
    let path = beside("models/tiny-hybrid.q8_0.gguf");
    if !path.exists() {
        return harness::skip("../shared/models is not there; no model predicts");
    }
    let target = speculation::load(device, speculation::open(&path));
    let vocabulary = target.vocabulary().expect("a vocabulary");
    let options = vkllm::text::EncodeOptions { add_bos: true, parse_special: false };
    let prompt = vocabulary.encode("One day, Tom and Sue went to the park.", options);
    for (k, elsewhere, far) in [(1, 0.847, 0.05), (2, 0.738, 0.1), (3, 0.648, 0.15)] {
        let session = Session::new(&target, SamplerOptions::greedy()).expect("a session");
        let mut session = session.with_mtp(&speculation::spec("mtp:p-min=0", Some(k))).expect("it predicts");
        told(&mut session, &prompt, 160);
        let statistics = session.speculation().expect("it drafts");
        let share = statistics.acceptance().expect("drafts");
        println!(
            "{k} drafts: {} of {}, by place {:?}",
            statistics.accepted(),
            statistics.drafted(),
            statistics.by_position()
        );
        assert!((share - elsewhere).abs() < far, "{k} drafts: {share:.3} accepted, elsewhere {elsewhere}");
    }
}

/// In the middle of a text that the model's own layer drafts.
#[test]
fn a_predictor_is_saved_and_restored() {
    let Some(golden) = goldens().into_iter().next() else { return };
    for device in [Some(reference()), harness::device()].into_iter().flatten() {
        let model = model(device, &golden);
        let new = || Session::new(&model, SamplerOptions::greedy()).expect("a session");
        let drafting = |session: Session| {
            session.with_mtp(&speculation::spec("mtp:p-min=0", Some(3))).expect("it predicts")
        };
        let mut plain = new();
        let want = told(&mut plain, &golden.tokens[..40], 24);
        drop(plain);
        let mut session = drafting(new());
        assert_eq!(told(&mut session, &golden.tokens[..40], 9), want[..9]);
        let snapshot = session.snapshot().expect("saved");
        let fork = session.fork(SamplerOptions::greedy()).expect("a place");
        let accepted = |session: &Session| {
            let statistics = session.speculation().expect("it drafts");
            (statistics.rounds(), statistics.drafted(), statistics.accepted())
        };
        let before = accepted(&session);
        assert_eq!(told(&mut session, &[], 15), want[9..]);
        let after = accepted(&session);
        assert_eq!(told(&mut drafting(fork), &[], 15), want[9..]);
        let mut restored = drafting(new());
        told(&mut restored, &golden.tokens[50..60], 5);
        restored.restore(&snapshot).expect("restored");
        let begun = accepted(&restored);
        assert_eq!(told(&mut restored, &[], 15), want[9..]);
        let ended = accepted(&restored);
        // The same drafts, too: its cache and the hidden rows came back.
        let made = |from: (u64, u64, u64), to: (u64, u64, u64)| (to.0 - from.0, to.1 - from.1, to.2 - from.2);
        assert_eq!(made(begun, ended), made(before, after));
    }
}

#[test]
fn states_are_forked_saved_and_taken_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("chat.snapshot");
    for device in [Some(reference()), harness::device()].into_iter().flatten() {
        for golden in goldens() {
            let what = format!("{} on {}", golden.name, device.caps().name);
            let model = model(device, &golden);
            let new = || Session::new(&model, SamplerOptions::greedy()).expect("a session");
            let mut session = new();
            told(&mut session, &golden.tokens[..40], 6);
            let mut fork = session.fork(SamplerOptions::greedy()).expect("a place");
            session.snapshot().and_then(|snapshot| snapshot.write(&path)).expect("written");
            let question = &golden.tokens[40..44];
            let want = told(&mut session, question, 10);
            assert_eq!(told(&mut fork, question, 10), want, "{what}: fork");
            drop(fork);
            let mut restored = new();
            told(&mut restored, &golden.tokens[50..60], 5);
            restored.restore(&Snapshot::read(&path).expect("readable")).expect("restored");
            assert_eq!(told(&mut restored, question, 10), want, "{what}: restored");
            drop(restored);
            // In the middle of a generation, and by the row that was computed last alone.
            let mut middle = session.fork(SamplerOptions::greedy()).expect("a place");
            let on = told(&mut session, &[], 5);
            assert_eq!(told(&mut middle, &[], 5), on, "{what}: resumed");
            drop(middle);
            // Beyond what the last step left, all is computed again.
            session.rewind(10);
            let whole = [&golden.tokens[..10], question].concat();
            assert_eq!(told(&mut session, question, 6), told(&mut new(), &whole, 6), "{what}: taken back");
            session.clear();
            let begin = told(&mut session, &golden.tokens[..40], 6);
            assert_eq!(begin, told(&mut new(), &golden.tokens[..40], 6), "{what}: cleared");
        }
    }
}

/// Prompts in steps of any size come to the same logits.
#[test]
fn steps_of_any_size_agree() {
    let Some(device) = harness::device() else { return };
    for golden in goldens() {
        for batch in [1, 7, 64, 512] {
            let model = open(device, &golden, batch, Activations::Float);
            let errors = golden.errors(&super::logits(&model, &golden.tokens));
            let what = format!("{} in steps of {batch}", golden.name);
            assert!(errors.worst <= 1e-6, "{what}: worst {:.2e}", errors.worst);
        }
    }
}

#[test]
fn states_come_back_after_a_loss() {
    let Some(golden) = goldens().into_iter().next() else { return };
    let Some(device) = harness::another() else { return };
    let model =
        Model::open(&device, &golden.path, &options(24, Activations::Float), &|_, _| true).expect("a model");
    drop(device);
    let prompts = [&golden.tokens[..40], &golden.tokens[40..45]];
    let parts = |session: &mut Session, lose: bool| {
        let mut all = Vec::new();
        for prompt in prompts {
            all.extend(told(session, prompt, 5));
            if lose {
                session.model().device().lose();
                session.recover().expect("it comes back");
            }
        }
        all.extend(told(session, &[], 5));
        all
    };
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let want = parts(&mut session, false);
    session.clear();
    assert_eq!(parts(&mut session, true), want);
    drop(session);
    let session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let mut session = session.with_mtp(&speculation::spec("mtp:p-min=0", Some(3))).expect("it predicts");
    assert_eq!(parts(&mut session, true), want);
}

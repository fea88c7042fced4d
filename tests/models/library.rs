//! What embedders rely on: conversations that are forked, saved, taken back, stopped and cancelled, and samplers of their own.

use vkllm::text::EncodeOptions;
use vkllm::{
    Activations, CancelToken, Device, Event, Finish, GenerateOptions, KvType, Model, ModelOptions,
    SamplerOptions, Session, Snapshot,
};

use super::{beside, built_in, reference};
use crate::harness;

fn load(device: &Device, options: ModelOptions) -> Model {
    super::load(device, built_in(), &options)
}

fn model(device: &Device) -> Model {
    load(device, ModelOptions { context: Some(384), sessions: 3, ..ModelOptions::default() })
}

fn ids(model: &Model, text: &str) -> Vec<u32> {
    let vocabulary = model.vocabulary().expect("a vocabulary");
    vocabulary.encode(text, EncodeOptions { add_bos: true, parse_special: false })
}

/// Ids and log probabilities, bit for bit.
fn told(session: &mut Session, prompt: &[u32], count: usize) -> Vec<(u32, u32)> {
    let options = GenerateOptions { max_tokens: Some(count), ignore_end: true };
    let events = session.generate(prompt, options).expect("a prompt that fits");
    let tokens = events.filter_map(|event| match event.expect("no failure") {
        Event::Token(token) => Some((token.id, token.logprob.to_bits())),
        _ => None,
    });
    tokens.collect()
}

/// The reference and the device.
fn devices() -> Vec<&'static Device> {
    [Some(reference()), harness::device()].into_iter().flatten().collect()
}

fn samplers() -> [SamplerOptions; 3] {
    let sampled = SamplerOptions { temperature: 1.0, seed: 11, ..SamplerOptions::default() };
    let penalties =
        SamplerOptions { repeat_penalty: 1.3, frequency_penalty: 0.2, repeat_last_n: 200, ..sampled };
    [SamplerOptions::greedy(), sampled, penalties]
}

/// Twice this is longer than a block of the cache.
const LONG: &str = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she \
                    saw a big, red ball. She wanted to play with it, but it was too high. Lily's mom said, let us go to the \
                    park. Lily was sad and did not know what to do. ";

#[test]
fn forks_and_restored_sessions_go_on_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("chat.snapshot");
    for device in devices() {
        let model = model(device);
        for sampler in samplers() {
            let mut session = Session::new(&model, sampler).expect("a session");
            let begin = ids(&model, &LONG.repeat(2));
            assert!(begin.len() > 128, "{}", begin.len());
            told(&mut session, &begin, 6);
            let mut fork = session.fork(sampler).expect("a place");
            session.snapshot().and_then(|snapshot| snapshot.write(&path)).expect("written");
            let question = &ids(&model, " But then")[1..];
            let want = told(&mut session, question, 24);
            assert_eq!(told(&mut fork, question, 24), want, "fork, {sampler:?}");
            drop(fork);
            let mut restored = Session::new(&model, sampler).expect("a session");
            told(&mut restored, &ids(&model, "Something else"), 5);
            let snapshot = Snapshot::read(&path).expect("readable");
            restored.restore(&snapshot).expect("restored");
            assert_eq!(restored.tokens(), snapshot.tokens());
            assert_eq!(told(&mut restored, question, 24), want, "restored, {sampler:?}");
            assert_eq!(restored.tokens(), session.tokens());
        }
    }
}

#[test]
fn snapshots_of_others_are_refused() {
    let model = model(reference());
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    told(&mut session, &ids(&model, "Once"), 3);
    let snapshot = session.snapshot().expect("a snapshot");
    let refuse = |model: &Model, words: &str| {
        let mut other = Session::new(model, SamplerOptions::greedy()).expect("a session");
        let sentence = other.restore(&snapshot).expect_err("refused").to_string();
        assert!(sentence.contains(words), "{sentence}");
    };
    let q8 = ModelOptions { k_type: Some(KvType::F32), context: Some(384), ..ModelOptions::default() };
    refuse(&load(reference(), q8), "the snapshot's cache");
    refuse(
        &load(reference(), ModelOptions { context: Some(2), ..ModelOptions::default() }),
        "the context holds 2",
    );
    let path = beside("models/stories260k.f32.gguf");
    if path.exists() {
        let other = Model::open(reference(), &path, &ModelOptions::default(), &|_, _| true).expect("a model");
        refuse(&other, "the snapshot's model");
    }
}

#[test]
fn what_is_taken_back_was_never_said() {
    for device in devices() {
        let model = model(device);
        let (begin, question) = (ids(&model, LONG), ids(&model, " But then")[1..].to_vec());
        let mut straight = Session::new(&model, SamplerOptions::greedy()).expect("a session");
        told(&mut straight, &begin, 5);
        let want = told(&mut straight, &question, 16);
        let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
        told(&mut session, &begin, 40);
        session.rewind(begin.len() + 5);
        assert_eq!(told(&mut session, &question, 16), want);
        session.rewind(1000);
        assert_eq!(session.tokens(), straight.tokens());
    }
}

/// A window's ring forgets; what a rewound conversation no longer has is computed again.
#[test]
fn windows_are_computed_again() {
    let path = beside("golden/gemma2-f16.gguf");
    if !path.exists() {
        harness::skip("../shared/golden/gemma2-f16.gguf is not there");
        return;
    }
    let options = ModelOptions {
        context: Some(512),
        batch: 16,
        activations: Activations::Float,
        sessions: 2,
        ..ModelOptions::default()
    };
    let model = Model::open(reference(), &path, &options, &|_, _| true).expect("a model");
    let vocab = model.config().vocab;
    let begin: Vec<u32> = (0..480).map(|i| (i * 37 + 5) % vocab).collect();
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    told(&mut session, &begin, 2);
    session.rewind(10);
    let mut fresh = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    assert_eq!(told(&mut session, &[3, 4], 6), told(&mut fresh, &[&begin[..10], &[3, 4]].concat(), 6));
}

#[test]
fn samplers_of_ones_own_choose_what_the_device_chooses() {
    for device in devices() {
        let model = model(device);
        for sampler in &samplers()[..2] {
            for text in ["Once upon a time", LONG] {
                let prompt = ids(&model, text);
                let want = told(&mut Session::new(&model, *sampler).expect("a session"), &prompt, 20);
                let mut session = Session::new(&model, *sampler).expect("a session");
                let options = GenerateOptions { max_tokens: Some(20), ignore_end: true };
                let choose = |logits: &mut [f32], position| Some(sampler.choose(logits, position).ok()??.0);
                let events = session.generate_with(&prompt, options, choose).expect("a prompt that fits");
                let mut got = Vec::new();
                for event in events {
                    if let Event::Token(token) = event.expect("no failure") {
                        let want = f32::from_bits(want[got.len()].1);
                        assert!((token.logprob - want).abs() < 1e-4, "{} is not {want}", token.logprob);
                        got.push(token.id);
                    }
                }
                assert_eq!(got, want.iter().map(|token| token.0).collect::<Vec<_>>(), "{sampler:?}");
            }
        }
    }
}

#[test]
fn samplers_of_ones_own_exclude_and_end() {
    let model = model(reference());
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let first = told(&mut session, &ids(&model, "Once"), 1)[0].0;
    session.clear();
    let mut left = 3;
    let choose = |logits: &mut [f32], position| {
        left -= 1;
        logits[first as usize] = f32::NEG_INFINITY;
        let chosen = SamplerOptions::greedy().choose(logits, position).ok().flatten();
        chosen.filter(|_| left > 0).map(|(token, _)| token)
    };
    let events =
        session.generate_with(&ids(&model, "Once"), GenerateOptions::default(), choose).expect("it fits");
    let events: Vec<Event> = events.map(|event| event.expect("no failure")).collect();
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(matches!(&events[0], Event::Token(token) if token.id != first), "{events:?}");
    assert!(matches!(&events[2], Event::Done { finish: Finish::Stop, .. }), "{events:?}");
    let wrong =
        session.generate_with(&[5], GenerateOptions::default(), |_, _| Some(u32::MAX)).expect("it fits");
    let error = wrong.last().expect("an event").expect_err("no such token").to_string();
    assert!(error.contains("4294967295"), "{error}");
    session.clear();
    assert_eq!(told(&mut session, &ids(&model, "Once"), 1)[0].0, first, "the session is as good as new");
}

/// The text of a generation and why it ended.
fn text(events: vkllm::Generation<'_>) -> (String, Option<Finish>) {
    let (mut all, mut finish) = (String::new(), None);
    for event in events {
        match event.expect("no failure") {
            Event::Token(token) => all.push_str(&token.text),
            Event::Done { finish: reason, text } => {
                all.push_str(&text);
                finish = Some(reason);
            }
            Event::Round(_) => {}
        }
    }
    (all, finish)
}

#[test]
fn texts_stop_before_what_they_should_not_say() {
    let model = model(reference());
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let prompt = ids(&model, "Once upon a time");
    let options = GenerateOptions { max_tokens: Some(24), ..GenerateOptions::default() };
    let (whole, _) = text(session.generate(&prompt, options).expect("it fits"));
    assert!(whole.starts_with(", there was a little girl named Lily"), "{whole}");
    for (stops, want) in [
        (&["little girl", "named"][..], Some(", there was a ")),
        (&["little boy", "girls", "\n\n", ""], None),
        (&[", "], Some("")),
        (&["Lily", "girl named"], Some(", there was a little ")),
    ] {
        session.clear();
        let got = text(session.generate(&prompt, options).expect("it fits").stop_at(stops.iter().copied()));
        let want = want.map_or((whole.clone(), Some(Finish::Length)), |w| (w.to_owned(), Some(Finish::Stop)));
        assert_eq!(got, want, "{stops:?}");
    }
}

#[test]
fn cancelled_generations_leave_a_good_session() {
    let model = model(reference());
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let prompt = ids(&model, LONG);
    let want = told(&mut session, &prompt, 6);
    session.clear();
    let cancel = CancelToken::new();
    let mut events =
        session.generate(&prompt, GenerateOptions::default()).expect("it fits").cancelled_by(&cancel);
    let first = events.next().expect("an event").expect("no failure");
    assert!(matches!(first, Event::Token(token) if token.id == want[0].0));
    cancel.cancel();
    let last: Vec<Event> = events.map(|event| event.expect("no failure")).collect();
    assert!(matches!(last[..], [Event::Done { finish: Finish::Cancelled, .. }]), "{last:?}");
    assert_eq!(session.tokens().len(), prompt.len() + 1);
    session.clear();
    let none = session.generate(&prompt, GenerateOptions::default()).expect("it fits").cancelled_by(&cancel);
    assert_eq!(none.count(), 1, "nothing but the end");
    assert_eq!(session.tokens(), [0u32; 0]);
    assert_eq!(told(&mut session, &prompt, 6), want);
}

#[cfg(feature = "stream")]
#[test]
fn streams_give_the_same_events() {
    use futures_core::Stream;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake};
    use std::thread::Thread;

    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let model = model(reference());
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let prompt = ids(&model, "Once upon a time");
    let options = GenerateOptions { max_tokens: Some(100), ignore_end: true };
    let want: Vec<Event> = session.generate(&prompt, options).expect("it fits").map(Result::unwrap).collect();
    session.clear();
    let mut stream = Box::pin(session.stream(&prompt, options).expect("a thread"));
    let mut got = Vec::new();
    loop {
        match stream.as_mut().poll_next(&mut context) {
            Poll::Ready(Some(event)) => got.push(event.expect("no failure")),
            Poll::Ready(None) => break,
            Poll::Pending => std::thread::park(),
        }
    }
    assert_eq!(got, want);
    let session = std::pin::Pin::into_inner(stream).into_session().expect("it did not panic");
    assert_eq!(session.tokens().len(), prompt.len() + 100);
    // A stream that nobody reads to its end is cancelled.
    let stream =
        session.stream(&[5], GenerateOptions { max_tokens: None, ignore_end: true }).expect("a thread");
    stream.cancel_token().cancel();
    assert!(stream.into_session().is_some());
    let refused = Session::new(&model, SamplerOptions::greedy()).expect("a place").stream(&[], options);
    let mut stream = Box::pin(refused.expect("a thread"));
    loop {
        match stream.as_mut().poll_next(&mut context) {
            Poll::Ready(event) => break assert!(event.expect("an event").is_err()),
            Poll::Pending => std::thread::park(),
        }
    }
}

/// The program the README shows is the example that runs.
#[test]
fn the_readme_shows_an_example_that_runs() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect("a file of the checkout");
    let example = read("examples/minimal.rs");
    assert!(
        read("README.md").contains(&format!("```rust\n{example}```\n")),
        "README.md and examples/minimal.rs differ"
    );
    assert!(example.lines().count() <= 22, "{}", example.lines().count());
}

//! Models on devices that cut their work: the same bits in many submissions, and an end between two of them.

use std::time::{Duration, Instant};

use vkllm::{
    CancelToken, Device, DeviceOptions, Event, Finish, GenerateOptions, Model, ModelOptions, SamplerOptions,
    Session, SpecOptions,
};

use crate::harness;

/// `MILLISECONDS`: measures what submissions of a long prompt take under such a budget, with pipelines dispatched before.
const MEASURE: &str = "VKLLM_TEST_SLICES";

fn device(slice: Duration) -> Device {
    Device::open(&DeviceOptions { slice: Some(slice), ..harness::options() }).expect("a device")
}

fn model(device: &Device, context: u32) -> Model {
    let options = ModelOptions { context: Some(context), sessions: 2, ..ModelOptions::default() };
    super::load(device, super::built_in(), &options)
}

fn prompt(model: &Model, count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 7919 + 13) % model.config().vocab).collect()
}

fn session(model: &Model) -> Session {
    Session::new(model, SamplerOptions::greedy()).expect("a session")
}

/// Bits of the logits of a prompt, then tokens with the bits of their probabilities.
fn bits(session: &mut Session, prompt: &[u32]) -> Vec<u32> {
    let logits = session.forward(prompt).expect("logits");
    let mut bits: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
    let options = GenerateOptions { max_tokens: Some(4), ignore_end: true };
    for event in session.generate(&prompt[..3], options).expect("it fits") {
        if let Event::Token(token) = event.expect("a token") {
            bits.extend([token.id, token.logprob.to_bits()]);
        }
    }
    bits
}

#[test]
fn slices_leave_every_bit() {
    if harness::device().is_none() {
        return;
    }
    let run = |slice: Duration, draft: bool| {
        let device = device(slice);
        let model = model(&device, 256);
        let mut session = session(&model);
        if draft {
            let options = SpecOptions { draft_max: Some(3), ..SpecOptions::default() };
            session = session.with_draft(&self::model(&device, 256), &options).expect("a drafter");
        }
        let submits = device.calls().submits;
        let bits = bits(&mut session, &prompt(&model, 40));
        (bits, device.calls().submits - submits)
    };
    for draft in [false, true] {
        let (want, few) = run(Duration::ZERO, draft);
        let (got, many) = run(Duration::from_micros(50), draft);
        println!("draft: {draft}, {many} submissions in place of {few}");
        assert!(many > 4 * few, "{many} submissions, {few} without a limit");
        assert_eq!(want, got, "draft: {draft}");
    }
}

#[test]
fn a_prompt_and_an_answer_end_between_submissions() {
    if harness::device().is_none() {
        return;
    }
    let device = device(Duration::from_micros(50));
    let model = model(&device, 512);
    let whole = prompt(&model, 300);
    let options = GenerateOptions { max_tokens: Some(8), ignore_end: true };
    let mut session = session(&model);
    let told = |session: &mut Session, prompt: &[u32]| -> Vec<(u32, u32)> {
        let events =
            session.generate(prompt, options).expect("it fits").map(|event| event.expect("an event"));
        let token = |event| match event {
            Event::Token(token) => Some((token.id, token.logprob.to_bits())),
            _ => None,
        };
        events.filter_map(token).collect()
    };
    let first = told(&mut session, &whole[..20]);
    let stands = session.tokens().to_vec();
    let want = told(&mut session.fork(SamplerOptions::greedy()).expect("a place"), &whole[20..]);
    // In the prompt, then in the answer: as soon as the device has begun.
    for (prompt, at) in [(&whole[20..], 3), (&[][..], 2)] {
        let cancel = CancelToken::new();
        let (flag, watched) = (cancel.clone(), device.clone());
        let from = device.calls().submits;
        let watcher = std::thread::spawn(move || {
            let patience = Instant::now();
            while watched.calls().submits < from + at && patience.elapsed() < Duration::from_secs(60) {
                std::thread::yield_now();
            }
            flag.cancel();
        });
        let generation = match prompt {
            [] => session.resume(options),
            prompt => session.generate(prompt, options),
        };
        let events: Vec<_> = generation.expect("it begins").cancelled_by(&cancel).collect();
        watcher.join().expect("it ends");
        assert!(
            matches!(events.as_slice(), [Ok(Event::Done { finish: Finish::Cancelled, .. })]),
            "{} events, the last {:?}",
            events.len(),
            events.last()
        );
        assert_eq!(session.tokens(), stands);
    }
    assert_eq!(told(&mut session, &whole[20..]), want, "after {first:?}");
}

/// Not a test of speed for CI: `VKLLM_TEST_SLICES=20` runs it.
#[test]
fn submissions_of_a_long_prompt_stay_within_twice_the_budget() {
    let Some(milliseconds) = std::env::var(MEASURE).ok().and_then(|value| value.parse::<u64>().ok()) else {
        return;
    };
    if harness::device().is_none() {
        return;
    }
    let budget = Duration::from_millis(milliseconds);
    let run = |slice: Duration| {
        let device = device(slice);
        let model = model(&device, 4096);
        let prompt = prompt(&model, 4096);
        let mut logits = Vec::new();
        for round in 0..3 {
            let mut session = session(&model);
            device.take_slice_times();
            let began = Instant::now();
            let mut first = session.forward(&prompt[..4064]).expect("logits");
            first.extend(session.forward(&prompt[4064..]).expect("logits"));
            let wall = began.elapsed();
            let mut times = device.take_slice_times();
            times.sort_unstable();
            let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
            println!(
                "budget {slice:?}, round {round}: {wall:.2?}, {} submissions, median {:.2?}, p99 {:.2?}, p99.9 {:.2?}, most {:.2?}",
                times.len(),
                at(0.5),
                at(0.99),
                at(0.999),
                at(1.0)
            );
            if round > 0 && !slice.is_zero() {
                assert!(at(0.99) <= 2 * budget, "p99 is {:.2?}", at(0.99));
            }
            logits = first.into_iter().map(f32::to_bits).collect();
        }
        logits
    };
    let sliced: Vec<u32> = run(budget);
    assert!(sliced == run(Duration::ZERO), "some logits differ");
}

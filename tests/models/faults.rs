//! Calls of the driver that fail: every failure is a typed error or does no harm, nothing is left behind, and a lost device
//! says so at once whatever is asked of it.

use std::sync::{Arc, Mutex, PoisonError};

use vkllm::{
    Activations, Device, DeviceOptions, Error, Event, GenerateOptions, Model, SamplerOptions, Session,
};
use vkllm_runtime::{Error as DeviceError, Faults, Usage, Validation};

use super::golden::Golden;
use super::{data, options};
use crate::harness;

/// `all`: every call with every result, not a sample of them.
const AMOUNT: &str = "VKLLM_TEST_FAULTS";
const TOKENS: usize = 4;

/// One device of a process at a time can have calls that fail.
pub(super) static TURN: Mutex<()> = Mutex::new(());

fn faulty(faults: &Arc<Faults>, validation: Validation) -> DeviceOptions {
    DeviceOptions { validation, faults: Some(Arc::clone(faults)), ..harness::options() }
}

/// Opens a device and a model, computes a prompt in two steps and some tokens. The tokens as far as they came, and what
/// ended them.
fn story(golden: &Golden, faults: &Arc<Faults>) -> (Vec<u32>, Result<(), Error>) {
    let mut tokens = Vec::new();
    let result = (|| {
        // The layers also report what was not destroyed.
        let validated = harness::options().validation != Validation::Off;
        let validation = if validated { Validation::Core } else { Validation::Off };
        let device = Device::open(&faulty(faults, validation))?;
        let messages = device.messages();
        let model = Model::open(&device, &golden.path, &options(24, Activations::Float), &|_, _| true)?;
        let mut session = Session::new(&model, SamplerOptions::greedy())?;
        let wanted = GenerateOptions { max_tokens: Some(TOKENS), ignore_end: true };
        let mut run = || {
            for event in session.generate(&golden.tokens[..40], wanted)? {
                if let Event::Token(token) = event? {
                    tokens.push(token.id);
                }
            }
            Ok(())
        };
        let result: Result<(), Error> = run();
        if let Err(Error::Device(lost @ DeviceError::Lost { .. })) = &result {
            let again = [
                device.buffer("another", 64, Usage::Shared).err(),
                device.submit(&[]).err(),
                match session.forward(&[1]) {
                    Err(Error::Device(error)) => Some(error),
                    other => panic!("{other:?}"),
                },
            ];
            for error in again {
                assert_eq!(error.map(|error| error.to_string()), Some(lost.to_string()));
            }
        }
        let left = device.take_messages();
        assert!(left.is_empty(), "{left:?}");
        drop(session);
        drop(model);
        drop(device);
        let left = std::mem::take(&mut *messages.lock().unwrap_or_else(PoisonError::into_inner));
        assert!(left.is_empty(), "left behind: {left:?}");
        result
    })();
    (tokens, result)
}

#[test]
fn every_call_that_fails_is_an_error_or_harmless() {
    if harness::device().is_none() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let golden = Golden::folder(&data("golden")).into_iter().find(|golden| golden.name == "qwen3-q4_k_m");
    let golden = golden.expect("a checked-in golden model");
    let counting = Faults::counting();
    let (want, result) = story(&golden, &counting);
    result.expect("nothing fails");
    assert_eq!(want.len(), TOKENS);
    let calls = counting.calls();
    let all = std::env::var(AMOUNT).is_ok_and(|amount| amount == "all");
    let mut random = harness::rng("faults");
    let mut numbers: Vec<u64> = (1..=calls).collect();
    if !all {
        // Those of opening and of the end, and some between.
        numbers = (0..24).map(|_| u64::from(random.word()) % calls + 1).collect();
        numbers.extend([1, 2, 3, calls - 3, calls - 2, calls - 1, calls]);
    }
    let (mut errors, mut harmless, mut kinds) = (0, 0, std::collections::BTreeSet::new());
    for nth in numbers {
        let mut choice = if all { 0 } else { random.int(0, 11) as usize };
        loop {
            let faults = Faults::new(nth, choice);
            let (tokens, result) = story(&golden, &faults);
            // Times decide how often a wait is called.
            let Some(fault) = faults.fired() else { break };
            let what = format!("call {nth}, {} returns {}", fault.call, fault.result);
            kinds.insert((fault.call, fault.result.clone()));
            assert!(want.starts_with(&tokens), "{what}: {tokens:?}, not {want:?}");
            match result {
                Ok(()) => {
                    assert_eq!(tokens, want, "{what}");
                    harmless += 1;
                }
                Err(Error::Device(error)) => {
                    let lost = matches!(error, DeviceError::Lost { .. });
                    assert_eq!(lost, fault.result == "ERROR_DEVICE_LOST", "{what}: {error}");
                    errors += 1;
                }
                Err(other) => panic!("{what}: {other}"),
            }
            choice += 1;
            if !all || choice == fault.choices {
                break;
            }
        }
    }
    println!(
        "{calls} calls; {errors} errors, {harmless} without harm; {} kinds of failure: {kinds:?}",
        kinds.len()
    );
    assert!(errors > 0);
}

/// The next `count` tokens with the bits of their probabilities, after a prompt or from where the session stands.
fn on(session: &mut Session, prompt: &[u32], count: usize) -> Result<Vec<(u32, u32)>, Error> {
    let options = GenerateOptions { max_tokens: Some(count), ignore_end: true };
    let mut drawn = Vec::new();
    let events =
        if prompt.is_empty() { session.resume(options)? } else { session.generate(prompt, options)? };
    for event in events {
        if let Event::Token(token) = event? {
            drawn.push((token.id, token.logprob.to_bits()));
        }
    }
    Ok(drawn)
}

fn sampler() -> SamplerOptions {
    let (temperature, seed) = (0.8, 7);
    SamplerOptions { temperature, seed, repeat_penalty: 1.1, ..SamplerOptions::default() }
}

/// Prompts of both kinds of kernels, with what was drawn between them: every kind of span.
fn conversation(session: &mut Session, prompt: &[u32]) -> Result<Vec<(u32, u32)>, Error> {
    let mut all = on(session, &prompt[..40], 6)?;
    all.extend(on(session, &prompt[40..45], 3)?);
    all.extend(on(session, &prompt[45..], 5)?);
    Ok(all)
}

#[test]
fn a_lost_device_comes_back_and_the_text_goes_on() {
    if harness::device().is_none() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let golden = Golden::folder(&data("golden")).into_iter().find(|golden| golden.name == "qwen3-q4_k_m");
    let golden = golden.expect("a checked-in golden model");
    let prompt = &golden.tokens[..64];
    for draft in [false, true] {
        let options = vkllm::ModelOptions { sessions: 2, ..options(24, Activations::Auto) };
        let open =
            |device: &Device| Model::open(device, &golden.path, &options, &|_, _| true).expect("it loads");
        let session = |model: &Model| {
            let session = Session::new(model, sampler()).expect("a session");
            if !draft {
                return session;
            }
            let spec = vkllm::SpecOptions { draft_max: Some(3), ..vkllm::SpecOptions::default() };
            session.with_draft(&open(&model.device()), &spec).expect("a drafter")
        };
        let (mut want, calls) = {
            let counting = Faults::counting();
            let device = Device::open(&faulty(&counting, Validation::Off)).expect("a device");
            let model = open(&device);
            let mut session = session(&model);
            let before = counting.calls();
            let mut want = conversation(&mut session, prompt).expect("nothing fails");
            let calls = counting.calls() - before;
            want.extend(on(&mut session, &[], 8).expect("nothing fails"));
            (want, calls)
        };
        let end = want.split_off(14);
        // Submissions and waits lose the device, other calls are out of memory.
        let (mut losses, mut others) = (0, 0);
        // The last calls are those of plain steps or rounds: submissions, waits and times.
        let some = (1..calls).step_by((calls as usize / 16).max(1));
        for nth in some.chain((calls - 12..calls).step_by(2)) {
            let faults = Faults::counting();
            let device = Device::open(&faulty(&faults, Validation::Off)).expect("a device");
            let model = open(&device);
            let mut session = session(&model);
            faults.arm(nth, 0);
            let mut told = Vec::new();
            let parts = [(&prompt[..40], 6), (&prompt[40..45], 3), (&prompt[45..], 5), (&[][..], 8)];
            for (part, count) in parts {
                let before = session.tokens().len();
                let mut left = part;
                loop {
                    let done = session.tokens().len().saturating_sub(before + part.len());
                    match on(&mut session, left, count - done) {
                        Ok(_) => break,
                        Err(Error::Device(error)) => {
                            let lost = matches!(error, DeviceError::Lost { .. });
                            losses += usize::from(lost);
                            others += usize::from(!lost);
                            assert_eq!(model.lost().is_some(), lost, "{error}");
                            session.recover().expect("it comes back");
                            assert!(model.lost().is_none());
                            // A prompt that was not computed is not part of the conversation.
                            left = if session.tokens().len() == before { part } else { &[] };
                        }
                        Err(other) => panic!("call {nth}: {other}"),
                    }
                    if session.tokens().len() == before + part.len() + count {
                        break;
                    }
                }
                told.extend_from_slice(&session.tokens()[before + part.len()..]);
            }
            let expected: Vec<u32> = want.iter().chain(&end).map(|(token, _)| *token).collect();
            assert_eq!(told, expected, "call {nth}, draft: {draft}");
        }
        println!("draft: {draft}, {losses} losses, {others} other errors");
        assert!(losses > 0, "no call lost the device");
    }
}

#[test]
fn a_hundred_losses_leave_nothing_behind() {
    if harness::device().is_none() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let golden = Golden::folder(&data("golden")).into_iter().find(|golden| golden.name == "qwen3-q4_k_m");
    let golden = golden.expect("a checked-in golden model");
    let faults = Faults::counting();
    let device = Device::open(&faulty(&faults, Validation::Off)).expect("a device");
    let model =
        Model::open(&device, &golden.path, &options(24, Activations::Auto), &|_, _| true).expect("it loads");
    drop(device);
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let first = on(&mut session, &golden.tokens[..40], 4).expect("tokens");
    let (mut counts, mut between) = (Vec::new(), Vec::new());
    for cycle in 0..100 {
        model.device().lose();
        let lost = on(&mut session, &[], 1);
        assert!(matches!(lost, Err(Error::Device(DeviceError::Lost { .. }))), "cycle {cycle}: {lost:?}");
        session.recover().expect("it comes back");
        counts.push((model.device().taken(), files()));
        // A device that is lost without a new token in between is given up.
        between.extend(on(&mut session, &[], usize::from(cycle % 3 == 0)).expect("a token"));
    }
    let next = on(&mut session, &[], 4).expect("tokens");
    session.clear();
    let again = on(&mut session, &golden.tokens[..40], 8 + between.len()).expect("tokens");
    assert_eq!(again, [first, between, next].concat());
    assert_eq!(counts[10].0, counts[99].0, "memory");
    // Other tests of the process open and close files meanwhile; one file lost each time would be 89 more.
    assert!(counts[99].1 < counts[10].1 + 45, "open files: {} after {}", counts[99].1, counts[10].1);
}

#[test]
fn a_device_that_is_of_no_use_is_given_up() {
    if harness::device().is_none() {
        return;
    }
    let golden = Golden::folder(&data("golden")).into_iter().find(|golden| golden.name == "qwen3-q4_k_m");
    let golden = golden.expect("a checked-in golden model");
    let device = Device::open(&harness::options()).expect("a device");
    let model =
        Model::open(&device, &golden.path, &options(24, Activations::Auto), &|_, _| true).expect("it loads");
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    on(&mut session, &golden.tokens[..20], 2).expect("tokens");
    for _ in 0..4 {
        model.device().lose();
        session.recover().expect("it comes back");
    }
    model.device().lose();
    match session.recover() {
        Err(error @ Error::DeviceUnusable { losses: 5, .. }) => println!("{error}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(on(&mut session, &[], 1), Err(Error::Device(DeviceError::Lost { .. }))));
}

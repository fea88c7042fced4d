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
static TURN: Mutex<()> = Mutex::new(());

fn faulty(faults: &Arc<Faults>) -> DeviceOptions {
    let validation = harness::options().validation;
    // The layers also report what was not destroyed.
    let validation = if validation == Validation::Off { Validation::Off } else { Validation::Core };
    DeviceOptions { validation, faults: Some(Arc::clone(faults)), ..harness::options() }
}

/// Opens a device and a model, computes a prompt in two steps and some tokens. The tokens as far as they came, and what
/// ended them.
fn story(golden: &Golden, faults: &Arc<Faults>) -> (Vec<u32>, Result<(), Error>) {
    let mut tokens = Vec::new();
    let result = (|| {
        let device = Device::open(&faulty(faults))?;
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
        numbers = (0..40).map(|_| u64::from(random.word()) % calls + 1).collect();
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

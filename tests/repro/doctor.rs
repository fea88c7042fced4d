//! `doctor`: kernels with faults are flagged, others take their place, and the text is then right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use vkllm::doctor::{examine, test_kernels};
use vkllm::gguf::Gguf;
use vkllm::selftest::{SEED, cases};
use vkllm::{
    Activations, Avoid, Device, DeviceOptions, Event, GenerateOptions, Model, ModelFile, ModelOptions,
    SamplerOptions, Session, Substitute,
};

use super::PROMPT;
use super::mutate::{Fault, mutant};
use crate::cli::{STORIES, vkllm};
use crate::harness;

fn file() -> ModelFile {
    ModelFile::new(Gguf::open(STORIES.as_ref()).expect("the shipped model")).expect("a good one")
}

fn options(activations: Activations) -> ModelOptions {
    ModelOptions { context: Some(128), activations, ..ModelOptions::default() }
}

fn text(device: &Device, activations: Activations) -> Vec<u32> {
    told(device, activations).into_iter().map(|(id, _)| id).collect()
}

/// Tokens and the bits of their probabilities.
fn told(device: &Device, activations: Activations) -> Vec<(u32, u32)> {
    let model = Model::open(device, STORIES.as_ref(), &options(activations), &|_, _| true).expect("it opens");
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let limits = GenerateOptions { max_tokens: Some(12), ignore_end: true };
    let Ok(events) = session.generate(&PROMPT, limits) else { return Vec::new() };
    events
        .filter_map(|event| match event {
            Ok(Event::Token(token)) => Some((token.id, token.logprob.to_bits())),
            _ => None,
        })
        .collect()
}

#[test]
fn all_is_well_with_the_device() {
    let Some(device) = harness::another() else { return };
    let start = Instant::now();
    let found =
        examine(&device, &file(), &options(Activations::Auto), SEED, Duration::ZERO, &mut |_, _, _| {});
    let found = found.expect("a model that fits");
    println!("{} kernels in {:?}", found.kernels.len(), start.elapsed());
    assert!(found.is_well(), "{found:?}");
    assert!(found.kernels.len() >= 10 && found.kernels.iter().all(|kernel| kernel.ran > 0), "{found:?}");
}

#[test]
fn wrong_kernels_are_flagged_and_others_take_their_place() {
    let Some(device) = harness::another() else { return };
    let file = file();
    // A kernel of each kind that has another way, and the fault.
    let faults = [
        (Activations::Int8, "linear", Fault::Overflow),
        (Activations::Float, "linear", Fault::WRONG_SIGN),
        (Activations::Float, "attention", Fault::Nan),
        (Activations::Float, "argmax", Fault::WrongConstant),
    ];
    for (activations, op, fault) in faults {
        let options = options(activations);
        let names = file.kernels(device.caps(), &options).expect("a model that fits");
        let of_op = vkllm_shaders::ops::ALL.iter().filter(|k| k.op == op && names.contains(k.name));
        let Some((kernel, other)) = of_op.filter_map(|k| Some((*k, mutant(k, fault, 0)?))).next() else {
            continue;
        };
        device.substitute(vec![Substitute { kernel: other, label: None }]);
        let found = examine(&device, &file, &options, SEED, Duration::ZERO, &mut |_, _, _| {});
        let found = found.expect("a model that fits");
        // Cases of several stages blame each of them.
        assert!(found.avoid.iter().any(|name| name == kernel.name), "{op} {fault:?}: {found:?}");
        assert!(found.avoid.len() == 1 || op == "argmax", "{op} {fault:?}: {found:?}");
        assert_eq!(found.no_way, None, "{op}");
        assert!(!found.instead.is_empty(), "{op}: {found:?}");
        println!("{op} {fault:?}: {} instead of {}", found.instead.join(", "), kernel.name);
        device.substitute(Vec::new());
        let right = text(&device, activations);
        let avoid = vec![Avoid { uuid: device.caps().uuid, kernels: found.avoid }];
        let other_device = Device::open(&DeviceOptions { avoid, ..harness::options() }).expect("it was open");
        other_device.substitute(vec![Substitute { kernel: other, label: None }]);
        assert_eq!(text(&other_device, activations), right, "{op} {fault:?}");
    }
}

#[test]
fn the_command_tells_of_machine_drivers_and_kernels() {
    if harness::device().is_none() {
        return;
    }
    let said = vkllm(&["doctor", "--budget", "0", "--json", "--forget"]);
    let object = said.json();
    assert_eq!(object["well"], true, "{object}");
    assert!(object["machine"][0]["name"] == "system" && object["device"]["subgroup"].is_number(), "{object}");
    assert!(object["kernels"].as_array().is_some_and(|kernels| kernels.len() >= 10), "{object}");
}

/// What a mutant of a kernel came to.
enum Outcome {
    Flagged,
    /// The text and its probabilities are what they were.
    Idle,
    Missed,
}

/// Every kernel of the model with a fault of every kind that fits it.
fn matrix(activations: Activations) {
    let Some(mut device) = harness::another() else { return };
    let (file, options) = (file(), options(activations));
    let names = file.kernels(device.caps(), &options).expect("a model that fits");
    let list = cases(device.caps());
    let right = told(&device, activations);
    let mut kinds: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let (mut missed, mut wrong, mut proven) = (Vec::new(), Vec::new(), BTreeSet::new());
    for kernel in vkllm_shaders::ops::ALL.iter().filter(|kernel| names.contains(kernel.name)) {
        let start = Instant::now();
        for (index, &fault) in Fault::ALL.iter().enumerate() {
            let Some(other) = mutant(kernel, fault, index) else { continue };
            let substitute = || vec![Substitute { kernel: other, label: None }];
            device.substitute(substitute());
            let (reports, lost) = test_kernels(
                &device,
                &list,
                &BTreeSet::from([kernel.name]),
                SEED,
                Instant::now(),
                &mut |_, _, _| {},
            );
            let outcome = if lost.is_some() || reports.iter().any(|report| !report.failed.is_empty()) {
                Outcome::Flagged
            } else if told(&device, activations) == right {
                Outcome::Idle
            } else {
                Outcome::Missed
            };
            if lost.is_some() {
                device = harness::another().expect("it was open");
            }
            device.substitute(Vec::new());
            let name = format!("{fault:?}");
            let counts = kinds.entry(name.clone()).or_default();
            match outcome {
                Outcome::Flagged => counts[0] += 1,
                Outcome::Idle => counts[1] += 1,
                Outcome::Missed => {
                    counts[2] += 1;
                    missed.push(format!("{} {name}", kernel.name));
                }
            }
            // One of each kind at each operation is shown to be avoided.
            if matches!(outcome, Outcome::Flagged) && proven.insert((kernel.op, index % 4)) {
                let kernels = vec![kernel.name.to_owned()];
                let avoid = vec![Avoid { uuid: device.caps().uuid, kernels }];
                let safe = Device::open(&DeviceOptions { avoid, ..harness::options() }).expect("it was open");
                safe.substitute(substitute());
                let said: Vec<u32> = told(&safe, activations).iter().map(|(id, _)| *id).collect();
                if said != right.iter().map(|(id, _)| *id).collect::<Vec<_>>() {
                    wrong.push(format!("{} {name}: {said:?}", kernel.name));
                }
            }
        }
        println!("{} in {:?}", kernel.name, start.elapsed());
    }
    let sum = |which: usize| kinds.values().map(|counts| counts[which]).sum::<usize>();
    let flagged = kinds.values().filter(|counts| counts[0] > 0).count();
    println!("{kinds:#?}");
    println!(
        "{activations:?}: {flagged} kinds; {} mutants flagged, {} change nothing, {} missed: {missed:#?}; {} shown to be \
         avoided, wrong: {wrong:#?}",
        sum(0),
        sum(1),
        sum(2),
        proven.len()
    );
    assert!(flagged >= 25, "{flagged} kinds");
    assert!(sum(0) * 100 >= 95 * (sum(0) + sum(2)));
    assert!(wrong.is_empty());
}

#[test]
#[ignore = "takes minutes; docs/measurements/faults.md has its numbers"]
fn every_kind_of_fault_is_flagged_int8() {
    matrix(Activations::Int8);
}

#[test]
#[ignore = "takes minutes; docs/measurements/faults.md has its numbers"]
fn every_kind_of_fault_is_flagged_float() {
    matrix(Activations::Float);
}

#[test]
fn every_operation_has_another_way() {
    let Some(device) = harness::device() else { return };
    let file = file();
    for activations in [Activations::Int8, Activations::Float] {
        let options = options(activations);
        let mut caps = device.caps().clone();
        let names = file.kernels(&caps, &options).expect("a model that fits");
        for name in names {
            caps.avoid = vec![name.to_owned()];
            let others =
                file.kernels(&caps, &options).unwrap_or_else(|error| panic!("without {name}: {error}"));
            assert!(!others.contains(name), "{name}");
        }
    }
    // And where nothing over subgroups is right, all goes through shared memory.
    for ops in vkllm_shaders::ops::ALL.chunk_by(|a, b| a.op == b.op) {
        let over =
            |kernel: &vkllm::Kernel| kernel.needs.iter().any(|need| need.name().starts_with("subgroup"));
        assert!(ops.iter().any(|kernel| !over(kernel)), "{} has no way without subgroups", ops[0].op);
    }
}

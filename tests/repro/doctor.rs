//! `doctor`: kernels with faults are flagged, others take their place, and the text is then right.

use std::time::{Duration, Instant};

use vkllm::doctor::examine;
use vkllm::gguf::Gguf;
use vkllm::selftest::SEED;
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
    let model = Model::open(device, STORIES.as_ref(), &options(activations), &|_, _| true).expect("it opens");
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let limits = GenerateOptions { max_tokens: Some(12), ignore_end: true };
    let events = session.generate(&PROMPT, limits).expect("a prompt that fits");
    events
        .filter_map(|event| match event.expect("a token") {
            Event::Token(token) => Some(token.id),
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
        (Activations::Float, "linear", Fault::WrongSign),
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

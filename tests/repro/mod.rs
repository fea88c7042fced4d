//! `repro`: faults put into one dispatch are named exactly, and cases of single dispatches run alone.

mod case;
mod doctor;
mod find;
mod mutate;
mod replayed;

use vkllm::{Activations, Device, Model, ModelOptions};

/// A prompt of four tokens.
const PROMPT: [u32; 4] = [1, 403, 407, 261];

/// The small model that ships with the program.
fn model(device: &Device, activations: Activations) -> Model {
    let path = crate::cli::STORIES;
    let options = ModelOptions { context: Some(128), activations, ..ModelOptions::default() };
    Model::open(device, path.as_ref(), &options, &|_, _| true).expect("the shipped model")
}

#[test]
fn every_known_fault_of_drivers_has_cases() {
    let Some(device) = crate::harness::device() else { return };
    let all = vkllm::selftest::cases(device.caps());
    let bugs = vkllm::selftest::corpus::BUGS;
    assert!(bugs.len() >= 15);
    for bug in bugs {
        assert!(!bug.cases(&all).is_empty(), "{} has no cases", bug.name);
    }
}

//! `repro find` on whole models: nothing is found where nothing is wrong, and a fault at one place is named.

use std::time::Instant;

use vkllm::repro::{FindOptions, Found, Kind, dispatches, find};
use vkllm::{Activations, Device, Event, GenerateOptions, Model, SamplerOptions, Session, Substitute};

use super::mutate::{Fault, mutant};
use super::{PROMPT, model};
use crate::harness;

fn look(model: &Model, options: &FindOptions) -> Found {
    find(model, &PROMPT, options, |_, _, _| {}).expect("a prompt that fits")
}

#[test]
fn nothing_is_wrong_with_the_device() {
    let Some(device) = harness::another() else { return };
    for activations in [Activations::Float, Activations::Int8] {
        let found = look(&model(&device, activations), &FindOptions::default());
        for finding in &found.findings {
            println!("{}: {}", finding.step, finding.sentence(device.caps().subgroup));
        }
        println!(
            "{activations:?}: {} steps, {} dispatches, {} words",
            found.steps, found.dispatches, found.words
        );
        assert!(found.findings.is_empty());
        assert!(found.steps >= 2 && found.dispatches > 100);
    }
}

/// Tokens and probabilities of a model that is opened anew, so that all of it is compiled with what was substituted.
fn told(device: &Device) -> Vec<(u32, u32)> {
    let model = model(device, Activations::Int8);
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let options = GenerateOptions { max_tokens: Some(2), ignore_end: true };
    let Ok(events) = session.generate(&PROMPT, options) else { return Vec::new() };
    let tokens = events.filter_map(|event| match event {
        Ok(Event::Token(token)) => Some((token.id, token.logprob.to_bits())),
        _ => None,
    });
    tokens.collect()
}

#[test]
fn a_fault_is_named_where_it_is() {
    let Some(device) = harness::another() else { return };
    let model = model(&device, Activations::Int8);
    // The dispatches of the first layers, and those around them, by label.
    let mut places: Vec<(String, &'static vkllm::Kernel)> = Vec::new();
    let one = FindOptions { times: 1, tokens: 1, ..FindOptions::default() };
    for (label, kernel) in dispatches(&model, &PROMPT, &one).expect("a prompt that fits") {
        let here = !label.starts_with("blk.") || label.starts_with("blk.1.");
        if here && places.iter().all(|(other, of)| *other != label || of.name != kernel.name) {
            places.push((label, kernel));
        }
    }
    let clean = told(&device);
    // Faults in code that the specialisation constants switch off change nothing; a fault that changes the text without
    // being named was missed.
    let (mut named, mut idle, mut missed, mut wrong) = (0, 0, Vec::new(), Vec::new());
    for (place, (label, kernel)) in places.iter().enumerate() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            let Some(other) = mutant(kernel, fault, place + index) else { continue };
            device.substitute(vec![Substitute { kernel: other, label: Some(label.clone()) }]);
            let start = Instant::now();
            let found = look(&model, &one);
            let took = start.elapsed();
            assert!(took.as_secs() < 120, "{label} {fault:?}: {took:?}");
            match found.findings.first() {
                Some(finding)
                    if finding.capsule.label == *label && finding.capsule.kernel.name == kernel.name =>
                {
                    assert!(!matches!(finding.kind, Kind::Overflow(_)));
                    named += 1;
                }
                Some(finding) => wrong.push(format!("{label} {fault:?}: {}", finding.sentence(8))),
                None if told(&device) == clean => idle += 1,
                None => missed.push(format!("{label} ({}) {fault:?}", kernel.name)),
            }
        }
    }
    device.substitute(Vec::new());
    println!(
        "{} places: {named} faults named, {idle} change nothing, {} missed: {missed:#?}",
        places.len(),
        missed.len()
    );
    assert!(wrong.is_empty(), "named elsewhere: {wrong:#?}");
    assert!(named >= 40, "only {named} faults are named");
}

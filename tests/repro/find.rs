//! `repro find` on whole models: nothing is found where nothing is wrong, and a fault at one place is named.

use std::time::{Duration, Instant};

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

/// A place for a fault: the label of a dispatch and its kernel.
type Place = (String, &'static vkllm::Kernel);

/// The dispatches of the first layers, and those around them, by label.
fn places(model: &Model, options: &FindOptions) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for (label, kernel) in dispatches(model, &PROMPT, options).expect("a prompt that fits") {
        let here = !label.starts_with("blk.") || label.starts_with("blk.1.");
        if here && places.iter().all(|(other, of)| *other != label || of.name != kernel.name) {
            places.push((label, kernel));
        }
    }
    places
}

/// Faults by what became of them.
#[derive(Default)]
struct Tally {
    named: usize,
    /// In code that the specialisation constants switch off, or that data do not reach.
    idle: usize,
    /// They change the text and are not named.
    missed: Vec<String>,
    elsewhere: Vec<String>,
    slowest: Duration,
}

fn put(device: &Device, faults: &dyn Fn(usize, usize) -> bool) -> Tally {
    let model = model(device, Activations::Int8);
    let one = FindOptions { times: 1, tokens: 1, ..FindOptions::default() };
    let clean = told(device);
    let mut tally = Tally::default();
    let places = places(&model, &one);
    for (place, (label, kernel)) in places.iter().enumerate() {
        for (index, &fault) in Fault::ALL.iter().enumerate().filter(|(index, _)| faults(place, *index)) {
            let Some(other) = mutant(kernel, fault, place + index) else { continue };
            device.substitute(vec![Substitute { kernel: other, label: Some(label.clone()) }]);
            let start = Instant::now();
            let found = look(&model, &one);
            tally.slowest = tally.slowest.max(start.elapsed());
            match found.findings.first() {
                Some(finding)
                    if finding.capsule.label == *label && finding.capsule.kernel.name == kernel.name =>
                {
                    assert!(!matches!(finding.kind, Kind::Overflow(_)));
                    tally.named += 1;
                }
                Some(finding) => tally.elsewhere.push(format!("{label} {fault:?}: {}", finding.sentence(8))),
                None if told(device) == clean => tally.idle += 1,
                None => tally.missed.push(format!("{label} ({}) {fault:?}", kernel.name)),
            }
        }
    }
    device.substitute(Vec::new());
    println!(
        "{} places: {} faults named, {} change nothing, {} missed: {:#?}, the slowest took {:?}",
        places.len(),
        tally.named,
        tally.idle,
        tally.missed.len(),
        tally.missed,
        tally.slowest
    );
    assert!(tally.elsewhere.is_empty(), "named elsewhere: {:#?}", tally.elsewhere);
    assert!(tally.slowest.as_secs() < 120);
    tally
}

#[test]
fn a_fault_is_named_where_it_is() {
    let Some(device) = harness::another() else { return };
    // Two of the first seven at each place, in turn.
    let tally = put(&device, &|place, index| index == place % 7 || index == (place + 3) % 7);
    assert!(tally.named >= 5, "only {} faults are named", tally.named);
    assert!(tally.missed.is_empty());
}

#[test]
#[ignore = "takes minutes; docs/measurements/faults.md has its numbers"]
fn every_fault_is_named_at_every_place() {
    let Some(device) = harness::another() else { return };
    let tally = put(&device, &|place, index| index < 7 || (place + index) % 4 == 0);
    assert!(tally.named >= 40, "only {} faults are named", tally.named);
    assert!(tally.missed.len() * 20 <= tally.named);
}

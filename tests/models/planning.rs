//! Plans: what is counted before loading is what is taken, and what does not fit is refused at once.

use std::time::{Duration, Instant};

use vkllm::gguf::Gguf;
use vkllm::{
    Activations, Device, Event, GenerateOptions, KvType, Model, ModelFile, ModelOptions, SamplerOptions,
    Session, Simulated,
};

use super::data;
use super::golden::Golden;
use crate::harness;

fn file(golden: &Golden) -> ModelFile {
    ModelFile::new(Gguf::open(&golden.path).expect("a GGUF")).expect("a model")
}

/// A prompt, sampled tokens, greedy tokens and logits.
fn use_it(model: &Model, golden: &Golden, logits: bool) {
    for sampler in [SamplerOptions::default(), SamplerOptions::greedy()] {
        let mut session = Session::new(model, sampler).expect("a session");
        let options = GenerateOptions { max_tokens: Some(3), ignore_end: true };
        for event in session.generate(&golden.tokens, options).expect("a prompt that fits") {
            assert!(!matches!(event.expect("a token"), Event::Done { text, .. } if text.len() > 1000));
        }
    }
    if logits {
        let mut session = Session::new(model, SamplerOptions::greedy()).expect("a session");
        assert!(session.forward(&golden.tokens).expect("logits").iter().all(|logit| logit.is_finite()));
    }
}

fn counted(device: &Device) {
    let auto = ModelOptions { context: Some(512), ..ModelOptions::default() };
    let all = [
        auto,
        ModelOptions { context: Some(4096), activations: Activations::Float, ..auto },
        ModelOptions { batch: 1, k_type: Some(KvType::Q8_0), ..auto },
        ModelOptions { batch: 40, sessions: 3, logits: true, ..auto },
        ModelOptions { batch: 16, logits: true, v_type: Some(KvType::F32), ..auto },
    ];
    for golden in Golden::folder(&data("golden")) {
        let file = file(&golden);
        for options in &all {
            let plan = file.plan(device.caps(), options).expect("a plan");
            let model = Model::load(device, &file, options, &|_, _| true).expect("it loads");
            use_it(&model, &golden, options.logits);
            let taken: u64 = device.taken().iter().sum();
            let off = (plan.total() as f64 - taken as f64).abs() / taken as f64;
            println!("{}: planned {} taken {taken}, {:.2} % off", golden.name, plan.total(), off * 100.0);
            assert!(off <= 0.02, "{} {options:?}: {plan:?}, but {taken} were taken", golden.name);
            drop(model);
            assert_eq!(device.taken().iter().sum::<u64>(), 0, "everything was given back");
        }
    }
}

#[test]
fn what_is_counted_is_taken() {
    // A device of its own, so that nobody else takes memory from it.
    if let Some(device) = harness::another() {
        counted(&device);
    }
    if let Some(device) = harness::simulated(Simulated::Discrete) {
        counted(&device);
    }
}

#[test]
fn a_context_beyond_everything_is_refused_at_once() {
    let Some(device) = harness::device() else { return };
    for golden in Golden::folder(&data("golden")) {
        let file = file(&golden);
        let options = ModelOptions { context: Some(u32::MAX), ..ModelOptions::default() };
        let start = Instant::now();
        let error = Model::load(device, &file, &options, &|_, _| true).err().expect("it cannot fit");
        let time = start.elapsed();
        let text = error.to_string();
        println!("{time:?}: {text}");
        assert!(text.contains("largest context that fits") && text.contains("-c "), "{text}");
        // Other tests share the machine; alone it takes a tenth.
        assert!(time < Duration::from_millis(100), "{time:?}");
    }
}

#[test]
fn the_largest_context_fits_and_one_more_block_does_not() {
    let Some(device) = harness::device() else { return };
    let golden = Golden::folder(&data("golden")).into_iter().next().expect("a golden model");
    let file = file(&golden);
    // Among f32 caches the binding limit ends the context before memory does.
    let f32s = Some(KvType::F32);
    let at = |context| ModelOptions {
        context: Some(context),
        k_type: f32s,
        v_type: f32s,
        ..ModelOptions::default()
    };
    let error =
        Model::load(device, &file, &at(u32::MAX), &|_, _| true).err().expect("it cannot fit").to_string();
    let fits: u32 = error
        .rsplit_once("-c ")
        .and_then(|(_, rest)| rest.trim_end_matches(')').parse().ok())
        .expect("a number of tokens");
    let plan = file.plan(device.caps(), &at(fits)).expect("a plan");
    plan.check(device).expect("it fits");
    let more = file.plan(device.caps(), &at(fits + 128)).and_then(|plan| plan.check(device).map(|()| plan));
    assert!(more.is_err(), "{fits} tokens are not the most: {more:?}");
    let auto = file.largest_context(device, &at(1)).expect("a context");
    assert_eq!(auto, fits.min(file.config.context));
}

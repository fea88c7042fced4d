//! Every barrier of whole steps is needed: the synchronisation layer reports what happens without it.

use vkllm_runtime::{Command, CompileOptions, Device, DeviceOptions, Error, Selector, Validation};

use super::recordings::{Key, Tail};
use super::{Engine, Model, ModelFile, ModelOptions};
use crate::gguf::Gguf;
use crate::models::Outputs;
use crate::ops::{Activations, Draw, Path};

/// The smallest share of removals that must be noticed, of 100.
const SHARE: usize = 90;

fn open() -> Option<Device> {
    let options = DeviceOptions { validation: Validation::Sync, ..DeviceOptions::default() };
    match Device::open(&options) {
        Ok(device) => Some(device),
        Err(error @ (Error::NoLoader { .. } | Error::NoDevice { .. } | Error::Incapable { .. })) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Leaves out one barrier after the other. (noticed, all)
fn removals(engine: &Engine, key: &Key) -> (usize, usize) {
    let recording = engine.step(key).expect("it can be recorded").recording;
    let run = |omit_barrier| {
        let options = CompileOptions { omit_barrier, ..CompileOptions::default() };
        let compiled = engine.device().compile(&recording, &options).expect("it compiles");
        engine.device().submit(&[&compiled]).expect("submitted").wait().expect("finished");
        let messages = engine.device().take_messages();
        (compiled.barriers(), messages.iter().filter(|m| m.id.starts_with("SYNC-HAZARD")).count())
    };
    let (barriers, messages) = run(None);
    assert_eq!(messages, 0, "the whole recording is clean");
    let missed: Vec<usize> = (0..barriers).filter(|omitted| run(Some(*omitted)).1 == 0).collect();
    println!("{} rows, {:?}: {barriers} barriers, missed {missed:?}", key.rows, key.tail);
    (barriers - missed.len(), barriers)
}

#[test]
fn barriers_of_a_step_are_needed_one_by_one() {
    let Some(device) = open() else { return };
    let bytes = include_bytes!("../../assets/stories260k.q8_0.gguf").to_vec();
    let file =
        ModelFile::new(Gguf::from_bytes(bytes, "the built-in model").expect("a GGUF")).expect("a model");
    let draw = Draw::default();
    let options =
        ModelOptions { activations: Activations::Float, context: Some(256), ..ModelOptions::default() };
    let model = Model::load(&device, &file, &options, &|_, _| true).expect("it loads");
    let mut engine = model.engine();
    engine.reserve(0, 64).expect("room");
    // A step with logits makes the buffer they go to.
    let tokens: Vec<u32> = (1..21).collect();
    engine.tokens(0, &tokens, 0, Path::Prefill, Tail::Logits).expect("a step");
    engine.set_cursor(0, 1, 0).expect("a cursor");
    let decode = Key {
        rows: 1,
        path: Path::Rows,
        outputs: Outputs::All,
        tail: Tail::Sample(draw),
        cursor: Some(0),
        target: 0,
    };
    let outputs = Outputs::All;
    let prompt = Key { rows: 20, path: Path::Prefill, outputs, tail: Tail::Logits, cursor: None, target: 0 };
    let (mut noticed, mut all) = (0, 0);
    for key in [decode, prompt] {
        let (seen, of) = removals(&engine, &key);
        (noticed, all) = (noticed + seen, all + of);
    }
    println!("{noticed} of {all} removals are noticed");
    assert!(all >= 100, "only {all} barriers");
    assert!(
        noticed * 100 >= all * SHARE,
        "{noticed} of {all} removals are noticed; newer layers need VK_LAYER_SYNCVAL_SHADER_ACCESSES_HEURISTIC=1"
    );
}

/// At one row, so that short kernels do not wait for each other more often than they must.
#[test]
fn a_hybrid_layer_has_at_most_12_dispatches() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/qwen35-f16.gguf");
    if !path.exists() {
        println!("skipped: ../shared/golden/qwen35-f16.gguf is not there");
        return;
    }
    let options = DeviceOptions { selector: Selector::Reference, ..DeviceOptions::default() };
    let device = Device::open(&options).expect("the reference");
    let options = ModelOptions { context: Some(256), ..ModelOptions::default() };
    let model = Model::open(&device, &path, &options, &|_, _| true).expect("it loads");
    let engine = model.engine();
    let tail = Tail::Sample(Draw::default());
    let key = Key { rows: 1, path: Path::Rows, outputs: Outputs::All, tail, cursor: Some(0), target: 0 };
    let recording = engine.step(&key).expect("it can be recorded").recording;
    let of = |layer: u32| {
        let prefix = format!("blk.{layer}.");
        let labels = recording.commands().iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => dispatch.label.strip_prefix(&prefix),
            _ => None,
        });
        labels.map(str::to_owned).collect::<Vec<_>>()
    };
    for (layer, most) in [(0, 12), (3, 14)] {
        let labels = of(layer);
        println!("layer {layer}: {} dispatches: {}", labels.len(), labels.join(", "));
        assert!(labels.len() <= most, "{labels:?}");
    }
}

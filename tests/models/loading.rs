//! Ways into memory: the same logits whichever is taken, and files that change while they are read.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use vkllm::gguf::Gguf;
use vkllm::{Activations, Device, LoadMode, Model, ModelFile, ModelOptions, Simulated};
use vkllm_runtime::Usage;

use super::golden::Golden;
use super::{data, logits, options};
use crate::harness;

fn golden() -> Golden {
    let all = Golden::folder(&data("golden"));
    all.into_iter().find(|golden| golden.name == "qwen3-q4_k_m").expect("a checked-in golden model")
}

fn with(mode: LoadMode) -> ModelOptions {
    ModelOptions { weights: mode, ..options(512, Activations::Float) }
}

/// Bits of the logits, and the mode that was used.
fn bits(device: &Device, golden: &Golden, mode: LoadMode) -> (Vec<u32>, LoadMode) {
    let model = Model::open(device, &golden.path, &with(mode), &|_, _| true).expect("it loads");
    let report = model.load_report();
    println!("{} as {}: {}", mode.name(), report.mode.name(), report.why);
    assert!(!report.why.is_empty() && report.bytes > 0);
    let values = logits(&model, &golden.tokens[..40]);
    (values.into_iter().map(f32::to_bits).collect(), report.mode)
}

#[test]
fn every_mode_gives_the_same_logits() {
    let Some(device) = harness::device() else { return };
    let golden = golden();
    let (want, _) = bits(device, &golden, LoadMode::Auto);
    for mode in [LoadMode::Direct, LoadMode::Import, LoadMode::Staging] {
        if mode == LoadMode::Direct && !device.caps().shares_memory() {
            continue;
        }
        let (got, done) = bits(device, &golden, mode);
        assert!(got == want, "{} differs", mode.name());
        if mode != LoadMode::Import || device.caps().import_alignment.is_some() {
            assert_eq!(done, mode);
        }
    }
    let Some(discrete) = harness::simulated(Simulated::Discrete) else { return };
    let (got, done) = bits(&discrete, &golden, LoadMode::Auto);
    assert!(got == want && done == LoadMode::Staging, "the discrete device differs");
    assert!(bits(&discrete, &golden, LoadMode::Import).1 == LoadMode::Staging, "an import falls back");
    let direct = Model::open(&discrete, &golden.path, &with(LoadMode::Direct), &|_, _| true);
    let error = direct.err().expect("no such memory").to_string();
    assert!(error.contains("found is direct") || error.contains("is direct"), "{error}");
}

#[test]
fn memory_the_host_cannot_see_is_written_and_read() {
    let Some(device) = harness::simulated(Simulated::Discrete) else { return };
    for usage in [Usage::Constant, Usage::Local, Usage::Shared, Usage::Readback, Usage::Staging] {
        let visible = !matches!(usage, Usage::Constant | Usage::Local);
        let buffer = device.buffer("data", 1024, usage).expect("a buffer");
        assert_eq!(buffer.is_host_visible(), visible, "{usage:?}");
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7 % 251) as u8).collect();
        device.write(&buffer, 12, &bytes[..500]).expect("written");
        device.write(&buffer, 512, &bytes[500..]).expect("written");
        let mut back = vec![0; 1000];
        device.read(&buffer, 12, &mut back[..500]).expect("read");
        device.read(&buffer, 512, &mut back[500..]).expect("read");
        assert!(back == bytes, "{usage:?}");
        assert_eq!(buffer.write(0, &bytes[..4]).is_ok(), visible, "{usage:?}");
    }
    assert_eq!(device.taken().iter().sum::<u64>(), 0, "everything was given back");
}

/// A copy of a golden model that may be spoilt.
fn copy(golden: &Golden) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&std::fs::read(&golden.path).expect("a golden model")).expect("written");
    file
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let devices = [harness::device().cloned(), harness::simulated(Simulated::Discrete)];
    let golden = golden();
    for device in devices.into_iter().flatten() {
        for mode in [LoadMode::Auto, LoadMode::Import] {
            let file = copy(&golden);
            let model = ModelFile::new(Gguf::open(file.path()).expect("a GGUF")).expect("a model");
            let last = model.gguf.tensors().iter().map(|tensor| tensor.offset).max().unwrap_or(0);
            let cut = AtomicBool::new(false);
            let shorten = || {
                if !cut.swap(true, Ordering::Relaxed) {
                    file.as_file().set_len(last).expect("it can be shortened");
                }
            };
            // An import looks once, before it maps; reading meets the end on the way.
            if mode == LoadMode::Import {
                shorten();
            }
            let progress = |_, _| {
                shorten();
                true
            };
            let error = Model::load(&device, &model, &with(mode), &progress).err().expect("it is too short");
            let text = error.to_string();
            assert!(text.contains(&*file.path().to_string_lossy()), "{text}");
        }
    }
}

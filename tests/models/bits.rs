//! Bits of logits: the same for one row and sixteen, for any prefill chunk, and from run to run.

use vkllm::{Activations, Device, Model, ModelOptions, SamplerOptions, Session};

use super::golden::Golden;
use super::{data, greedy, logits, open, reference};
use crate::harness;

fn bits(device: &Device, golden: &Golden, batch: u32, activations: Activations, count: usize) -> Vec<u32> {
    let values = logits(&open(device, golden, batch, activations), &golden.tokens[..count]);
    values.into_iter().map(f32::to_bits).collect()
}

fn same(what: &str, got: &[u32], want: &[u32], vocab: usize) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let wrong = got.iter().zip(want).filter(|(a, b)| a != b).count();
    if let Some(first) = got.iter().zip(want).position(|(a, b)| a != b) {
        let (a, b) = (f32::from_bits(got[first]), f32::from_bits(want[first]));
        let (row, column) = (first / vocab, first % vocab);
        panic!("{what}: {wrong} logits differ, the first at row {row} column {column}: {a:e} and {b:e}");
    }
}

fn every(device: &Device, batches: &[u32], count: usize) {
    for golden in Golden::folder(&data("golden")) {
        for activations in [Activations::Float, Activations::Int8] {
            let all: Vec<_> = batches.iter().map(|&b| bits(device, &golden, b, activations, count)).collect();
            for (batch, got) in batches.iter().zip(&all) {
                let what = format!("{} {activations:?}: batch {batch} and {}", golden.name, batches[0]);
                same(&what, got, &all[0], all[0].len() / count);
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    // 5 leaves one row over, 7 leaves five, 16 none.
    if let Some(device) = harness::device() {
        every(device, &[1, 16, 5, 7], 96);
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours_on_the_reference() {
    every(reference(), &[1, 16], 32);
}

/// Steps of up to 65 rows, as verifications are, against one row at a time.
fn wide(device: &Device, sizes: &[usize]) {
    for golden in Golden::folder(&data("golden")) {
        for activations in [Activations::Float, Activations::Int8] {
            let want = bits(device, &golden, 1, activations, 65);
            let model = open(device, &golden, 512, activations);
            for &size in sizes {
                let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
                let got: Vec<u32> = golden.tokens[..65]
                    .chunks(size)
                    .flat_map(|chunk| session.verify(chunk).expect("logits"))
                    .map(f32::to_bits)
                    .collect();
                let what = format!("{} {activations:?}: {size} rows and one", golden.name);
                same(&what, &got, &want, want.len() / 65);
            }
        }
    }
}

#[test]
fn verifications_have_the_bits_of_single_rows() {
    if let Some(device) = harness::device() {
        wide(device, &[65, 16, 17, 33]);
    }
}

#[test]
fn verifications_have_the_bits_of_single_rows_on_the_reference() {
    wide(reference(), &[65]);
}

#[test]
fn prefill_does_not_depend_on_its_chunks() {
    if let Some(device) = harness::device() {
        every(device, &[512, 96, 64, 32, 17], 96);
    }
}

/// So the perplexity of a text does not either: 4096 tokens through experts, sinks and windows whose rings go round.
#[test]
fn prefill_of_a_long_text_does_not_depend_on_its_chunks() {
    let (Some(device), Some(golden)) =
        (harness::device(), Golden::named(&super::beside("golden"), "gpt-oss-mxfp4"))
    else {
        return harness::skip("no device, or ../shared/golden/gpt-oss-mxfp4.gguf is not there");
    };
    let tokens: Vec<u32> = golden.tokens.iter().copied().cycle().take(4096).collect();
    let run = |batch: u32| {
        let options = ModelOptions { context: Some(4096), ..super::options(batch, Activations::Auto) };
        let model = Model::open(device, &golden.path, &options, &|_, _| true).expect("a model");
        logits(&model, &tokens).into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    let (whole, parts) = (run(512), run(300));
    same("chunks of 300 rows and of 512", &parts, &whole, whole.len() / tokens.len());
}

#[test]
fn runs_repeat_bit_for_bit() {
    if let Some(device) = harness::device() {
        every(device, &[1, 1], 96);
        every(device, &[512, 512], 96);
    }
}

#[test]
fn a_session_after_another_starts_clean() {
    for device in [Some(reference()), harness::device()].into_iter().flatten() {
        for golden in Golden::folder(&data("golden")) {
            let model = open(device, &golden, 512, Activations::Float);
            let first = greedy(&model, &golden.tokens, 8);
            // Another prompt in the same blocks, of another length.
            let _ = greedy(&model, &golden.tokens[40..60], 8);
            assert_eq!(first, greedy(&model, &golden.tokens, 8), "{}", golden.name);
        }
    }
}

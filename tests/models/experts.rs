//! Mixtures of experts: how many dispatches a layer takes, which experts' bytes a step reads, and how often.

use std::collections::BTreeSet;

use vkllm::repro::{FindOptions, capture, dispatches};
use vkllm::{Activations, Model, ModelOptions};

use super::golden::Golden;
use super::{beside, options, reference};
use crate::harness;

/// Dispatches of a layer at one row, the largest of all layers, by golden file: what stands in docs/architectures.md. A
/// mixture takes 13, and more only for what it has besides: norms over whole projections, a shared expert, latents.
const DISPATCHES: &[(&str, usize)] = &[
    ("bailingmoe2-f16", 16),
    ("command-r-f16", 9),
    ("deepseek-f16", 16),
    ("deepseek2-f16", 24),
    ("dots1-f16", 16),
    ("gemma3-f16", 12),
    ("glm4moe-f16", 16),
    ("gpt-oss-f16", 13),
    ("granitemoe-f16", 16),
    ("hunyuan-moe-f16", 16),
    ("llama-f16", 10),
    ("llama-moe-f16", 13),
    ("minimax-m2-f16", 15),
    ("olmoe-f16", 15),
    ("phimoe-f16", 13),
    ("qwen2moe-f16", 17),
    ("qwen3moe-f16", 13),
];

fn golden(name: &str) -> Option<Golden> {
    let golden = Golden::named(&beside("golden"), name);
    if golden.is_none() {
        harness::skip(&format!("../shared/golden/{name}.gguf is not there"));
    }
    golden
}

fn open(golden: &Golden, rows: u32) -> Model {
    let options = ModelOptions { context: Some(64), ..options(rows, Activations::Float) };
    Model::open(reference(), &golden.path, &options, &|_, _| true).expect("a model")
}

#[test]
fn a_layer_takes_no_more_dispatches_than_it_did() {
    let mut wrong = Vec::new();
    for (name, most) in DISPATCHES {
        let Some(golden) = golden(name) else { continue };
        let model = open(&golden, 1);
        let options = FindOptions { tokens: 1, times: 1, ..FindOptions::default() };
        let all = dispatches(&model, &golden.tokens[..1], &options).expect("a prompt that fits");
        let steps = all.iter().filter(|(label, _)| label == "token_embd").count();
        let of = |layer: u32| {
            let prefix = format!("blk.{layer}.");
            all.iter().filter(|(label, _)| label.starts_with(&prefix)).count() / steps
        };
        let found = (0..model.config().layers).map(of).max().unwrap_or(0);
        println!("| {name} | {found} |");
        if found != *most {
            wrong.push(format!("{name}: {found}, not {most}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The tiles of one product in order, expert and rows, and how many rows a tile may have.
fn tiles(model: &Model, tokens: &[u32], label: &str) -> (Vec<(u32, u32)>, u32) {
    let options =
        FindOptions { tokens: 1, times: 1, label: Some(label.to_owned()), ..FindOptions::default() };
    let capsule = capture(model, tokens, &options, 0).expect("a prompt that fits").expect("the dispatch");
    let arg = capsule.arg("tiles").expect("tiles");
    let words = &capsule.pieces[arg.piece].words[arg.range()];
    // A tile: expert, first assignment, assignments, and nothing; tiles of no assignments are not there.
    let there = words.chunks_exact(4).filter(|tile| tile[2] > 0);
    let all: Vec<(u32, u32)> = there.map(|tile| (tile[0], tile[2])).collect();
    assert!(all.len() <= capsule.grid[1] as usize, "{label}: tiles without workgroups");
    (all, capsule.spec("ROWS").expect("rows of a tile"))
}

/// A decoded row has a tile for each of its experts and no other. Of eight rows each expert that is needed has one tile for
/// as many rows as the kernel holds (16 on GPUs, 4 on software drivers), and a second one when that is full.
#[test]
fn each_expert_that_rows_use_is_read_once() {
    for name in ["qwen3moe-f16", "gpt-oss-f16", "qwen3moe-q8_0"] {
        let Some(golden) = golden(name) else { continue };
        let (alone, together) = (open(&golden, 1), open(&golden, 8));
        let used = alone.config().experts.as_ref().expect("experts").router.used as usize;
        for label in ["blk.1.ffn_gate_up_exps", "blk.1.ffn_down_exps"] {
            let (one, _) = tiles(&alone, &golden.tokens[..1], label);
            let distinct: BTreeSet<u32> = one.iter().map(|(expert, _)| *expert).collect();
            assert_eq!((one.len(), distinct.len()), (used, used), "{name} {label}");
            let (eight, rows) = tiles(&together, &golden.tokens[..8], label);
            let distinct: BTreeSet<u32> = eight.iter().map(|(expert, _)| *expert).collect();
            assert!(distinct.len() > used, "{name} {label}: rows that all use the same experts show nothing");
            assert_eq!(
                eight.iter().map(|(_, rows)| *rows as usize).sum::<usize>(),
                8 * used,
                "{name} {label}"
            );
            for pair in eight.windows(2) {
                let ((expert, held), (next, _)) = (pair[0], pair[1]);
                assert!(expert < next || expert == next && held == rows, "{name} {label}: {eight:?}");
            }
        }
    }
}

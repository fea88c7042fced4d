//! Made-up data in place of a model's: weights, activations and caches of plausible sizes under the same shapes, indices
//! and positions.

use vkllm_runtime::{Access, Words};
use vkllm_shaders::formats::by_name;
use vkllm_shaders::reference::KV_BLOCK;
use vkllm_shaders::reference::kv::KV_FORMATS;
use vkllm_shaders::reference::quantize::{Q8_WORDS, q8_block};

use super::capsule::Capsule;
use super::case::decoded;
use crate::selftest::Rng;

/// Arguments that say where things are, not what they are.
const STRUCTURE: &[&str] = &[
    "rows",
    "block_table",
    "index",
    "rope",
    "q_scale",
    "samplers",
    "cursor",
    "cursors",
    "drafts",
    "drawn",
    "pairs",
];
/// Arguments that hold token ids.
const IDS: &[(&str, &str)] = &[
    ("embed", "rows"),
    ("sample_history", "rows"),
    ("sample_penalize", "history"),
    ("verify_rows", "cursor"),
    ("verify_rows", "drafts"),
    ("accept", "rows"),
    ("accept", "drawn"),
];

/// Whether the data of an operation tell something of the text.
pub fn has_ids(op: &str) -> bool {
    IDS.iter().any(|(other, _)| *other == op)
}

/// The same dispatch on made-up data.
pub fn synthetic(capsule: &Capsule, seed: u64) -> Capsule {
    let mut made = capsule.clone();
    let kernel = capsule.kernel;
    let mut done: Vec<(usize, usize)> = Vec::new();
    for (binding, arg) in kernel.bindings.iter().zip(&capsule.args) {
        // Arguments that share their bytes are made up once, and what is only written is left alone.
        let only_written = binding.access == Access::Write;
        if only_written || STRUCTURE.contains(&binding.name) || done.contains(&(arg.piece, arg.at)) {
            continue;
        }
        done.push((arg.piece, arg.at));
        let mut rng = Rng::new(seed, &format!("{} {}", capsule.label, binding.name));
        let words = &mut made.pieces[arg.piece].words[arg.range()];
        match (kernel.op, binding.name) {
            (_, "weights") => weights(capsule, &mut rng, words),
            ("linear", "x") if kernel.axis("ACT") == "q8" => {
                for at in (0..words.len() / Q8_WORDS * Q8_WORDS).step_by(Q8_WORDS) {
                    q8_block(&rng.normals(32), Words::new(words), at);
                }
            }
            ("attention", "k_cache") => cache(capsule, &mut rng, words, "HEAD", "K_TYPE"),
            ("attention", "v_cache") => cache(capsule, &mut rng, words, "HEAD_V", "V_TYPE"),
            ("heads", "k_cache" | "v_cache") | (_, "part" | "history" | "results") => {}
            _ => floats(&mut rng, words),
        }
    }
    made
}

/// Normal numbers of the size of those that are there; what is no number stays.
fn floats(rng: &mut Rng, words: &mut [u32]) {
    let finite = || words.iter().map(|word| f32::from_bits(*word)).filter(|value| value.is_finite());
    let count = finite().count().max(1);
    let size = (finite().map(|value| f64::from(value).powi(2)).sum::<f64>() / count as f64).sqrt() as f32;
    for word in words.iter_mut().filter(|word| f32::from_bits(**word).is_finite()) {
        *word = (rng.normal() * size).to_bits();
    }
}

fn weights(capsule: &Capsule, rng: &mut Rng, words: &mut [u32]) {
    let Some(format) = by_name(capsule.kernel.axis("FORMAT")) else { return };
    let push = decoded(capsule.kernel.op, &capsule.push);
    let row =
        push.iter().find(|(name, _)| name == "row_bytes").and_then(|(_, value)| value.parse::<usize>().ok());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
    if let Some(row) = row.filter(|row| *row > 0) {
        bytes.chunks_exact_mut(row).for_each(|row| format.sample_row(&mut || rng.word(), row));
    }
}

fn cache(capsule: &Capsule, rng: &mut Rng, words: &mut [u32], size: &str, kind: &str) {
    let size = capsule.spec(size).unwrap_or(0) as usize;
    let Some(format) = KV_FORMATS.get(capsule.spec(kind).unwrap_or(u32::MAX) as usize) else { return };
    let tile = KV_BLOCK * format.row_words(size);
    for at in (0..words.len() / tile.max(1)).map(|index| index * tile) {
        (0..KV_BLOCK).for_each(|slot| format.store(Words::new(words), at, slot, &rng.normals(size)));
    }
}

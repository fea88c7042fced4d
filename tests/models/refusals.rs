//! Files of these families that cannot be right: numbers of experts that do not fit, routers that give no numbers, windows
//! larger than the context.

use std::path::PathBuf;

use vkllm::gguf::Gguf;
use vkllm::{Activations, Device, Error, Model, ModelFile, ModelOptions, SamplerOptions, Session};

use super::golden::Golden;
use super::{beside, logits, open, options, reference};
use crate::harness;

/// A copy of a golden file whose bytes were changed; removed at the end.
struct Changed(PathBuf);

impl Changed {
    fn new(golden: &Golden, what: &str, change: impl FnOnce(&mut [u8])) -> Self {
        let mut bytes = std::fs::read(&golden.path).expect("a golden file");
        change(&mut bytes);
        let name = format!("vkllm-{}-{}-{what}.gguf", std::process::id(), golden.name);
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        Changed(path)
    }

    /// Another value of a key that holds a u32.
    fn number(golden: &Golden, key: &str, value: u32) -> Self {
        Changed::new(golden, key, |bytes| {
            let at = bytes.windows(key.len()).position(|some| some == key.as_bytes()).expect("the key");
            // Behind the key stands its type.
            bytes[at + key.len() + 4..][..4].copy_from_slice(&value.to_le_bytes());
        })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn golden(name: &str) -> Option<Golden> {
    let golden = Golden::named(&beside("golden"), name);
    if golden.is_none() {
        harness::skip(&format!("../shared/golden/{name}.gguf is not there"));
    }
    golden
}

#[test]
fn numbers_of_experts_that_do_not_fit_are_refused() {
    for (name, key, value, says) in [
        ("qwen3moe-f16", "qwen3moe.expert_used_count", 9, "expert_used_count`: found 9, allowed is 1 to 8"),
        ("qwen3moe-f16", "qwen3moe.expert_used_count", 0, "expert_used_count`: found 0, allowed is 1 to 8"),
        ("qwen3moe-f16", "qwen3moe.expert_count", 513, "expert_count`: found 513, allowed is 1 to 512"),
        ("qwen3moe-f16", "qwen3moe.expert_count", 7, "found the shape"),
        ("qwen3moe-f16", "qwen3moe.expert_count", 0, "found no tensor"),
        ("bailingmoe2-f16", "bailingmoe2.expert_group_count", 3, "a divisor of 8 experts"),
        ("bailingmoe2-f16", "bailingmoe2.expert_group_used_count", 3, "expert_group_used_count`: found 3"),
        (
            "bailingmoe2-f16",
            "bailingmoe2.expert_gating_func",
            9,
            "expert_gating_func`: found 9, allowed is 0 to 3",
        ),
        ("deepseek2-f16", "deepseek2.attention.kv_lora_rank", 96, "allowed is one of rank 96"),
    ] {
        let Some(golden) = golden(name) else { continue };
        let file = Changed::number(&golden, key, value);
        let refused = ModelFile::new(Gguf::open(&file.0).expect("a GGUF")).err();
        let text = refused.unwrap_or_else(|| panic!("{key} {value} is accepted")).to_string();
        assert!(text.contains(says), "{key} {value}: {text}");
    }
}

fn no_numbers(device: &Device, golden: &Golden) {
    let gguf = Gguf::open(&golden.path).expect("a GGUF");
    let router = gguf.tensor("blk.1.ffn_gate_inp.weight").expect("a router");
    let (from, len) = (router.offset as usize, router.bytes as usize);
    let file = Changed::new(golden, "nan", |bytes| {
        bytes[from..from + len]
            .chunks_exact_mut(4)
            .for_each(|word| word.copy_from_slice(&[0, 0, 0xc0, 0x7f]));
    });
    for (batch, activations) in [(1, Activations::Float), (16, Activations::Float), (512, Activations::Auto)]
    {
        let model =
            Model::open(device, &file.0, &options(batch, activations), &|_, _| true).expect("a model");
        let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
        let error = session
            .generate(&golden.tokens, Default::default())
            .and_then(|mut events| events.find_map(|event| event.err()).map_or(Ok(()), Err));
        assert!(matches!(error, Err(Error::NotFinite { .. })), "{}: {error:?}", device.caps().name);
    }
    assert!(device.take_messages().is_empty(), "the validation layers say something");
}

#[test]
fn routers_that_give_no_numbers_are_errors() {
    let Some(golden) = golden("qwen3moe-f16") else { return };
    for device in [Some(reference()), harness::device()].into_iter().flatten() {
        no_numbers(device, &golden);
    }
}

#[test]
fn a_window_larger_than_the_context_sees_everything() {
    let Some(golden) = golden("gemma2-f16") else { return };
    let wide = Changed::number(&golden, "gemma2.attention.sliding_window", 1 << 20);
    let all = Changed::number(&golden, "gemma2.attention.sliding_window", 0);
    let run = |file: &Changed| {
        let options = options(512, Activations::Float);
        let model = Model::open(reference(), &file.0, &options, &|_, _| true).expect("a model");
        logits(&model, &golden.tokens)
    };
    let (wide, all) = (run(&wide), run(&all));
    assert!(wide.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()), "a window that ends nowhere");
    // The window of the file is seen in the logits.
    let model = open(reference(), &golden, 512, Activations::Float);
    assert!(logits(&model, &golden.tokens) != all);
}

#[test]
fn layers_with_a_window_keep_the_window_alone() {
    let Some(golden) = golden("gemma3-f16") else { return };
    let file = ModelFile::new(Gguf::open(&golden.path).expect("a GGUF")).expect("a model");
    let caps = reference().caps();
    let kv = |context: u32| {
        let options = ModelOptions { context: Some(context), ..ModelOptions::default() };
        file.plan(caps, &options).expect("a plan").kv
    };
    // Of seven layers one sees everything; the others have a window of 16 and 512 rows in flight: six blocks of 128.
    // One key head and one value head of 64 f16 elements.
    let position = 2 * 64 * 2;
    assert_eq!(kv(32_768), (32_768 + 6 * 6 * 128) * position);
    assert_eq!(kv(512), 7 * 512 * position);
}

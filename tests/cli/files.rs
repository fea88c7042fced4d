//! Files that are not what they should be.

use std::path::{Path, PathBuf};

use super::{STORIES, on_reference, scratch, vkllm};
use crate::gguf::tiny::{Tiny, f32s};

fn stories() -> Vec<u8> {
    std::fs::read(STORIES).expect("the model that ships with the program")
}

/// Where `needle` ends, the first time it occurs.
fn after(bytes: &[u8], needle: &[u8]) -> usize {
    let at = bytes.windows(needle.len()).position(|window| window == needle);
    at.unwrap_or_else(|| panic!("{} is not in the file", String::from_utf8_lossy(needle))) + needle.len()
}

fn written(name: &str, bytes: &[u8]) -> PathBuf {
    let path = scratch().join(name);
    std::fs::write(&path, bytes).expect("a file in the target folder");
    path
}

/// Every command that reads a model says the same of a bad one.
#[track_caller]
fn refused(path: &Path, words: &[&str]) {
    let path = path.to_str().expect("a path in UTF-8");
    let words: Vec<&str> = words.iter().copied().chain([path]).collect();
    on_reference("run", &["-m", path, "-p", "a", "-n", "1"]).refuses(2, &words);
    on_reference("logits", &["-m", path, "--tokens", "1"]).refuses(2, &words);
    vkllm(&["inspect", "-m", path]).refuses(2, &words);
}

/// As `refused`, for files whose metadata can still be shown.
#[track_caller]
fn refused_but_shown(path: &Path, words: &[&str]) {
    let path = path.to_str().expect("a path in UTF-8");
    let words: Vec<&str> = words.iter().copied().chain([path]).collect();
    on_reference("run", &["-m", path, "-p", "a", "-n", "1"]).refuses(2, &words);
    on_reference("logits", &["-m", path, "--tokens", "1"]).refuses(2, &words);
    let said = vkllm(&["inspect", "-m", path]);
    assert!(said.code == Some(2) && said.out.contains("general.architecture"), "{said:?}");
    assert!(words.iter().all(|word| said.err.contains(word)), "{said:?}");
}

#[test]
fn a_missing_file() {
    refused(&scratch().join("not-there.gguf"), &["No such file"]);
    vkllm(&["tokenize", "-m", "not-there.gguf", "-p", "a"]).refuses(2, &["not-there.gguf", "No such file"]);
    on_reference("run", &["-f", "not-there.txt"]).refuses(2, &["not-there.txt", "No such file"]);
}

#[test]
fn a_directory() {
    refused(scratch(), &["directory"]);
}

#[test]
fn an_empty_file() {
    refused(&written("empty.gguf", b""), &["empty"]);
}

#[test]
fn a_wrong_magic() {
    let mut bytes = stories();
    bytes[..4].copy_from_slice(b"GGML");
    refused(&written("magic.gguf", &bytes), &["GGUF", "GGML"]);
    refused(&written("text.gguf", b"This is a text and no model, but long enough."), &["GGUF", "This"]);
}

#[test]
fn a_version_from_the_future() {
    let mut bytes = stories();
    bytes[4] = 99;
    refused(&written("version.gguf", &bytes), &["version", "99"]);
}

#[test]
fn a_truncated_file() {
    let bytes = stories();
    let header = after(&bytes, b"tokenizer.ggml.tokens");
    for end in [5, 20, header + 40, bytes.len() / 2, bytes.len() - 64] {
        refused(&written(&format!("cut-{end}.gguf"), &bytes[..end]), &[&end.to_string()]);
    }
}

#[test]
fn counts_from_another_world() {
    let mut bytes = stories();
    // The number of tensors, then of keys, as u64 at bytes 8 and 16.
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&written("tensors.gguf", &bytes), &[]);
    let mut bytes = stories();
    bytes[16..24].copy_from_slice(&(1u64 << 40).to_le_bytes());
    refused(&written("keys.gguf", &bytes), &[]);
}

#[test]
fn an_unknown_architecture() {
    let mut bytes = stories();
    let at = after(&bytes, b"general.architecture") + 4 + 8;
    assert_eq!(&bytes[at..at + 5], b"llama");
    bytes[at..at + 5].copy_from_slice(b"zebra");
    let known = ["zebra", "llama", "mistral3", "qwen2", "qwen3", "smollm3"];
    refused_but_shown(&written("architecture.gguf", &bytes), &known);
}

/// A file that runs, with a tensor and a vocabulary that this version would not honour.
#[test]
fn inspect_says_what_is_not_supported() {
    let stranger = Tiny::new().tensor("blk.0.mystery.weight", f32s(&[32]));
    let path = written("stranger.gguf", &stranger.build().finish());
    let said = vkllm(&["inspect", "-m", path.to_str().expect("UTF-8")]);
    said.succeeds();
    assert!(
        said.out.contains("not supported: tensors that") && said.out.contains("blk.0.mystery.weight"),
        "{said:?}"
    );
    let unknown = Tiny::bpe().text("tokenizer.ggml.pre", "zebra");
    let path = written("vocabulary.gguf", &unknown.build().finish());
    let said = vkllm(&["inspect", "-m", path.to_str().expect("UTF-8"), "--json"]);
    let what = said.json()["plan"]["unsupported"].to_string();
    assert!(what.contains("zebra") && what.contains("llama-bpe") && what.contains("kimi-k2"), "{what}");
}

#[test]
fn an_unknown_tensor_type() {
    let mut bytes = stories();
    let name = after(&bytes, b"blk.0.attn_q.weight");
    // Number of dimensions, two of them, then the type.
    let at = name + 4 + 16;
    assert_eq!(bytes[at..at + 4], 8u32.to_le_bytes());
    bytes[at] = 99;
    let path = written("type.gguf", &bytes);
    let path = path.to_str().expect("a path in UTF-8");
    for said in [
        on_reference("run", &["-m", path, "-p", "a", "-n", "1"]),
        on_reference("logits", &["-m", path, "--tokens", "1"]),
    ] {
        said.refuses(2, &[path, "blk.0.attn_q.weight", "99"]);
    }
}

#[test]
fn a_missing_key_and_a_wrong_kind_of_value() {
    let mut bytes = stories();
    let at = after(&bytes, b"llama.block_count");
    bytes[at - 1] = b'x';
    refused_but_shown(&written("key.gguf", &bytes), &["llama.block_count"]);
    let mut bytes = stories();
    // 6 is f32, as wide as the u32 that stands there.
    assert_eq!(bytes[at..at + 4], 4u32.to_le_bytes());
    bytes[at] = 6;
    refused_but_shown(&written("kind.gguf", &bytes), &["llama.block_count"]);
}

#[test]
fn a_missing_tensor() {
    let mut bytes = stories();
    let at = after(&bytes, b"blk.0.attn_q.weight");
    bytes[at - 1] = b'x';
    refused_but_shown(&written("tensor.gguf", &bytes), &["blk.0.attn_q.weight"]);
}

#[test]
fn numbers_that_cannot_be() {
    for (key, value) in
        [("llama.attention.head_count", 0u32), ("llama.block_count", u32::MAX), ("llama.embedding_length", 0)]
    {
        let mut bytes = stories();
        let at = after(&bytes, key.as_bytes()) + 4;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let path = written(&format!("{key}.gguf"), &bytes);
        let path = path.to_str().expect("a path in UTF-8");
        on_reference("run", &["-m", path, "-p", "a", "-n", "1"]).refuses(2, &[path]);
    }
}

#[test]
fn an_output_that_cannot_be_written() {
    let place = scratch().join("no-such-folder/out.npy");
    let place = place.to_str().expect("a path in UTF-8");
    on_reference("logits", &["-m", STORIES, "--tokens", "1,2", "-o", place])
        .refuses(2, &[place, "No such file"]);
}

//! Models in several files: the same model as the whole, and every way in which parts do not go together.

use std::fs;
use std::path::{Path, PathBuf};

use vkllm::gguf::Gguf;
use vkllm::{LoadMode, Model, ModelFile, ModelOptions};

use super::{greedy, reference};
use crate::harness;

const MODEL: &[u8] = include_bytes!("../../assets/stories260k.q8_0.gguf");
const U16: u32 = 2;
const I32: u32 = 5;

fn word(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize
}

/// Bytes of a value of a type.
fn value_len(kind: u32, bytes: &[u8], at: usize) -> usize {
    match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 => 8 + word(bytes, at),
        9 => {
            let element = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            let (count, mut end) = (word(bytes, at + 4), at + 12);
            for _ in 0..count {
                end += value_len(element, bytes, end);
            }
            end - at
        }
        _ => 8,
    }
}

/// The bytes of all keys of a file.
fn keys(bytes: &[u8]) -> (u64, Vec<u8>) {
    let (count, begin) = (word(bytes, 16), 24);
    let mut at = begin;
    for _ in 0..count {
        at += 8 + word(bytes, at);
        let kind = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        at += 4 + value_len(kind, bytes, at + 4);
    }
    (count as u64, bytes[begin..at].to_vec())
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&(name.len() as u64).to_le_bytes(), name.as_bytes(), &kind.to_le_bytes(), value].concat()
}

/// One part: keys, then some of the whole's tensors.
fn part(
    whole: &Gguf,
    own: (u64, Vec<u8>),
    number: u16,
    count: u16,
    tensors: std::ops::Range<usize>,
) -> Vec<u8> {
    let all = whole.tensors().len() as i32;
    let split = [
        key("split.no", U16, &number.to_le_bytes()),
        key("split.count", U16, &count.to_le_bytes()),
        key("split.tensors.count", I32, &all.to_le_bytes()),
    ];
    let tensors = &whole.tensors()[tensors];
    let mut bytes = [
        &b"GGUF"[..],
        &3u32.to_le_bytes(),
        &(tensors.len() as u64).to_le_bytes(),
        &(own.0 + 3).to_le_bytes(),
        &own.1,
        &split.concat(),
    ]
    .concat();
    let mut offset = 0u64;
    for tensor in tensors {
        bytes.extend((tensor.name.len() as u64).to_le_bytes());
        bytes.extend(tensor.name.as_bytes());
        bytes.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(tensor.ggml_type.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes).next_multiple_of(32);
    }
    for tensor in tensors {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(whole.tensor_bytes(tensor));
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

/// The whole, and its three parts in a folder: the first without tensors, as some tools make them.
fn parts(folder: &Path) -> (Gguf, [PathBuf; 3]) {
    let whole = Gguf::from_bytes(MODEL.to_vec(), "the built-in model").expect("a GGUF");
    let count = whole.tensors().len();
    let none = || (0, Vec::new());
    let bytes = [
        part(&whole, keys(MODEL), 0, 3, 0..0),
        part(&whole, none(), 1, 3, 0..count / 2),
        part(&whole, none(), 2, 3, count / 2..count),
    ];
    let paths = [1, 2, 3].map(|number| folder.join(format!("story-{number:05}-of-00003.gguf")));
    for (path, bytes) in paths.iter().zip(bytes) {
        fs::write(path, bytes).expect("a file");
    }
    (whole, paths)
}

#[test]
fn a_model_in_parts_is_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, paths) = parts(folder.path());
    let split = Gguf::open(&paths[0]).expect("a model in parts");
    assert_eq!((split.files(), split.tensors().len()), (3, whole.tensors().len()));
    for tensor in whole.tensors() {
        let found = split.tensor(&tensor.name).expect("it is in a part");
        assert_eq!(split.tensor_bytes(found), whole.tensor_bytes(tensor), "{}", tensor.name);
        let mut read = vec![0; tensor.bytes as usize];
        split.read_at(found.offset, &mut read).expect("bytes");
        assert_eq!(read, whole.tensor_bytes(tensor), "{}", tensor.name);
    }
    let want = {
        let file = ModelFile::new(whole).expect("a model");
        let model =
            Model::load(reference(), &file, &ModelOptions::default(), &|_, _| true).expect("it loads");
        greedy(&model, &[1, 403, 407], 12)
    };
    for device in [Some(reference()), harness::device()].into_iter().flatten() {
        // Files that are mapped to be read in place are copied instead, and the report says why.
        for weights in [LoadMode::Auto, LoadMode::Import] {
            let options = ModelOptions { weights, ..ModelOptions::default() };
            let model = Model::open(device, &paths[0], &options, &|_, _| true).expect("it loads");
            assert_ne!(model.load_report().mode, LoadMode::Import);
            assert_eq!(greedy(&model, &[1, 403, 407], 12), want);
        }
    }
}

#[test]
fn parts_that_do_not_go_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |path: &Path, words: &str| {
        let sentence = Gguf::open(path).expect_err("refused").to_string();
        assert!(sentence.contains(words), "{sentence}");
    };
    let (whole, paths) = parts(folder.path());
    refused(&paths[1], "found part 2 of 3, allowed is the first part, story-00001-of-00003.gguf");
    let other = folder.path().join("story.gguf");
    fs::copy(&paths[0], &other).expect("a copy");
    refused(&other, "with a name that does not say so");
    fs::remove_file(&paths[2]).expect("removed");
    refused(&paths[0], "without story-00003-of-00003.gguf beside it");
    fs::copy(&paths[1], &paths[2]).expect("a copy");
    refused(&paths[0], "found part 2 of 3, allowed is part 3 of 3, as its name says");
    let count = whole.tensors().len();
    fs::write(&paths[2], part(&whole, (0, Vec::new()), 2, 3, count / 2..count - 1)).expect("a file");
    refused(&paths[0], "tensors in all parts");
    fs::write(&paths[2], part(&whole, (0, Vec::new()), 2, 3, count / 2 - 1..count - 1)).expect("a file");
    refused(&paths[0], "a second time");
    let cut = fs::read(&paths[1]).expect("a file");
    fs::write(&paths[2], &cut[..cut.len() / 2]).expect("a file");
    refused(&paths[0], "is it cut short?");
    let bytes = part(&whole, keys(MODEL), 0, 3, 0..0);
    let sentence = Gguf::from_bytes(bytes, "story-00001-of-00003.gguf").expect_err("refused").to_string();
    assert!(sentence.contains("part 1 of 3"), "{sentence}");
}

//! Any ids: whole characters come out, and as a stream the same as at once.
#![no_main]

mod common;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vkllm::text::{StreamDecoder, Vocabulary};

fuzz_target!(|data: (u8, Vec<u32>)| {
    static ALL: OnceLock<Vec<Vocabulary>> = OnceLock::new();
    let (choice, mut ids) = data;
    let all = ALL.get_or_init(common::vocabularies);
    let vocabulary = &all[usize::from(choice) % all.len()];
    // Most ids in reach, some not.
    for id in ids.iter_mut().filter(|id| **id % 16 != 0) {
        *id %= vocabulary.len() as u32;
    }
    let bytes = vocabulary.decode(&ids);
    let mut stream = StreamDecoder::new();
    let mut text = String::new();
    for &id in &ids {
        text.push_str(&stream.push(vocabulary, id));
        assert!(stream.held_back() <= 3);
    }
    text.push_str(&stream.finish());
    assert_eq!(text, String::from_utf8_lossy(&bytes));
});

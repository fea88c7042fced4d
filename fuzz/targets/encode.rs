//! Any text in every kind of vocabulary: what is decoded is the text, and no text becomes a control token unless asked.
#![no_main]

mod common;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vkllm::text::{EncodeOptions, Span, Vocabulary};

fuzz_target!(|data: &[u8]| {
    static ALL: OnceLock<Vec<Vocabulary>> = OnceLock::new();
    let Some((&choice, text)) = data.split_first() else { return };
    let all = ALL.get_or_init(common::vocabularies);
    let vocabulary = &all[usize::from(choice) % all.len()];
    let text = String::from_utf8_lossy(text);
    let ids = vocabulary.encode(&text, EncodeOptions::default());
    assert!(ids.iter().all(|&id| (id as usize) < vocabulary.len() && !vocabulary.is_control(id)));
    // SentencePiece has one spelling for a space and for `▁`.
    assert_eq!(vocabulary.decode(&ids), text.replace('▁', if choice as usize % all.len() < 2 { " " } else { "▁" }).as_bytes());
    let parsed = vocabulary.encode(&text, EncodeOptions { parse_special: true, ..EncodeOptions::default() });
    assert_eq!(vocabulary.encode_spans(&vocabulary.spans(&text)), parsed);
    assert_eq!(vocabulary.encode_spans(&[Span::Text(text.into_owned())]), ids);
});

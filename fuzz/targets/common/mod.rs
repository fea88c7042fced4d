//! One vocabulary of each kind that can spell every byte.

use vkllm::text::{Vocabulary, VocabularySource};

/// GPT-2's spelling of bytes as characters.
fn spelled(byte: u8) -> char {
    let kept = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match kept(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|&b| !kept(b)).count() as u32;
            char::from_u32(256 + before).expect("a letter of the alphabet")
        }
    }
}

const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<|im_end|>"];
const PRE: [&str; 8] =
    ["gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "deepseek-v3", "tekken", "gpt-4o", "smollm"];

fn build(model: &str, pre: Option<&str>, tokens: &[String], types: Vec<i32>, merges: &[&str]) -> Option<Vocabulary> {
    let source = VocabularySource {
        model: Some(model),
        pre,
        tokens: Some(Box::new(tokens.iter().map(|token| token.as_bytes()))),
        scores: Some((0..tokens.len()).map(|id| -(id as f32)).collect()),
        token_types: Some(types),
        merges: Some(Box::new(merges.iter().map(|merge| merge.as_bytes()))),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        add_space_prefix: Some(false),
        ..VocabularySource::default()
    };
    Vocabulary::new(source).ok().flatten()
}

/// SentencePiece, CharBpe, and byte-level BPE with several pre-tokenizers.
pub fn vocabularies() -> Vec<Vocabulary> {
    let special = || SPECIAL.map(str::to_owned).into_iter();
    let types = |kind: i32, more: usize| [2, 3, 3, 3].into_iter().chain(vec![kind; 256]).chain(vec![1; more]).collect();
    let pieces = ["▁", "a", "b", "ab", "abab", "▁a", "e", "n", "en", "好", "\n", "\n\n"];
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = special().chain(bytes).chain(pieces.map(str::to_owned)).collect();
    let mut all = vec![
        build("llama", None, &tokens, types(6, pieces.len()), &[]),
        build("gemma4", None, &tokens, types(6, pieces.len()), &["a b", "ab ab", "▁ a", "e n"]),
    ];
    let pieces = ["ab", "abab", "Ġa", "en", "ĠĠ", "ĊĊ"];
    let bytes = (0..=255u8).map(|byte| spelled(byte).to_string());
    let tokens: Vec<String> = special().chain(bytes).chain(pieces.map(str::to_owned)).collect();
    let merges = ["a b", "ab ab", "Ġ a", "e n", "Ġ Ġ", "Ċ Ċ"];
    all.extend(PRE.map(|pre| build("gpt2", Some(pre), &tokens, types(1, pieces.len()), &merges)));
    let all: Vec<Vocabulary> = all.into_iter().flatten().collect();
    assert!(all.len() >= 8, "only {} vocabularies build", all.len());
    all
}

//! A vocabulary of any tokens, types, scores and merges: it is refused, or it encodes and decodes.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vkllm::text::{EncodeOptions, Vocabulary, VocabularySource};

#[derive(Arbitrary, Debug)]
struct Source<'a> {
    model: u8,
    pre: u8,
    tokens: Vec<&'a [u8]>,
    scores: Option<Vec<f32>>,
    types: Option<Vec<i8>>,
    merges: Option<Vec<&'a [u8]>>,
    ids: [Option<u8>; 6],
    flags: [Option<bool>; 3],
    takes_space: bool,
    text: &'a str,
}

const PRE: [&str; 6] = ["gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "tekken", "unknown"];

fn strings<'a>(all: &'a [&'a [u8]]) -> Box<dyn ExactSizeIterator<Item = &'a [u8]> + 'a> {
    Box::new(all.iter().copied())
}

fuzz_target!(|source: Source| {
    let count = source.tokens.len();
    let id = |at: usize| source.ids[at].map(u32::from);
    // Arrays of the wrong length are refused at once, which is worth one try in some only.
    let fit = |given: &[f32]| given.iter().copied().chain(std::iter::repeat(0.0)).take(count).collect();
    let types = source.types.as_ref().map(|types| {
        types.iter().map(|&kind| i32::from(kind)).chain(std::iter::repeat(1)).take(count).collect()
    });
    let built = Vocabulary::new(VocabularySource {
        model: Some(["llama", "gpt2", "gemma4", "none"][usize::from(source.model % 4)]),
        pre: Some(PRE[usize::from(source.pre) % PRE.len()]),
        tokens: Some(strings(&source.tokens)),
        scores: source.scores.as_deref().map(fit),
        token_types: types,
        merges: source.merges.as_deref().map(strings),
        bos: id(0),
        eos: id(1),
        eot: id(2),
        eom: id(3),
        unk: id(4),
        pad: id(5),
        add_bos: source.flags[0],
        add_eos: source.flags[1],
        add_space_prefix: source.flags[2],
        specials_take_space: source.takes_space,
    });
    let vocabulary = match built {
        Ok(Some(vocabulary)) => vocabulary,
        Ok(None) => return,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control) && text.len() < 8_000, "{text:?}");
            return;
        }
    };
    for parse_special in [false, true] {
        let options = EncodeOptions { add_bos: parse_special, parse_special };
        let ids = vocabulary.encode(source.text, options);
        assert!(ids.iter().all(|&id| (id as usize) < vocabulary.len()));
        // A space becomes three bytes, each of which may be unknown.
        assert!(ids.len() <= 3 * (source.text.len() + 1) + 1);
        let _ = vocabulary.decode(&ids);
        let plain = vocabulary.encode_spans(&vocabulary.spans(source.text));
        if parse_special && !(vocabulary.bos().is_some() && ids.first() == vocabulary.bos().as_ref()) {
            assert_eq!(plain, ids);
        }
    }
});

//! Vocabularies against published ids: encoding, decoding, streaming, hostile texts and malformed sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use vkllm::gguf::Gguf;
use vkllm::text::{
    EncodeOptions, StreamDecoder, TextError, TokenKind, Vocabulary, VocabularyKind, VocabularySource,
};

const NAMES: [&str; 8] =
    ["command-r", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "qwen35"];
const PLAIN: EncodeOptions = EncodeOptions { add_bos: false, parse_special: false };
const SPECIAL: EncodeOptions = EncodeOptions { add_bos: false, parse_special: true };

fn shared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared")
}

fn open(path: &Path) -> Vocabulary {
    let gguf = Gguf::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let vocabulary =
        Vocabulary::from_gguf(&gguf).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    vocabulary.unwrap_or_else(|| panic!("{} has no vocabulary", path.display()))
}

fn open_compressed(path: &Path) -> Option<Vocabulary> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plain = folder.path().join("vocabulary.gguf");
    let file = std::fs::File::create(&plain).expect("a temporary file");
    let status = Command::new("xz").arg("-dkc").arg(path).stdout(Stdio::from(file)).status().ok()?;
    assert!(status.success(), "xz cannot unpack {}", path.display());
    Some(open(&plain))
}

/// All published vocabularies that are here; what is missing is counted and printed.
fn vocabularies() -> &'static BTreeMap<&'static str, Vocabulary> {
    static ALL: OnceLock<BTreeMap<&str, Vocabulary>> = OnceLock::new();
    ALL.get_or_init(|| {
        let folder = shared().join("tokenizers");
        let mut all = BTreeMap::new();
        for name in NAMES {
            let plain = folder.join(format!("{name}.gguf"));
            let compressed = folder.join(format!("{name}.gguf.xz"));
            if plain.is_file() {
                all.insert(name, open(&plain));
            } else if compressed.is_file() {
                all.extend(open_compressed(&compressed).map(|vocabulary| (name, vocabulary)));
            }
        }
        if all.len() < NAMES.len() {
            println!(
                "skipped {} of {} vocabularies: file or `xz` is missing",
                NAMES.len() - all.len(),
                NAMES.len()
            );
        }
        all
    })
}

#[test]
fn published_test_strings_match() {
    let mut strings = 0;
    for (name, vocabulary) in vocabularies() {
        let path = |ending: &str| shared().join("tokenizers").join(format!("{name}.{ending}"));
        let input = std::fs::read_to_string(path("inp")).expect("the test strings");
        let output = std::fs::read_to_string(path("out")).expect("the expected ids");
        let texts: Vec<&str> = input.split("\n__ggml_vocab_test__\n").collect();
        let lines: Vec<&str> = output.lines().collect();
        assert!(texts.len() >= lines.len() && !lines.is_empty(), "{name}: {} texts", texts.len());
        for (text, line) in texts.iter().zip(lines) {
            let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            assert_eq!(vocabulary.encode(text, PLAIN), expected, "{name}: {text:?}");
            strings += 1;
        }
    }
    println!("{strings} test strings of {} vocabularies", vocabularies().len());
}

#[test]
fn published_texts_match() {
    let Ok(json) = std::fs::read_to_string(shared().join("tokenizers/expected-ids.json")) else {
        return println!("skipped 1: expected-ids.json is missing");
    };
    let expected: BTreeMap<String, BTreeMap<String, Vec<u32>>> =
        serde_json::from_str(&json).expect("valid JSON");
    let (mut texts, mut ids) = (0, 0);
    for (name, vocabulary) in vocabularies() {
        for (file, expected) in &expected[*name] {
            let folder = shared().join("text");
            let path =
                [folder.join(file), folder.join("udhr").join(file)].into_iter().find(|path| path.is_file());
            let text = std::fs::read_to_string(path.expect("the text")).expect("valid UTF-8");
            let found = vocabulary.encode(&text, PLAIN);
            let differs = found.iter().zip(expected).position(|(a, b)| a != b);
            assert!(differs.is_none(), "{name}, {file}: token {differs:?} differs");
            assert_eq!(found.len(), expected.len(), "{name}, {file}");
            assert!(
                vocabulary.decode(&found) == text.as_bytes(),
                "{name}, {file}: decoding gives another text"
            );
            (texts, ids) = (texts + 1, ids + found.len());
        }
    }
    println!("{ids} ids of {texts} texts");
}

/// A small generator of random words (SplitMix64), so that a seed repeats a test anywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A text that mixes scripts, white space, marks, digits and characters from anywhere.
    fn text(&mut self) -> String {
        const POOL: [&str; 12] = [
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            "'ll",
            "\u{301}",
            "123",
            "🙂\u{200d}",
            "<|im_end|>",
            "\u{a0}",
            "</s>",
        ];
        let mut text = String::new();
        for _ in 0..self.below(60) {
            match self.below(5) {
                0 => text.push_str(POOL[self.below(12) as usize]),
                1 => text.push((b' ' + self.below(95) as u8) as char),
                2 => text.extend(char::from_u32(self.below(0x3000) as u32)),
                3 => text.extend(char::from_u32(0x4e00 + self.below(0x5000) as u32)),
                _ => text.extend(char::from_u32(self.below(0x11_0000) as u32)),
            }
        }
        text
    }
}

#[test]
fn decoding_is_the_inverse_of_encoding() {
    const SEED: u64 = 0x5eed;
    println!("seed {SEED:#x}");
    for (name, vocabulary) in vocabularies() {
        let mut random = Random(SEED);
        for round in 0..2000 {
            let text = random.text();
            // Vocabularies that write spaces as U+2581 cannot tell that character from a space.
            let lossy = vocabulary.kind() != VocabularyKind::ByteBpe;
            if lossy && text.contains('\u{2581}') {
                continue;
            }
            let ids = vocabulary.encode(&text, PLAIN);
            assert_eq!(
                vocabulary.decode(&ids),
                text.as_bytes(),
                "{name}, seed {SEED:#x}, round {round}: {text:?}"
            );
            assert!(
                ids.iter().all(|&id| !vocabulary.is_control(id)),
                "{name}: {text:?} has become a control token"
            );
            let mut decoder = StreamDecoder::at_start(vocabulary);
            let mut streamed: String = ids.iter().map(|&id| decoder.push(vocabulary, id)).collect();
            streamed += &decoder.finish();
            assert_eq!(streamed, text, "{name}, seed {SEED:#x}, round {round}");
        }
    }
}

#[test]
fn any_ids_decode_to_whole_characters() {
    const SEED: u64 = 0xdec0de;
    println!("seed {SEED:#x}");
    for (name, vocabulary) in vocabularies() {
        let mut random = Random(SEED);
        let ids: Vec<u32> = (0..20_000)
            .map(|_| match random.below(10) {
                0 => random.next() as u32,
                _ => random.below(vocabulary.len() as u64) as u32,
            })
            .collect();
        let mut decoder = StreamDecoder::new();
        let mut streamed = String::new();
        for &id in &ids {
            streamed += &decoder.push(vocabulary, id);
            assert!(decoder.held_back() <= 3, "{name}");
        }
        streamed += &decoder.finish();
        let mut whole = vocabulary.decode(&ids);
        if vocabulary.adds_space_prefix() && streamed.starts_with(' ') {
            whole.insert(0, b' ');
        }
        assert_eq!(streamed, String::from_utf8_lossy(&whole), "{name}");
    }
}

#[test]
fn control_tokens_come_from_text_only_when_asked() {
    for (name, vocabulary) in vocabularies() {
        let controls =
            (0..vocabulary.len() as u32).filter(|&id| vocabulary.token_kind(id) == Some(TokenKind::Control));
        let mut checked = 0;
        for id in controls.take(300) {
            let text =
                String::from_utf8(vocabulary.token_bytes(id).expect("a token").to_vec()).expect("UTF-8");
            let user = format!("a{text}b {text}");
            let ids = vocabulary.encode(&user, PLAIN);
            assert!(ids.iter().all(|&id| !vocabulary.is_control(id)), "{name}: {text}");
            assert_eq!(vocabulary.decode(&ids), user.as_bytes(), "{name}: {text}");
            let first = vocabulary.special(&text);
            assert!(
                first.is_some() && vocabulary.encode(&user, SPECIAL).contains(&first.expect("seen")),
                "{name}: {text}"
            );
            checked += 1;
        }
        assert!(checked > 0, "{name} has control tokens");
        assert!(vocabulary.eos().is_some_and(|eos| vocabulary.is_end(eos)), "{name}");
    }
    let ends = |name: &str, expected: &[&str]| {
        let Some(vocabulary) = vocabularies().get(name) else { return };
        let found = vocabulary
            .ends()
            .iter()
            .map(|&id| String::from_utf8_lossy(vocabulary.token_bytes(id).expect("a token")));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{name}");
    };
    ends("gpt-2", &["<|endoftext|>"]);
    ends("qwen2", &["<|endoftext|>", "<|im_end|>"]);
    ends("llama-bpe", &["<|end_of_text|>", "<|eot_id|>"]);
    ends("phi-3", &["</s>", "<|endoftext|>", "<|end|>"]);
    ends("command-r", &["<|END_OF_TURN_TOKEN|>"]);
    ends("gemma-4", &["<eos>", "<|tool_response>", "<turn|>"]);
}

#[test]
fn bos_and_parsed_tokens_stand_where_they_should() {
    let get = |name: &str| vocabularies().get(name);
    if let Some(vocabulary) = get("llama-bpe") {
        let options = EncodeOptions { add_bos: true, parse_special: true };
        assert_eq!(vocabulary.encode("Hello<|eot_id|>", options), [128_000, 9906, 128_009]);
    }
    if let Some(vocabulary) = get("gpt-2") {
        assert_eq!(
            vocabulary.encode("Hello", EncodeOptions { add_bos: true, parse_special: false }),
            [15_496]
        );
    }
    if let Some(vocabulary) = get("llama-spm") {
        let options = EncodeOptions { add_bos: true, parse_special: true };
        assert_eq!(vocabulary.encode("Hello</s>Hello", options), [1, 15_043, 2, 15_043]);
        assert_eq!(vocabulary.encode("", options), [1]);
    }
    if let Some(vocabulary) = get("phi-3") {
        // Phi-3's turn tokens take the white space after them.
        assert_eq!(vocabulary.encode("<|user|>\n Hello<|end|>", SPECIAL), [32_010, 15_043, 32_007]);
    }
}

const CLASSES: [char; 12] = ['a', 'A', '0', '_', '!', ' ', '\n', '\t', '好', 'ñ', '\u{301}', '🙂'];

/// Runs something on a stack of 256 KiB.
fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(run).expect("a thread");
    thread.join().expect("no panic");
}

/// The fastest of so many tries to encode `bytes` of a character, and what the text decodes to.
fn encoding(vocabulary: &Vocabulary, class: char, bytes: usize, tries: usize) -> Duration {
    let text: String = std::iter::repeat_n(class, bytes / class.len_utf8()).collect();
    let tries = (0..tries).map(|_| {
        let start = Instant::now();
        let ids = vocabulary.encode(&text, PLAIN);
        let time = start.elapsed();
        assert_eq!(vocabulary.decode(&ids), text.as_bytes(), "{class:?}");
        time
    });
    tries.min().unwrap_or_default()
}

/// 256 KiB of one character of each of twelve classes, on a stack of 256 KiB.
#[test]
fn long_runs_of_one_class_need_little_time_and_stack() {
    let vocabularies = vocabularies();
    on_a_small_stack(move || {
        let mut slowest = (Duration::ZERO, "", ' ');
        for (&name, vocabulary) in vocabularies {
            for class in CLASSES {
                slowest = slowest.max((encoding(vocabulary, class, 256 << 10, 1), name, class));
            }
        }
        println!("slowest of {} runs: {slowest:?}", vocabularies.len() * CLASSES.len());
        // Quadratic time would be minutes; the margin is for slow machines.
        assert!(slowest.0 < Duration::from_secs(5), "{slowest:?}");
    });
}

/// For a machine that does nothing else, in a release build.
#[test]
#[ignore = "measures: cargo test --release --test tests tokenizers::measure -- --ignored --nocapture"]
fn measure() {
    let vocabularies = vocabularies();
    on_a_small_stack(move || {
        let mut wrong = Vec::new();
        for (&name, vocabulary) in vocabularies {
            let mut worst = (Duration::ZERO, ' ');
            let mut growth = (0.0, ' ');
            for class in CLASSES {
                let (one, two) =
                    (encoding(vocabulary, class, 1 << 20, 5), encoding(vocabulary, class, 2 << 20, 5));
                worst = worst.max((one, class));
                let ratio = two.as_secs_f64() / one.as_secs_f64();
                if ratio > growth.0 {
                    growth = (ratio, class);
                }
            }
            let (time, factor) = (worst.0.as_secs_f64() * 1e3, growth.0);
            println!("| {name} | {time:.0} ms ({:?}) | {factor:.2} ({:?}) |", worst.1, growth.1);
            if time > 250.0 || factor > 2.3 {
                wrong.push(name);
            }
        }
        assert!(wrong.is_empty(), "above 250 ms for 1 MiB, or 2.3 times it for 2 MiB: {wrong:?}");
    });
}

#[test]
fn the_small_trained_models_have_vocabularies() {
    let Ok(folder) = std::fs::read_dir(shared().join("models")) else {
        return println!("skipped 1: shared models are missing");
    };
    for path in folder
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
    {
        let vocabulary = open(&path);
        let text = "Once upon a time, Tim said: \"It's 12 o'clock!\"\n";
        assert_eq!(vocabulary.decode(&vocabulary.encode(text, PLAIN)), text.as_bytes(), "{}", path.display());
        assert!(vocabulary.adds_bos(), "{}", path.display());
    }
}

fn strings<'a>(strings: &'a [&'a str]) -> Option<Box<dyn ExactSizeIterator<Item = &'a [u8]> + 'a>> {
    Some(Box::new(strings.iter().map(|string| string.as_bytes())))
}

/// A byte-level vocabulary of six tokens.
fn bpe() -> VocabularySource<'static> {
    VocabularySource {
        model: Some("gpt2"),
        pre: Some("gpt-2"),
        tokens: strings(&["a", "b", "Ġ", "ab", "<|end|>", "é"]),
        token_types: Some(vec![1, 1, 1, 1, 3, 1]),
        merges: strings(&["a b"]),
        ..VocabularySource::default()
    }
}

/// A SentencePiece vocabulary of six tokens.
fn pieces() -> VocabularySource<'static> {
    VocabularySource {
        model: Some("llama"),
        tokens: strings(&["<unk>", "<s>", "</s>", "▁", "a", "<0x62>"]),
        scores: Some(vec![0.0; 6]),
        token_types: Some(vec![2, 3, 3, 1, 1, 6]),
        ..VocabularySource::default()
    }
}

#[test]
fn small_sources_build() {
    for model in [None, Some("none"), Some("no_vocab")] {
        let source = VocabularySource { model, ..VocabularySource::default() };
        assert!(Vocabulary::new(source).expect("no error").is_none(), "{model:?} has no vocabulary");
    }
    let vocabulary = Vocabulary::new(bpe()).expect("a valid source").expect("a vocabulary");
    assert_eq!(vocabulary.encode("ab a<|end|>", SPECIAL), [3, 2, 0, 4]);
    assert_eq!(vocabulary.token_bytes(5), Some(&[0xe9][..]));
    assert_eq!(vocabulary.token_bytes(6), None);
    assert_eq!(vocabulary.ends(), [4]);
    let vocabulary = Vocabulary::new(pieces()).expect("a valid source").expect("a vocabulary");
    // A byte without a token becomes the unknown token.
    assert_eq!(
        vocabulary.encode("abc", EncodeOptions { add_bos: true, parse_special: false }),
        [1, 3, 4, 5, 0]
    );
    assert_eq!(vocabulary.decode(&[1, 3, 4, 5]), b"ab");
    // Equal texts: the lowest id wins. Empty tokens are harmless.
    let tokens = strings(&["a", "a", "", "ab", "<|end|>", "b"]);
    let vocabulary =
        Vocabulary::new(VocabularySource { tokens, ..bpe() }).expect("valid").expect("a vocabulary");
    assert_eq!(vocabulary.encode("aab", PLAIN), [0, 3]);
}

#[test]
fn malformed_sources_are_refused_with_a_sentence() {
    let mut cases = Vec::new();
    let mut case = |source: VocabularySource<'static>, says: &[&str]| {
        let error = Vocabulary::new(source).expect_err(says[0]);
        let text = error.to_string();
        for part in says {
            assert!(text.contains(part), "{text:?} does not contain {part:?}");
        }
        assert!(!text.chars().any(char::is_control), "{text:?}");
        cases.push(text);
    };
    case(
        VocabularySource { model: Some("bert\u{1b}[2J"), ..bpe() },
        &["tokenizer.ggml.model", "bert\\u{1b}", "gpt2"],
    );
    case(
        VocabularySource { pre: Some("gpt-9"), ..bpe() },
        &["tokenizer.ggml.pre", "gpt-9", "qwen2", "tekken"],
    );
    case(VocabularySource { tokens: None, ..bpe() }, &["tokenizer.ggml.tokens", "missing"]);
    case(
        VocabularySource { tokens: strings(&[]), token_types: None, ..bpe() },
        &["tokenizer.ggml.tokens", "0 entries"],
    );
    case(VocabularySource { merges: None, ..bpe() }, &["tokenizer.ggml.merges", "missing", "gpt2"]);
    case(VocabularySource { scores: None, ..pieces() }, &["tokenizer.ggml.scores", "missing", "llama"]);
    case(VocabularySource { scores: Some(vec![0.0; 5]), ..pieces() }, &["tokenizer.ggml.scores", "5", "6"]);
    case(
        VocabularySource { token_types: Some(vec![1; 7]), ..bpe() },
        &["tokenizer.ggml.token_type", "7", "6"],
    );
    case(VocabularySource { bos: Some(6), ..bpe() }, &["tokenizer.ggml.bos_token_id", "6", "0 to 5"]);
    case(VocabularySource { eos: Some(u32::MAX), ..bpe() }, &["tokenizer.ggml.eos_token_id", "4294967295"]);
    case(VocabularySource { eot: Some(6), ..bpe() }, &["tokenizer.ggml.eot_token_id"]);
    case(VocabularySource { unk: Some(6), ..bpe() }, &["tokenizer.ggml.unknown_token_id"]);
    case(VocabularySource { pad: Some(6), ..bpe() }, &["tokenizer.ggml.padding_token_id"]);
    case(VocabularySource { merges: strings(&["ab"]), ..bpe() }, &["entry 0", "no space"]);
    case(VocabularySource { merges: strings(&["a b", "c a"]), ..bpe() }, &["entry 1", "c a", "first part"]);
    case(VocabularySource { merges: strings(&["a c"]), ..bpe() }, &["second part"]);
    case(VocabularySource { merges: strings(&["b a"]), ..bpe() }, &["together"]);
    for text in ["<0xZZ>", "<0x-1>", "<0x1>", "b", ""] {
        let tokens: &'static [&'static str] = match text {
            "<0xZZ>" => &["<unk>", "<s>", "</s>", "▁", "a", "<0xZZ>"],
            "<0x-1>" => &["<unk>", "<s>", "</s>", "▁", "a", "<0x-1>"],
            "<0x1>" => &["<unk>", "<s>", "</s>", "▁", "a", "<0x1>"],
            "b" => &["<unk>", "<s>", "</s>", "▁", "a", "b"],
            _ => &["<unk>", "<s>", "</s>", "▁", "a", ""],
        };
        case(VocabularySource { tokens: strings(tokens), ..pieces() }, &["token 5", text, "<0x00>"]);
    }
    assert_eq!(cases.len(), 22);
}

#[test]
fn sources_of_random_content_never_panic() {
    const SEED: u64 = 0xbad5eed;
    println!("seed {SEED:#x}");
    const WORDS: [&str; 10] = ["a", "b", "ab", "Ġ", "", "<0x41>", "<s>", "\u{fffd}", "▁a", "<|im_end|>"];
    const MERGES: [&str; 5] = ["a b", "ab a", " ", "", "Ġ a"];
    let mut random = Random(SEED);
    let (mut built, mut refused) = (0, 0);
    for _ in 0..5000 {
        let count = random.below(12) as usize;
        let tokens: Vec<&str> = (0..count).map(|_| WORDS[random.below(10) as usize]).collect();
        let merges: Vec<&str> = (0..random.below(3)).map(|_| MERGES[random.below(5) as usize]).collect();
        let source = VocabularySource {
            model: Some(["llama", "gpt2", "gemma4"][random.below(3) as usize]),
            pre: Some("qwen2"),
            tokens: strings(&tokens),
            scores: Some((0..count).map(|_| f32::from_bits(random.next() as u32)).collect()),
            token_types: (random.below(2) == 0)
                .then(|| (0..count).map(|_| random.below(8) as i32 - 1).collect()),
            merges: strings(&merges),
            bos: (random.below(4) == 0).then_some(random.below(12) as u32),
            specials_take_space: random.below(2) == 0,
            ..VocabularySource::default()
        };
        match Vocabulary::new(source) {
            Ok(vocabulary) => {
                let vocabulary = vocabulary.expect("a named model has a vocabulary");
                for options in [PLAIN, SPECIAL] {
                    let ids = vocabulary.encode("ab a\u{fffd}<s> A<|im_end|>  ba", options);
                    assert!(ids.iter().all(|&id| (id as usize) < vocabulary.len()));
                    assert!(vocabulary.decode(&ids).len() <= 1000);
                }
                built += 1;
            }
            Err(TextError::UnknownModel { .. } | TextError::UnknownPre { .. }) => unreachable!(),
            Err(_) => refused += 1,
        }
    }
    println!("{built} built, {refused} refused");
    assert!(built > 100 && refused > 100);
}

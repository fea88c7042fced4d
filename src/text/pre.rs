//! Pre-tokenizers of byte-level BPE: how a text is cut into words before merging, one row per name.
//!
//! The patterns are those of the models' own `tokenizer.json` files, under the names that GGUF converters write
//! into `tokenizer.ggml.pre`. All of them run on a linear-time automaton; the one construct it lacks, the
//! lookahead of `\s+(?!\S)`, is done by hand in [`Step::cut`].

use std::ops::Range;

use regex_automata::meta::{BuildError, Regex};
use regex_automata::{Anchored, Input};

use super::error::TextError;

/// One cut: every match of the pattern is a piece, and so is what lies between matches.
struct Pattern {
    /// Alternatives in order of preference.
    pattern: &'static str,
    /// The pattern goes on `|\s+(?!\S)|\s+`: a run of white space leaves its last character to the word after it.
    spaces: bool,
}

/// How the vocabularies of one name cut text.
pub(crate) struct Pre {
    pub(crate) name: &'static str,
    /// Cuts, each applied to the pieces of the one before.
    patterns: &'static [Pattern],
    /// A word that is itself a token is taken whole, even where merging would not arrive at it.
    pub(crate) whole_words: bool,
    /// Whether a text begins with BOS when the file does not say.
    pub(crate) add_bos: bool,
}

const fn cut(pattern: &'static str) -> Pattern {
    Pattern { pattern, spaces: false }
}

const fn words(pattern: &'static str) -> Pattern {
    Pattern { pattern, spaces: true }
}

/// Contractions in either case, as an alternative of their own.
macro_rules! contractions {
    () => {
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

/// Words with inner capitals kept apart (tiktoken's o200k): `$suffix` may follow a word, `$digits` is a number.
macro_rules! cased {
    ($suffix:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $suffix,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
        )
    };
}

/// The same with runs of Han apart (Kimi K2's `tokenization_kimi.py`).
const KIMI: &[Pattern] = &[words(concat!(
    r"\p{Han}+",
    r"|[^\r\n\p{L}\p{N}]?[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]--\p{Han}]*[[\p{Ll}\p{Lm}\p{Lo}\p{M}]--\p{Han}]+",
    contractions!(),
    r"?|[^\r\n\p{L}\p{N}]?[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]--\p{Han}]+[[\p{Ll}\p{Lm}\p{Lo}\p{M}]--\p{Han}]*",
    contractions!(),
    r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
))];

/// tiktoken's cl100k and its descendants, which differ in how digits are grouped.
macro_rules! cl100k {
    ($digits:literal) => {
        concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        )
    };
}

const GPT2: Pattern = words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const DIGIT: Pattern = cut(r"\p{N}");
const CJK: Pattern = cut(r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+");
const SENTENCE: Pattern = cut(r" ?[^(\s|.,!?…。，、।۔،)]+");

const DEFAULT: &[Pattern] = &[cut(r"[\p{P}\$\+<=>\^~\|]+"), GPT2, cut(r"\p{N}+"), cut("[0-9][0-9][0-9]")];
const PLAIN: &[Pattern] = &[GPT2];
const DIGITS: &[Pattern] = &[DIGIT, GPT2];
const FALCON: &[Pattern] = &[cut(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2, cut("[0-9][0-9][0-9]")];
const LLAMA3: &[Pattern] = &[words(cl100k!(r"\p{N}{1,3}"))];
const QWEN2: &[Pattern] = &[words(cl100k!(r"\p{N}"))];
const QWEN35: &[Pattern] = &[words(concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
))];
const MINICPM5: &[Pattern] = &[cut(r"\p{N}{1,3}"), words(cl100k!(r"\p{N}+"))];
const TEKKEN: &[Pattern] = &[words(cased!("", r"\p{N}"))];
const GPT4O: &[Pattern] = &[words(cased!(concat!(contractions!(), "?"), r"\p{N}{1,3}"))];
const YOUTU: &[Pattern] = &[
    cut(concat!(
        r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+",
        r"|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+",
        r"|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
    )),
    words(cased!(concat!(contractions!(), "?"), r"\p{N}")),
];
const BAILING: &[Pattern] = &[words(concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"
))];
const SEED_CODER: &[Pattern] =
    &[words(concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"))];
const EXAONE_MOE: &[Pattern] = &[words(concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
))];
/// Letters with case as DeepSeek's first tokenizer lists them.
const DEEPSEEK_LLM: &[Pattern] = &[
    cut(r"[\r\n]"),
    cut(concat!(
        r"\s?[A-Za-z\xB5\xC0-\xD6\xD8-\xF6\xF8-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}",
        r"\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}",
        r"\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}",
        r"\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}",
        r"\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
        r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}",
        r"\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}",
        r"\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}",
        r"\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}",
        r"\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
        r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
        r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+"
    )),
    cut(r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"),
    cut(r"\s+$"),
    CJK,
    cut(r"\p{N}+"),
];
const DEEPSEEK_CODER: &[Pattern] = &[cut(r"[\r\n]"), cut(r"\s?\p{L}+"), cut(r"\s?\p{P}+"), CJK, DIGIT];
const DEEPSEEK_V3: &[Pattern] = &[
    cut(r"\p{N}{1,3}"),
    cut(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"),
    words(concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    )),
];
const CHAMELEON: &[Pattern] = &[
    cut("<sentinel:[0-9]+>"),
    cut("IMGIMG[A-I]{1,4}Z"),
    cut(r"[\t\n]|    |  "),
    DIGIT,
    cut(r"[\p{P}!-/:-@\[-`{-~]"),
    GPT2,
];
/// SentencePiece-style BPE: only runs of line ends are kept apart.
const LINES: &[Pattern] = &[cut(r"\n+")];

const fn row(name: &'static str, patterns: &'static [Pattern]) -> Pre {
    Pre { name, patterns, whole_words: false, add_bos: false }
}

const fn whole(name: &'static str, patterns: &'static [Pattern], add_bos: bool) -> Pre {
    Pre { name, patterns, whole_words: true, add_bos }
}

const fn with_bos(name: &'static str, patterns: &'static [Pattern]) -> Pre {
    Pre { name, patterns, whole_words: false, add_bos: true }
}

#[rustfmt::skip]
static PRES: &[Pre] = &[
    row("default", DEFAULT),
    row("gpt-2", PLAIN), row("phi-2", PLAIN), row("mpt", PLAIN), row("olmo", PLAIN), row("jais", PLAIN),
    row("gigachat", PLAIN), row("a.x-4.0", PLAIN), row("mellum", PLAIN), row("modern-bert", PLAIN),
    row("jina-es", PLAIN), row("jina-de", PLAIN), row("jina-v1-en", PLAIN), row("jina-v2-es", PLAIN),
    row("jina-v2-de", PLAIN), row("jina-v2-code", PLAIN), row("roberta-bpe", PLAIN), row("exaone4", PLAIN),
    row("trillion", PLAIN), row("granite-docling", PLAIN),
    row("starcoder", DIGITS), row("refact", DIGITS), row("command-r", DIGITS), row("smollm", DIGITS),
    row("codeshell", DIGITS), row("exaone", DIGITS), row("minerva-7b", DIGITS),
    row("falcon", FALCON),
    whole("llama-bpe", LLAMA3, true), whole("llama3", LLAMA3, true), whole("llama-v3", LLAMA3, true),
    whole("falcon3", LLAMA3, true), whole("falcon-h1", LLAMA3, true), whole("pixtral", LLAMA3, true),
    whole("midm-2.0", LLAMA3, true), whole("lfm2", LLAMA3, true), whole("jina-v5-nano", LLAMA3, true),
    row("dbrx", LLAMA3), row("smaug-bpe", LLAMA3), row("glm4", LLAMA3), row("chatglm-bpe", LLAMA3),
    row("qwen2", QWEN2), row("deepseek-r1-qwen", QWEN2), row("stablelm2", QWEN2), row("hunyuan", QWEN2),
    row("megrez", QWEN2), row("grok-2", QWEN2), row("solar-open", QWEN2), row("kormo", QWEN2), row("f2llmv2", QWEN2),
    row("qwen35", QWEN35),
    row("minicpm5", MINICPM5),
    whole("tekken", TEKKEN, true),
    row("gpt-4o", GPT4O), row("llama4", GPT4O), row("kanana2", GPT4O), row("minimax-m2", GPT4O),
    whole("youtu", YOUTU, false),
    row("bailingmoe", BAILING), row("bailingmoe2", BAILING), row("llada-moe", BAILING),
    row("seed-coder", SEED_CODER),
    row("kimi-k2", KIMI),
    row("exaone-moe", EXAONE_MOE),
    row("deepseek-llm", DEEPSEEK_LLM), row("deepseek-coder", DEEPSEEK_CODER),
    row("deepseek-v3", DEEPSEEK_V3), row("step35", DEEPSEEK_V3), row("hunyuan-dense", DEEPSEEK_V3),
    row("joyai-llm", DEEPSEEK_V3),
    row("poro-chat", &[SENTENCE]), row("bloom", &[SENTENCE]), row("gpt3-finnish", &[SENTENCE]),
    row("viking", &[SENTENCE, DIGIT]),
    with_bos("chameleon", CHAMELEON),
];

/// The row of SentencePiece-style BPE, which files name by `tokenizer.ggml.model`.
pub(crate) static GEMMA4: Pre = with_bos("gemma4", LINES);

/// The row of a name in `tokenizer.ggml.pre`.
pub(crate) fn by_name(name: &str) -> Option<&'static Pre> {
    PRES.iter().find(|pre| pre.name == name)
}

/// Every pre-tokenizer that byte-level BPE vocabularies may name in `tokenizer.ggml.pre`.
pub fn pre_tokenizer_names() -> impl Iterator<Item = &'static str> {
    PRES.iter().map(|pre| pre.name)
}

/// A compiled pattern.
struct Step {
    regex: Regex,
    spaces: bool,
}

impl Step {
    fn new(pattern: &Pattern) -> Result<Self, Box<BuildError>> {
        // The run of white space is a pattern of its own, so that a match says which alternative it was.
        let regex = match pattern.spaces {
            true => Regex::new_many(&[pattern.pattern, r"\s+"]),
            false => Regex::new(pattern.pattern),
        };
        Ok(Self { regex: regex.map_err(Box::new)?, spaces: pattern.spaces })
    }

    /// Cuts `text[range]`; the pattern sees nothing outside of the range.
    fn cut(&self, text: &str, range: Range<usize>, out: &mut Vec<Range<usize>>) {
        let (text, base) = (&text[range.clone()], range.start);
        let next_char = |at: usize| text[at..].chars().next().map_or(text.len(), |char| at + char.len_utf8());
        // Patterns for words match at every position, so that an anchored search, which is cheaper, suffices.
        let anchored = if self.spaces { Anchored::Yes } else { Anchored::No };
        let (mut gap, mut at) = (0, 0);
        while at < text.len() {
            let Some(found) = self.regex.search(&Input::new(text).range(at..).anchored(anchored)) else {
                at = if self.spaces { next_char(at) } else { text.len() };
                continue;
            };
            let (start, mut end) = (found.start(), found.end());
            if self.spaces && found.pattern().as_usize() == 1 && end < text.len() {
                let last = text[start..end].char_indices().next_back().map_or(0, |(last, _)| last);
                end = if last > 0 { start + last } else { end };
            }
            if gap < start {
                out.push(base + gap..base + start);
            }
            if start < end {
                out.push(base + start..base + end);
            }
            at = if start < end { end } else { next_char(end) };
            gap = end;
        }
        if gap < text.len() {
            out.push(base + gap..base + text.len());
        }
    }
}

/// A compiled row.
pub(crate) struct Splitter {
    steps: Vec<Step>,
}

impl Splitter {
    /// Compiles a row; an error is a mistake in the table, which a test over all rows rules out.
    pub(crate) fn new(pre: &Pre) -> Result<Self, TextError> {
        let wrong =
            |error: Box<BuildError>| TextError::Pattern { name: pre.name, problem: error.to_string() };
        Ok(Self { steps: pre.patterns.iter().map(Step::new).collect::<Result<_, _>>().map_err(wrong)? })
    }

    /// The words of `text`, in order and without gaps.
    pub(crate) fn split(&self, text: &str) -> Vec<Range<usize>> {
        let mut words: Vec<_> = std::iter::once(0..text.len()).collect();
        let mut cut = Vec::new();
        for step in &self.steps {
            for word in words.drain(..) {
                step.cut(text, word, &mut cut);
            }
            std::mem::swap(&mut words, &mut cut);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_compiles_and_covers_the_text() {
        let text = "Hello  world\t\n\n x 12345 I'Ll … 日本語 가나다 ａｂ न्ना\u{301} '\r\n   <|x|> Ünïcode   ";
        for pre in PRES.iter().chain([&GEMMA4]) {
            let splitter = Splitter::new(pre).unwrap_or_else(|error| panic!("{}: {error}", pre.name));
            let joined: String = splitter.split(text).into_iter().map(|word| &text[word]).collect();
            assert_eq!(joined, text, "{}", pre.name);
            assert_eq!(
                PRES.iter().filter(|other| other.name == pre.name).count(),
                (pre.name != "gemma4") as usize
            );
        }
    }

    fn split(pre: &str, text: &str) -> Vec<String> {
        let pre = by_name(pre).expect("a known name");
        let splitter = Splitter::new(pre).expect("a valid row");
        splitter.split(text).into_iter().map(|word| text[word].to_owned()).collect()
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_next_word() {
        assert_eq!(split("gpt-2", "a   b \t"), ["a", "  ", " b", " \t"]);
        assert_eq!(split("llama-bpe", "a \n  b  "), ["a", " \n", " ", " b", "  "]);
        assert_eq!(split("qwen2", "x\t\ty1234"), ["x", "\t", "\ty", "1", "2", "3", "4"]);
        assert_eq!(split("smollm", "a  12"), ["a", "  ", "1", "2"]);
    }

    #[test]
    fn tekken_keeps_capitals_with_the_word_they_begin() {
        assert_eq!(split("tekken", "HelloWorld HTTPServer"), ["Hello", "World", " HTTPServer"]);
        assert_eq!(split("gpt-4o", "It's 12345"), ["It's", " ", "123", "45"]);
    }

    /// Derived by hand from the patterns; one row of each.
    #[test]
    fn every_pattern_cuts_as_it_says() {
        for (name, text, words) in [
            ("default", "a 1234!", &["a", " ", "123", "4", "!"][..]),
            ("starcoder", "ab 12", &["ab", " ", "1", "2"]),
            ("command-r", "x=12", &["x", "=", "1", "2"]),
            ("falcon", "x`y 1234", &["x", "`", "y", " ", "123", "4"]),
            ("llama-bpe", "I'Ll 12345\n x", &["I", "'Ll", " ", "123", "45", "\n", " x"]),
            ("glm4", "don't  12345", &["don", "'t", " ", " ", "123", "45"]),
            ("qwen2", "e\u{301}a b!\n", &["e", "\u{301}a", " b", "!\n"]),
            ("qwen35", "e\u{301}a b!\n", &["e\u{301}a", " b", "!\n"]),
            ("minicpm5", "a 12345", &["a", " ", "123", "45"]),
            ("tekken", "aBc 12/\n", &["a", "Bc", " ", "1", "2", "/\n"]),
            ("gpt-4o", "WeLL'VE 1234/\n", &["We", "LL'VE", " ", "123", "4", "/\n"]),
            ("youtu", "中文abc 한", &["中文", "abc", " ", "한"]),
            ("bailingmoe2", "a \n b12", &["a", " \n", " b", "1", "2"]),
            ("seed-coder", "a!\nb12", &["a", "!", "\n", "b", "1", "2"]),
            ("kimi-k2", "中文abc It's 1234", &["中文", "abc", " It's", " ", "123", "4"]),
            ("exaone-moe", "ab cd!1", &["ab cd", "!", "1"]),
            ("deepseek-llm", "Hello 世界 12", &["Hello", " ", "世界", " ", "12"]),
            ("deepseek-coder", "ab 12!x", &["ab", " ", "1", "2", "!", "x"]),
            ("deepseek-v3", "x=foo 1234", &["x", "=foo", " ", "123", "4"]),
            ("chameleon", "<sentinel:12>a", &["<", "sentinel", ":", "1", "2", ">", "a"]),
            ("poro-chat", "Hi, you.", &["Hi", ",", " you", "."]),
            ("viking", "ab 12", &["ab", " ", "1", "2"]),
        ] {
            assert_eq!(split(name, text), words, "{name}");
        }
    }

    #[test]
    fn long_runs_take_linear_time() {
        let mut slowest = (std::time::Duration::ZERO, "", ' ');
        for (at, pre) in PRES.iter().enumerate() {
            if PRES[..at].iter().any(|other| std::ptr::eq(other.patterns, pre.patterns)) {
                continue;
            }
            let splitter = Splitter::new(pre).expect("a valid row");
            for class in ['a', 'A', '0', '_', '!', ' ', '\n', '\t', '好', 'ñ', '\u{301}', '🙂', '\''] {
                let text: String = std::iter::repeat_n(class, 64 << 10).collect();
                let start = std::time::Instant::now();
                assert_eq!(splitter.split(&text).iter().map(|word| word.len()).sum::<usize>(), text.len());
                slowest = slowest.max((start.elapsed(), pre.name, class));
            }
        }
        println!("slowest: {slowest:?}");
        // Quadratic time would be many seconds.
        assert!(slowest.0 < std::time::Duration::from_secs(2), "{slowest:?}");
    }
}

//! A model's vocabulary: encoding text, decoding tokens, and what each token is.

use std::borrow::Cow;
use std::collections::HashMap;

use super::alphabet::unspell;
use super::classify::{byte_tokens, classify, end_tokens, token_kind, unescaped, unspelled};
use super::error::{TextError, shown};
use super::merge::{Merger, NONE, priority_of_score};
use super::packed::{Keyed, Packed, Table};
use super::pre::{self, Pre, Splitter};
use super::special::{Found, Specials};

/// Strings of a source, read once.
pub(super) type Strings<'a> = Box<dyn ExactSizeIterator<Item = &'a [u8]> + 'a>;

/// What a model file says about its vocabulary, field by field (`tokenizer.ggml.*`).
#[derive(Default)]
pub struct VocabularySource<'a> {
    /// `model`: `llama` (SentencePiece), `gpt2` (byte-level BPE), `gemma4`, or none.
    pub model: Option<&'a str>,
    /// `pre`: the pre-tokenizer of byte-level BPE.
    pub pre: Option<&'a str>,
    /// `tokens`.
    pub tokens: Option<Strings<'a>>,
    /// `scores`: needed by SentencePiece.
    pub scores: Option<Vec<f32>>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `merges`: needed by BPE, best first.
    pub merges: Option<Strings<'a>>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`.
    pub eot: Option<u32>,
    /// `eom_token_id`.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// White space after a special token belongs to it, as in Phi-3.
    pub specials_take_space: bool,
}

/// How a vocabulary cuts text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VocabularyKind {
    /// SentencePiece: the pair with the best score merges first.
    SentencePiece,
    /// BPE over the bytes of words.
    ByteBpe,
    /// BPE over characters, with spaces as `▁` and bytes as a last resort.
    CharBpe,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary lacks.
    Unknown,
    /// Scaffolding such as the begin or end of a turn; text becomes one only when asked to.
    Control,
    /// A piece of text that is never cut.
    UserDefined,
    /// Not in use.
    Unused,
    /// One byte.
    Byte,
}

/// How to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Begin with BOS if the vocabulary wants that.
    pub add_bos: bool,
    /// Read the names of control tokens in the text as those tokens. Only for text that no user wrote.
    pub parse_special: bool,
}

/// The vocabulary of a model.
pub struct Vocabulary {
    kind: VocabularyKind,
    pre: Option<&'static Pre>,
    splitter: Option<Splitter>,
    /// What tokens write.
    outputs: Packed,
    /// What tokens match, where that is not what they write.
    inputs: Option<Packed>,
    table: Table,
    longest: usize,
    kinds: Vec<TokenKind>,
    ends: Vec<u32>,
    specials: Specials,
    bytes: Box<[u32; 256]>,
    priorities: Vec<u32>,
    merges: HashMap<u64, (u32, u32), Keyed>,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    specials_take_space: bool,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pre = self.pre.map(|pre| pre.name);
        f.debug_struct("Vocabulary")
            .field("kind", &self.kind)
            .field("pre", &pre)
            .field("len", &self.len())
            .finish()
    }
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const LARGEST: usize = i32::MAX as usize;
/// SentencePiece's spelling of a space.
pub(super) const SPACE: &str = "\u{2581}";
/// Longer texts are cut into parts of this many bytes, because merging counts in 32 bits.
const PART: usize = 1 << 30;

/// Where an encoding stands between one stretch of text and the next.
pub(super) struct Encoding {
    merger: Merger,
    after_special: bool,
    /// The white space that comes next belongs to the token before it.
    drop_space: bool,
}

impl Encoding {
    pub(super) fn new() -> Self {
        Encoding { merger: Merger::default(), after_special: true, drop_space: false }
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Vocabulary {
    /// Builds a vocabulary; `None` when the source has none (no model, `none` or `no_vocab`).
    ///
    /// # Errors
    ///
    /// Everything in [`TextError`] but `Gguf` and `File`.
    pub fn new(source: VocabularySource<'_>) -> Result<Option<Self>, TextError> {
        let (kind, model, pre) = match source.model {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some("llama") => (VocabularyKind::SentencePiece, "llama", None),
            Some("gemma4") => (VocabularyKind::CharBpe, "gemma4", Some(&pre::GEMMA4)),
            Some("gpt2") => {
                let name = source.pre.unwrap_or_else(|| {
                    tracing::warn!(
                        "`tokenizer.ggml.pre` is missing; using \"default\", which may give other tokens"
                    );
                    "default"
                });
                let pre = pre::by_name(name).ok_or_else(|| TextError::UnknownPre {
                    found: shown(name.as_bytes()),
                    known: pre::pre_tokenizer_names().collect::<Vec<_>>().join(", "),
                })?;
                (VocabularyKind::ByteBpe, "gpt2", Some(pre))
            }
            Some(other) => return Err(TextError::UnknownModel { found: shown(other.as_bytes()) }),
        };
        let missing = |key| TextError::MissingKey { key, model };
        let tokens = source.tokens.ok_or_else(|| missing(TOKENS))?;
        let count = tokens.len();
        let token_count = TextError::TokenCount { found: count, allowed: LARGEST };
        if count == 0 || count > LARGEST {
            return Err(token_count);
        }
        let wrong_length = |key, found| TextError::WrongLength { key, found, expected: count };
        let mut kinds = match &source.token_types {
            Some(types) if types.len() != count => {
                return Err(wrong_length("tokenizer.ggml.token_type", types.len()));
            }
            Some(types) => types.iter().map(|&kind| token_kind(kind)).collect(),
            None => vec![TokenKind::Normal; count],
        };
        let mut texts = Packed::with_capacity(count);
        for text in tokens {
            if !texts.push(text) {
                return Err(token_count);
            }
        }
        let id = |key, id: Option<u32>| match id {
            Some(found) if found as usize >= texts.len() => {
                Err(TextError::IdOutOfRange { key, found, last: texts.len() - 1 })
            }
            id => Ok(id),
        };
        // SentencePiece files may leave out the ids that are the same in all of them.
        let usual = |id: u32| (kind == VocabularyKind::SentencePiece && (id as usize) < count).then_some(id);
        let bos = id("tokenizer.ggml.bos_token_id", source.bos)?.or(usual(1));
        let eos = id("tokenizer.ggml.eos_token_id", source.eos)?.or(usual(2));
        let eot = id("tokenizer.ggml.eot_token_id", source.eot)?;
        let eom = id("tokenizer.ggml.eom_token_id", source.eom)?;
        let unk = id("tokenizer.ggml.unknown_token_id", source.unk)?.or(usual(0));
        id("tokenizer.ggml.padding_token_id", source.pad)?;

        classify(&texts, &mut kinds, &[bos, eos, eot, eom], source.token_types.is_some());
        let bytes = byte_tokens(kind, &texts, &mut kinds, source.token_types.is_some())?;
        let (outputs, inputs, unreachable) = match kind {
            VocabularyKind::ByteBpe => {
                let (outputs, unreachable) = unspelled(&texts, &kinds).ok_or(token_count)?;
                (outputs, None, unreachable)
            }
            _ => (unescaped(&texts, &kinds).ok_or(token_count)?, Some(texts), Vec::new()),
        };
        let ends = end_tokens(inputs.as_ref().unwrap_or(&outputs), &kinds, &[eos, eot, eom]);
        let mut vocabulary = Self {
            kind,
            pre,
            splitter: pre.map(Splitter::new).transpose()?,
            table: Table::with_capacity(count),
            longest: 0,
            specials: Specials::new(),
            outputs,
            inputs,
            kinds,
            ends,
            bytes,
            priorities: Vec::new(),
            merges: HashMap::default(),
            bos,
            eos,
            unk,
            add_bos: source.add_bos.unwrap_or(pre.is_none_or(|pre| pre.add_bos)) || model == "gemma4",
            add_eos: source.add_eos.unwrap_or(false),
            add_space_prefix: source.add_space_prefix.unwrap_or(true) && pre.is_none(),
            specials_take_space: source.specials_take_space,
        };
        vocabulary.index(&unreachable);
        if kind == VocabularyKind::SentencePiece {
            let scores = source.scores.ok_or_else(|| missing("tokenizer.ggml.scores"))?;
            if scores.len() != count {
                return Err(wrong_length("tokenizer.ggml.scores", scores.len()));
            }
            vocabulary.priorities = scores.into_iter().map(priority_of_score).collect();
        } else {
            vocabulary.read_merges(source.merges.ok_or_else(|| missing("tokenizer.ggml.merges"))?)?;
        }
        Ok(Some(vocabulary))
    }

    fn inputs(&self) -> &Packed {
        self.inputs.as_ref().unwrap_or(&self.outputs)
    }

    /// Fills the table of texts that merging may arrive at, and the set of special tokens.
    /// `unreachable` lists tokens (ascending) that merging cannot arrive at.
    fn index(&mut self, unreachable: &[u32]) {
        let mut duplicates = 0usize;
        // Pieces of text come first: of two tokens with one text, the lower id wins unless it is user-defined.
        for pass in [TokenKind::Normal, TokenKind::UserDefined] {
            for (id, &kind) in (0u32..).zip(&self.kinds) {
                let pieces = matches!(kind, TokenKind::Normal | TokenKind::Unused)
                    && unreachable.binary_search(&id).is_err();
                let strings = self.inputs.as_ref().unwrap_or(&self.outputs);
                let text = strings.get(id);
                if text.is_empty() {
                    continue;
                }
                if pass == TokenKind::Normal && matches!(kind, TokenKind::Control | TokenKind::Unknown) {
                    self.specials.add(text, id, true);
                }
                if pass == TokenKind::UserDefined && kind == TokenKind::UserDefined {
                    self.specials.add(text, id, false);
                }
                if pieces && pass == TokenKind::Normal || kind == TokenKind::UserDefined && kind == pass {
                    self.longest = self.longest.max(text.len());
                    duplicates += usize::from(self.table.insert(strings, id).is_some());
                }
            }
        }
        if duplicates > 0 {
            tracing::warn!(
                "{duplicates} tokens of `{TOKENS}` repeat the text of another; the lowest id is used"
            );
        }
        if self.kind == VocabularyKind::ByteBpe {
            for byte in 0..=255u8 {
                self.bytes[usize::from(byte)] = self.table.get(&self.outputs, &[byte]).unwrap_or(NONE);
            }
        }
    }

    fn read_merges(&mut self, merges: Strings<'_>) -> Result<(), TextError> {
        self.merges.reserve(merges.len());
        let (mut left, mut both) = (Vec::new(), Vec::new());
        for (index, merge) in merges.enumerate() {
            let wrong = |problem| TextError::Merge { index, text: shown(merge), problem };
            // The first character may itself be a space.
            let space = merge.iter().skip(1).position(|&byte| byte == b' ');
            let Some(space) = space.map(|at| at + 1) else { return Err(wrong("it has no space")) };
            left.clear();
            both.clear();
            if self.kind == VocabularyKind::ByteBpe {
                let spelled = unspell(&merge[..space], &mut left);
                both.extend_from_slice(&left);
                // Words are spelled in the byte alphabet, so that a merge of other characters never happens.
                if !unspell(&merge[space + 1..], &mut both) || !spelled {
                    continue;
                }
            } else {
                left.extend_from_slice(&merge[..space]);
                both.extend_from_slice(&left);
                both.extend_from_slice(&merge[space + 1..]);
            }
            // A text that only a control token has is not one that merging may arrive at.
            let find = |text: &[u8]| self.find_text(text);
            let is_special = |text: &[u8]| self.specials.exact(text).is_some();
            let parts = (find(&left), find(&both[left.len()..]), find(&both));
            match parts {
                (Some(a), Some(b), Some(merged)) => {
                    let rank = u32::try_from(index).map_err(|_| wrong("there are more than 2^32 merges"))?;
                    self.merges.entry(pair(a, b)).or_insert((rank, merged));
                }
                _ if is_special(&left) || is_special(&both[left.len()..]) || is_special(&both) => {}
                (None, ..) => return Err(wrong("its first part is not a token")),
                (_, None, _) => return Err(wrong("its second part is not a token")),
                (.., None) => return Err(wrong("together they are not a token")),
            }
        }
        Ok(())
    }

    fn find_text(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest { None } else { self.table.get(self.inputs(), text) }
    }

    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Always false: a vocabulary has at least one token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// How it cuts text.
    #[must_use]
    pub fn kind(&self) -> VocabularyKind {
        self.kind
    }

    /// The name of its pre-tokenizer, if it has one.
    #[must_use]
    pub fn pre_tokenizer(&self) -> Option<&'static str> {
        self.pre.map(|pre| pre.name)
    }

    /// The token that begins a text.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether the model expects BOS at the begin of a text.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether the model expects EOS at the end of a text. Encoding leaves that to the caller.
    #[must_use]
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.eos.is_some()
    }

    /// Whether encoding puts a space before a text.
    #[must_use]
    pub fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// What a token is, or `None` for an id outside of the vocabulary.
    #[must_use]
    pub fn token_kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Whether a token is scaffolding that decoding leaves out (control and unknown tokens).
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.token_kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// Whether a generation ends with this token: the file's own ends, and control tokens known as such.
    #[must_use]
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The tokens that end a generation, ascending.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The bytes a token writes (a control token: its name), or `None` for an id outside of the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        ((id as usize) < self.len()).then(|| self.outputs.get(id))
    }

    /// The control or user-defined token of this name.
    #[must_use]
    pub fn special(&self, name: &str) -> Option<u32> {
        self.specials.exact(name.as_bytes())
    }

    /// Text to tokens.
    #[must_use]
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut out = Vec::new();
        if options.add_bos && self.add_bos {
            out.extend(self.bos);
        }
        self.encode_onto(text, options.parse_special, &mut Encoding::new(), &mut out);
        out
    }

    /// The first control or user-defined token of `text[from..]`.
    pub(super) fn find_special(&self, text: &str, from: usize) -> Option<Found> {
        self.specials.find(text.as_bytes(), from, true)
    }

    /// Encodes a token that stands between texts.
    pub(super) fn encode_special(&self, id: u32, encoding: &mut Encoding, out: &mut Vec<u32>) {
        out.push(id);
        (encoding.after_special, encoding.drop_space) = (true, self.takes_space(id));
    }

    /// Encodes text behind what was encoded before.
    pub(super) fn encode_onto(
        &self,
        text: &str,
        parse_special: bool,
        encoding: &mut Encoding,
        out: &mut Vec<u32>,
    ) {
        let mut at = 0;
        while at < text.len() {
            if std::mem::take(&mut encoding.drop_space) {
                let space = |byte: &&u8| matches!(byte, b' ' | b'\t'..=b'\r');
                at += text.as_bytes()[at..].iter().take_while(space).count();
            }
            let found = self.specials.find(text.as_bytes(), at, parse_special);
            let end = found.as_ref().map_or(text.len(), |found| found.start);
            let mut plain = &text[at..end];
            while !plain.is_empty() {
                let mut cut = plain.len().min(PART);
                while !plain.is_char_boundary(cut) {
                    cut -= 1;
                }
                let (part, rest) = plain.split_at(cut);
                self.encode_text(part, encoding.after_special, &mut encoding.merger, out);
                (plain, encoding.after_special) = (rest, false);
            }
            at = end;
            if let Some(found) = found {
                self.encode_special(found.id, encoding, out);
                at = found.end;
            }
        }
    }

    /// Phi-3's tokens take the white space after them, all but these three.
    fn takes_space(&self, id: u32) -> bool {
        const NOT: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];
        self.specials_take_space && !NOT.contains(&self.inputs().get(id))
    }

    /// Encodes text that contains no special token.
    fn encode_text(&self, text: &str, after_special: bool, merger: &mut Merger, out: &mut Vec<u32>) {
        let mut text = Cow::Borrowed(text);
        if self.kind != VocabularyKind::ByteBpe {
            if self.add_space_prefix && after_special {
                text = Cow::Owned(format!(" {text}"));
            }
            text = Cow::Owned(text.replace(' ', SPACE));
        }
        match &self.splitter {
            None => self.encode_word(&text, merger, out),
            Some(splitter) => {
                for word in splitter.split(&text) {
                    self.encode_word(&text[word], merger, out);
                }
            }
        }
    }

    fn encode_word(&self, word: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        let lines = self.kind == VocabularyKind::CharBpe && bytes.first() == Some(&b'\n');
        if (lines || self.pre.is_some_and(|pre| pre.whole_words))
            && let Some(id) = self.find_text(bytes)
        {
            out.push(id);
            return;
        }
        match self.kind {
            VocabularyKind::ByteBpe => {
                merger.begin(bytes.len());
                for (at, &byte) in bytes.iter().enumerate() {
                    merger.push(at, at + 1, self.bytes[usize::from(byte)]);
                }
            }
            _ => {
                merger.begin(word.chars().count());
                for (at, char) in word.char_indices() {
                    let end = at + char.len_utf8();
                    merger.push(at, end, self.find_text(&bytes[at..end]).unwrap_or(NONE));
                }
            }
        }
        if self.kind == VocabularyKind::SentencePiece {
            merger.run(|left, right| {
                let id = self.find_text(&bytes[left.start as usize..right.end as usize])?;
                Some((self.priorities[id as usize], id))
            });
        } else {
            merger.run(|left, right| self.merges.get(&pair(left.id, right.id)).copied());
        }
        for symbol in merger.remaining() {
            if symbol.id != NONE {
                out.push(symbol.id);
                continue;
            }
            for &byte in &bytes[symbol.start as usize..symbol.end as usize] {
                let id = self.bytes[usize::from(byte)];
                out.extend(if id == NONE { self.unk } else { Some(id) });
            }
        }
    }

    /// Tokens to bytes: the inverse of [`Vocabulary::encode`]. Control tokens and unknown ids write nothing.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut drop_space = self.add_space_prefix;
        for &id in ids.iter().filter(|&&id| !self.is_control(id)) {
            let bytes = self.outputs.get(id);
            let space = usize::from(drop_space && bytes.first() == Some(&b' '));
            drop_space &= bytes.is_empty();
            out.extend_from_slice(&bytes[space..]);
        }
        out
    }
}

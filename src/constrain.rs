//! Texts that follow a JSON schema, a regular expression or a grammar (feature `constrain`, through llguidance).
//!
//! ```no_run
//! # fn main() -> Result<(), vkllm::Error> {
//! # let device = vkllm::Device::open(&Default::default())?;
//! # let model = vkllm::Model::open(&device, "model.gguf".as_ref(), &Default::default(), &|_, _| true)?;
//! # let mut session = vkllm::Session::new(&model, Default::default())?;
//! let constraints = vkllm::constrain::Constraints::new(&model)?;
//! let person = constraints.json_schema(r#"{"type": "object", "properties": {"name": {"type": "string"}}}"#)?;
//! for event in session.generate_within(&[1, 2, 3], Default::default(), person)? {
//!     println!("{:?}", event?);
//! }
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::engine::Model;
use crate::error::{Error, Result};
use crate::session::Constraint;
use crate::text::{EncodeOptions, TokenKind, Vocabulary, VocabularyKind};

/// What llguidance calls no token.
const NO_TOKEN: u32 = u32::MAX;

/// A model's vocabulary, ready for grammars. Making it takes about a microsecond per token; one serves any number of texts.
pub struct Constraints {
    factory: ParserFactory,
}

/// A grammar and the place in it that a text has reached. A clone goes on from the same place.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
}

/// The vocabulary as llguidance sees it.
struct Words {
    model: Model,
    trie: TokTrie,
    canonical: bool,
}

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        match (self.model.vocabulary(), std::str::from_utf8(bytes)) {
            (Some(vocabulary), Ok(text)) => {
                vocabulary.encode(text, EncodeOptions { add_bos: false, parse_special: false })
            }
            _ => self.trie.greedy_tokenize(bytes),
        }
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

fn refused(reason: impl ToString) -> Error {
    Error::Constraint { reason: reason.to_string() }
}

/// The bytes of a token; those that are not text are marked so that no grammar takes them for text.
fn word(vocabulary: &Vocabulary, id: u32) -> Vec<u8> {
    let bytes = vocabulary.token_bytes(id).unwrap_or_default();
    match vocabulary.token_kind(id) {
        Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte) => bytes.to_vec(),
        Some(TokenKind::Control) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
        _ => Vec::new(),
    }
}

impl Constraints {
    /// Reads the vocabulary of a model.
    ///
    /// Errors: [`Error::Constraint`] when it has none.
    pub fn new(model: &Model) -> Result<Self> {
        let vocabulary = model
            .vocabulary()
            .ok_or_else(|| refused("the model has no vocabulary, so its tokens say nothing"))?;
        let count = model.config().vocab;
        let words: Vec<Vec<u8>> = (0..count).map(|id| word(vocabulary, id)).collect();
        let ends = vocabulary.ends();
        let info = TokRxInfo {
            vocab_size: count,
            tok_eos: ends.first().copied().unwrap_or(NO_TOKEN),
            tok_bos: vocabulary.bos(),
            tok_pad: None,
            tok_unk: None,
            tok_end_of_turn: None,
        };
        let trie = TokTrie::from(&info, &words);
        let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(ends) };
        // Of other kinds a text's first token is written otherwise, so what is forced cannot be told in tokens.
        let canonical = vocabulary.kind() == VocabularyKind::ByteBpe && !vocabulary.adds_space_prefix();
        let words: TokEnv = Arc::new(Words { model: model.clone(), trie, canonical });
        // The text before is the caller's, so nothing of it is taken back.
        let can = InferenceCapabilities { ff_tokens: canonical, ..InferenceCapabilities::default() };
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&words, can, &slices).map_err(refused)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Constraints { factory })
    }

    fn grammar_of(&self, grammar: TopLevelGrammar) -> Result<Grammar> {
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(reason) => Err(refused(reason)),
            None => Ok(Grammar { matcher }),
        }
    }

    /// JSON that a schema allows, with references into itself alone (`#/...`). It is one line with a space after commas and
    /// colons, unless the schema says otherwise as llguidance reads it (`"x-guidance": {"whitespace_flexible": true}`).
    ///
    /// Errors: [`Error::Constraint`] for text that is no JSON, and for what cannot be followed token by token.
    pub fn json_schema(&self, schema: &str) -> Result<Grammar> {
        let mut schema: Value =
            serde_json::from_str(schema).map_err(|error| refused(format!("the JSON schema: {error}")))?;
        // Where white space is free, small models write nothing else.
        if let Some(object) = schema.as_object_mut() {
            object.entry("x-guidance").or_insert_with(
                || json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " }),
            );
        }
        self.grammar_of(TopLevelGrammar::from_json_schema(schema))
    }

    /// Text that a regular expression matches from begin to end.
    ///
    /// Errors: [`Error::Constraint`] for an expression that cannot be read, or is too large.
    pub fn regex(&self, expression: &str) -> Result<Grammar> {
        self.grammar_of(TopLevelGrammar::from_regex(expression))
    }

    /// Text of a context-free grammar in llguidance's variant of Lark, which begins at the rule `start`.
    ///
    /// Errors: [`Error::Constraint`] for a grammar that cannot be read, or is too large.
    pub fn grammar(&self, lark: &str) -> Result<Grammar> {
        self.grammar_of(TopLevelGrammar::from_lark(lark.to_owned()))
    }
}

impl Constraint for Grammar {
    fn mask(&mut self, logits: &mut [f32]) -> Result<bool> {
        if self.matcher.is_stopped() {
            return match self.matcher.stop_reason() {
                reason if reason.is_ok() => Ok(false),
                reason => Err(refused(self.matcher.get_error().unwrap_or_else(|| format!("{reason:?}")))),
            };
        }
        let allowed = self.matcher.compute_mask().map_err(refused)?;
        for (id, logit) in (0u32..).zip(logits.iter_mut()) {
            if !allowed.is_allowed(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(true)
    }

    fn push(&mut self, token: u32) -> Result<()> {
        self.matcher.consume_token(token).map_err(refused)
    }

    fn forced(&mut self) -> Vec<u32> {
        if self.matcher.is_stopped() { Vec::new() } else { self.matcher.compute_ff_tokens() }
    }
}

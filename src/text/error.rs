//! What can be wrong with the vocabulary of a model file.

use crate::gguf::{GgufError, Place};

/// Why a vocabulary cannot be built. Text from the file is escaped, so that printing an error is harmless.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// `tokenizer.ggml.model` names a kind of tokenizer that is not supported.
    #[error("`tokenizer.ggml.model` is \"{found}\", but only llama, gpt2, gemma4 and none are supported")]
    UnknownModel {
        /// The name in the file.
        found: String,
    },
    /// `tokenizer.ggml.pre` names a pre-tokenizer that is not known; guessing one would give wrong ids.
    #[error("`tokenizer.ggml.pre` is \"{found}\", which is not one of the known pre-tokenizers ({known})")]
    UnknownPre {
        /// The name in the file.
        found: String,
        /// All names that would be accepted.
        known: String,
    },
    /// A key that this kind of vocabulary needs is absent.
    #[error("`{key}` is missing; a vocabulary with `tokenizer.ggml.model` = {model} needs it")]
    MissingKey {
        /// The absent key.
        key: &'static str,
        /// The value of `tokenizer.ggml.model`.
        model: &'static str,
    },
    /// An array has another length than the token list.
    #[error("`{key}` has {found} entries, but `tokenizer.ggml.tokens` has {expected}")]
    WrongLength {
        /// The key of the array.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        expected: usize,
    },
    /// The token list is empty or too large.
    #[error(
        "`tokenizer.ggml.tokens` has {found} entries; allowed are 1 to {allowed}, with at most 4 GiB of text"
    )]
    TokenCount {
        /// The number of tokens.
        found: usize,
        /// The largest number allowed.
        allowed: usize,
    },
    /// A special token's id is not in the vocabulary.
    #[error("`{key}` is {found}, but ids go from 0 to {last}")]
    IdOutOfRange {
        /// The key of the id.
        key: &'static str,
        /// The id in the file.
        found: u32,
        /// The last valid id.
        last: usize,
    },
    /// A token is typed as a byte but does not spell one.
    #[error(
        "token {id} of `tokenizer.ggml.tokens` is typed as a byte but reads \"{text}\"; allowed is <0x00> to <0xFF>"
    )]
    ByteToken {
        /// The token.
        id: u32,
        /// Its text, shortened.
        text: String,
    },
    /// A merge is not two tokens that give a third.
    #[error(
        "entry {index} of `tokenizer.ggml.merges` is \"{text}\": {problem}; it must be two tokens with a space between, together a third"
    )]
    Merge {
        /// The entry.
        index: usize,
        /// Its text, shortened.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A pre-tokenizer's pattern does not compile: a mistake in the table of pre-tokenizers.
    #[error("pre-tokenizer {name} has a pattern that does not compile: {problem}")]
    Pattern {
        /// The pre-tokenizer.
        name: &'static str,
        /// What the compiler says.
        problem: String,
    },
    /// The metadata of a file could not be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// One of the above, with its place in a file.
    #[error("{at}: {problem}")]
    File {
        /// Where the key's value stands.
        at: Place,
        /// What is wrong.
        problem: Box<TextError>,
    },
}

impl TextError {
    /// The metadata key that is wrong, if it is one that a file has.
    pub(crate) fn key(&self) -> Option<&'static str> {
        match self {
            Self::UnknownModel { .. } => Some("tokenizer.ggml.model"),
            Self::UnknownPre { .. } => Some("tokenizer.ggml.pre"),
            Self::TokenCount { .. } | Self::ByteToken { .. } => Some("tokenizer.ggml.tokens"),
            Self::Merge { .. } => Some("tokenizer.ggml.merges"),
            Self::MissingKey { key, .. } | Self::WrongLength { key, .. } | Self::IdOutOfRange { key, .. } => {
                Some(key)
            }
            Self::Pattern { .. } | Self::Gguf(_) | Self::File { .. } => None,
        }
    }
}

/// Text from a file, fit for an error message: escaped and at most 64 characters long.
pub(crate) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(256)]);
    let mut shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        shown.push('…');
    }
    shown
}

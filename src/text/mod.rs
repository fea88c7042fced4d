//! Text to token ids and back: vocabularies as GGUF files describe them, and the streaming decoder.

mod alphabet;
mod classify;
mod error;
mod from_gguf;
mod merge;
mod packed;
mod pre;
mod spans;
mod special;
mod stream;
mod vocabulary;

pub use error::TextError;
pub use pre::pre_tokenizer_names;
pub use spans::Span;
pub use stream::StreamDecoder;
pub(crate) use stream::may_begin;
pub use vocabulary::{EncodeOptions, TokenKind, Vocabulary, VocabularyKind, VocabularySource};

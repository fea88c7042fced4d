//! Everything that can go wrong in the library, as one enum of sentences.

use std::path::PathBuf;

use crate::gguf::GgufError;
use crate::text::TextError;

/// Errors of models, sessions and devices.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Device(#[from] vkllm_runtime::Error),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("{path}: {what}: {source}")]
    Io { path: PathBuf, what: &'static str, source: std::io::Error },
    /// The file is a GGUF, but not a model that can be run.
    #[error("{path}: {reason}")]
    Model { path: PathBuf, reason: String },
    #[error("the prompt has {found} tokens, but the context holds {allowed}; choose a larger one with -c")]
    PromptTooLong { found: usize, allowed: usize },
    #[error("the context of {allowed} tokens is full")]
    ContextFull { allowed: usize },
    #[error("token {found} does not exist; the vocabulary has {allowed} tokens, 0 to {last}", last = allowed - 1)]
    NoSuchToken { found: u32, allowed: u32 },
    /// `advice` begins with a semicolon or is empty.
    #[error("{need} bytes are needed for {what}, but {have} are there{advice}")]
    DoesNotFit { what: String, need: u64, have: u64, advice: String },
    #[error(
        "position {position}: the logits hold no number that can be sampled; the weights or activations are not finite"
    )]
    NotFinite { position: u32 },
    #[error("{what} is {found}; allowed is {allowed}")]
    Argument { what: String, found: String, allowed: String },
    #[error("the draft model does not fit the target: {reason}")]
    Draft { reason: String },
    /// A grammar, schema or expression that cannot be followed, or a text that left it.
    #[error("the constraint on the text: {reason}")]
    Constraint { reason: String },
    #[error("{path}: {reason}")]
    Snapshot { path: PathBuf, reason: String },
    #[error(
        "the device was lost {losses} times without a new token in between, the last time: {last}; it is not opened again"
    )]
    DeviceUnusable { losses: u32, last: vkllm_runtime::Error },
    /// Somebody stopped the work; what it was for stands as before.
    #[error("the work was cancelled")]
    Cancelled,
    #[error("no kernel does {op} here: {reasons}")]
    NoKernel { op: String, reasons: String },
}

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

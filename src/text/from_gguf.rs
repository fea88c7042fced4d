//! The vocabulary of a GGUF file: reads the `tokenizer.ggml.*` keys.

use super::vocabulary::Strings;
use super::{TextError, Vocabulary, VocabularySource};
use crate::gguf::{Gguf, Metadata};

impl Vocabulary {
    /// Builds the vocabulary of a model file; `None` when it has none and works by ids.
    ///
    /// # Errors
    ///
    /// Everything in [`TextError`], with its place in the file.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Self>, TextError> {
        let metadata = gguf.metadata();
        Self::new(source(metadata)?).map_err(|problem| match problem.key() {
            Some(key) => TextError::File { at: metadata.place(key), problem: Box::new(problem) },
            None => problem,
        })
    }
}

fn source(metadata: &Metadata) -> Result<VocabularySource<'_>, TextError> {
    let strings = |key| -> Result<Option<Strings<'_>>, TextError> {
        Ok(metadata.strings(key)?.map(|strings| Box::new(strings.iter()) as Strings<'_>))
    };
    let name = metadata.bytes("general.name").ok().flatten().unwrap_or_default().to_ascii_lowercase();
    let named = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    Ok(VocabularySource {
        model: metadata.str("tokenizer.ggml.model")?,
        pre: metadata.str("tokenizer.ggml.pre")?,
        tokens: strings("tokenizer.ggml.tokens")?,
        scores: metadata.f32s_any("tokenizer.ggml.scores")?,
        token_types: metadata.i32s("tokenizer.ggml.token_type")?,
        merges: strings("tokenizer.ggml.merges")?,
        bos: metadata.u32("tokenizer.ggml.bos_token_id")?,
        eos: metadata.u32("tokenizer.ggml.eos_token_id")?,
        eot: metadata.u32("tokenizer.ggml.eot_token_id")?,
        eom: metadata.u32("tokenizer.ggml.eom_token_id")?,
        unk: metadata.u32("tokenizer.ggml.unknown_token_id")?,
        pad: metadata.u32("tokenizer.ggml.padding_token_id")?,
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
        specials_take_space: named(b"phi-3") || named(b"phi3"),
    })
}

//! Whether a draft model speaks the target's language: the two vocabularies compared token by token.
//!
//! A wrong pairing never changes the text, because the target verifies; it makes drafts that are always refused. So
//! what decides is text: tokens that write text must be the same under the same id. Names of control tokens may differ
//! and unused places may be filled, as they do between generations of one family, and either vocabulary may end in
//! tokens that write nothing (padding). Ids that only one of them has are listed in [`Shared`], because a drafter must
//! neither be fed nor draft what the other side does not know.

use crate::error::Error;
use crate::text::{TokenKind, Vocabulary};

/// What two vocabularies have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Ids 0 to `tokens` - 1 exist in both; drafts are drawn from these.
    pub tokens: u32,
    /// Ids beyond, of padding, that only the target or only the draft has.
    pub target_only: u32,
    pub draft_only: u32,
    /// Ids under which both write nothing but bear different names, or that one of them does not use.
    pub renamed: u32,
}

/// Which of two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Target,
    Draft,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Target => "the target",
            Side::Draft => "the draft model",
        })
    }
}

/// Why a draft model does not fit a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    #[error(
        "token {id} is {target} in the target and {draft} in the draft model; allowed are the same tokens"
    )]
    Token { id: u32, target: String, draft: String },
    #[error(
        "token {id}, {token}, is only in {side}; the other has {allowed} tokens, and beyond those only padding is allowed"
    )]
    OnlyIn { side: Side, id: u32, token: String, allowed: usize },
    #[error("{side} has no vocabulary and the other has one, so their tokens cannot be compared")]
    Missing { side: Side },
    #[error("without vocabularies the target's {target} ids and the draft model's {draft} must be as many")]
    Width { target: u32, draft: u32 },
}

impl From<Mismatch> for Error {
    fn from(mismatch: Mismatch) -> Self {
        Error::Draft { reason: mismatch.to_string() }
    }
}

/// A token as people can read it.
fn shown(vocabulary: &Vocabulary, id: u32) -> String {
    let text = String::from_utf8_lossy(vocabulary.token_bytes(id).unwrap_or_default());
    let kind = match vocabulary.token_kind(id) {
        Some(TokenKind::Control) => "control token ",
        Some(TokenKind::Unknown) => "unknown token ",
        Some(TokenKind::Unused) => "unused token ",
        _ => "",
    };
    format!("{kind}\"{}\"", text.escape_debug())
}

/// What a token is to a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Writes text.
    Text,
    /// Scaffolding.
    Control,
    /// Only fills a place.
    Padding,
}

fn role(vocabulary: &Vocabulary, id: u32) -> Role {
    // Names of places that only fill a matrix, for files that do not mark them as unused.
    const FILLERS: [&[u8]; 5] = [b"[PAD", b"<unused", b"<|extra_", b"<|reserved", b"<|dummy"];
    let bytes = vocabulary.token_bytes(id).unwrap_or_default();
    match vocabulary.token_kind(id) {
        None | Some(TokenKind::Unused) => Role::Padding,
        _ if bytes.is_empty() || FILLERS.iter().any(|name| bytes.starts_with(name)) => Role::Padding,
        Some(TokenKind::Control | TokenKind::Unknown) => Role::Control,
        Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte) => Role::Text,
    }
}

/// Compares two vocabularies.
///
/// Errors: the first token that writes text and is another one in the other vocabulary, or is not there.
pub fn compare(target: &Vocabulary, draft: &Vocabulary) -> Result<Shared, Mismatch> {
    let (target_len, draft_len) = (target.len() as u32, draft.len() as u32);
    let tokens = target_len.min(draft_len);
    let mut renamed = 0;
    for id in 0..tokens {
        if target.token_bytes(id) == draft.token_bytes(id) {
            continue;
        }
        match (role(target, id), role(draft, id)) {
            (Role::Text, Role::Text | Role::Control) | (Role::Control, Role::Text) => {
                return Err(Mismatch::Token { id, target: shown(target, id), draft: shown(draft, id) });
            }
            _ => renamed += 1,
        }
    }
    for (side, vocabulary) in [(Side::Target, target), (Side::Draft, draft)] {
        if let Some(id) = (tokens..vocabulary.len() as u32).find(|&id| role(vocabulary, id) == Role::Text) {
            let token = shown(vocabulary, id);
            return Err(Mismatch::OnlyIn { side, id, token, allowed: tokens as usize });
        }
    }
    Ok(Shared { tokens, target_only: target_len - tokens, draft_only: draft_len - tokens, renamed })
}

/// Compares what two models speak: their vocabularies, or the number of their ids where neither has one.
///
/// Errors: as [`compare`]; a vocabulary on one side only; numbers of ids that differ.
pub fn compare_models(
    (target, target_rows): (Option<&Vocabulary>, u32),
    (draft, draft_rows): (Option<&Vocabulary>, u32),
) -> Result<Shared, Mismatch> {
    match (target, draft) {
        (Some(target), Some(draft)) => compare(target, draft),
        (None, Some(_)) => Err(Mismatch::Missing { side: Side::Target }),
        (Some(_), None) => Err(Mismatch::Missing { side: Side::Draft }),
        (None, None) if target_rows != draft_rows => {
            Err(Mismatch::Width { target: target_rows, draft: draft_rows })
        }
        (None, None) => Ok(Shared { tokens: target_rows, target_only: 0, draft_only: 0, renamed: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::VocabularySource;

    /// Bytes of the alphabet, then tokens with their types (1 normal, 3 control, 4 user-defined, 5 unused).
    fn vocabulary(tokens: &[(&str, i32)]) -> Vocabulary {
        let letters: Vec<String> = ('a'..='z').map(String::from).collect();
        let all: Vec<(&str, i32)> =
            letters.iter().map(|l| (l.as_str(), 1)).chain(tokens.iter().copied()).collect();
        let source = VocabularySource {
            model: Some("gpt2"),
            pre: Some("qwen2"),
            tokens: Some(Box::new(
                all.iter().map(|(text, _)| text.as_bytes()).collect::<Vec<_>>().into_iter(),
            )),
            token_types: Some(all.iter().map(|&(_, kind)| kind).collect()),
            merges: Some(Box::new(std::iter::empty())),
            ..VocabularySource::default()
        };
        Vocabulary::new(source).unwrap().unwrap()
    }

    #[test]
    fn the_same_vocabulary_fits() {
        let v = vocabulary(&[("ab", 1), ("<|end|>", 3)]);
        let shared = compare(&v, &v).unwrap();
        assert_eq!(shared, Shared { tokens: 28, target_only: 0, draft_only: 0, renamed: 0 });
    }

    #[test]
    fn padding_and_names_of_control_tokens_may_differ() {
        let target =
            vocabulary(&[("ab", 1), ("<think>", 3), ("<tool>", 4), ("<|x|>", 3), ("[PAD30]", 1), ("u", 5)]);
        let draft = vocabulary(&[("ab", 1), ("<think>", 4), ("[PAD28]", 5), ("<|y|>", 3)]);
        let shared = compare(&target, &draft).unwrap();
        assert_eq!(shared, Shared { tokens: 30, target_only: 2, draft_only: 0, renamed: 2 });
        assert_eq!(compare(&draft, &target).unwrap().draft_only, 2);
    }

    #[test]
    fn the_first_difference_is_named() {
        let target = vocabulary(&[("ab", 1), ("cd", 1), ("<|end|>", 3)]);
        let wrong = |draft: &[(&str, i32)]| compare(&target, &vocabulary(draft)).unwrap_err().to_string();
        assert_eq!(
            wrong(&[("ab", 1), ("ce", 1), ("ff", 1)]),
            "token 27 is \"cd\" in the target and \"ce\" in the draft model; allowed are the same tokens"
        );
        assert_eq!(
            wrong(&[("ab", 1), ("cd", 1), ("gh", 1)]),
            "token 28 is control token \"<|end|>\" in the target and \"gh\" in the draft model; allowed are the same \
             tokens"
        );
        assert_eq!(
            wrong(&[("ab", 1)]),
            "token 27, \"cd\", is only in the target; the other has 27 tokens, and beyond those only padding is allowed"
        );
        assert_eq!(
            wrong(&[("ab", 1), ("cd", 1), ("<|end|>", 3), ("ef", 1)]),
            "token 29, \"ef\", is only in the draft model; the other has 29 tokens, and beyond those only padding is \
             allowed"
        );
    }

    #[test]
    fn models_without_vocabularies_are_compared_by_width() {
        let v = vocabulary(&[]);
        assert_eq!(compare_models((None, 10), (None, 10)).unwrap().tokens, 10);
        assert_eq!(compare_models((None, 10), (None, 11)), Err(Mismatch::Width { target: 10, draft: 11 }));
        assert_eq!(compare_models((Some(&v), 32), (None, 26)), Err(Mismatch::Missing { side: Side::Draft }));
        assert_eq!(compare_models((Some(&v), 32), (Some(&v), 26)).unwrap().tokens, 26);
        let error = Error::from(Mismatch::Missing { side: Side::Target });
        assert_eq!(
            error.to_string(),
            "the draft model does not fit the target: the target has no vocabulary and the other has one, so their \
             tokens cannot be compared"
        );
    }
}

//! Which rows a trimmed draft head keeps: the tokens a draft model may propose.
//!
//! Reading the output matrix is a quarter of a small model's step. A draft over the most frequent tokens reads less, and
//! stays exact, because the target verifies with its whole head; a token that is not among them is never drafted.

use crate::text::{TokenKind, Vocabulary};

/// Rows of a trimmed head: index in the trimmed logits to token id, ascending, so that ties go to the lowest id as they
/// do in the whole head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trim {
    ids: Vec<u32>,
}

impl Trim {
    /// Keeps `rows` tokens of the ids below `tokens` (what target and draft share), most frequent first by what is known:
    ///
    /// 1. tokens that end a generation, so that a draft can end;
    /// 2. tokens of `text`, by how often they occur, in ties the lower id;
    /// 3. tokens that write text by their ids: merges, scores and ids of a vocabulary are ordered by frequency in what
    ///    it was made from;
    /// 4. what remains, unused places last.
    ///
    /// `text` may be empty. A number of rows beyond `tokens` keeps all of them, 0 keeps one.
    pub fn most_frequent(vocabulary: Option<&Vocabulary>, tokens: u32, text: &[u32], rows: u32) -> Self {
        let mut counts = vec![0u32; tokens as usize];
        for &token in text {
            if let Some(count) = counts.get_mut(token as usize) {
                *count = count.saturating_add(1);
            }
        }
        let rank = |id: u32| match vocabulary {
            Some(v) if v.is_end(id) => 0,
            _ if counts[id as usize] > 0 => 1,
            None => 2,
            Some(v) => match v.token_kind(id) {
                Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte) => 2,
                Some(TokenKind::Control | TokenKind::Unknown) => 3,
                Some(TokenKind::Unused) | None => 4,
            },
        };
        let mut ids: Vec<u32> = (0..tokens).collect();
        ids.sort_by_cached_key(|&id| (rank(id), u32::MAX - counts[id as usize], id));
        ids.truncate(rows.max(1) as usize);
        ids.sort_unstable();
        Trim { ids }
    }

    /// Token ids by trimmed index.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The token of a trimmed index.
    pub fn token(&self, index: u32) -> Option<u32> {
        self.ids.get(index as usize).copied()
    }

    /// The trimmed index of a token, if it is kept.
    pub fn index(&self, token: u32) -> Option<u32> {
        self.ids.binary_search(&token).ok().map(|index| index as u32)
    }

    /// Share of a text's tokens that are kept: what a draft of this text could propose at best. 1 for no text.
    pub fn coverage(&self, text: &[u32]) -> f64 {
        if text.is_empty() {
            return 1.0;
        }
        let kept = text.iter().filter(|&&token| self.index(token).is_some()).count();
        kept as f64 / text.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::VocabularySource;

    fn vocabulary() -> Vocabulary {
        let tokens = ["a", "b", "c", "d", "<|end|>", "<|x|>", "ab", "unused", "cd"];
        let source = VocabularySource {
            model: Some("gpt2"),
            pre: Some("qwen2"),
            tokens: Some(Box::new(tokens.map(str::as_bytes).into_iter())),
            token_types: Some(vec![1, 1, 1, 1, 3, 3, 1, 5, 1]),
            merges: Some(Box::new(std::iter::empty())),
            eos: Some(4),
            ..VocabularySource::default()
        };
        Vocabulary::new(source).unwrap().unwrap()
    }

    #[test]
    fn ends_then_the_text_then_low_ids() {
        let v = vocabulary();
        let text = [6, 3, 3, 6, 6, 2, 99];
        let ids = |rows| Trim::most_frequent(Some(&v), 9, &text, rows).ids().to_vec();
        assert_eq!(ids(0), [4]);
        assert_eq!(ids(1), [4]);
        assert_eq!(ids(2), [4, 6]);
        assert_eq!(ids(3), [3, 4, 6]);
        assert_eq!(ids(4), [2, 3, 4, 6]);
        assert_eq!(ids(7), [0, 1, 2, 3, 4, 6, 8]);
        assert_eq!(ids(8), [0, 1, 2, 3, 4, 5, 6, 8]);
        assert_eq!(ids(100), (0..9).collect::<Vec<_>>());
        // Without a text the order of the vocabulary is what is known.
        assert_eq!(Trim::most_frequent(Some(&v), 9, &[], 3).ids(), [0, 1, 4]);
        assert_eq!(Trim::most_frequent(None, 9, &[8, 8, 7], 3).ids(), [0, 7, 8]);
    }

    #[test]
    fn indices_and_tokens_are_inverse() {
        let trim = Trim::most_frequent(Some(&vocabulary()), 9, &[8, 6], 4);
        for (index, &id) in trim.ids().iter().enumerate() {
            assert_eq!((trim.token(index as u32), trim.index(id)), (Some(id), Some(index as u32)));
        }
        assert_eq!((trim.token(4), trim.index(3)), (None, None));
    }

    #[test]
    fn coverage_is_a_share_of_the_text() {
        let trim = Trim::most_frequent(Some(&vocabulary()), 9, &[8, 8, 6], 3);
        assert_eq!(trim.ids(), [4, 6, 8]);
        assert_eq!(trim.coverage(&[8, 6, 0, 1]), 0.5);
        assert_eq!(trim.coverage(&[]), 1.0);
    }
}

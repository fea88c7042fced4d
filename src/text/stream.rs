//! Tokens to text as they come: whole characters only, however the tokens cut them.

use super::Vocabulary;

/// Turns a stream of tokens into pieces of valid UTF-8.
///
/// A character whose bytes are spread over several tokens is held back until it is complete; bytes that can
/// never become a character turn into U+FFFD. Control tokens give no text unless asked for.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    pending: Vec<u8>,
    show_control: bool,
    drop_space: bool,
}

impl StreamDecoder {
    /// A decoder for text that continues other text, such as the answer to a prompt.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder for tokens that begin a text: the space that encoding put in front is taken away again.
    #[must_use]
    pub fn at_start(vocabulary: &Vocabulary) -> Self {
        Self { drop_space: vocabulary.adds_space_prefix(), ..Self::default() }
    }

    /// Whether control tokens appear with their names.
    #[must_use]
    pub fn show_control(mut self, show: bool) -> Self {
        self.show_control = show;
        self
    }

    /// Takes a token and returns the text that is complete now, possibly none. Unknown ids give none.
    pub fn push(&mut self, vocabulary: &Vocabulary, id: u32) -> String {
        if self.show_control || !vocabulary.is_control(id) {
            let bytes = vocabulary.token_bytes(id).unwrap_or_default();
            if !bytes.is_empty() {
                let bytes = if self.drop_space { bytes.strip_prefix(b" ").unwrap_or(bytes) } else { bytes };
                self.drop_space = false;
                self.pending.extend_from_slice(bytes);
            }
        }
        self.take(false)
    }

    /// Ends the text: what is still incomplete can no longer be completed and becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    /// Bytes held back because their character is incomplete: 0 to 3.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.pending.len()
    }

    fn take(&mut self, all: bool) -> String {
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        let kept = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break 0;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        None if !all => break after.len(),
                        length => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[length.unwrap_or(after.len())..];
                        }
                    }
                }
            }
        };
        self.pending.drain(..self.pending.len() - kept);
        text
    }
}

/// Bytes at the end of `text` with which one of `words` could begin.
pub(crate) fn may_begin<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> usize {
    let longest =
        |word: &str| (1..word.len()).rev().find(|&n| word.is_char_boundary(n) && text.ends_with(&word[..n]));
    words.filter_map(longest).max().unwrap_or(0)
}

//! Tokens that stand for themselves in a text: control tokens, user-defined tokens, and which of them end it.

use std::collections::HashMap;

/// Tokens that end a generation when they are control tokens, whatever the file calls its end.
/// The names of the families that llama.cpp's `llama_vocab` lists (facts, not code).
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Whether a control token of this text ends a generation.
pub(crate) fn is_end_name(text: &[u8]) -> bool {
    END_NAMES.iter().any(|name| name.as_bytes() == text)
}

/// Whether a user-defined token is a control token in all but type: chat scaffolding that some converters type
/// as user-defined, which would let a user's text forge a turn.
pub(crate) fn looks_like_control(text: &[u8]) -> bool {
    let begins = |with: &str| text.starts_with(with.as_bytes());
    let ends = |with: &str| text.ends_with(with.as_bytes());
    begins("<|") || begins("<｜") || ends("|>") || ends("｜>") || is_end_name(text)
}

/// Longer tokens are never searched for in a text, which bounds the work at each position of it.
const LONGEST: usize = 512;
const NONE: u32 = u32::MAX;

/// Finds special tokens in a text, leftmost first and longest among those: a trie over their bytes.
pub(crate) struct Specials {
    root: [u32; 256],
    next: HashMap<(u32, u8), u32>,
    /// The token that ends at a node, and whether it is a control token.
    token: Vec<Option<(u32, bool)>>,
}

/// A special token in a text: its bytes and its id.
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) id: u32,
}

impl Specials {
    pub(crate) fn new() -> Self {
        Self { root: [NONE; 256], next: HashMap::new(), token: Vec::new() }
    }

    /// Adds a token; the first of several with one text stays. Text that no string can contain is left out.
    pub(crate) fn add(&mut self, text: &[u8], id: u32, control: bool) {
        if text.len() > LONGEST || std::str::from_utf8(text).is_err() {
            return;
        }
        let Some((&first, rest)) = text.split_first() else { return };
        let mut node = self.root[first as usize];
        if node == NONE {
            node = self.node();
            self.root[first as usize] = node;
        }
        for &byte in rest {
            node = match self.next.get(&(node, byte)) {
                Some(&node) => node,
                None => {
                    let child = self.node();
                    self.next.insert((node, byte), child);
                    child
                }
            };
        }
        self.token[node as usize].get_or_insert((id, control));
    }

    fn node(&mut self) -> u32 {
        self.token.push(None);
        (self.token.len() - 1) as u32
    }

    /// The token with exactly this text.
    pub(crate) fn exact(&self, text: &[u8]) -> Option<u32> {
        let (&first, rest) = text.split_first()?;
        let mut node = self.root[first as usize];
        for &byte in rest {
            node = *self.next.get(&(node, byte))?;
        }
        Some(self.token.get(node as usize)?.as_ref()?.0)
    }

    /// The first special token of `text[from..]`; control tokens count only when `control` is set.
    pub(crate) fn find(&self, text: &[u8], from: usize, control: bool) -> Option<Found> {
        for start in from..text.len() {
            let mut node = self.root[text[start] as usize];
            if node == NONE {
                continue;
            }
            let (mut end, mut found) = (start + 1, None);
            loop {
                if let Some((id, is_control)) = self.token[node as usize]
                    && (control || !is_control)
                {
                    found = Some(Found { start, end, id });
                }
                match text.get(end).and_then(|&byte| self.next.get(&(node, byte))) {
                    Some(&child) => node = child,
                    None => break,
                }
                end += 1;
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

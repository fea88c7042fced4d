//! Keeps what people wrote apart from what the template wrote, through everything a template does with strings.
//!
//! A character that occurs nowhere else, the mark, is put into every place of a message where the name of a control token
//! could begin or go on. Control tokens are looked for before marks are taken out again, so that none has a character that
//! came from a message. Trimming, splitting, slicing and joining keep marks where they are.

use std::collections::HashSet;

use crate::text::{TokenKind, Vocabulary};

/// Tags that templates look for in what a model said before. They stay whole where no control token is spelled so.
const TAGS: [&str; 6] =
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"];

/// Words of JSON schemas that templates compare.
const WORDS: [&str; 8] = ["function", "object", "string", "number", "integer", "boolean", "array", "null"];

/// Names of a vocabulary's control tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    names: Vec<String>,
    /// Characters with which names begin.
    first: Vec<char>,
    tags: Vec<&'static str>,
}

impl Names {
    pub(super) fn new(vocabulary: Option<&Vocabulary>) -> Self {
        let ids = 0..vocabulary.map_or(0, |v| v.len() as u32);
        let name = |id| {
            let vocabulary = vocabulary?;
            let control = matches!(vocabulary.token_kind(id), Some(TokenKind::Control | TokenKind::Unknown));
            let bytes = vocabulary.token_bytes(id).filter(|bytes| control && !bytes.is_empty())?;
            Some(std::str::from_utf8(bytes).ok()?.to_owned())
        };
        let names: Vec<String> = ids.filter_map(name).collect();
        let mut first: Vec<char> = names.iter().filter_map(|name| name.chars().next()).collect();
        first.sort_unstable();
        first.dedup();
        let tags = TAGS.into_iter().filter(|tag| names.iter().all(|name| !name.starts_with(tag))).collect();
        Names { names, first, tags }
    }

    /// True where, behind other text, `text` could go on with a name that began there.
    fn goes_on(&self, text: &str) -> bool {
        let Some(c) = text.chars().next() else { return false };
        self.names.iter().any(|name| {
            let mut places = name.match_indices(c).filter(|&(at, _)| at > 0 || c.is_alphanumeric());
            places.any(|(at, _)| text.starts_with(&name[at..]) || name[at..].starts_with(text))
        })
    }

    /// A message's text with marks.
    pub(super) fn mark(&self, text: &str, mark: char) -> String {
        let mut out = String::with_capacity(text.len());
        let begin = text.len() - text.trim_start().len();
        if WORDS.contains(&text) {
            return text.to_owned();
        }
        for (at, c) in text.char_indices() {
            if at == begin && self.goes_on(&text[at..]) {
                out.push(mark);
            }
            out.push(c);
            if self.begins(&text[at..], c) {
                out.push(mark);
            }
        }
        out
    }

    /// A key's text with marks. Templates ask for keys by name, so these are marked where a name begins alone.
    pub(super) fn mark_key(&self, text: &str, mark: char) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            out.push(c);
            if self.begins(&text[at..], c) {
                out.push(mark);
            }
        }
        out
    }

    /// True where a name could begin. Letters begin so many words that there the whole name is looked for.
    fn begins(&self, text: &str, c: char) -> bool {
        if self.first.binary_search(&c).is_err() {
            return false;
        }
        if c.is_alphanumeric() {
            return self.names.iter().any(|name| text.starts_with(name.as_str()));
        }
        !self.tags.iter().any(|tag| text.starts_with(tag))
    }
}

/// A character that none of the texts has: a noncharacter, which nobody types, or one of a plane for private use.
pub(super) fn unused<'a>(texts: impl Iterator<Item = &'a str>) -> Option<char> {
    let candidates = || ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}');
    let is_candidate = |c: &char| matches!(c, '\u{fdd0}'..='\u{fdef}' | '\u{f0000}'..='\u{ffffd}');
    let used: HashSet<char> = texts.flat_map(str::chars).filter(is_candidate).collect();
    candidates().find(|c| !used.contains(c))
}

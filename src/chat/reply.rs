//! What an answer consists of: what the model thought, and what it says.

use crate::text::{Vocabulary, may_begin};

/// What a piece of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the model thinks before it answers.
    Reasoning,
    /// The answer.
    Content,
}

/// Tags around thoughts, as models write them: begin and end.
const TAGS: [(&str, &str); 3] =
    [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|channel>thought\n", "<channel|>")];
/// Tokens of the harmony format: a channel's name stands between the first two.
const CHANNEL: [&str; 3] = ["<|channel|>", "<|message|>", "<|end|>"];

/// Sorts the tokens of an answer into thoughts and content.
#[derive(Debug)]
pub struct Reply {
    part: Part,
    /// Text that may be the begin of a tag.
    held: String,
    /// The name of a channel, while it is read.
    channel: Option<String>,
    /// Line ends that belong to a tag are left out.
    trim: bool,
    /// Nothing but white space came before: a begin tag may.
    fresh: bool,
}

impl Reply {
    /// For an answer behind a prompt; some templates begin the thoughts themselves.
    pub fn new(prompt: &str) -> Self {
        let thinks = TAGS.iter().any(|(begin, _)| prompt.trim_end().ends_with(begin.trim_end()));
        let part = if thinks { Part::Reasoning } else { Part::Content };
        Reply { part, held: String::new(), channel: None, trim: true, fresh: true }
    }

    /// Takes a token and its text; returns what is certain now.
    pub fn push(&mut self, vocabulary: &Vocabulary, id: u32, text: &str) -> Vec<(Part, String)> {
        if !vocabulary.is_control(id) {
            return self.text(text);
        }
        // Control tokens write nothing, but some of them are tags.
        let name =
            vocabulary.token_bytes(id).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        match CHANNEL.iter().position(|tag| *tag == name) {
            Some(0) => self.channel = Some(String::new()),
            Some(1) => {
                if let Some(channel) = self.channel.take() {
                    self.part =
                        if channel.trim().starts_with("final") { Part::Content } else { Part::Reasoning };
                    self.trim = true;
                }
            }
            // What stands between messages is the next one's role.
            Some(_) => self.channel = Some(String::new()),
            None if TAGS.iter().any(|(begin, end)| begin.starts_with(name) || *end == name) => {
                return self.text(name);
            }
            None => {}
        }
        Vec::new()
    }

    fn text(&mut self, text: &str) -> Vec<(Part, String)> {
        if let Some(channel) = &mut self.channel {
            channel.push_str(text);
            return Vec::new();
        }
        self.held.push_str(text);
        let mut out = Vec::new();
        loop {
            if self.trim {
                self.held = self.held.trim_start_matches(['\n', '\r']).to_owned();
            }
            let tags =
                TAGS.iter().map(|(begin, end)| if self.part == Part::Reasoning { *end } else { *begin });
            // Thoughts begin an answer; later a begin tag is something the model talks about.
            let wanted = self.part == Part::Reasoning || self.fresh;
            let found = tags.clone().filter_map(|tag| Some((self.held.find(tag)?, tag))).min();
            match found {
                Some((at, tag))
                    if wanted && (self.part == Part::Reasoning || self.held[..at].trim().is_empty()) =>
                {
                    let before = self.held[..at].to_owned();
                    self.held.drain(..at + tag.len());
                    if self.part == Part::Reasoning {
                        self.give(before.trim_end_matches(['\n', '\r']), &mut out);
                        (self.part, self.fresh) = (Part::Content, false);
                    } else {
                        self.part = Part::Reasoning;
                    }
                    self.trim = true;
                }
                _ => {
                    let most = if wanted { may_begin(&self.held, tags) } else { 0 };
                    let mut sure = self.held.len() - most;
                    if self.part == Part::Reasoning {
                        sure = self.held[..sure].trim_end_matches(['\n', '\r']).len();
                    }
                    let ready: String = self.held.drain(..sure).collect();
                    self.give(&ready, &mut out);
                    return out;
                }
            }
        }
    }

    fn give(&mut self, text: &str, out: &mut Vec<(Part, String)>) {
        if !text.is_empty() {
            self.trim = false;
            self.fresh &= text.trim().is_empty();
            out.push((self.part, text.to_owned()));
        }
    }

    /// Ends the answer: what was held back is text after all.
    pub fn finish(&mut self, text: &str) -> Vec<(Part, String)> {
        let mut out = self.text(text);
        let held = std::mem::take(&mut self.held);
        self.give(&held, &mut out);
        out
    }
}

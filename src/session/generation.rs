//! A running generation: an iterator of events over a session.

use std::collections::VecDeque;

use super::Session;
use crate::engine::Drawn;
use crate::error::Result;
use crate::speculate::{Method, Round};
use crate::text::StreamDecoder;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text.
    End,
    /// The wanted number of tokens is there.
    Length,
    /// The context is full.
    Context,
}

/// Where a token was seen first. The target drew every token itself, drafted or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The target's own draw.
    #[default]
    Target,
    /// A draft that was accepted: whose, and its place in the draft, from 0.
    Draft { method: Method, place: usize },
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// Text that became complete with this token; empty in the middle of a character and without a vocabulary.
    pub text: String,
    /// Natural logarithm of the token's probability at temperature 1, before truncation.
    pub logprob: f32,
    pub source: Source,
}

/// What a generation yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Token(Token),
    /// A round of a session that speculates; the tokens it committed follow.
    Round(Round),
    /// The end, with text that was held back for a character that never became complete.
    Done {
        finish: Finish,
        text: String,
    },
}

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions {
    /// Tokens at most; `None` until the model ends or the context is full.
    pub max_tokens: Option<usize>,
    /// Go on when the model ends the text.
    pub ignore_end: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions { max_tokens: Some(128), ignore_end: false }
    }
}

/// A running generation.
pub struct Generation<'a> {
    session: &'a mut Session,
    prompt: Vec<u32>,
    options: GenerateOptions,
    decoder: StreamDecoder,
    generated: usize,
    /// Tokens that a round committed and that were not handed out yet. Dropped, they never were.
    pending: VecDeque<(Result<Drawn>, Source)>,
    done: bool,
}

impl<'a> Generation<'a> {
    pub(super) fn new(session: &'a mut Session, prompt: &[u32], options: GenerateOptions) -> Self {
        Generation {
            session,
            prompt: prompt.to_vec(),
            options,
            decoder: StreamDecoder::new(),
            generated: 0,
            pending: VecDeque::new(),
            done: false,
        }
    }

    fn finish(&mut self, finish: Finish) -> Event {
        self.done = true;
        Event::Done { finish, text: self.decoder.finish() }
    }

    fn step(&mut self) -> Result<Event> {
        let left = self.options.max_tokens.map_or(usize::MAX, |most| most.saturating_sub(self.generated));
        if left == 0 {
            return Ok(self.finish(Finish::Length));
        }
        let (drawn, source) = if let Some((drawn, source)) = self.pending.pop_front() {
            (drawn?, source)
        } else if self.generated == 0 {
            let prompt = std::mem::take(&mut self.prompt);
            (self.session.prefill(&prompt)?, Source::Target)
        } else if self.session.tokens.len() > self.session.model.context() as usize {
            return Ok(self.finish(Finish::Context));
        } else if self.session.speculation.is_some() {
            let round = self.session.round(left, &mut self.pending)?;
            return Ok(Event::Round(round));
        } else {
            (self.session.decode()?, Source::Target)
        };
        // Whatever a round computed beyond this token is not the conversation's until it is handed out.
        self.session.computed = self.session.tokens.len();
        let model = self.session.model.clone();
        let vocabulary = model.vocabulary();
        if !self.options.ignore_end && vocabulary.is_some_and(|v| v.is_end(drawn.token)) {
            return Ok(self.finish(Finish::End));
        }
        self.generated += 1;
        self.session.stats.generated += 1;
        self.session.tokens.push(drawn.token);
        let text = vocabulary.map_or_else(String::new, |v| self.decoder.push(v, drawn.token));
        Ok(Event::Token(Token { id: drawn.token, text, logprob: drawn.logprob, source }))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let event = self.step();
        self.done |= event.is_err();
        Some(event)
    }
}

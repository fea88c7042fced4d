//! A running generation: an iterator of events over a session.

use std::collections::VecDeque;

use super::choice::{Chooser, Chosen, Constraint};
use super::{CancelToken, Session};
use crate::engine::Drawn;
use crate::error::{Error, Result};
use crate::ops::Path;
use crate::speculate::{Method, Round};
use crate::text::{StreamDecoder, may_begin};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// The model ended the text, or a [`Constraint`] was fulfilled and allows no more.
    End,
    /// The wanted number of tokens is there.
    Length,
    /// The context is full.
    Context,
    /// One of the texts at which to stop was there, or the caller's sampler chose to.
    Stop,
    /// A [`CancelToken`] was cancelled.
    Cancelled,
}

/// Where a token was seen first. The target drew every token itself, drafted or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The target's own draw.
    #[default]
    Target,
    /// A draft that was accepted: whose, and its place in the draft, from 0.
    Draft { method: Method, place: usize },
    /// A [`Constraint`] left nothing else, so it was computed together with others.
    Forced { place: usize },
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

/// How far a text is, whoever computes its tokens.
pub(super) struct Run {
    options: GenerateOptions,
    decoder: StreamDecoder,
    generated: usize,
    pub(super) cancel: CancelToken,
    stops: Vec<String>,
    /// Text that may be the begin of a text at which to stop.
    held: String,
    /// Set when the next event is the end.
    ends: Option<Finish>,
    pub(super) done: bool,
}

impl Run {
    pub(super) fn new(options: GenerateOptions) -> Self {
        Run {
            options,
            decoder: StreamDecoder::new(),
            generated: 0,
            cancel: CancelToken::new(),
            stops: Vec::new(),
            held: String::new(),
            ends: None,
            done: false,
        }
    }

    pub(super) fn finish(&mut self, finish: Finish) -> Event {
        self.done = true;
        let held = std::mem::take(&mut self.held);
        Event::Done { finish, text: held + &self.decoder.finish() }
    }

    /// Tokens that may still come.
    ///
    /// Errors: why none may.
    pub(super) fn left(&self) -> Result<usize, Finish> {
        if let Some(finish) = self.ends {
            return Err(finish);
        }
        if self.cancel.is_cancelled() {
            return Err(Finish::Cancelled);
        }
        match self.options.max_tokens.map_or(usize::MAX, |most| most.saturating_sub(self.generated)) {
            0 => Err(Finish::Length),
            left => Ok(left),
        }
    }

    /// Whether the token drawn last has no place in the context.
    pub(super) fn is_full(&self, session: &Session) -> bool {
        self.generated > 0 && session.tokens.len() > session.model.context() as usize
    }

    /// Hands a token out: from now on it is the conversation's.
    pub(super) fn take(&mut self, session: &mut Session, drawn: Drawn, source: Source) -> Event {
        // Whatever a round computed beyond this token is not the conversation's until it is handed out.
        session.computed_by(Path::Rows, session.tokens.len());
        let model = session.model.clone();
        let vocabulary = model.vocabulary();
        if !self.options.ignore_end && vocabulary.is_some_and(|v| v.is_end(drawn.token)) {
            return self.finish(Finish::End);
        }
        self.generated += 1;
        session.stats.generated += 1;
        session.tokens.push(drawn.token);
        let text = vocabulary.map_or_else(String::new, |v| self.decoder.push(v, drawn.token));
        let text = self.pass(text);
        Event::Token(Token { id: drawn.token, text, logprob: drawn.logprob, source })
    }

    /// Holds text back that may be the begin of a text at which to stop.
    fn pass(&mut self, text: String) -> String {
        if self.stops.is_empty() {
            return text;
        }
        self.held.push_str(&text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            self.ends = Some(Finish::Stop);
            return std::mem::take(&mut self.held);
        }
        let may = may_begin(&self.held, self.stops.iter().map(String::as_str));
        let sure = self.held.len() - may;
        self.held.drain(..sure).collect()
    }
}

/// A running generation.
pub struct Generation<'a> {
    session: &'a mut Session,
    prompt: Vec<u32>,
    run: Run,
    /// Tokens that a round committed and that were not handed out yet. Dropped, they never were.
    pending: VecDeque<(Result<Drawn>, Source)>,
    chooser: Option<Chooser<'a>>,
    /// Nothing follows the tokens that are pending: the caller's sampler or the constraint ended the text.
    over: bool,
}

impl<'a> Generation<'a> {
    pub(super) fn new(session: &'a mut Session, prompt: &[u32], options: GenerateOptions) -> Self {
        session.cancel = CancelToken::new();
        Generation {
            session,
            prompt: prompt.to_vec(),
            run: Run::new(options),
            pending: VecDeque::new(),
            chooser: None,
            over: false,
        }
    }

    /// Ends when the token is cancelled, from any thread, between two submissions of a step. What was
    /// handed out stays in the session.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: &CancelToken) -> Self {
        self.run.cancel = cancel.clone();
        self.session.cancel = cancel.clone();
        self
    }

    /// Ends before the first of these texts, which is left out of the text. Text that may be the begin of one is held back.
    #[must_use]
    pub fn stop_at<S: Into<String>>(mut self, texts: impl IntoIterator<Item = S>) -> Self {
        self.run.stops = texts.into_iter().map(Into::into).filter(|text: &String| !text.is_empty()).collect();
        self
    }

    /// Lets somebody on the host choose the next tokens, which become pending. `Some` for a round of a session that speculates.
    fn chosen(&mut self, left: usize) -> Result<Option<Event>> {
        let Some(chooser) = &mut self.chooser else { return Ok(None) };
        let mut chosen =
            Chosen { tokens: &mut self.pending, ignore_end: self.run.options.ignore_end, over: false };
        let round = if self.prompt.is_empty() {
            self.session.choose_more(left, chooser, &mut chosen)?
        } else {
            let prompt = std::mem::take(&mut self.prompt);
            if !self.session.choose_first(&prompt, &self.run.cancel, chooser, &mut chosen)? {
                self.run.ends = Some(Finish::Cancelled);
            }
            None
        };
        self.over = chosen.over;
        Ok(round.map(Event::Round))
    }

    fn step(&mut self) -> Result<Event> {
        let left = match self.run.left() {
            Ok(left) => left,
            Err(finish) => return Ok(self.run.finish(finish)),
        };
        let (drawn, source) = if let Some((drawn, source)) = self.pending.pop_front() {
            (drawn?, source)
        } else if self.run.is_full(self.session) {
            return Ok(self.run.finish(Finish::Context));
        } else if let (true, Some(chooser)) = (self.over, &self.chooser) {
            let finish = if chooser.is_constraint() { Finish::End } else { Finish::Stop };
            return Ok(self.run.finish(finish));
        } else if self.chooser.is_some() {
            return match self.chosen(left)? {
                Some(round) => Ok(round),
                None => self.step(),
            };
        } else if !self.prompt.is_empty() {
            let prompt = std::mem::take(&mut self.prompt);
            match self.session.prefill(&prompt, &self.run.cancel)? {
                Some(drawn) => (drawn, Source::Target),
                None => return Ok(self.run.finish(Finish::Cancelled)),
            }
        } else if self.session.speculation.is_some() {
            let round = self.session.round(left, &mut self.pending)?;
            return Ok(Event::Round(round));
        } else {
            (self.session.decode()?, Source::Target)
        };
        Ok(self.run.take(self.session, drawn, source))
    }
}

impl Session {
    /// As [`Session::generate`], with a sampler of one's own: `choose` gets the logits, `[vocab]`, and the position of the
    /// token it chooses; `None` ends the text. It may exclude tokens and leave the rest to
    /// [`crate::SamplerOptions::choose`]. All logits come to the host. Drafters draft: `choose` is called for each token
    /// once and in order, as without them.
    ///
    /// Errors: as [`Session::generate`]; a token that does not exist ends the generation with an error.
    pub fn generate_with<'a>(
        &'a mut self,
        prompt: &[u32],
        options: GenerateOptions,
        choose: impl FnMut(&mut [f32], u32) -> Option<u32> + Send + 'a,
    ) -> Result<Generation<'a>> {
        self.begin(prompt)?;
        let mut generation = Generation::new(self, prompt, options);
        generation.chooser = Some(Chooser::Caller(Box::new(choose)));
        Ok(generation)
    }

    /// As [`Session::generate`], within a constraint: of the tokens it allows, the session's sampler chooses one. All logits
    /// come to the host. Drafters draft, and what the constraint forces is drafted too; the text is what it is without.
    ///
    /// Errors: as [`Session::generate`]; what the constraint says ends the generation with an error.
    pub fn generate_within<'a>(
        &'a mut self,
        prompt: &[u32],
        options: GenerateOptions,
        constraint: impl Constraint + 'a,
    ) -> Result<Generation<'a>> {
        self.begin(prompt)?;
        let mut generation = Generation::new(self, prompt, options);
        generation.chooser = Some(Chooser::Constrained(Box::new(constraint)));
        Ok(generation)
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.run.done {
            return None;
        }
        let event = match self.step() {
            Err(Error::Cancelled) => Ok(self.run.finish(Finish::Cancelled)),
            event => event,
        };
        self.run.done |= event.is_err();
        Some(event)
    }
}

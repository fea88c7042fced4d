//! Several conversations of one model that decode together: a token of each costs one read of the weights.

use std::time::Instant;

use super::generation::{Run, Source};
use super::{CancelToken, Event, Finish, GenerateOptions, Session};
use crate::engine::{MOST_ROWS, Model};
use crate::error::{Error, Result};
use crate::ops::{Choice, Draw};

/// Conversations of one model that generate together. They come and go between steps; each text is bit for bit the one that
/// its session would generate alone.
///
/// ```no_run
/// # fn main() -> Result<(), vkllm::Error> {
/// # let device = vkllm::Device::open(&Default::default())?;
/// # let options = vkllm::ModelOptions { sessions: 2, ..Default::default() };
/// # let model = vkllm::Model::open(&device, "model.gguf".as_ref(), &options, &|_, _| true)?;
/// let mut batch = vkllm::Batch::new(&model);
/// for prompt in [[1, 2], [3, 4]] {
///     batch.add(vkllm::Session::new(&model, Default::default())?, &prompt, Default::default())?;
/// }
/// while !batch.is_done() {
///     for (who, event) in batch.step()? {
///         println!("{who}: {:?}", event?);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Batch {
    model: Model,
    members: Vec<Option<Member>>,
}

/// A conversation and how far its text is.
struct Member {
    session: Session,
    prompt: Vec<u32>,
    run: Run,
}

impl Batch {
    pub fn new(model: &Model) -> Self {
        Batch { model: model.clone(), members: Vec::new() }
    }

    /// Lets a conversation generate after a prompt, from the next step on. Returns its number, the lowest that is free.
    ///
    /// Errors: as [`Session::generate`], and for a session of another model; the session is gone then, unless it is forked.
    pub fn add(&mut self, session: Session, prompt: &[u32], options: GenerateOptions) -> Result<usize> {
        self.add_cancelled_by(session, prompt, options, &CancelToken::new())
    }

    /// As [`Batch::add`], for a text that a token ends.
    ///
    /// Errors: as [`Batch::add`].
    pub fn add_cancelled_by(
        &mut self,
        mut session: Session,
        prompt: &[u32],
        options: GenerateOptions,
        cancel: &CancelToken,
    ) -> Result<usize> {
        if !self.model.is(&session.model) {
            return Err(Error::Argument {
                what: "the session of a batch".into(),
                found: "one of another model".into(),
                allowed: "sessions of the batch's model".into(),
            });
        }
        session.begin(prompt)?;
        let mut run = Run::new(options);
        run.cancel = cancel.clone();
        let member = Some(Member { session, prompt: prompt.to_vec(), run });
        let free = self.members.iter().position(Option::is_none);
        let at = free.unwrap_or(self.members.len());
        if free.is_some() {
            self.members[at] = member
        } else {
            self.members.push(member)
        }
        Ok(at)
    }

    /// Takes a conversation out, at its end or before.
    pub fn remove(&mut self, number: usize) -> Option<Session> {
        self.members.get_mut(number)?.take().map(|member| member.session)
    }

    /// Whether all texts are at their end.
    pub fn is_done(&self) -> bool {
        self.members.iter().flatten().all(|member| member.run.done)
    }

    /// Computes the prompts of conversations that are new, one by one, and a token of each other one, at most 65 in a step of
    /// the device. Nobody drafts. Returns an event of each conversation that was not at its end, with its number.
    ///
    /// Errors: the device's; conversations go on from their last tokens with the next step. Of one conversation alone: among
    /// the events, and its text is at its end.
    pub fn step(&mut self) -> Result<Vec<(usize, Result<Event>)>> {
        let mut events = Vec::new();
        let mut ready = Vec::new();
        for (number, member) in self.members.iter_mut().enumerate() {
            let Some(member) = member.as_mut().filter(|member| !member.run.done) else { continue };
            match member.before() {
                Some(event) => events.push((number, event)),
                None => ready.push(number),
            }
        }
        // Typical tokens are drawn by other kernels, and what one conversation draws must not depend on the others.
        let (typical, usual): (Vec<_>, Vec<_>) = ready.into_iter().partition(|&number| {
            self.members[number].as_ref().is_some_and(|member| member.session.draw().typical)
        });
        for numbers in [usual, typical].iter().flat_map(|list| list.chunks(MOST_ROWS as usize)) {
            events.extend(self.decode(numbers)?);
        }
        events.sort_by_key(|(number, _)| *number);
        Ok(events)
    }

    /// A token of each of these.
    fn decode(&mut self, numbers: &[usize]) -> Result<Vec<(usize, Result<Event>)>> {
        let began = Instant::now();
        let mut rows = Vec::with_capacity(numbers.len());
        let mut draw = Draw { choice: Choice::Greedy, biases: false, penalties: false, typical: false };
        for &number in numbers {
            let Some(member) = &mut self.members[number] else { continue };
            let session = &mut member.session;
            session.resettle()?;
            let own = session.draw();
            draw.biases |= own.biases;
            draw.penalties |= own.penalties;
            draw.typical |= own.typical;
            if own.choice == Choice::Sampled {
                draw.choice = Choice::Sampled;
            }
            let position = session.tokens.len() - 1;
            rows.push((session.slot, session.tokens[position], position as u32));
        }
        let drawn = self.model.engine().decode_rows(&rows, draw)?;
        let took = began.elapsed();
        let mut events = Vec::with_capacity(numbers.len());
        for (&number, drawn) in numbers.iter().zip(drawn) {
            let Some(member) = &mut self.members[number] else { continue };
            member.session.stats.decode_time += took;
            let length = member.session.tokens.len() as u32;
            if let Some(speculation) = &mut member.session.speculation {
                speculation.rounds.moved(length);
            }
            member.run.done |= drawn.is_err();
            events.push((
                number,
                drawn.map(|drawn| member.run.take(&mut member.session, drawn, Source::Target)),
            ));
        }
        Ok(events)
    }
}

impl Member {
    /// The end if it has come, or the first token after the prompt; `None` when a token is to be decoded.
    fn before(&mut self) -> Option<Result<Event>> {
        if let Err(finish) = self.run.left() {
            return Some(Ok(self.run.finish(finish)));
        }
        if self.run.is_full(&self.session) {
            return Some(Ok(self.run.finish(Finish::Context)));
        }
        if self.prompt.is_empty() {
            return None;
        }
        let prompt = std::mem::take(&mut self.prompt);
        Some(match self.session.prefill(&prompt, &self.run.cancel) {
            Ok(Some(drawn)) => Ok(self.run.take(&mut self.session, drawn, Source::Target)),
            Ok(None) => Ok(self.run.finish(Finish::Cancelled)),
            Err(error) => {
                self.run.done = true;
                Err(error)
            }
        })
    }
}

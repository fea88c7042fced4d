//! One turn: a message goes in, thoughts and an answer come out as they are made.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::chat::{ChatTemplate, Message, Part, RenderOptions, Reply};
use crate::cli::args::ReasoningArg;
use crate::cli::show::{dim, shown};
use crate::cli::{DEVICE, Failure};
use crate::speculate::Statistics;
use crate::{Error, Event, Finish, GenerateOptions, Session};

/// A conversation.
pub(super) struct Chat {
    pub(super) session: Session,
    pub(super) template: ChatTemplate,
    pub(super) messages: Vec<Message>,
    pub(super) render: RenderOptions,
    pub(super) generate: GenerateOptions,
    pub(super) reasoning: ReasoningArg,
    /// What the model thought last.
    pub(super) thoughts: String,
    /// Whether to say how fast an answer was.
    pub(super) status: bool,
    /// Set by Ctrl-C.
    pub(super) stop: Arc<AtomicBool>,
}

/// Where the parts of an answer go.
struct View {
    reasoning: ReasoningArg,
    last: Option<Part>,
    thoughts: usize,
}

impl View {
    /// Shows a piece of an answer. Thoughts go to standard error where the answer is data for somebody else.
    fn show(&mut self, part: Part, text: &str) -> io::Result<()> {
        let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
        let terminal = out.is_terminal();
        if part == Part::Reasoning {
            self.thoughts += 1;
            match self.reasoning {
                ReasoningArg::Hide => {}
                ReasoningArg::Fold if err.is_terminal() => {
                    write!(
                        err,
                        "\r{}thinking, {} pieces{}",
                        dim(&err, true),
                        self.thoughts,
                        dim(&err, false)
                    )?;
                }
                ReasoningArg::Fold => {}
                ReasoningArg::Show if terminal => {
                    write!(out, "{}{}{}", dim(&out, true), shown(text, true), dim(&out, false))?;
                }
                ReasoningArg::Show => write!(err, "{}", shown(text, err.is_terminal()))?,
            }
        } else {
            if self.last == Some(Part::Reasoning) {
                match self.reasoning {
                    ReasoningArg::Show if terminal => writeln!(out, "\n")?,
                    ReasoningArg::Show => writeln!(err)?,
                    ReasoningArg::Fold => {
                        writeln!(err, "\rthought in {} pieces; /think shows them", self.thoughts)?
                    }
                    ReasoningArg::Hide => {}
                }
            }
            out.write_all(shown(text, terminal).as_bytes())?;
        }
        self.last = Some(part);
        out.flush()?;
        err.flush()
    }
}

impl Chat {
    /// Sends a message and shows the answer. What cannot be answered is told and taken back.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        let before = self.messages.len();
        self.messages.push(Message::user(text));
        match self.answer() {
            Err(Failure::Told(sentence, code)) if code != DEVICE => {
                self.messages.truncate(before);
                Ok(writeln!(io::stderr(), "{sentence}")?)
            }
            done => done,
        }
    }

    fn answer(&mut self) -> Result<(), Failure> {
        let model = self.session.model().clone();
        let Some(vocabulary) = model.vocabulary() else { return Ok(()) };
        let rendered = self.template.render(&self.messages, &self.render)?;
        let prompt = rendered.tokens(vocabulary);
        // What the conversation shares with what was computed stays; one token is needed to go on from.
        let same = prompt.iter().zip(self.session.tokens()).take_while(|(a, b)| a == b).count();
        let same = same.min(prompt.len().saturating_sub(1));
        self.session.rewind(same);
        self.stop.store(false, Ordering::Relaxed);
        let mut reply = Reply::new(&rendered.text());
        let mut view = View { reasoning: self.reasoning, last: None, thoughts: 0 };
        let (mut content, mut thoughts) = (String::new(), String::new());
        let drafted = |session: &Session| session.speculation().map_or((0, 0), counts);
        let earlier = drafted(&self.session);
        let (mut tokens, mut first, mut full) = (0u32, None, false);
        let mut failure = None;
        for event in self.session.generate(&prompt[same..], self.generate)? {
            let pieces = match event {
                Ok(Event::Token(token)) => {
                    tokens += 1;
                    first.get_or_insert_with(Instant::now);
                    reply.push(vocabulary, token.id, &token.text)
                }
                Ok(Event::Round(_)) => continue,
                Ok(Event::Done { finish, text }) => {
                    full = finish == Finish::Context;
                    reply.finish(&text)
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            let stopped = self.stop.swap(false, Ordering::Relaxed);
            let held = if stopped { reply.finish("") } else { Vec::new() };
            for (part, text) in pieces.into_iter().chain(held) {
                if part == Part::Reasoning { &mut thoughts } else { &mut content }.push_str(&text);
                view.show(part, &text)?;
            }
            if stopped {
                break;
            }
        }
        writeln!(io::stdout())?;
        io::stdout().flush()?;
        let reasoning = (!thoughts.is_empty()).then(|| thoughts.clone());
        self.thoughts = thoughts;
        self.messages.push(Message { reasoning, ..Message::assistant(content) });
        let context = model.context() as usize;
        if full {
            writeln!(
                io::stderr(),
                "the context of {context} tokens is full; /clear, /undo, or begin with a larger -c"
            )?;
        }
        if self.status {
            let time = first.map(|first| first.elapsed().as_secs_f64()).filter(|time| *time > 0.0);
            let rate = time.filter(|_| tokens > 1).map(|time| f64::from(tokens - 1) / time);
            let now = drafted(&self.session);
            self.print_status(tokens, rate, (now.0 - earlier.0, now.1 - earlier.1), context)?;
        }
        match failure {
            None => Ok(()),
            Some(error @ Error::Device(_)) => Err(error.into()),
            Some(error) => Ok(writeln!(io::stderr(), "{error}")?),
        }
    }

    fn print_status(
        &self,
        tokens: u32,
        rate: Option<f64>,
        (drafted, accepted): (u64, u64),
        context: usize,
    ) -> io::Result<()> {
        let mut err = io::stderr().lock();
        let rate = rate.map_or(String::new(), |rate| format!(", {rate:.1} tokens/s"));
        let drafts = match drafted {
            0 => String::new(),
            _ => format!(", {accepted} of {drafted} drafts accepted"),
        };
        let used = self.session.tokens().len();
        let line = format!("{tokens} tokens{rate}{drafts}, context {used} of {context}");
        writeln!(err, "{}[{line}]{}", dim(&err, true), dim(&err, false))
    }

    pub(super) fn show_thoughts(&self) -> Result<(), Failure> {
        let mut err = io::stderr().lock();
        let text = if self.thoughts.is_empty() { "the model did not think" } else { &self.thoughts };
        Ok(writeln!(err, "{}{}{}", dim(&err, true), shown(text, err.is_terminal()), dim(&err, false))?)
    }
}

/// Drafted and accepted tokens.
fn counts(statistics: &Statistics) -> (u64, u64) {
    (statistics.drafted(), statistics.accepted())
}

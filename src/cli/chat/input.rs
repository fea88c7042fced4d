//! Where messages come from: a line editor on a terminal, lines of a pipe otherwise.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use crate::cli::{Failure, input, load};

/// Opens and closes a message of several lines.
const BLOCK: &str = "\"\"\"";

/// What was typed.
#[derive(Debug, PartialEq)]
pub(super) enum Typed {
    Message(String),
    /// Ctrl-C on a line.
    Interrupted,
    End,
}

pub(super) enum Input {
    Terminal { editor: Box<Editor<(), FileHistory>>, history: Option<PathBuf> },
    Lines(io::Lines<io::StdinLock<'static>>),
}

fn failed(error: &ReadlineError) -> Failure {
    input(format!("the terminal cannot be read: {error}"))
}

impl Input {
    pub(super) fn open(keep_history: bool) -> Result<Self, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(Input::Lines(io::stdin().lock().lines()));
        }
        let config = Config::builder().auto_add_history(true).build();
        let mut editor = Editor::with_config(config).map_err(|error| failed(&error))?;
        let history = load::state_dir().filter(|_| keep_history).map(|folder| folder.join("chat-history"));
        if let Some(path) = &history {
            // There is none before the first conversation.
            let _ = editor.load_history(path);
        }
        Ok(Input::Terminal { editor: Box::new(editor), history })
    }

    fn line(&mut self, prompt: &str) -> Result<Result<String, Typed>, Failure> {
        match self {
            Input::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Ok(line)),
                Err(ReadlineError::Interrupted) => Ok(Err(Typed::Interrupted)),
                Err(ReadlineError::Eof) => Ok(Err(Typed::End)),
                Err(error) => Err(failed(&error)),
            },
            Input::Lines(lines) => match lines.next() {
                None => Ok(Err(Typed::End)),
                Some(Ok(line)) => Ok(Ok(line)),
                Some(Err(error)) => Err(input(format!("standard input: {error}"))),
            },
        }
    }

    /// The next message: a line, lines that end with `\`, or a block between `"""`.
    pub(super) fn message(&mut self) -> Result<Typed, Failure> {
        let mut text = match self.line("> ")? {
            Ok(line) => line,
            Err(typed) => return Ok(typed),
        };
        if let Some(first) = text.trim_start().strip_prefix(BLOCK) {
            let mut block = first.to_owned();
            while !block.trim_end().ends_with(BLOCK) {
                match self.line("… ")? {
                    Ok(line) => block = format!("{block}\n{line}"),
                    Err(Typed::End) => break,
                    Err(typed) => return Ok(typed),
                }
            }
            let inner = block.trim_end();
            let inner = inner.strip_suffix(BLOCK).unwrap_or(inner);
            return Ok(Typed::Message(inner.trim_matches('\n').to_owned()));
        }
        while let Some(begin) = text.strip_suffix('\\') {
            let begin = begin.to_owned();
            match self.line("… ")? {
                Ok(line) => text = format!("{begin}\n{line}"),
                Err(Typed::End) => text = begin,
                Err(typed) => return Ok(typed),
            }
        }
        Ok(Typed::Message(text))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Input::Terminal { editor, history: Some(path) } = self {
            let folder = path.parent().map(std::fs::create_dir_all);
            if let Err(error) = editor.save_history(path) {
                tracing::warn!(%error, ?folder, "the history is not kept");
            }
        }
    }
}

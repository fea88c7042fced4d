//! `vkllm chat`: a conversation at the terminal, or through a pipe, one message a line.

mod input;
mod turn;

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::args::{ChatArgs, OnOff, ReasoningArg};
use super::{Failure, input as told, interrupt_flag, load, run, spec};
use crate::chat::{ChatTemplate, Message, RenderOptions, Role};
use crate::text::Vocabulary;
use crate::{GenerateOptions, ModelFile, Session};
use input::{Input, Typed};
use turn::Chat;

/// What `/help` and `--help` say of the commands.
pub(super) const HELP: &str = "\
In the conversation:
  /help            this list
  /clear           begin anew; the system message stays
  /undo            take the last message and its answer back
  /retry           answer the last message again
  /system [TEXT]   tell the model something else before the conversation, or nothing
  /think [HOW]     show, fold or hide thoughts; without HOW, show the last ones
  /save FILE       write the conversation as JSON
  /load FILE       go on with a conversation that was written
  /quit            end (also Ctrl-D)
  //TEXT           a message that begins with a slash
A line that ends with \\ goes on in the next; \"\"\" opens and closes a message of several lines.";

/// The template that was asked for, else the file's.
fn template(args: &ChatArgs, file: &ModelFile, vocabulary: &Vocabulary) -> Result<ChatTemplate, Failure> {
    let known = Some(vocabulary);
    match args.chat_template.as_deref() {
        Some("chatml") => Ok(ChatTemplate::chatml(known)?),
        Some("plain") => Ok(ChatTemplate::plain(known)?),
        Some(path) => {
            let source = std::fs::read_to_string(path).map_err(|e| {
                told(format!("the chat template {path}: {e}; allowed are a file, chatml and plain"))
            })?;
            Ok(ChatTemplate::new(&source, known)?)
        }
        None => match ChatTemplate::from_gguf(&file.gguf, None, known)? {
            Some(template) => Ok(template),
            // The built-in model continues stories.
            None if args.model.is_none() => Ok(ChatTemplate::plain(known)?),
            None if vocabulary.special("<|im_start|>").is_some() => Ok(ChatTemplate::chatml(known)?),
            None => Err(told(
                "the model file has no chat template; choose one with --chat-template FILE, chatml or plain",
            )),
        },
    }
}

pub(super) fn run(args: &ChatArgs) -> Result<(), Failure> {
    let sampler = run::sampler(&args.sampler).check()?;
    let file = load::file(args.model.as_deref())?;
    let speculation = spec::options(&args.spec, Some(&file))?;
    let file = spec::target(file, speculation.as_ref());
    let device = load::device(&args.common.device)?;
    let options = load::options(&args.common, &file, &device)?;
    let draft = spec::file(args.spec.model_draft.as_deref(), &device, &file, &options)?;
    let vocabulary =
        file.vocabulary()?.ok_or_else(|| told("the model has no vocabulary; a chat needs text"))?;
    let template = template(args, &file, &vocabulary)?;
    let model = load::model(&device, &file, &options)?;
    let draft = draft.map(|(file, options)| load::model(&device, &file, &options)).transpose()?;
    let session = Session::new(&model, sampler)?.with_logit_bias(&args.sampler.logit_bias)?;
    let session = spec::session(session, draft.as_ref(), speculation.as_ref())?;
    let mut chat = Chat {
        session,
        template,
        messages: args.system.iter().map(Message::system).collect(),
        render: RenderOptions {
            thinking: args.thinking.map(|thinking| thinking == OnOff::On),
            ..RenderOptions::default()
        },
        generate: GenerateOptions {
            max_tokens: usize::try_from(args.n_predict).ok(),
            ..GenerateOptions::default()
        },
        reasoning: args.reasoning,
        thoughts: String::new(),
        status: args.stats || io::stderr().is_terminal(),
        stop: interrupt_flag(),
    };
    let mut input = Input::open(!args.no_history)?;
    if io::stdin().is_terminal() {
        writeln!(io::stderr(), "{} on {}; /help lists commands", name(&file), device.caps().name)?;
    }
    let mut warned = false;
    loop {
        match input.message()? {
            Typed::End => break,
            Typed::Interrupted if warned => break,
            Typed::Interrupted => {
                warned = true;
                writeln!(io::stderr(), "Ctrl-C again, Ctrl-D or /quit ends the conversation")?;
                continue;
            }
            Typed::Message(text) if text.trim().is_empty() => {}
            Typed::Message(text) => match text.strip_prefix('/') {
                Some(rest) if rest.starts_with('/') => chat.say(rest)?,
                Some(command) => {
                    if command_of(&mut chat, command)? {
                        break;
                    }
                }
                None => chat.say(&text)?,
            },
        }
        warned = false;
    }
    load::no_messages(&device)
}

/// What the model calls itself.
fn name(file: &ModelFile) -> String {
    let name = file.gguf.metadata().str("general.name").ok().flatten();
    super::show::shown(name.unwrap_or("the model"), true)
}

fn say(sentence: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stderr(), "{sentence}")?)
}

/// Runs a command; true ends the conversation.
fn command_of(chat: &mut Chat, command: &str) -> Result<bool, Failure> {
    let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    match word {
        "quit" | "exit" | "q" => return Ok(true),
        "help" | "?" => say(HELP)?,
        "clear" | "new" => {
            chat.messages.retain(|message| message.role == Role::System);
            chat.session.clear();
        }
        "undo" => {
            let last = chat.messages.iter().rposition(|message| message.role == Role::User);
            match last {
                Some(at) => chat.messages.truncate(at),
                None => say("there is nothing to take back")?,
            }
        }
        "retry" => {
            let last = chat.messages.iter().rposition(|message| message.role == Role::User);
            match last {
                Some(at) => {
                    let again = chat.messages[at].content.clone();
                    chat.messages.truncate(at);
                    chat.say(&again)?;
                }
                None => say("there is no message to answer again")?,
            }
        }
        "system" => {
            chat.messages.retain(|message| message.role != Role::System);
            if !rest.is_empty() {
                chat.messages.insert(0, Message::system(rest));
            }
        }
        "think" => match rest {
            "" => chat.show_thoughts()?,
            "show" => chat.reasoning = ReasoningArg::Show,
            "fold" => chat.reasoning = ReasoningArg::Fold,
            "hide" => chat.reasoning = ReasoningArg::Hide,
            other => {
                say(&format!("/think is followed by \"{other}\"; allowed are show, fold, hide or nothing"))?
            }
        },
        "save" | "load" if rest.is_empty() => say(&format!("/{word} wants the name of a file"))?,
        "save" => {
            let written = serde_json::to_string_pretty(&saved(&chat.messages))
                .map_err(io::Error::from)
                .and_then(|text| std::fs::write(rest, text + "\n"));
            if let Err(error) = written {
                say(&format!("{rest}: {error}"))?;
            }
        }
        "load" => match loaded(Path::new(rest)) {
            Ok(messages) => chat.messages = messages,
            Err(sentence) => say(&sentence)?,
        },
        other => {
            say(&format!("there is no command /{other}; /help lists them, //{other} says it to the model"))?
        }
    }
    Ok(false)
}

fn saved(messages: &[Message]) -> Value {
    let one = |message: &Message| {
        let mut object = json!({ "role": message.role.name(), "content": message.content });
        if let Some(reasoning) = &message.reasoning {
            object["reasoning_content"] = json!(reasoning);
        }
        object
    };
    messages.iter().map(one).collect()
}

fn loaded(path: &Path) -> Result<Vec<Message>, String> {
    let wrong = |what: String| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let list = json.as_array().ok_or_else(|| wrong("a list of messages is wanted".into()))?;
    let one = |(i, item): (usize, &Value)| {
        let role = [Role::System, Role::User, Role::Assistant].into_iter().find(|r| item["role"] == r.name());
        let role = role.ok_or_else(|| {
            wrong(format!("message {i} has the role {}; allowed are system, user, assistant", item["role"]))
        })?;
        let content = item["content"].as_str().ok_or_else(|| wrong(format!("message {i} has no content")))?;
        let reasoning = item["reasoning_content"].as_str().map(str::to_owned);
        Ok(Message { reasoning, ..Message::new(role, content) })
    };
    list.iter().enumerate().map(one).collect()
}

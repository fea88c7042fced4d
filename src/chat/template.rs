//! Chat templates: compiled once, rendered within limits, and cut into control tokens and text.

use std::io;
use std::time::{Duration, Instant};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};

use super::functions::{self, Raised};
use super::mark::{Names, unused};
use super::{ChatError, Message};
use crate::gguf::Gguf;
use crate::text::{Span, Vocabulary};

/// Bytes that a template may have; the longest in use have some 30,000.
const LARGEST: usize = 1 << 20;
/// Instructions of one rendering, and further ones for each message, which takes some hundred; a template that looks at all
/// messages for each of them some more.
const FUEL: u64 = 500_000;
const FUEL_PER_MESSAGE: u64 = 20_000;
/// Bytes that a rendering may have beyond eight times its input.
const OUTPUT: usize = 4 << 20;
const TIME: Duration = Duration::from_secs(5);
/// Depth of calls of macros and of nested blocks.
const DEPTH: usize = 200;
const NAME: &str = "chat template";

const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                      {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const PLAIN: &str = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}";

/// What else a rendering needs.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// End with the begin of an answer.
    pub add_generation_prompt: bool,
    /// Whether the model should think first, for templates that ask (`enable_thinking`, `thinking`).
    pub thinking: Option<bool>,
    /// Tools that the model may call: JSON objects as the field's chat interfaces take them (`{"type": "function", …}`).
    pub tools: Vec<serde_json::Value>,
    /// Further variables of the template, such as `reasoning_effort`. They count as scaffolding, so they are no place for
    /// text of users.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// The time for `strftime_now`, in seconds since 1970, UTC; `None` asks the clock.
    pub now: Option<u64>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        RenderOptions {
            add_generation_prompt: true,
            thinking: None,
            tools: Vec::new(),
            variables: serde_json::Map::new(),
            now: None,
        }
    }
}

/// A rendered conversation, in which text of messages is still told from scaffolding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// With marks in what came from messages.
    marked: String,
    mark: char,
}

impl Rendered {
    fn plain(&self, text: &str) -> String {
        text.chars().filter(|&c| c != self.mark).collect()
    }

    /// The whole text, names of control tokens included.
    pub fn text(&self) -> String {
        self.plain(&self.marked)
    }

    /// The control tokens that the template wrote and the text between them, for the vocabulary that the template was
    /// compiled for.
    pub fn spans(&self, vocabulary: &Vocabulary) -> Vec<Span> {
        let spans = vocabulary.spans(&self.marked);
        let mut out: Vec<Span> = Vec::with_capacity(spans.len());
        for (i, span) in spans.iter().enumerate() {
            let text = match span {
                Span::Text(text) => self.plain(text),
                // A mark stands inside of every name in a message but those of one character, which it follows.
                Span::Control(id) => match (single(vocabulary, *id), spans.get(i + 1)) {
                    (Some(name), Some(Span::Text(next))) if next.starts_with(self.mark) => name.to_owned(),
                    _ => {
                        out.push(span.clone());
                        continue;
                    }
                },
            };
            match out.last_mut() {
                Some(Span::Text(last)) => last.push_str(&text),
                _ if text.is_empty() => {}
                _ => out.push(Span::Text(text)),
            }
        }
        out
    }

    /// Token ids. The template alone decides about BOS, as for the models' own tokenizers.
    pub fn tokens(&self, vocabulary: &Vocabulary) -> Vec<u32> {
        vocabulary.encode_spans(&self.spans(vocabulary))
    }
}

/// The text of a control token whose name is one character.
fn single(vocabulary: &Vocabulary, id: u32) -> Option<&str> {
    let name = std::str::from_utf8(vocabulary.token_bytes(id)?).ok()?;
    (name.chars().count() == 1).then_some(name)
}

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    names: Names,
    /// `bos_token` and the like: names in templates, and the tokens' texts.
    tokens: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Output with a limit.
struct Limited<'a> {
    out: &'a mut Vec<u8>,
    allowed: usize,
    until: Instant,
}

impl io::Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.out.len() + bytes.len() > self.allowed {
            return Err(io::Error::other(format!("{} bytes of output", self.allowed)));
        }
        if Instant::now() > self.until {
            return Err(io::Error::other(format!("{} seconds", TIME.as_secs())));
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ChatTemplate {
    /// Compiles a Jinja template for the tokens of a vocabulary.
    ///
    /// Errors: a template that cannot be read, by line.
    pub fn new(source: &str, vocabulary: Option<&Vocabulary>) -> Result<Self, ChatError> {
        if source.len() > LARGEST {
            return Err(ChatError::TooLarge { found: source.len(), allowed: LARGEST });
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| ChatError::Template { reason: error.to_string() })?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_recursion_limit(DEPTH);
        environment.set_unknown_method_callback(functions::method);
        environment.add_filter("tojson", functions::tojson);
        environment.add_function("raise_exception", functions::raise_exception);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| {
            let at = error.line().map_or(String::new(), |line| format!("line {line}: "));
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            ChatError::Template { reason: format!("{at}{detail}") }
        })?;
        let token = |id: Option<u32>| {
            let bytes = vocabulary?.token_bytes(id?)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let bos = token(vocabulary.and_then(Vocabulary::bos)).unwrap_or_default();
        let eos = token(vocabulary.and_then(Vocabulary::eos)).unwrap_or_default();
        Ok(ChatTemplate {
            environment,
            source: source.to_owned(),
            names: Names::new(vocabulary),
            tokens: vec![("bos_token", bos), ("eos_token", eos)],
        })
    }

    /// The template of a model file; `name` chooses one of several (`tool_use`, `rag`). `None` when it has none.
    ///
    /// Errors: a template that is no text or cannot be read.
    pub fn from_gguf(
        gguf: &Gguf,
        name: Option<&str>,
        vocabulary: Option<&Vocabulary>,
    ) -> Result<Option<Self>, ChatError> {
        const KEY: &str = "tokenizer.chat_template";
        let key = name.map_or(KEY.to_owned(), |name| format!("{KEY}.{name}"));
        gguf.metadata().str(&key)?.map(|source| ChatTemplate::new(source, vocabulary)).transpose()
    }

    /// The format of ChatML, which many models know: `<|im_start|>role`, text, `<|im_end|>`.
    ///
    /// Errors: none; the type is that of [`ChatTemplate::new`].
    pub fn chatml(vocabulary: Option<&Vocabulary>) -> Result<Self, ChatError> {
        ChatTemplate::new(CHATML, vocabulary)
    }

    /// No format: the messages one behind the other, for models that only continue text.
    ///
    /// Errors: none; the type is that of [`ChatTemplate::new`].
    pub fn plain(vocabulary: Option<&Vocabulary>) -> Result<Self, ChatError> {
        ChatTemplate::new(PLAIN, vocabulary)
    }

    /// The template as it is written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// Errors: [`ChatError::Refused`] when the template says that it cannot, [`ChatError::Limit`] when it does too much.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<Rendered, ChatError> {
        let mut texts = Vec::new();
        for message in messages {
            collect(message, &mut texts);
        }
        let json: Vec<String> = options.tools.iter().map(|tool| tool.to_string()).collect();
        let all = texts.iter().map(String::as_str).chain(json.iter().map(String::as_str));
        let mark = unused(all.chain([self.source.as_str()]))
            .ok_or_else(|| ChatError::Limit { allowed: "all characters for private use".into() })?;
        let input = texts.iter().chain(&json).map(String::len).sum::<usize>() + self.source.len();
        // Some templates put the arguments of a call into text as they are, others walk through them.
        let marked = match self.write(messages, options, mark, input, false) {
            Err(ChatError::Render { .. }) if messages.iter().any(|m| !m.tool_calls.is_empty()) => {
                self.write(messages, options, mark, input, true)?
            }
            written => written?,
        };
        Ok(Rendered { marked, mark })
    }

    fn write(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        mark: char,
        input: usize,
        arguments_as_text: bool,
    ) -> Result<String, ChatError> {
        let scope = Scope { names: &self.names, mark, arguments_as_text };
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        let now = options.now.unwrap_or_else(clock);
        let mut variables: Vec<(String, Value)> =
            options.variables.iter().map(|(key, value)| (key.clone(), Value::from(Serde(value)))).collect();
        let mut set = |key: &str, value: Value| variables.push((key.to_owned(), value));
        set("messages", messages.iter().map(|message| scope.message(message)).collect::<Vec<_>>().into());
        set("add_generation_prompt", options.add_generation_prompt.into());
        set("strftime_now", Value::from_function(move |format: &str| functions::strftime(now, format)));
        for (name, text) in &self.tokens {
            set(name, text.as_str().into());
        }
        if let Some(thinking) = options.thinking {
            set("enable_thinking", thinking.into());
            set("thinking", thinking.into());
        }
        if !options.tools.is_empty() {
            set("tools", options.tools.iter().map(|tool| scope.json(tool)).collect::<Vec<_>>().into());
        }
        let failed = |error: &minijinja::Error| ChatError::Render { reason: error.to_string() };
        let fuel = FUEL + FUEL_PER_MESSAGE * messages.len() as u64;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let template = environment.get_template(NAME).map_err(|error| failed(&error))?;
        let mut out = Vec::new();
        let allowed = OUTPUT.saturating_add(input.saturating_mul(8));
        let until = Instant::now() + TIME;
        let context = Value::from_pairs(variables);
        let rendered = template.render_captured_to(context, Limited { out: &mut out, allowed, until });
        rendered.map_err(|error| explain(&error, fuel))?;
        String::from_utf8(out).map_err(|error| ChatError::Render { reason: error.to_string() })
    }
}

/// What a template's failure means.
fn explain(error: &minijinja::Error, fuel: u64) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Raised(reason)) = inner.downcast_ref() {
            return ChatError::Refused { reason: reason.clone() };
        }
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            return ChatError::Limit { allowed: inner.to_string() };
        }
        if inner.downcast_ref::<minijinja::Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return ChatError::Limit { allowed: format!("{fuel} instructions") };
        }
        cause = inner.source();
    }
    let at = error.line().map_or(String::new(), |line| format!("line {line}: "));
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    ChatError::Render { reason: format!("{at}{}{detail}", error.kind()) }
}

/// All texts of a message.
fn collect(message: &Message, texts: &mut Vec<String>) {
    texts.push(message.content.clone());
    texts.extend([&message.reasoning, &message.tool_call_id, &message.name].into_iter().flatten().cloned());
    for call in &message.tool_calls {
        texts.extend(call.id.clone());
        texts.push(call.name.clone());
        texts.push(call.arguments.to_string());
    }
}

/// How messages become values of a template.
struct Scope<'a> {
    names: &'a Names,
    mark: char,
    arguments_as_text: bool,
}

impl Scope<'_> {
    fn text(&self, text: &str) -> Value {
        Value::from(self.names.mark(text, self.mark))
    }

    fn json(&self, value: &serde_json::Value) -> Value {
        match value {
            serde_json::Value::String(text) => self.text(text),
            serde_json::Value::Array(items) => {
                items.iter().map(|item| self.json(item)).collect::<Vec<_>>().into()
            }
            serde_json::Value::Object(map) => {
                let pair =
                    |(key, value): (&String, _)| (self.names.mark_key(key, self.mark), self.json(value));
                Value::from_pairs(map.iter().map(pair))
            }
            scalar => Value::from(Serde(scalar)),
        }
    }

    fn message(&self, message: &Message) -> Value {
        let mut fields =
            vec![("role", Value::from(message.role.name())), ("content", self.text(&message.content))];
        let texts = [
            ("reasoning_content", &message.reasoning),
            ("tool_call_id", &message.tool_call_id),
            ("name", &message.name),
        ];
        fields.extend(texts.into_iter().filter_map(|(key, text)| Some((key, self.text(text.as_deref()?)))));
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| {
                let arguments = match self.arguments_as_text {
                    true => self.text(&functions::dumps(&call.arguments)),
                    false => self.json(&call.arguments),
                };
                let function = Value::from_pairs([("name", self.text(&call.name)), ("arguments", arguments)]);
                let mut fields = vec![("type", Value::from("function")), ("function", function)];
                fields.extend(call.id.as_deref().map(|id| ("id", self.text(id))));
                Value::from_pairs(fields)
            });
            fields.push(("tool_calls", calls.collect::<Vec<_>>().into()));
        }
        Value::from_pairs(fields)
    }
}

//! Conversations as models were trained on them: messages, the templates of model files, and what an answer consists of.
//!
//! A template writes scaffolding (control tokens, names of roles) around what people and tools wrote. Only the scaffolding
//! becomes control tokens: a message that spells one stays text, whatever the template does with it.
//!
//! ```
//! use vkllm::chat::{ChatTemplate, Message, RenderOptions};
//!
//! # fn main() -> Result<(), vkllm::chat::ChatError> {
//! let template = ChatTemplate::chatml(None)?;
//! let prompt = template.render(&[Message::user("Hello!")], &RenderOptions::default())?;
//! assert_eq!(prompt.text(), "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n");
//! # Ok(())
//! # }
//! ```

mod functions;
mod mark;
mod reply;
mod template;
#[cfg(test)]
mod tests;

pub use reply::{Part, Reply};
pub use template::{ChatTemplate, RenderOptions, Rendered};

/// Who speaks. Templates compare names of roles, so there are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// The name that templates know.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A call of a tool that the model asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Some templates want ids of at least nine characters.
    pub id: Option<String>,
    pub name: String,
    /// A JSON object.
    pub arguments: serde_json::Value,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: String,
    /// What the model thought before it answered (`reasoning_content` in templates).
    pub reasoning: Option<String>,
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
    /// The tool that a tool's message is from.
    pub name: Option<String>,
}

impl Message {
    /// A message of text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message {
            role,
            content: content.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }

    pub fn system(content: impl Into<String>) -> Self {
        Message::new(Role::System, content)
    }

    pub fn user(content: impl Into<String>) -> Self {
        Message::new(Role::User, content)
    }

    pub fn assistant(content: impl Into<String>) -> Self {
        Message::new(Role::Assistant, content)
    }

    /// What a tool answered.
    pub fn tool(content: impl Into<String>) -> Self {
        Message::new(Role::Tool, content)
    }
}

/// What is wrong with a template, or with a conversation that it cannot render.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    #[error("the chat template has {found} bytes; allowed are {allowed}")]
    TooLarge { found: usize, allowed: usize },
    /// The template cannot be read. `reason` names the line.
    #[error("the chat template cannot be read: {reason}")]
    Template { reason: String },
    /// The template itself says that it cannot render such a conversation (`raise_exception`).
    #[error("the chat template refuses the conversation: {reason}")]
    Refused { reason: String },
    #[error("the chat template fails: {reason}")]
    Render { reason: String },
    /// Work, output or time beyond what an honest template needs.
    #[error("the chat template was stopped: it used more than {allowed}")]
    Limit { allowed: String },
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
}

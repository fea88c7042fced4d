//! What crosses between C and Rust: handles, options, tokens.

use std::ffi::{c_char, c_void};

use vkllm::{Finish, SamplerOptions};

/// A device.
pub struct VkllmDevice(pub(crate) vkllm::Device);

/// A loaded model. Any number of threads may use it.
pub struct VkllmModel {
    pub(crate) model: vkllm::Model,
    /// The file's, or what is wrong with it.
    pub(crate) template: Result<Option<vkllm::chat::ChatTemplate>, String>,
    /// Made when a text is to follow a schema, an expression or a grammar.
    pub(crate) constraints: std::sync::OnceLock<vkllm::constrain::Constraints>,
}

/// A conversation. One thread at a time may use it.
pub struct VkllmSession(pub(crate) vkllm::Session);

/// Ends a generation from another thread.
pub struct VkllmCancel(pub(crate) vkllm::CancelToken);

/// How a call ended. After anything but VKLLM_STATUS_OK, vkllm_error() says why.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VkllmStatus {
    /// It worked.
    Ok = 0,
    /// An argument, an option or a file cannot be used.
    Input = 1,
    /// The device failed or was lost.
    Device = 2,
    /// There is less room than what is to be written needs; the count says how much.
    Room = 3,
    /// A bug in vkllm. Handles that the call could change must not be used again, but to be freed.
    Bug = 4,
}

/// Why a generation ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VkllmFinish {
    /// The model ended the text, or a constraint was fulfilled and allows no more.
    End = 0,
    /// The wanted number of tokens is there.
    Length = 1,
    /// The context is full.
    Context = 2,
    /// A text at which to stop was there.
    Stop = 3,
    /// The callback returned false, or a cancel token was cancelled.
    Cancelled = 4,
}

impl From<Finish> for VkllmFinish {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Length => VkllmFinish::Length,
            Finish::Context => VkllmFinish::Context,
            Finish::Stop => VkllmFinish::Stop,
            Finish::Cancelled => VkllmFinish::Cancelled,
            _ => VkllmFinish::End,
        }
    }
}

/// A generated token. What it points to is there while the callback runs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VkllmToken {
    pub id: u32,
    /// Natural logarithm of its probability at temperature 1, before truncation.
    pub logprob: f32,
    /// Text that became complete with it, UTF-8, ends with 0; empty in the middle of a character. A text may contain the
    /// character 0; text_length counts it.
    pub text: *const c_char,
    /// Bytes of the text.
    pub text_length: usize,
    /// Whether it was drafted.
    pub drafted: bool,
    /// Whether this is no token but text that was held back until the end.
    pub last: bool,
}

/// Gets every token; false ends the generation. Must return, and not call functions of the same session.
pub type VkllmOnToken = Option<unsafe extern "C" fn(user: *mut c_void, token: *const VkllmToken) -> bool>;

/// Gets the bytes of weights that were read, and all that are to be; false ends the load.
pub type VkllmOnProgress = Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> bool>;

/// How a model is opened. vkllm_model_options_default() fills it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VkllmModelOptions {
    /// Positions a session can hold; 0: the model's, at most 4096.
    pub context: u32,
    /// Most rows of one step.
    pub batch: u32,
    /// Sessions that can exist at once.
    pub sessions: u32,
    /// Called from any thread, also from several at once; may be null.
    pub on_progress: VkllmOnProgress,
    /// Handed to on_progress.
    pub user: *mut c_void,
}

/// How tokens are chosen. vkllm_sampler_default() fills it. Truncations look at probabilities at temperature 1.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VkllmSampler {
    /// 0 or less: always the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Of those keep the fewest whose probabilities reach this share of their sum; 1 keeps all.
    pub top_p: f32,
    /// Of those keep the ones at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    pub seed: u64,
    /// Divides positive logits of recent tokens and multiplies others; 1 is off.
    pub repeat_penalty: f32,
    /// Lowers the logit of a recent token, for each time it occurred.
    pub frequency_penalty: f32,
    /// Lowers the logit of a recent token, once.
    pub presence_penalty: f32,
    /// How many tokens are recent; 0 switches the penalties off.
    pub repeat_last_n: u32,
}

impl From<SamplerOptions> for VkllmSampler {
    fn from(options: SamplerOptions) -> Self {
        let SamplerOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            repeat_penalty,
            frequency_penalty,
            presence_penalty,
            repeat_last_n,
            ..
        } = options;
        VkllmSampler {
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            repeat_penalty,
            frequency_penalty,
            presence_penalty,
            repeat_last_n,
        }
    }
}

impl From<VkllmSampler> for SamplerOptions {
    fn from(options: VkllmSampler) -> Self {
        let VkllmSampler {
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            repeat_penalty,
            frequency_penalty,
            presence_penalty,
            repeat_last_n,
        } = options;
        #[allow(clippy::needless_update)] // What C does not have keeps its default.
        SamplerOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            repeat_penalty,
            frequency_penalty,
            presence_penalty,
            repeat_last_n,
            ..SamplerOptions::default()
        }
    }
}

/// What to generate. vkllm_generate_options_default() fills it. Of json_schema, regex and grammar one at most is not null.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VkllmGenerateOptions {
    /// Tokens at most; 0 until the model ends the text or the context is full.
    pub max_tokens: usize,
    /// Go on when the model ends the text.
    pub ignore_end: bool,
    /// JSON schema that the text must follow, or null.
    pub json_schema: *const c_char,
    /// Regular expression that must match the text from begin to end, or null.
    pub regex: *const c_char,
    /// Grammar that the text must follow, in llguidance's variant of Lark, or null.
    pub grammar: *const c_char,
    /// Texts before the first of which the generation ends.
    pub stop: *const *const c_char,
    /// How many there are.
    pub stop_count: usize,
    /// Ends the generation from another thread, or null.
    pub cancel: *const VkllmCancel,
}

/// A message of a conversation.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VkllmMessage {
    /// "system", "user", "assistant" or "tool".
    pub role: *const c_char,
    /// UTF-8, ends with 0. It never becomes a control token.
    pub content: *const c_char,
}

//! vkllm for C: opaque handles, a status from every call that can fail, the sentence in `vkllm_error`, and no panic across.
//!
//! Handles are freed by their own functions, in any order: a session keeps its model, a model its device. Texts are UTF-8
//! and end with 0. A model may be used by many threads, a session by one at a time.

mod guard;
#[cfg(test)]
mod tests;
mod types;

use std::ffi::{CStr, c_char};
use std::path::Path;

use guard::{Failure, copy, free, give, guard, needed, shared, slice, text, unique};
pub use types::{
    VkllmCancel, VkllmDevice, VkllmFinish, VkllmGenerateOptions, VkllmMessage, VkllmModel, VkllmModelOptions,
    VkllmOnProgress, VkllmOnToken, VkllmSampler, VkllmSession, VkllmStatus, VkllmToken,
};
use vkllm::chat::{ChatTemplate, Message, RenderOptions, Role};
use vkllm::constrain::{Constraints, Grammar};
use vkllm::gguf::Gguf;
use vkllm::text::EncodeOptions;
use vkllm::{
    CancelToken, Device, DeviceOptions, Event, GenerateOptions, Model, ModelFile, ModelOptions,
    SamplerOptions, Selector, Session, Snapshot, Source, SpecOptions,
};

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// The version of this library. Never freed.
#[unsafe(no_mangle)]
pub extern "C" fn vkllm_version() -> *const c_char {
    VERSION.as_ptr()
}

/// Why the last call of this thread failed, as a sentence. It is there until this thread's next call.
#[unsafe(no_mangle)]
pub extern "C" fn vkllm_error() -> *const c_char {
    guard::last()
}

/// Opens a device: a part of its name, or "reference" (the CPU interpreter), or null for the most capable one. Compiled
/// kernels are kept in the folder `cache`, unless it is null.
///
/// # Safety
/// Pointers are null or point to what they are declared as.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_device_open(
    name: *const c_char,
    cache: *const c_char,
    out: *mut *mut VkllmDevice,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let (name, cache) = unsafe { (text(name, "the device's name")?, text(cache, "the cache folder")?) };
        let options = DeviceOptions {
            selector: match name {
                None => Selector::Auto,
                Some("reference") => Selector::Reference,
                Some(name) => Selector::Name(name.to_owned()),
            },
            cache_dir: cache.map(Into::into),
            cache_key: vkllm::SHADER_HASH.to_owned(),
            ..DeviceOptions::default()
        };
        let device = Device::open(&options).map_err(vkllm::Error::from)?;
        // SAFETY: the caller's promise.
        unsafe { give(out, VkllmDevice(device)) }
    })
}

/// Frees a device handle. Models that use the device keep it.
///
/// # Safety
/// Null or a handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_device_free(device: *mut VkllmDevice) {
    // SAFETY: the caller's promise.
    unsafe { free(device) }
}

/// Options as the library would choose them.
#[unsafe(no_mangle)]
pub extern "C" fn vkllm_model_options_default() -> VkllmModelOptions {
    let ModelOptions { batch, sessions, .. } = ModelOptions::default();
    VkllmModelOptions { context: 0, batch, sessions, on_progress: None, user: std::ptr::null_mut() }
}

/// Opens a GGUF file on a device. `options` may be null.
///
/// # Safety
/// Pointers are null or point to what they are declared as.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_model_open(
    device: *const VkllmDevice,
    path: *const c_char,
    options: *const VkllmModelOptions,
    out: *mut *mut VkllmModel,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let (device, path) = unsafe { (shared(device, "the device")?, needed(path, "the path")?) };
        // SAFETY: the caller's promise.
        let asked = unsafe { options.as_ref() }.copied().unwrap_or_else(|| vkllm_model_options_default());
        let options = ModelOptions {
            context: (asked.context > 0).then_some(asked.context),
            batch: asked.batch,
            sessions: asked.sessions,
            ..ModelOptions::default()
        };
        let user = Opaque(asked.user);
        let progress = move |done, total| match asked.on_progress {
            // SAFETY: the caller's promise: a function of this type for this pointer.
            Some(call) => unsafe { call(user.get(), done, total) },
            None => true,
        };
        let file = ModelFile::new(Gguf::open(Path::new(path)).map_err(vkllm::Error::from)?)?;
        let template = ChatTemplate::from_gguf(&file.gguf, None, file.vocabulary()?.as_ref())
            .map_err(|error| error.to_string());
        let model = Model::load(&device.0, &file, &options, &progress)?;
        let model = VkllmModel { model, template, constraints: std::sync::OnceLock::new() };
        // SAFETY: the caller's promise.
        unsafe { give(out, model) }
    })
}

/// A pointer of the caller that only the caller looks through.
#[derive(Clone, Copy)]
struct Opaque(*mut std::ffi::c_void);

impl Opaque {
    fn get(self) -> *mut std::ffi::c_void {
        self.0
    }
}

// SAFETY: nothing here follows the pointer; the header says from which threads it comes back.
unsafe impl Send for Opaque {}
// SAFETY: as above.
unsafe impl Sync for Opaque {}

/// Frees a model handle. Sessions of the model keep it.
///
/// # Safety
/// Null or a handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_model_free(model: *mut VkllmModel) {
    // SAFETY: the caller's promise.
    unsafe { free(model) }
}

/// Tokens of the model's vocabulary, 0 for null.
///
/// # Safety
/// Null or a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_model_vocabulary(model: *const VkllmModel) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { model.as_ref() }.map_or(0, |model| model.model.config().vocab)
}

/// Positions that a session of the model can hold, 0 for null.
///
/// # Safety
/// Null or a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_model_context(model: *const VkllmModel) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { model.as_ref() }.map_or(0, |model| model.model.context())
}

/// The tokens of a text, with a begin token if the model wants one and `begin` is true. With capacity 0 they are counted.
///
/// # Safety
/// Pointers are null or point to what they are declared as; `ids` has room for `capacity` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_tokenize(
    model: *const VkllmModel,
    prompt: *const c_char,
    begin: bool,
    ids: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let (model, prompt) = unsafe { (shared(model, "the model")?, needed(prompt, "the text")?) };
        let vocabulary =
            model.model.vocabulary().ok_or_else(|| Failure::input("the model has no vocabulary"))?;
        let encoded = vocabulary.encode(prompt, EncodeOptions { add_bos: begin, parse_special: false });
        // SAFETY: the caller's promise.
        unsafe { copy(&encoded, ids, capacity, count) }
    })
}

/// The tokens of a conversation by the chat template of the model's file, up to where the answer begins. With capacity 0
/// they are counted.
///
/// # Safety
/// Pointers are null or point to what they are declared as; `ids` has room for `capacity` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_chat_tokens(
    model: *const VkllmModel,
    messages: *const VkllmMessage,
    message_count: usize,
    ids: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let model = unsafe { shared(model, "the model")? };
        // SAFETY: the caller's promise.
        let given = unsafe { slice(messages, message_count, "the list of messages")? };
        let none = |what: &str| Failure::input(format!("the model has no {what}"));
        let template = model.template.as_ref().map_err(Failure::input)?;
        let template = template.as_ref().ok_or_else(|| none("chat template"))?;
        let vocabulary = model.model.vocabulary().ok_or_else(|| none("vocabulary"))?;
        let mut messages = Vec::with_capacity(given.len());
        for message in given {
            // SAFETY: the caller's promise.
            let (role, content) =
                unsafe { (needed(message.role, "a role")?, needed(message.content, "a message")?) };
            let role = match role {
                "system" => Role::System,
                "user" => Role::User,
                "assistant" => Role::Assistant,
                "tool" => Role::Tool,
                other => {
                    let allowed = "system, user, assistant and tool";
                    return Err(Failure::input(format!("a role is \"{other}\"; allowed are {allowed}")));
                }
            };
            messages.push(Message::new(role, content));
        }
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let tokens = template.render(&messages, &options)?.tokens(vocabulary);
        // SAFETY: the caller's promise.
        unsafe { copy(&tokens, ids, capacity, count) }
    })
}

/// Options as the library would choose them.
#[unsafe(no_mangle)]
pub extern "C" fn vkllm_sampler_default() -> VkllmSampler {
    SamplerOptions::default().into()
}

/// Begins a conversation. `sampler` may be null.
///
/// # Safety
/// Pointers are null or point to what they are declared as.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_session_new(
    model: *const VkllmModel,
    sampler: *const VkllmSampler,
    out: *mut *mut VkllmSession,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let model = unsafe { shared(model, "the model")? };
        // SAFETY: the caller's promise.
        let sampler = unsafe { sampler.as_ref() }.map_or_else(SamplerOptions::default, |s| (*s).into());
        // SAFETY: the caller's promise.
        unsafe { give(out, VkllmSession(Session::new(&model.model, sampler)?)) }
    })
}

/// As vkllm_session_new, with a smaller model of the same vocabulary that drafts; the text is the same. `most` tokens are
/// drafted each round, 0 leaves it to measurements.
///
/// # Safety
/// Pointers are null or point to what they are declared as.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_session_new_with_draft(
    model: *const VkllmModel,
    draft: *const VkllmModel,
    most: usize,
    sampler: *const VkllmSampler,
    out: *mut *mut VkllmSession,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let (model, draft) = unsafe { (shared(model, "the model")?, shared(draft, "the draft model")?) };
        // SAFETY: the caller's promise.
        let sampler = unsafe { sampler.as_ref() }.map_or_else(SamplerOptions::default, |s| (*s).into());
        let options = SpecOptions { draft_max: (most > 0).then_some(most), ..SpecOptions::default() };
        let session = Session::new(&model.model, sampler)?.with_draft(&draft.model, &options)?;
        // SAFETY: the caller's promise.
        unsafe { give(out, VkllmSession(session)) }
    })
}

/// Frees a conversation.
///
/// # Safety
/// Null or a handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_session_free(session: *mut VkllmSession) {
    // SAFETY: the caller's promise.
    unsafe { free(session) }
}

/// Tokens of the conversation so far, 0 for null.
///
/// # Safety
/// Null or a session that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_session_length(session: *const VkllmSession) -> usize {
    // SAFETY: the caller's promise.
    unsafe { session.as_ref() }.map_or(0, |session| session.0.tokens().len())
}

/// Forgets all tokens but the first `tokens`.
///
/// # Safety
/// Null or a session that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_session_rewind(session: *mut VkllmSession, tokens: usize) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { unique(session, "the session")? }.0.rewind(tokens);
        Ok(())
    })
}

/// Writes the conversation to a file, whole or not at all.
///
/// # Safety
/// Pointers are null or point to what they are declared as.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_session_save(
    session: *const VkllmSession,
    path: *const c_char,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let (session, path) = unsafe { (shared(session, "the session")?, needed(path, "the path")?) };
        Ok(session.0.snapshot()?.write(Path::new(path))?)
    })
}

/// Goes on from a conversation that was saved, of the same model.
///
/// # Safety
/// Pointers are null or point to what they are declared as.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_session_restore(
    session: *mut VkllmSession,
    path: *const c_char,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let (session, path) = unsafe { (unique(session, "the session")?, needed(path, "the path")?) };
        Ok(session.0.restore(&Snapshot::read(Path::new(path))?)?)
    })
}

/// Appends tokens and writes their logits, [count, vocabulary], for which `logits` has room of `capacity` values.
///
/// # Safety
/// Pointers are null or point to what they are declared as, and to as much.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_forward(
    session: *mut VkllmSession,
    ids: *const u32,
    count: usize,
    logits: *mut f32,
    capacity: usize,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let (session, ids) = unsafe { (unique(session, "the session")?, slice(ids, count, "the tokens")?) };
        let need = count.saturating_mul(session.0.model().config().vocab as usize);
        if need > capacity {
            let sentence = format!("there is room for {capacity} logits, but there would be {need}");
            return Err(Failure { status: VkllmStatus::Room, sentence });
        }
        let values = session.0.forward(ids)?;
        let mut written = 0;
        // SAFETY: the caller's promise.
        unsafe { copy(&values, logits, capacity, &mut written) }
    })
}

/// Options as the library would choose them.
#[unsafe(no_mangle)]
pub extern "C" fn vkllm_generate_options_default() -> VkllmGenerateOptions {
    let GenerateOptions { max_tokens, ignore_end } = GenerateOptions::default();
    VkllmGenerateOptions {
        max_tokens: max_tokens.unwrap_or(0),
        ignore_end,
        json_schema: std::ptr::null(),
        regex: std::ptr::null(),
        grammar: std::ptr::null(),
        stop: std::ptr::null(),
        stop_count: 0,
        cancel: std::ptr::null(),
    }
}

/// The constraint that options ask for.
///
/// # Safety
/// The options' pointers are null or point to what they are declared as.
unsafe fn constraint(model: &VkllmModel, options: &VkllmGenerateOptions) -> Result<Option<Grammar>, Failure> {
    // SAFETY: the caller's promise.
    let (schema, regex, grammar) = unsafe {
        (
            text(options.json_schema, "the JSON schema")?,
            text(options.regex, "the regular expression")?,
            text(options.grammar, "the grammar")?,
        )
    };
    let asked = [schema, regex, grammar].iter().flatten().count();
    if asked > 1 {
        return Err(Failure::input("a text follows one of json_schema, regex and grammar, not several"));
    }
    if asked == 0 {
        return Ok(None);
    }
    if model.constraints.get().is_none() {
        let _ = model.constraints.set(Constraints::new(&model.model)?);
    }
    let Some(constraints) = model.constraints.get() else { return Ok(None) };
    Ok(match (schema, regex, grammar) {
        (Some(schema), ..) => Some(constraints.json_schema(schema)?),
        (_, Some(regex), _) => Some(constraints.regex(regex)?),
        (.., Some(grammar)) => Some(constraints.grammar(grammar)?),
        _ => None,
    })
}

/// Appends a prompt and generates. `on_token` gets every token; `options` and `finish` may be null. `model` is the
/// session's, and needed for json_schema, regex and grammar alone. What was handed out before a failure stays in the
/// conversation.
///
/// # Safety
/// Pointers are null or point to what they are declared as, and to as much.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_generate(
    session: *mut VkllmSession,
    model: *const VkllmModel,
    prompt: *const u32,
    prompt_count: usize,
    options: *const VkllmGenerateOptions,
    on_token: VkllmOnToken,
    user: *mut std::ffi::c_void,
    finish: *mut VkllmFinish,
) -> VkllmStatus {
    guard(|| {
        // SAFETY: the caller's promise.
        let asked = unsafe { options.as_ref() }.copied().unwrap_or_else(|| vkllm_generate_options_default());
        // SAFETY: the caller's promise.
        let (session, prompt) =
            unsafe { (unique(session, "the session")?, slice(prompt, prompt_count, "the prompt")?) };
        let options = GenerateOptions {
            max_tokens: (asked.max_tokens > 0).then_some(asked.max_tokens),
            ignore_end: asked.ignore_end,
        };
        let constrained =
            [asked.json_schema, asked.regex, asked.grammar].iter().any(|pointer| !pointer.is_null());
        let grammar = if constrained {
            // SAFETY: the caller's promise.
            unsafe { constraint(shared(model, "the model")?, &asked)? }
        } else {
            None
        };
        let mut stops = Vec::new();
        // SAFETY: the caller's promise.
        for &stop in unsafe { slice(asked.stop, asked.stop_count, "the list of texts at which to stop")? } {
            // SAFETY: the caller's promise.
            stops.push(unsafe { needed(stop, "a text at which to stop")? });
        }
        let events = match grammar {
            Some(grammar) => session.0.generate_within(prompt, options, grammar)?,
            None => session.0.generate(prompt, options)?,
        };
        let mut events = events.stop_at(stops);
        // SAFETY: the caller's promise.
        if let Some(cancel) = unsafe { asked.cancel.as_ref() } {
            events = events.cancelled_by(&cancel.0);
        }
        let hand = |id, logprob, text: String, drafted, last| {
            let Some(on_token) = on_token else { return true };
            let text_length = text.len();
            let mut bytes = text.into_bytes();
            bytes.push(0);
            let token = VkllmToken { id, logprob, text: bytes.as_ptr().cast(), text_length, drafted, last };
            // SAFETY: the caller's promise: a function of this type for this pointer; the token outlives the call.
            unsafe { on_token(user, &token) }
        };
        let mut end = VkllmFinish::Cancelled;
        for event in events {
            match event? {
                Event::Token(token) => {
                    let drafted = token.source != Source::Target;
                    if !hand(token.id, token.logprob, token.text, drafted, false) {
                        break;
                    }
                }
                Event::Done { finish, text } => {
                    end = finish.into();
                    if !text.is_empty() {
                        hand(0, 0.0, text, false, true);
                    }
                }
                _ => {}
            }
        }
        // SAFETY: the caller's promise.
        if let Some(finish) = unsafe { finish.as_mut() } {
            *finish = end;
        }
        Ok(())
    })
}

/// Makes a token that ends generations from another thread.
#[unsafe(no_mangle)]
pub extern "C" fn vkllm_cancel_new() -> *mut VkllmCancel {
    Box::into_raw(Box::new(VkllmCancel(CancelToken::new())))
}

/// Ends the generations that were given this token, now and later. Any thread may call it.
///
/// # Safety
/// Null or a token that is not freed meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_cancel_now(cancel: *const VkllmCancel) {
    // SAFETY: the caller's promise.
    if let Some(cancel) = unsafe { cancel.as_ref() } {
        cancel.0.cancel();
    }
}

/// Frees a token.
///
/// # Safety
/// Null or a token that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vkllm_cancel_free(cancel: *mut VkllmCancel) {
    // SAFETY: the caller's promise.
    unsafe { free(cancel) }
}

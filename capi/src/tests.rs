//! The C functions, called as C would: what works, what is refused with a sentence, and a panic that does not cross.

use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};

use super::*;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/stories260k.q8_0.gguf");

fn error() -> String {
    // SAFETY: the sentence is there until this thread's next call.
    unsafe { CStr::from_ptr(vkllm_error()) }.to_str().expect("UTF-8").to_owned()
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no 0 in it")
}

/// The built-in model on the reference device.
fn open() -> *mut VkllmModel {
    let (mut device, mut model) = (null_mut(), null_mut());
    let options = VkllmModelOptions { context: 128, sessions: 2, ..vkllm_model_options_default() };
    // SAFETY: pointers to what they are declared as.
    unsafe {
        assert_eq!(vkllm_device_open(c("reference").as_ptr(), null(), &mut device), VkllmStatus::Ok);
        let status = vkllm_model_open(device, c(MODEL).as_ptr(), &options, &mut model);
        assert_eq!(status, VkllmStatus::Ok, "{}", error());
        vkllm_device_free(device);
    }
    model
}

fn ids(model: *const VkllmModel, prompt: &str) -> Vec<u32> {
    let (prompt, mut count) = (c(prompt), 0);
    // SAFETY: pointers to what they are declared as.
    unsafe {
        assert_eq!(vkllm_tokenize(model, prompt.as_ptr(), true, null_mut(), 0, &mut count), VkllmStatus::Ok);
        let mut ids = vec![0; count];
        let short = vkllm_tokenize(model, prompt.as_ptr(), true, ids.as_mut_ptr(), count - 1, &mut count);
        assert_eq!(short, VkllmStatus::Room);
        assert!(error().contains("there is room for"), "{}", error());
        assert_eq!(
            vkllm_tokenize(model, prompt.as_ptr(), true, ids.as_mut_ptr(), count, &mut count),
            VkllmStatus::Ok
        );
        ids
    }
}

struct Text {
    text: String,
    most: usize,
    tokens: usize,
}

unsafe extern "C" fn collect(user: *mut c_void, token: *const VkllmToken) -> bool {
    // SAFETY: as this test hands them in.
    let (text, token) = unsafe { (&mut *user.cast::<Text>(), &*token) };
    // SAFETY: so many bytes, and a 0.
    let bytes = unsafe { std::slice::from_raw_parts(token.text.cast::<u8>(), token.text_length + 1) };
    assert_eq!(bytes.last(), Some(&0));
    text.text.push_str(std::str::from_utf8(&bytes[..token.text_length]).expect("UTF-8"));
    text.tokens += usize::from(!token.last);
    text.tokens < text.most
}

fn generate(
    session: *mut VkllmSession,
    model: *const VkllmModel,
    prompt: &[u32],
    options: &VkllmGenerateOptions,
    most: usize,
) -> (VkllmStatus, VkllmFinish, String) {
    let mut text = Text { text: String::new(), most, tokens: 0 };
    let mut finish = VkllmFinish::End;
    let user = (&raw mut text).cast();
    // SAFETY: pointers to what they are declared as.
    let status = unsafe {
        vkllm_generate(
            session,
            model,
            prompt.as_ptr(),
            prompt.len(),
            options,
            Some(collect),
            user,
            &mut finish,
        )
    };
    (status, finish, text.text)
}

#[test]
fn a_story_a_schema_and_a_saved_session() {
    let folder = std::env::temp_dir().join(format!("vkllm-capi-{}", std::process::id()));
    let path = c(folder.to_str().expect("UTF-8"));
    let model = open();
    let greedy = VkllmSampler { temperature: 0.0, ..vkllm_sampler_default() };
    let (mut session, mut other) = (null_mut(), null_mut());
    let options = VkllmGenerateOptions { max_tokens: 12, ..vkllm_generate_options_default() };
    // SAFETY: pointers to what they are declared as.
    unsafe {
        assert_eq!(vkllm_model_vocabulary(model), 512);
        assert_eq!(vkllm_model_context(model), 128);
        assert_eq!(vkllm_session_new(model, &greedy, &mut session), VkllmStatus::Ok);
        assert_eq!(vkllm_session_new(model, &greedy, &mut other), VkllmStatus::Ok);
    }
    let prompt = ids(model, "Once upon a time");
    let (status, finish, text) = generate(session, model, &prompt, &options, 99);
    assert_eq!((status, finish), (VkllmStatus::Ok, VkllmFinish::Length));
    assert!(text.starts_with(", there was a"), "{text}");
    let (status, finish, part) = generate(other, model, &prompt, &options, 5);
    assert_eq!((status, finish), (VkllmStatus::Ok, VkllmFinish::Cancelled));
    assert!(text.starts_with(&part) && part.len() < text.len());
    let more = &ids(model, " But")[1..];
    // SAFETY: pointers to what they are declared as.
    unsafe {
        assert_eq!(vkllm_session_save(session, path.as_ptr()), VkllmStatus::Ok, "{}", error());
        assert_eq!(vkllm_session_restore(other, path.as_ptr()), VkllmStatus::Ok, "{}", error());
        assert_eq!(vkllm_session_length(session), vkllm_session_length(other));
    }
    let want = generate(session, model, more, &options, 99);
    assert_eq!(generate(other, model, more, &options, 99), want);
    let regex = c("(yes|no)!");
    let within = VkllmGenerateOptions { regex: regex.as_ptr(), ..options };
    let (status, finish, text) = generate(other, model, more, &within, 99);
    assert_eq!((status, finish), (VkllmStatus::Ok, VkllmFinish::End), "{}", error());
    assert!(["yes!", "no!"].contains(&&*text), "{text}");
    let stop = c("time");
    let stops = [stop.as_ptr()];
    // SAFETY: pointers to what they are declared as.
    unsafe {
        assert_eq!(vkllm_session_rewind(other, 0), VkllmStatus::Ok);
        let cancel = vkllm_cancel_new();
        let ended = VkllmGenerateOptions { stop: stops.as_ptr(), stop_count: 1, cancel, ..options };
        let (_, finish, text) = generate(other, model, &ids(model, "Once upon a"), &ended, 99);
        assert_eq!(finish, VkllmFinish::Stop, "{text}");
        vkllm_cancel_now(cancel);
        assert_eq!(generate(other, model, more, &ended, 99).1, VkllmFinish::Cancelled);
        vkllm_cancel_free(cancel);
        let mut logits = vec![0f32; 2 * 512];
        assert_eq!(vkllm_session_rewind(other, 0), VkllmStatus::Ok);
        assert_eq!(vkllm_forward(other, prompt.as_ptr(), 2, logits.as_mut_ptr(), 1023), VkllmStatus::Room);
        assert_eq!(vkllm_forward(other, prompt.as_ptr(), 2, logits.as_mut_ptr(), 1024), VkllmStatus::Ok);
        assert!(logits.iter().all(|logit| logit.is_finite() && *logit != 0.0));
        // In any order: a session keeps its model.
        vkllm_model_free(model);
        vkllm_session_free(session);
        vkllm_session_free(other);
    }
    std::fs::remove_file(folder).expect("it was written");
}

#[test]
fn what_cannot_be_used_is_a_sentence() {
    let (mut device, mut model) = (null_mut(), null_mut());
    let mut count = 0;
    // SAFETY: null is allowed everywhere.
    unsafe {
        let status = vkllm_device_open(c("no such device").as_ptr(), null(), &mut device);
        assert_eq!(status, VkllmStatus::Device, "{}", error());
        assert_eq!(vkllm_model_open(null(), null(), null(), &mut model), VkllmStatus::Input);
        assert_eq!(error(), "the device is null");
        assert_eq!(vkllm_session_new(null(), null(), null_mut()), VkllmStatus::Input);
        assert_eq!(vkllm_tokenize(null(), null(), false, null_mut(), 0, &mut count), VkllmStatus::Input);
        assert_eq!(vkllm_chat_tokens(null(), null(), 3, null_mut(), 0, &mut count), VkllmStatus::Input);
        let none = vkllm_generate(null_mut(), null(), null(), 1, null(), None, null_mut(), null_mut());
        assert_eq!(none, VkllmStatus::Input);
        assert_eq!(vkllm_session_rewind(null_mut(), 0), VkllmStatus::Input);
        assert_eq!(vkllm_session_save(null(), null()), VkllmStatus::Input);
        assert_eq!(vkllm_session_restore(null_mut(), null()), VkllmStatus::Input);
        assert_eq!(vkllm_forward(null_mut(), null(), 1, null_mut(), 0), VkllmStatus::Input);
        assert_eq!((vkllm_model_vocabulary(null()), vkllm_model_context(null())), (0, 0));
        assert_eq!(vkllm_session_length(null()), 0);
        vkllm_device_free(null_mut());
        vkllm_model_free(null_mut());
        vkllm_session_free(null_mut());
        vkllm_cancel_free(null_mut());
        vkllm_cancel_now(null());
        assert_eq!(vkllm_device_open(c("reference").as_ptr(), null(), &mut device), VkllmStatus::Ok);
        let missing = vkllm_model_open(device, c("/no/such/model.gguf").as_ptr(), null(), &mut model);
        assert_eq!(missing, VkllmStatus::Input);
        assert!(error().contains("/no/such/model.gguf"), "{}", error());
        assert_eq!(vkllm_model_open(device, c"\xff".as_ptr(), null(), &mut model), VkllmStatus::Input);
        assert_eq!(error(), "the path is not UTF-8");
        vkllm_device_free(device);
    }
    let model = open();
    let (role, content) = (c("king"), c("hello"));
    let message = VkllmMessage { role: role.as_ptr(), content: content.as_ptr() };
    // SAFETY: pointers to what they are declared as.
    unsafe {
        assert_eq!(vkllm_chat_tokens(model, &message, 1, null_mut(), 0, &mut count), VkllmStatus::Input);
        assert_eq!(error(), "the model has no chat template");
        vkllm_model_free(model);
    }
    assert!(!VERSION.is_empty());
}

#[test]
fn no_panic_crosses() {
    let status = guard(|| panic!("at {}", 7));
    assert_eq!(status, VkllmStatus::Bug);
    assert_eq!(error(), "a bug in vkllm, please report it: at 7");
}

/// The header promises that threads may share a model.
#[test]
fn models_are_shared_and_sessions_sent() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<VkllmDevice>();
    shared::<VkllmModel>();
    shared::<VkllmCancel>();
    sent::<VkllmSession>();
}

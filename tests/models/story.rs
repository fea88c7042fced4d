//! Trained weights: the greedy story that an independent implementation tells from the same file.

use vkllm::gguf::Gguf;
use vkllm::text::EncodeOptions;
use vkllm::{Activations, Device, Event, GenerateOptions, ModelOptions, SamplerOptions, Session};

use super::{beside, built_in, load, reference};
use crate::harness;

const PROMPT: &str = "Once upon a time";
/// 100 tokens after the prompt.
const STORY: &str = ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a \
    big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\" \
    Lily was sad and didn't know what to do";

fn told(device: &Device, gguf: Gguf, batch: u32) -> String {
    let options = ModelOptions {
        batch,
        activations: Activations::Float,
        context: Some(256),
        ..ModelOptions::default()
    };
    let model = load(device, gguf, &options);
    let vocabulary = model.vocabulary().expect("it has a vocabulary");
    let prompt = vocabulary.encode(PROMPT, EncodeOptions { add_bos: true, parse_special: false });
    let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let options = GenerateOptions { max_tokens: Some(100), ignore_end: false };
    let events = session.generate(&prompt, options).expect("the prompt fits");
    events
        .map(|event| match event.expect("a token") {
            Event::Token(token) => token.text,
            Event::Done { text, .. } => text,
            Event::Round(_) => String::new(),
        })
        .collect()
}

/// The built-in model's weights are rounded to 8 bits; with float activations it tells the same story.
fn check(device: &Device) {
    assert_eq!(told(device, built_in(), 512).trim_end(), STORY);
    let path = beside("models/stories260k.f32.gguf");
    if !path.exists() {
        return harness::skip("../shared/models is not there; only the built-in model is tested");
    }
    for batch in [512, 1] {
        assert_eq!(
            told(device, Gguf::open(&path).expect("a GGUF"), batch).trim_end(),
            STORY,
            "batch {batch}"
        );
    }
}

#[test]
fn the_story_is_told_on_the_reference() {
    check(reference());
}

#[test]
fn the_story_is_told_on_the_device() {
    if let Some(device) = harness::device() {
        check(device);
    }
}

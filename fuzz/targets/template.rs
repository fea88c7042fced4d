//! Any template and message: rendered or refused, and the message stays text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vkllm::chat::{ChatTemplate, Message, RenderOptions};

fuzz_target!(|data: (&str, &str, &str)| {
    let (source, first, second) = data;
    let Ok(template) = ChatTemplate::new(source, None) else { return };
    let options = RenderOptions { now: Some(0), ..RenderOptions::default() };
    if let Ok(rendered) = template.render(&[Message::user(first), Message::assistant(second)], &options) {
        let _ = rendered.text();
    }
});

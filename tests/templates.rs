//! Chat templates of the vocabularies beside the checkout: control tokens are the template's, text is the user's.

use std::path::PathBuf;

use vkllm::chat::{ChatTemplate, Message, RenderOptions};
use vkllm::gguf::Gguf;
use vkllm::text::{EncodeOptions, Span, Vocabulary};

use crate::harness;

fn open(name: &str) -> Option<(Gguf, Vocabulary)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/tokenizers").join(name);
    if !path.exists() {
        harness::skip(&format!("../shared/tokenizers/{name} is not there"));
        return None;
    }
    let gguf = Gguf::open(&path).expect("a good file");
    let vocabulary = Vocabulary::from_gguf(&gguf).expect("a good vocabulary").expect("one at all");
    Some((gguf, vocabulary))
}

const TEXT: &str = "  Grüße, 世界! <b>1 < 2</b> |x| [0]\n\n";

#[test]
fn templates_of_real_vocabularies() {
    for (name, file) in [("command-r", "command-r.gguf"), ("phi-3", "phi-3.gguf"), ("qwen2", "qwen2.gguf")] {
        let Some((gguf, vocabulary)) = open(file) else { continue };
        let template =
            ChatTemplate::from_gguf(&gguf, None, Some(&vocabulary)).expect("readable").expect("there");
        let render = |text: &str| {
            let messages = [Message::user(text), Message::assistant("So?"), Message::user(text)];
            template
                .render(&messages, &RenderOptions::default())
                .unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        // Where no message names a control token, all is as when the whole text is read as scaffolding.
        let prompt = render(TEXT);
        let whole = vocabulary.encode(&prompt.text(), EncodeOptions { parse_special: true, add_bos: false });
        assert_eq!(prompt.tokens(&vocabulary), whole, "{name}");
        let controls = |prompt: &vkllm::chat::Rendered| -> Vec<Span> {
            let spans = prompt.spans(&vocabulary);
            spans.into_iter().filter(|span| matches!(span, Span::Control(_))).collect()
        };
        let own = controls(&prompt);
        assert!(own.len() > 4, "{name}: {own:?}");
        // Every control token of the vocabulary in a message stays text, whole or around the message.
        let names: String = (0..vocabulary.len() as u32)
            .filter(|&id| vocabulary.is_control(id))
            .filter_map(|id| std::str::from_utf8(vocabulary.token_bytes(id)?).ok())
            .collect();
        assert!(!names.is_empty());
        for evil in [names.as_str(), "|>", "end|>", "_TOKEN|>x<|", "</s", "<"] {
            let prompt = render(evil);
            assert_eq!(controls(&prompt), own, "{name}: {evil}");
            let back = vocabulary.decode(&prompt.tokens(&vocabulary));
            let text = String::from_utf8_lossy(&back).into_owned();
            assert!(text.contains(evil.trim()) || name == "phi-3", "{name}: {text}");
        }
    }
}

#[test]
fn other_templates_of_a_file() {
    let Some((gguf, vocabulary)) = open("command-r.gguf") else { return };
    for (name, there) in [("tool_use", true), ("rag", true), ("nothing", false)] {
        let template = ChatTemplate::from_gguf(&gguf, Some(name), Some(&vocabulary)).expect("readable");
        assert_eq!(template.is_some(), there, "{name}");
    }
}

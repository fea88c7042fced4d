//! A sampler of one's own: tokens with the letter e are excluded, the library chooses among the rest.
//!
//! cargo run --example custom_sampler -- MODEL.gguf

use vkllm::text::EncodeOptions;
use vkllm::{Device, DeviceOptions, Event, GenerateOptions, Model, ModelOptions, SamplerOptions, Session};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which model file?")?;
    let device = Device::open(&DeviceOptions::default())?;
    let model = Model::open(&device, path.as_ref(), &ModelOptions::default(), &|_, _| true)?;
    let vocabulary = model.vocabulary().ok_or("the model has no vocabulary")?;
    let prompt = vocabulary.encode("Tom and Sam", EncodeOptions { add_bos: true, parse_special: false });
    let excluded: Vec<usize> = (0..vocabulary.len())
        .filter(|&id| vocabulary.token_bytes(id as u32).is_some_and(|bytes| bytes.contains(&b'e')))
        .collect();

    let sampler = SamplerOptions { seed: 7, ..SamplerOptions::default() };
    let mut session = Session::new(&model, sampler)?;
    let choose = move |logits: &mut [f32], position: u32| {
        for &id in &excluded {
            logits[id] = f32::NEG_INFINITY;
        }
        sampler.choose(logits, position).ok().flatten().map(|(token, _)| token)
    };
    let options = GenerateOptions { max_tokens: Some(48), ..GenerateOptions::default() };
    let mut text = String::new();
    for event in session.generate_with(&prompt, options, choose)? {
        if let Event::Token(token) = event? {
            text.push_str(&token.text);
        }
    }
    assert!(!text.contains('e'));
    println!("{text}");
    Ok(())
}

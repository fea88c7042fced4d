//! A game's loop: each frame computes tokens while there is time left in it, and shows what has come.
//!
//! cargo run --example frame_loop -- MODEL.gguf

use std::time::{Duration, Instant};

use vkllm::text::EncodeOptions;
use vkllm::{Device, DeviceOptions, Event, GenerateOptions, Model, ModelOptions, SamplerOptions, Session};

/// Time of a frame that may go into tokens. A step that has begun is finished.
const SHARE: Duration = Duration::from_millis(4);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which model file?")?;
    let device = Device::open(&DeviceOptions::default())?;
    let model = Model::open(&device, path.as_ref(), &ModelOptions::default(), &|_, _| true)?;
    let vocabulary = model.vocabulary().ok_or("the model has no vocabulary")?;
    let prompt =
        vocabulary.encode("The old wizard said", EncodeOptions { add_bos: true, parse_special: false });
    let mut session = Session::new(&model, SamplerOptions::default())?;
    let mut speech =
        session.generate(&prompt, GenerateOptions { max_tokens: Some(48), ..Default::default() })?;

    let mut bubble = String::new();
    for frame in 0.. {
        let began = Instant::now();
        while began.elapsed() < SHARE {
            match speech.next().transpose()? {
                Some(Event::Token(token)) => bubble.push_str(&token.text),
                Some(_) => {}
                None => {
                    println!("{bubble}\nsaid in {frame} frames");
                    return Ok(());
                }
            }
        }
        // Here the rest of the frame would be drawn.
    }
    Ok(())
}

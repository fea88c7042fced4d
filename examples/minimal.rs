use std::io::Write;

use vkllm::text::EncodeOptions;
use vkllm::{Device, DeviceOptions, Event, GenerateOptions, Model, ModelOptions, SamplerOptions, Session};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which model file?")?;
    let device = Device::open(&DeviceOptions::default())?;
    let model = Model::open(&device, path.as_ref(), &ModelOptions::default(), &|_, _| true)?;
    let vocabulary = model.vocabulary().ok_or("the model has no vocabulary")?;
    let prompt = vocabulary.encode("Once upon a time", EncodeOptions { add_bos: true, parse_special: false });
    let mut session = Session::new(&model, SamplerOptions::default())?;
    for event in session.generate(&prompt, GenerateOptions::default())? {
        if let Event::Token(token) = event? {
            print!("{}", token.text);
            std::io::stdout().flush()?;
        }
    }
    Ok(())
}

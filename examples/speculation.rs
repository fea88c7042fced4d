//! Two models in one program: the small one drafts, the large one decides. The text is the large one's own, bit for bit.
//!
//! cargo run --example speculation -- LARGE.gguf SMALL.gguf

use vkllm::text::EncodeOptions;
use vkllm::{
    Device, DeviceOptions, Event, GenerateOptions, Model, ModelOptions, SamplerOptions, Session, SpecOptions,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [large, small] = [1, 2].map(|i| std::env::args().nth(i));
    let (large, small) = large.zip(small).ok_or("which model files, the large one and the small one?")?;
    let device = Device::open(&DeviceOptions::default())?;
    let options = ModelOptions { context: Some(512), ..ModelOptions::default() };
    let open = |path: &str| Model::open(&device, path.as_ref(), &options, &|_, _| true);
    let (target, draft) = (open(&large)?, open(&small)?);
    let vocabulary = target.vocabulary().ok_or("the model has no vocabulary")?;
    let prompt = vocabulary.encode("One day, Tom", EncodeOptions { add_bos: true, parse_special: false });

    let session = Session::new(&target, SamplerOptions::greedy())?;
    let mut session = session.with_draft(&draft, &SpecOptions::default())?;
    let mut text = String::new();
    for event in session.generate(&prompt, GenerateOptions { max_tokens: Some(64), ..Default::default() })? {
        if let Event::Token(token) = event? {
            text.push_str(&token.text);
        }
    }
    println!("{text}");
    if let Some(statistics) = session.speculation() {
        println!("{} of {} drafts were accepted", statistics.accepted(), statistics.drafted());
    }
    Ok(())
}

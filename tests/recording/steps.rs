//! Steps of a whole model under the synchronisation layer.

use vkllm::gguf::Gguf;
use vkllm::{Activations, GenerateOptions, Model, ModelFile, ModelOptions, SamplerOptions, Session};

use super::{quiet, validated};

/// Prefill of 20 tokens, then decode steps with the sampler of each kind.
#[test]
fn a_models_steps_are_clean() {
    let Some((device, _turn)) = validated() else { return };
    let bytes = include_bytes!("../../assets/stories260k.q8_0.gguf");
    let file = ModelFile::new(Gguf::from_bytes(bytes.to_vec(), "the built-in model").expect("a GGUF"))
        .expect("a model");
    let prompt: Vec<u32> = (1..21).collect();
    let samplers = [
        SamplerOptions::greedy(),
        SamplerOptions { temperature: 0.8, repeat_penalty: 1.1, seed: 1, ..SamplerOptions::default() },
    ];
    for activations in [Activations::Float, Activations::Int8] {
        let options = ModelOptions { activations, context: Some(256), ..ModelOptions::default() };
        let model = Model::load(device, &file, &options, &|_, _| true).expect("it loads");
        for sampler in samplers {
            let mut session = Session::new(&model, sampler).expect("a session");
            let options = GenerateOptions { max_tokens: Some(4), ignore_end: true };
            let events = session.generate(&prompt, options).expect("it fits").collect::<Result<Vec<_>, _>>();
            assert_eq!(events.expect("four tokens").len(), 5);
            let mut session = Session::new(&model, sampler).ok();
            if let Some(session) = &mut session {
                session.forward(&prompt[..10]).expect("logits");
            }
        }
        quiet(device);
    }
}

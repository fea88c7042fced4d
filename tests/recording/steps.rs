//! Steps of a whole model under the synchronisation layer.

use vkllm::gguf::Gguf;
use vkllm::speculate::Setting;
use vkllm::{
    Activations, GenerateOptions, Model, ModelFile, ModelOptions, SamplerOptions, Session, SpecOptions,
};

use super::{quiet, validated};

/// Rounds with a draft model that lags, with drafts of history, and of several lengths.
#[test]
fn rounds_are_clean() {
    let Some((device, _turn)) = validated() else { return };
    let bytes = include_bytes!("../../assets/stories260k.q8_0.gguf");
    let load = || {
        let file = ModelFile::new(Gguf::from_bytes(bytes.to_vec(), "the built-in model").expect("a GGUF"));
        let options = ModelOptions { context: Some(256), ..ModelOptions::default() };
        Model::load(device, &file.expect("a model"), &options, &|_, _| true).expect("it loads")
    };
    let (target, draft) = (load(), load());
    let sampler =
        SamplerOptions { temperature: 0.8, repeat_penalty: 1.1, seed: 1, ..SamplerOptions::default() };
    for (list, k) in
        [("draft-model:p-min=0", 3), ("ngram-cache,draft-model:p-min=0", 2), ("ngram-simple:size-n=1", 64)]
    {
        let methods = Setting::parse_list(list).expect("methods");
        let options = SpecOptions { methods, draft_max: Some(k), ..SpecOptions::default() };
        let session = Session::new(&target, sampler).expect("a session");
        let session = match list.contains("draft-model") {
            true => session.with_draft(&draft, &options),
            false => session.with_history(&options),
        };
        let mut session = session.expect("it speculates");
        let options = GenerateOptions { max_tokens: Some(24), ignore_end: true };
        let prompt: Vec<u32> = (1..21).cycle().take(40).collect();
        for event in session.generate(&prompt, options).expect("it fits") {
            event.expect("an event");
        }
        drop(session);
        quiet(device);
    }
}

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

//! Conversations that decode together say what each would say alone.

use vkllm::gguf::Gguf;
use vkllm::text::EncodeOptions;
use vkllm::{
    Batch, CancelToken, Device, Event, Finish, GenerateOptions, Model, ModelOptions, Result, SamplerOptions,
    Session,
};

use super::{built_in, data, reference};
use crate::harness;

fn load(device: &Device, gguf: Gguf) -> Model {
    super::load(device, gguf, &ModelOptions { context: Some(256), sessions: 8, ..ModelOptions::default() })
}

/// Ids and log probabilities, bit for bit, and the end.
type Text = (Vec<(u32, u32)>, Option<Finish>);

fn note(text: &mut Text, event: Result<Event>) {
    match event.expect("an event") {
        Event::Token(token) => text.0.push((token.id, token.logprob.to_bits())),
        Event::Done { finish, .. } => text.1 = Some(finish),
        _ => {}
    }
}

/// A conversation's sampler, prompt and wanted length.
type Case = (SamplerOptions, Vec<u32>, GenerateOptions);

fn cases(vocab: u32) -> Vec<Case> {
    let sampled = SamplerOptions { temperature: 1.0, seed: 3, ..SamplerOptions::default() };
    let penalties = SamplerOptions { repeat_penalty: 1.3, repeat_last_n: 40, seed: 4, ..sampled };
    let samplers = [SamplerOptions::greedy(), sampled, penalties];
    let lengths = [4, 1, 30, 9, 140, 16, 17];
    let case = |(at, &length): (usize, &usize)| {
        let prompt = (0..length as u32).map(|i| (i * 37 + at as u32 * 11 + 5) % vocab).collect();
        let options = GenerateOptions { max_tokens: Some(10 + at), ignore_end: true };
        (samplers[at % 3], prompt, options)
    };
    lengths.iter().enumerate().map(case).collect()
}

fn alone(model: &Model, (sampler, prompt, options): &Case) -> Text {
    let mut session = Session::new(model, *sampler).expect("a place");
    let mut text = Text::default();
    for event in session.generate(prompt, *options).expect("it fits") {
        note(&mut text, event);
    }
    text
}

fn compare(model: &Model) {
    let cases = cases(model.config().vocab);
    let want: Vec<Text> = cases.iter().map(|case| alone(model, case)).collect();
    let mut batch = Batch::new(model);
    let mut texts: Vec<Text> = vec![Text::default(); cases.len()];
    let mut next = cases.iter();
    let mut steps = 0;
    // One comes with every second step.
    while next.len() > 0 || !batch.is_done() {
        if steps % 2 == 0
            && let Some((sampler, prompt, options)) = next.next()
        {
            let session = Session::new(model, *sampler).expect("a place");
            batch.add(session, prompt, *options).expect("it fits");
        }
        for (who, event) in batch.step().expect("a step") {
            note(&mut texts[who], event);
        }
        steps += 1;
    }
    for (at, (text, want)) in texts.iter().zip(&want).enumerate() {
        assert_eq!(text, want, "conversation {at}, {:?}", cases[at].0);
    }
    let mut session = batch.remove(0).expect("it is there");
    assert_eq!(session.tokens().len(), cases[0].1.len() + want[0].0.len());
    assert!(batch.remove(0).is_none());
    // What was said together goes on alone.
    let mut again = Session::new(model, cases[0].0).expect("a place");
    let (mut got, mut told) = (Text::default(), Text::default());
    again.generate(&cases[0].1, cases[0].2).expect("it fits").for_each(|event| note(&mut told, event));
    told = Text::default();
    again.generate(&[7], cases[0].2).expect("it fits").for_each(|event| note(&mut told, event));
    session.generate(&[7], cases[0].2).expect("it fits").for_each(|event| note(&mut got, event));
    assert_eq!(got, told);
}

#[test]
fn conversations_together_say_what_each_says_alone() {
    for device in [Some(reference()), harness::device()].into_iter().flatten() {
        compare(&load(device, built_in()));
        compare(&load(device, Gguf::open(&data("golden/llama-q4_k_m.gguf")).expect("a GGUF")));
    }
}

#[test]
fn conversations_come_and_go() {
    let model = load(reference(), built_in());
    let other = load(reference(), built_in());
    let vocabulary = model.vocabulary().expect("a vocabulary");
    let prompt = vocabulary.encode("Once upon a time", EncodeOptions { add_bos: true, parse_special: false });
    let session = |model: &Model| Session::new(model, SamplerOptions::greedy()).expect("a place");
    let mut batch = Batch::new(&model);
    assert!(batch.is_done() && batch.step().expect("nothing to do").is_empty());
    let refused = batch.add(session(&other), &prompt, GenerateOptions::default()).expect_err("another model");
    assert!(refused.to_string().contains("another model"), "{refused}");
    assert!(batch.add(session(&model), &[], GenerateOptions::default()).is_err());
    let cancel = CancelToken::new();
    let options = GenerateOptions { max_tokens: None, ignore_end: true };
    assert_eq!(batch.add_cancelled_by(session(&model), &prompt, options, &cancel).expect("it fits"), 0);
    assert_eq!(batch.add(session(&model), &prompt, options).expect("it fits"), 1);
    let mut ends = [None, None];
    let mut steps = 0;
    while !batch.is_done() {
        for (who, event) in batch.step().expect("a step") {
            if let Event::Done { finish, .. } = event.expect("an event") {
                ends[who] = Some(finish);
            }
        }
        steps += 1;
        if steps == 3 {
            cancel.cancel();
        }
    }
    assert_eq!(ends, [Some(Finish::Cancelled), Some(Finish::Context)]);
    let first = batch.remove(0).expect("it is there");
    assert_eq!(first.tokens().len(), prompt.len() + 3);
    drop(first);
    assert_eq!(batch.add(session(&model), &prompt, options).expect("it fits"), 0);
}

//! Texts within a schema, an expression or a grammar, and samplers of one's own: what comes out fits, and drafters change
//! no bit of it.

use vkllm::constrain::{Constraints, Grammar};
use vkllm::gguf::Gguf;
use vkllm::speculate::Setting;
use vkllm::text::EncodeOptions;
use vkllm::{
    Constraint, Device, Event, Finish, GenerateOptions, Generation, Model, ModelOptions, Result,
    SamplerOptions, Session, Source, SpecOptions,
};

use super::{beside, built_in, reference};
use crate::harness;

const SCHEMA: &str = r#"{"type": "object", "additionalProperties": false, "required": ["name", "age", "friends"], "properties": {
    "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "friends": {"type": "array", "maxItems": 2, "items": {"enum": ["Tom", "Lily"]}}}}"#;
const LARK: &str =
    "start: \"I like \" thing (\", \" thing)* \".\"\nthing: \"cats\" | \"dogs\" | /[0-9]{1,3} [a-z]{1,6}s/\n";
const REGEX: &str = r"(yes|no), because [a-z ]{4,24}\.";

fn load(device: &Device, gguf: Gguf) -> Model {
    super::load(device, gguf, &ModelOptions { context: Some(384), sessions: 2, ..ModelOptions::default() })
}

fn ids(model: &Model, text: &str) -> Vec<u32> {
    let vocabulary = model.vocabulary().expect("a vocabulary");
    vocabulary.encode(text, EncodeOptions { add_bos: true, parse_special: false })
}

/// A constraint of which nothing is drafted.
struct Unforced(Grammar);

impl Constraint for Unforced {
    fn mask(&mut self, logits: &mut [f32]) -> Result<bool> {
        self.0.mask(logits)
    }

    fn push(&mut self, token: u32) -> Result<()> {
        self.0.push(token)
    }
}

/// What a generation gave: ids and log probabilities, its text and end, and how many tokens were drafted.
struct Told {
    tokens: Vec<(u32, u32)>,
    text: String,
    finish: Option<Finish>,
    drafted: usize,
    forced: usize,
}

fn told(events: Generation<'_>) -> Told {
    let mut told = Told { tokens: Vec::new(), text: String::new(), finish: None, drafted: 0, forced: 0 };
    for event in events {
        match event.expect("an event") {
            Event::Token(token) => {
                told.tokens.push((token.id, token.logprob.to_bits()));
                told.text.push_str(&token.text);
                told.drafted += usize::from(matches!(token.source, Source::Draft { .. }));
                told.forced += usize::from(matches!(token.source, Source::Forced { .. }));
            }
            Event::Round(round) => assert!(round.accepted <= round.drafted, "{round:?}"),
            Event::Done { finish, text } => {
                told.text.push_str(&text);
                told.finish = Some(finish);
            }
        }
    }
    told
}

fn options(most: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(most), ignore_end: false }
}

fn samplers() -> [SamplerOptions; 3] {
    let sampled = SamplerOptions { temperature: 1.0, seed: 5, ..SamplerOptions::default() };
    [SamplerOptions::greedy(), sampled, SamplerOptions { repeat_penalty: 1.3, repeat_last_n: 48, ..sampled }]
}

#[test]
fn what_comes_out_is_what_was_asked_for() {
    for device in [Some(reference()), harness::device()].into_iter().flatten() {
        let model = load(device, built_in());
        let constraints = Constraints::new(&model).expect("a vocabulary");
        for sampler in samplers() {
            let mut session = Session::new(&model, sampler).expect("a session");
            let mut run = |grammar: Grammar| {
                session.clear();
                let prompt = ids(&model, "Once upon a time, there was");
                told(session.generate_within(&prompt, options(160), grammar).expect("it fits"))
            };
            let json = run(constraints.json_schema(SCHEMA).expect("a schema"));
            assert_eq!(json.finish, Some(Finish::End), "{}", json.text);
            let value: serde_json::Value = serde_json::from_str(&json.text).expect("JSON");
            assert!(value["age"].as_u64().is_some_and(|age| age <= 120), "{}", json.text);
            assert!(value["name"].is_string() && value["friends"].is_array(), "{}", json.text);
            let reason = run(constraints.regex(REGEX).expect("an expression"));
            assert_eq!(reason.finish, Some(Finish::End), "{}", reason.text);
            assert!(
                reason.text.starts_with("yes, because ") || reason.text.starts_with("no, because "),
                "{}",
                reason.text
            );
            assert!(reason.text.ends_with('.'), "{}", reason.text);
            let list = run(constraints.grammar(LARK).expect("a grammar"));
            assert!(list.text.starts_with("I like "), "{}", list.text);
            println!("{}\n{}\n{}", json.text, reason.text, list.text);
        }
    }
}

#[test]
fn what_cannot_be_followed_is_a_sentence() {
    let model = load(reference(), built_in());
    let constraints = Constraints::new(&model).expect("a vocabulary");
    let told = [
        constraints.json_schema("{").err(),
        constraints.json_schema(r#"{"type": "nothing"}"#).err(),
        constraints.json_schema(r#"{"$ref": "https://example.org/schema"}"#).err(),
        constraints.regex("(").err(),
        constraints.grammar("start: missing").err(),
    ];
    for (at, error) in told.into_iter().enumerate() {
        let sentence = error.unwrap_or_else(|| panic!("{at} was taken")).to_string();
        assert!(sentence.starts_with("the constraint on the text: "), "{sentence}");
    }
}

/// Drafters, and what a grammar forces, against one token at a time.
#[test]
fn drafts_change_no_bit_within_a_constraint() {
    let Some(device) = harness::device() else { return };
    let [target, draft] =
        ["tiny-target.q8_0.gguf", "tiny-draft.q8_0.gguf"].map(|name| beside("models").join(name));
    if !target.exists() {
        harness::skip("../shared/models is not there; constraints under speculation are not tested");
        return;
    }
    let [target, draft] = [target, draft].map(|path| load(device, Gguf::open(&path).expect("a GGUF")));
    let constraints = Constraints::new(&target).expect("a vocabulary");
    let grammars = [
        constraints.json_schema(SCHEMA).expect("a schema"),
        constraints.regex(REGEX).expect("an expression"),
        constraints.grammar(LARK).expect("a grammar"),
        constraints.regex(r"(?s:.{40,90})\.").expect("an expression"),
    ];
    let spec = |list: &str, k| SpecOptions {
        methods: Setting::parse_list(list).expect("methods"),
        draft_max: k,
        ..SpecOptions::default()
    };
    let (mut drafted, mut forced, mut prompts) = (0, 0, 0);
    for sampler in samplers() {
        let session = || Session::new(&target, sampler).expect("a session");
        let mut plain = session();
        let mut drafting =
            [session().with_draft(&draft, &spec("draft-model:p-min=0", Some(4))).expect("they fit")];
        for at in 0..18 {
            let name = ["Tom", "Lily", "Sue", "a dog", "the sun", "a cat"][at % 6];
            let prompt = ids(&target, &format!("One day, {name} said {at}: "));
            let grammar = &grammars[at % grammars.len()];
            plain.clear();
            let want = told(
                plain.generate_within(&prompt, options(32), Unforced(grammar.clone())).expect("it fits"),
            );
            for session in &mut drafting {
                session.clear();
                let got =
                    told(session.generate_within(&prompt, options(32), grammar.clone()).expect("it fits"));
                assert_eq!(got.tokens, want.tokens, "{at} {sampler:?}: {:?}, {:?}", got.text, want.text);
                assert_eq!((got.finish, &got.text), (want.finish, &want.text));
                drafted += got.drafted;
                forced += got.forced;
            }
            prompts += 1;
        }
    }
    println!("{prompts} prompts, {drafted} tokens from drafts, {forced} forced");
    assert!(prompts >= 50 && drafted > 50 && forced > 50);
}

/// A sampler of one's own is asked for each token once and in order, drafted or not.
#[test]
fn drafts_change_no_bit_for_samplers_of_ones_own() {
    let Some(device) = harness::device() else { return };
    let model = load(device, built_in());
    let prompt = ids(&model, "Once upon a time, there was a cat. The cat was a cat and the cat was");
    let run = |mut session: Session| {
        let mut asked = Vec::new();
        let sampler = SamplerOptions::greedy();
        let choose = |logits: &mut [f32], position: u32| {
            asked.push(position);
            logits[(position % 7) as usize + 300] += 1.0;
            sampler.choose(logits, position).ok().flatten().map(|(token, _)| token)
        };
        let events = session.generate_with(&prompt, options(48), choose).expect("it fits");
        let text = told(events);
        (text.tokens, text.finish, asked)
    };
    let session = || Session::new(&model, SamplerOptions::greedy()).expect("a session");
    let plain = run(session());
    for list in ["ngram-cache", "ngram-simple:size-n=1"] {
        for k in [None, Some(7), Some(20)] {
            let options = SpecOptions {
                methods: Setting::parse_list(list).expect("methods"),
                draft_max: k,
                ..SpecOptions::default()
            };
            assert_eq!(run(session().with_history(&options).expect("a session")), plain, "{list} {k:?}");
        }
    }
}

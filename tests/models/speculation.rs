//! Speculation never changes the text: every drafter, every k and every sampler against plain decoding, and what a
//! round costs in calls of the driver.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use vkllm::gguf::{Gguf, ggml_type};
use vkllm::speculate::{Method, Setting};
use vkllm::text::EncodeOptions;
use vkllm::{
    Activations, Device, Error, Event, Finish, GenerateOptions, Model, ModelOptions, SamplerOptions, Session,
    Source, SpecOptions,
};

use super::{beside, built_in, data, reference};
use crate::harness;

pub const CONTEXT: u32 = 384;

pub fn load(device: &Device, gguf: Gguf) -> Model {
    super::load(
        device,
        gguf,
        &ModelOptions { context: Some(CONTEXT), sessions: 2, ..ModelOptions::default() },
    )
}

pub fn open(path: &Path) -> Gguf {
    Gguf::open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The same file with the blocks of every matrix in another order: as large, and no use.
pub fn shuffled(path: &Path) -> Gguf {
    shuffled_among(path, |_| true)
}

/// As [`shuffled`], of matrices with these names.
pub fn shuffled_among(path: &Path, among: impl Fn(&str) -> bool) -> Gguf {
    let mut bytes = std::fs::read(path).expect("a file");
    let mut rng = harness::rng("shuffled");
    for tensor in open(path).tensors().iter().filter(|tensor| tensor.dims.len() > 1 && among(&tensor.name)) {
        let place = tensor.offset as usize..(tensor.offset + tensor.bytes) as usize;
        let block = ggml_type(tensor.ggml_type).expect("a known type").bytes as usize;
        let blocks: Vec<Vec<u8>> = bytes[place.clone()].chunks(block).map(<[u8]>::to_vec).collect();
        let order = rng.order(blocks.len());
        bytes[place].copy_from_slice(&order.iter().flat_map(|&i| blocks[i].clone()).collect::<Vec<_>>());
    }
    Gguf::from_bytes(bytes, "a shuffled model").expect("a GGUF")
}

/// What a generation gave: ids, log probabilities and how it ended.
#[derive(Clone, Debug, PartialEq)]
struct Text {
    tokens: Vec<(u32, u32)>,
    finish: Option<Finish>,
}

/// Drafted and accepted tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    rounds: usize,
    drafted: usize,
    accepted: usize,
}

fn told(session: &mut Session, prompt: &[u32], options: GenerateOptions) -> (Text, Counts) {
    let (mut text, mut counts) = (Text { tokens: Vec::new(), finish: None }, Counts::default());
    let mut from_drafts = 0;
    for event in session.generate(prompt, options).expect("the prompt fits") {
        match event.expect("an event") {
            Event::Token(token) => {
                text.tokens.push((token.id, token.logprob.to_bits()));
                from_drafts += usize::from(token.source != Source::Target);
            }
            Event::Round(round) => {
                assert!(round.accepted <= round.drafted && round.drafted <= round.asked, "{round:?}");
                counts.rounds += 1;
                counts.drafted += round.drafted;
                counts.accepted += round.accepted;
            }
            Event::Done { finish, .. } => text.finish = Some(finish),
        }
    }
    assert!(from_drafts <= counts.accepted, "{from_drafts} tokens from drafts, {counts:?}");
    (text, counts)
}

pub fn spec(list: &str, k: Option<usize>) -> SpecOptions {
    let methods = Setting::parse_list(list).expect("methods");
    SpecOptions { methods, draft_max: k, ..SpecOptions::default() }
}

fn samplers() -> Vec<SamplerOptions> {
    let plain = SamplerOptions { top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerOptions::default() };
    vec![
        SamplerOptions::greedy(),
        SamplerOptions { temperature: 0.7, ..plain },
        SamplerOptions { temperature: 1.0, top_k: 40, seed: 2, ..plain },
        SamplerOptions { temperature: 1.0, top_p: 0.9, min_p: 0.02, seed: 3, ..plain },
        SamplerOptions {
            temperature: 0.7,
            repeat_penalty: 1.3,
            frequency_penalty: 0.2,
            presence_penalty: 0.1,
            repeat_last_n: 48,
            seed: 4,
            ..SamplerOptions::default()
        },
        SamplerOptions { repeat_penalty: 1.2, ..SamplerOptions::greedy() },
        SamplerOptions { temperature: 1.0, typical_p: 0.6, top_p: 0.9, seed: 5, ..plain },
    ]
}

/// A session with a drafter: a model's name among `models`, or history drafters.
fn session(target: &Model, draft: Option<&Model>, sampler: SamplerOptions, options: &SpecOptions) -> Session {
    let session = Session::new(target, sampler).expect("a session");
    let predicts = options.methods.iter().any(|setting| setting.method == Method::MTP);
    let with = match draft {
        Some(draft) => session.with_draft(draft, options),
        None if predicts => session.with_mtp(options),
        None => session.with_history(options),
    };
    with.unwrap_or_else(|error| panic!("{error}"))
}

/// Every drafter and every k with texts by every sampler, in an order that the seed decides.
pub(super) fn matrix(
    device: &Device,
    target: &Model,
    drafts: &[(&str, &Model)],
    prompts: &[Vec<u32>],
    new: usize,
) {
    let mut drafters: Vec<(String, Option<&Model>)> = Method::all()
        .filter(|method| method.is_history())
        .map(|method| {
            let row = method.row();
            // Short keys, so that short texts repeat themselves at all.
            let short = if row.parameters.iter().any(|p| p.name == "size-n") { ":size-n=2" } else { "" };
            (format!("{}{short}", row.name), None)
        })
        .collect();
    for (name, model) in drafts {
        println!("draft model: {name}");
        drafters.push(("draft-model:p-min=0".into(), Some(*model)));
        drafters.push(("draft-model:p-min=0.4".into(), Some(*model)));
        drafters.push(("ngram-cache,draft-model:p-min=0".into(), Some(*model)));
    }
    if target.predicts() {
        for list in ["mtp:p-min=0", "mtp:p-min=0.4", "ngram-cache,mtp:p-min=0"] {
            drafters.push((list.into(), None));
        }
    }
    let samplers = samplers();
    let mut rng = harness::rng("matrix");
    let options = GenerateOptions { max_tokens: Some(new), ignore_end: true };
    let mut plain: HashMap<(usize, usize), Text> = HashMap::new();
    let mut cases = 0;
    let mut total = Counts::default();
    for (drafter, model) in &drafters {
        for k in [Some(1), Some(2), Some(4), Some(8), Some(16), Some(64), None] {
            let on_device = drafter.contains("draft-model") || drafter.contains("mtp");
            if on_device && !drafter.contains("ngram") && k == Some(64) {
                continue;
            }
            let turns = if on_device { 2 } else { 1 };
            for _ in 0..turns {
                let (p, s) = (
                    rng.int(0, prompts.len() as i32 - 1) as usize,
                    rng.int(0, samplers.len() as i32 - 1) as usize,
                );
                let want = plain.entry((p, s)).or_insert_with(|| {
                    let mut session = Session::new(target, samplers[s]).expect("a session");
                    told(&mut session, &prompts[p], options).0
                });
                let mut session = session(target, *model, samplers[s], &spec(drafter, k));
                let (got, counts) = told(&mut session, &prompts[p], options);
                assert_eq!(
                    &got,
                    want,
                    "{drafter}, k {k:?}, prompt {p}, sampler {:?} on {}",
                    samplers[s],
                    device.caps().name
                );
                total.rounds += counts.rounds;
                total.drafted += counts.drafted;
                total.accepted += counts.accepted;
                cases += 1;
            }
        }
    }
    println!("{}: {cases} cases, {total:?}", harness::test_name());
    assert!(total.accepted > 0, "no draft was ever accepted: {total:?}");
}

/// The trained pair, its shuffled draft, and prompts of its own language.
pub(super) fn pair(device: &Device) -> Option<(Model, Model, Model, Vec<Vec<u32>>)> {
    let [target, draft, text] =
        ["models/tiny-target.q8_0.gguf", "models/tiny-draft.q8_0.gguf", "text/tinystories-valid-30k.txt"]
            .map(beside);
    if !target.exists() {
        harness::skip("../shared/models is not there; only checked-in models speculate");
        return None;
    }
    let model = load(device, open(&target));
    let text = std::fs::read_to_string(text).expect("prompts");
    let vocabulary = model.vocabulary().expect("a vocabulary");
    let ids = vocabulary.encode(&text, EncodeOptions { add_bos: true, parse_special: false });
    let prompts = [(0, 64), (300, 12), (900, 33), (1700, 90)];
    let prompts = prompts.map(|(at, count)| ids[at..at + count].to_vec()).to_vec();
    Some((model, load(device, open(&draft)), load(device, shuffled(&draft)), prompts))
}

#[test]
fn speculation_never_changes_the_text() {
    let Some(device) = harness::device() else { return };
    let Some((target, draft, shuffled, prompts)) = pair(device) else { return };
    matrix(device, &target, &[("trained", &draft), ("shuffled", &shuffled)], &prompts, 40);
}

/// Models that are checked in: drafts of a model for itself, which are all accepted, and of one that knows nothing.
#[test]
fn speculation_never_changes_the_text_of_random_weights() {
    for device in [harness::device(), Some(reference())].into_iter().flatten() {
        let target = load(device, open(&data("golden/llama-q4_k_m.gguf")));
        let same = load(device, open(&data("golden/llama-q4_k_m.gguf")));
        let other = load(device, shuffled(&data("golden/llama-q4_k_m.gguf")));
        let prompts = [vec![1, 5, 9, 5, 9, 5, 9, 5], (1..40).collect()];
        let new = if std::ptr::eq(device, reference()) { 12 } else { 40 };
        matrix(device, &target, &[("the same", &same), ("shuffled", &other)], &prompts, new);
    }
}

/// Two turns, the first left in the middle of a round; the second goes on as if nothing had been drafted.
#[test]
fn a_conversation_goes_on_as_without() {
    let Some(device) = harness::device() else { return };
    let Some((target, draft, _, prompts)) = pair(device) else { return };
    for sampler in samplers() {
        for (taken, k) in [(1, 8), (5, 4), (6, 16), (17, 3), (23, 1)] {
            let run = |mut session: Session| {
                let mut first = Vec::new();
                for event in session
                    .generate(&prompts[1], GenerateOptions { max_tokens: None, ignore_end: true })
                    .expect("it fits")
                {
                    if let Event::Token(token) = event.expect("an event") {
                        first.push(token.id);
                    }
                    if first.len() == taken {
                        break;
                    }
                }
                assert_eq!(session.tokens().len(), prompts[1].len() + taken);
                let options = GenerateOptions { max_tokens: Some(24), ignore_end: true };
                let second = told(&mut session, &prompts[2], options).0;
                (first, second, session.tokens().to_vec())
            };
            let options = spec("draft-model:p-min=0", Some(k));
            let plain = run(Session::new(&target, sampler).expect("a session"));
            assert_eq!(
                run(session(&target, Some(&draft), sampler, &options)),
                plain,
                "{taken} {k} {sampler:?}"
            );
        }
    }
}

/// The model's own end, the wanted length and the end of the context, wherever they fall in a round.
#[test]
fn rounds_stop_where_plain_decoding_stops() {
    let Some(device) = harness::device() else { return };
    let Some((target, draft, _, prompts)) = pair(device) else { return };
    let mut ends = Vec::new();
    for (list, model, k) in [
        ("draft-model:p-min=0", Some(&draft), 4),
        ("draft-model:p-min=0", Some(&draft), 16),
        ("ngram-cache", None, 64),
        ("ngram-simple:size-n=1", None, 64),
    ] {
        let mut both = |prompt: &[u32], options: GenerateOptions, sampler: SamplerOptions| {
            let plain = told(&mut Session::new(&target, sampler).expect("a session"), prompt, options).0;
            let options_of = spec(list, Some(k));
            let got = told(&mut session(&target, model, sampler, &options_of), prompt, options).0;
            assert_eq!(got, plain, "{list} {k}");
            ends.push(plain.finish);
        };
        for max_tokens in [1, 2, 3, 7, 18] {
            let options = GenerateOptions { max_tokens: Some(max_tokens), ignore_end: true };
            both(&prompts[1], options, SamplerOptions::greedy());
        }
        // A long prompt, so that few tokens remain to the end of the context.
        for left in [1, 3, 20, 40] {
            let prompt: Vec<u32> =
                prompts.iter().flatten().cycle().take(CONTEXT as usize - left).copied().collect();
            let options = GenerateOptions { max_tokens: None, ignore_end: true };
            both(&prompt, options, SamplerOptions::greedy());
        }
        let options = GenerateOptions { max_tokens: None, ignore_end: false };
        both(&prompts[1], options, SamplerOptions { seed: 11, ..SamplerOptions::default() });
    }
    for finish in [Finish::Length, Finish::Context, Finish::End] {
        assert!(ends.contains(&Some(finish)), "no text ended with {finish:?}");
    }
}

/// A round is one submission and one wait at its end; it records nothing and brings back ids, not logits.
#[test]
fn a_round_is_one_submission() {
    let Some(device) = harness::device() else { return };
    // The counts are the device's: no other test may use it meanwhile.
    let device = Device::open(&harness::uncut()).unwrap_or_else(|_| device.clone());
    let target = load(&device, open(&data("golden/llama-q4_k_m.gguf")));
    let draft = load(&device, open(&data("golden/llama-q4_k_m.gguf")));
    let model = ("draft-model:p-min=0", Some(&draft));
    for ((list, draft), k) in [(model, 1), (model, 4), (model, 16), (("ngram-simple:size-n=1", None), 8)] {
        one_submission(&device, &target, draft, list, k);
    }
    let hybrid = beside("models/tiny-hybrid.q8_0.gguf");
    if !hybrid.exists() {
        return harness::skip("../shared/models is not there; no model predicts");
    }
    let target = load(&device, open(&hybrid));
    for (list, k) in [("mtp:p-min=0", 1), ("mtp:p-min=0", 4), ("mtp", 8)] {
        one_submission(&device, &target, None, list, k);
    }
}

fn one_submission(device: &Device, target: &Model, draft: Option<&Model>, list: &str, k: usize) {
    let prompt: Vec<u32> = (1..20).collect();
    {
        let options = spec(list, Some(k));
        let mut session = session(target, draft, SamplerOptions::default(), &options);
        let options = GenerateOptions { max_tokens: Some(100), ignore_end: true };
        let (mut rounds, mut drafted) = (0, 0);
        let mut before = device.calls();
        let mut seen = BTreeSet::new();
        for event in session.generate(&prompt, options).expect("it fits") {
            let event = event.expect("an event");
            let calls = device.calls();
            let Event::Round(round) = event else {
                before = calls;
                continue;
            };
            rounds += 1;
            drafted += round.drafted;
            // The first round of a length records it, and may fill buffers for it.
            if !seen.insert(round.asked) {
                assert_eq!(calls.recorded - before.recorded, 0, "round {rounds}: {round:?}");
                assert!(!round.recorded, "{round:?}");
                assert_eq!(calls.submits - before.submits, 1, "round {rounds}: {round:?}");
                assert_eq!(calls.waits - before.waits, 1, "round {rounds}: {round:?}");
            }
            let read = calls.read - before.read;
            assert!(read <= 16 * (k as u64 + 1) + 256, "round {rounds} read {read} bytes: {round:?}");
            before = calls;
        }
        assert!(rounds > 5 && drafted > 0, "{list}: {rounds} rounds, {drafted} drafted");
    }
}

#[test]
fn models_that_do_not_go_together_are_refused() {
    let device = reference();
    let small = load(device, built_in());
    let large = load(device, open(&data("golden/llama-q4_k_m.gguf")));
    let same = load(device, open(&data("golden/llama-q4_k_m.gguf")));
    let other = load(device, open(&data("golden/smollm3-f16.gguf")));
    let refused = |target: &Model, draft: &Model, options: &SpecOptions| -> String {
        let session = Session::new(target, SamplerOptions::greedy()).expect("a session");
        match session.with_draft(draft, options) {
            Ok(_) => panic!("it was not refused"),
            Err(error @ (Error::Draft { .. } | Error::Argument { .. })) => error.to_string(),
            Err(error) => panic!("{error}"),
        }
    };
    let options = SpecOptions::default();
    assert!(refused(&small, &small, &options).contains("the target itself"));
    let message = refused(&small, &large, &options);
    assert!(message.contains(&small.bytes_per_token().to_string()), "{message}");
    let message = refused(&other, &small, &options);
    assert!(message.contains("token 0 is") || message.contains("320"), "{message}");
    let message = refused(&large, &same, &SpecOptions { draft_max: Some(17), ..options.clone() });
    assert!(message.contains("17") && message.contains("16"), "{message}");
    let message = refused(&large, &same, &SpecOptions { draft_max: Some(2), draft_min: 3, ..options });
    assert!(message.contains('3') && message.contains('2'), "{message}");
    // Places given back: as many sessions as the model has room for, again and again.
    for _ in 0..3 {
        let session = Session::new(&large, SamplerOptions::greedy()).expect("a session");
        session.with_draft(&same, &SpecOptions::default()).expect("a draft");
    }
    let session = Session::new(&large, SamplerOptions::greedy()).expect("a session");
    assert!(session.with_history(&SpecOptions::default()).is_err());
}

#[test]
fn vocabularies_are_compared_token_by_token() {
    let device = reference();
    let path = beside("models/tiny-target.q8_0.gguf");
    if !path.exists() {
        return harness::skip("../shared/models is not there; vocabularies are not compared");
    }
    let target = load(device, open(&path));
    let draft = load(device, built_in());
    let session = Session::new(&target, SamplerOptions::greedy()).expect("a session");
    let Err(error) = session.with_draft(&draft, &SpecOptions::default()) else {
        panic!("it was not refused");
    };
    let message = error.to_string();
    assert!(message.contains("is \"!\" in the target"), "{message}");
}

/// What `Activations` the models are opened with must not matter either.
#[test]
fn float_activations_change_nothing() {
    let Some(device) = harness::device() else { return };
    let open = |name: &str| {
        let path = beside(name);
        let options = ModelOptions {
            context: Some(CONTEXT),
            activations: Activations::Float,
            ..ModelOptions::default()
        };
        path.exists().then(|| Model::open(device, &path, &options, &|_, _| true).expect("it loads"))
    };
    let (Some(target), Some(draft)) =
        (open("models/tiny-target.q4_k_m.gguf"), open("models/tiny-draft.q8_0.gguf"))
    else {
        return harness::skip("../shared/models is not there");
    };
    let options = GenerateOptions { max_tokens: Some(48), ignore_end: true };
    let prompt: Vec<u32> = (100..130).collect();
    for sampler in [SamplerOptions::greedy(), SamplerOptions { seed: 5, ..SamplerOptions::default() }] {
        let plain = told(&mut Session::new(&target, sampler).expect("a session"), &prompt, options).0;
        let mut with = session(&target, Some(&draft), sampler, &spec("draft-model:p-min=0", Some(4)));
        assert_eq!(told(&mut with, &prompt, options).0, plain);
    }
}

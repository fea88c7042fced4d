//! One model and many conversations: threads that share it, memory that goes from one to the next, random requests for a
//! long time.

use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vkllm::gguf::Gguf;
use vkllm::selftest::Rng;
use vkllm::{
    CancelToken, Device, DeviceOptions, Error, Event, GenerateOptions, KvType, Model, ModelFile,
    ModelOptions, SamplerOptions, Session, Snapshot,
};
use vkllm_runtime::{Faults, Validation};

use super::faults::TURN;
use super::golden::Golden;
use super::{beside, built_in, reference};
use crate::gguf::tiny::{Tiny, WIDTH, f32s};
use crate::harness;

/// Seconds that random requests are sent for; by default few.
const SOAK: &str = "VKLLM_TEST_SOAK";

fn load(device: &Device, options: ModelOptions) -> Model {
    super::load(device, built_in(), &options)
}

/// The reference, and the device without validation layers, of which not all versions are safe from several threads.
fn devices() -> Vec<Device> {
    let options = DeviceOptions { validation: Validation::Off, ..harness::options() };
    let device = harness::device().map(|_| Device::open(&options).expect("the same device once more"));
    [Some(reference().clone()), device].into_iter().flatten().collect()
}

/// A number below `limit`.
fn below(rng: &mut Rng, limit: u64) -> u64 {
    u64::from(rng.word()) % limit
}

/// What conversation `number` is asked, and how.
fn request(number: u64, vocab: u64) -> (Vec<u32>, SamplerOptions) {
    let mut rng = Rng::new(harness::seed() ^ number, "request");
    let prompt = (0..1 + below(&mut rng, 24)).map(|_| below(&mut rng, vocab) as u32).collect();
    let temperature = if number.is_multiple_of(3) { 0.0 } else { 0.9 };
    (prompt, SamplerOptions { temperature, seed: number, repeat_penalty: 1.1, ..SamplerOptions::default() })
}

/// Tokens and probabilities of conversations, a token of each in turn.
fn told(model: &Model, numbers: &[u64], count: usize) -> Vec<Vec<(u32, u32)>> {
    let vocab = u64::from(model.config().vocab);
    let begin = |&number: &u64| {
        let (prompt, sampler) = request(number, vocab);
        (Session::new(model, sampler).expect("a free place"), prompt)
    };
    let mut sessions: Vec<_> = numbers.iter().map(begin).collect();
    let options = GenerateOptions { max_tokens: Some(count), ignore_end: true };
    let mut generations: Vec<_> = sessions
        .iter_mut()
        .map(|(session, prompt)| session.generate(prompt, options).expect("it fits"))
        .collect();
    let mut texts = vec![Vec::new(); numbers.len()];
    for _ in 0..count {
        for (generation, text) in generations.iter_mut().zip(&mut texts) {
            match generation.next().expect("a token").expect("no failure") {
                Event::Token(token) => text.push((token.id, token.logprob.to_bits())),
                other => panic!("{other:?}"),
            }
        }
    }
    texts
}

#[test]
fn threads_that_share_a_model_write_what_one_writes() {
    const THREADS: u64 = 8;
    const EACH: u64 = 4;
    for device in devices() {
        let sessions = (THREADS * EACH) as u32;
        let model = load(&device, ModelOptions { context: Some(64), sessions, ..ModelOptions::default() });
        let numbers = |thread: u64| -> Vec<u64> { (thread * EACH..(thread + 1) * EACH).collect() };
        let serial: Vec<_> = (0..THREADS).map(|thread| told(&model, &numbers(thread), 10)).collect();
        let together: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    scope.spawn({
                        let model = &model;
                        move || told(model, &numbers(thread), 10)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(serial, together, "{}", device.caps().name);
    }
}

#[test]
fn a_new_session_holds_nothing_of_an_old_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("snapshot");
    let device = reference();
    let file = |path: &Path, bytes: Vec<u8>| {
        ModelFile::new(Gguf::from_bytes(bytes, path).expect("a GGUF")).expect("a model")
    };
    let tiny = file(Path::new("tiny"), Tiny::wide(256).build().finish());
    // One with layers that keep a ring of blocks.
    let ringed = Golden::named(&beside("golden"), "gemma3-f16")
        .map(|golden| file(&golden.path, std::fs::read(&golden.path).expect("a golden file")));
    let files =
        KvType::ALL.iter().map(|kind| (&tiny, *kind)).chain(ringed.iter().map(|file| (file, KvType::F16)));
    for (file, kind) in files {
        let options = ModelOptions {
            context: Some(384),
            k_type: Some(kind),
            v_type: Some(kind),
            ..ModelOptions::default()
        };
        // What a conversation of a few tokens leaves on disk, in a model of its own and where another one was before.
        let told = |secret: bool| {
            let model = Model::load(device, file, &options, &|_, _| true).expect("it loads");
            if secret {
                let mut rng = Rng::new(harness::seed(), "secret");
                let mut session = Session::new(&model, SamplerOptions::greedy()).expect("a session");
                let tokens: Vec<u32> = (0..300).map(|_| below(&mut rng, 16) as u32).collect();
                session.forward(&tokens).expect("logits");
            }
            let sampler =
                SamplerOptions { repeat_penalty: 1.5, repeat_last_n: 200, ..SamplerOptions::default() };
            let mut session = Session::new(&model, sampler).expect("a session");
            let logits = session.forward(&[1, 5, 9]).expect("logits");
            let options = GenerateOptions { max_tokens: Some(5), ignore_end: true };
            let events = session.generate(&[7], options).expect("it fits");
            let count = events.filter(|event| matches!(event, Ok(Event::Token(_)))).count();
            session.snapshot().and_then(|snapshot| snapshot.write(&path)).expect("a snapshot");
            (count, logits, std::fs::read(&path).expect("its bytes"))
        };
        let (fresh, used) = (told(false), told(true));
        assert_eq!((fresh.0, &fresh.1), (used.0, &used.1), "{}", kind.name());
        assert!(fresh.2 == used.2, "{}: a snapshot tells of another conversation", kind.name());
    }
}

/// Resident bytes of this process, where it can tell.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// Random things that somebody may do with a session, some of them wrong.
fn act(
    model: &Model,
    session: &mut Option<Session>,
    kept: &mut Option<Snapshot>,
    rng: &mut Rng,
) -> Result<(), Error> {
    let vocab = u64::from(model.config().vocab);
    let sampler = request(below(rng, 1000), vocab).1;
    let Some(current) = session else {
        *session = Some(Session::new(model, sampler)?);
        return Ok(());
    };
    match below(rng, 12) {
        0 => *session = None,
        1 => current.clear(),
        2 => current.rewind(below(rng, 1 + current.tokens().len() as u64) as usize),
        3 => *kept = Some(current.snapshot()?),
        4 => {
            if let Some(kept) = kept {
                current.restore(kept)?;
            }
        }
        5 => *session = Some(current.fork(sampler)?),
        6 => {
            current.forward(&[below(rng, vocab + 2) as u32])?;
        }
        choice => {
            let prompt: Vec<u32> = (0..1 + below(rng, 70)).map(|_| below(rng, vocab) as u32).collect();
            let most = 1 + below(rng, 40) as usize;
            let options = GenerateOptions { max_tokens: Some(most), ignore_end: choice == 7 };
            let cancel = CancelToken::new();
            let stop = below(rng, 60) as usize;
            for (count, event) in current.generate(&prompt, options)?.cancelled_by(&cancel).enumerate() {
                event?;
                match choice {
                    8 if count == stop => cancel.cancel(),
                    9 if count == stop => break,
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Whether an error is the right answer to a request that asks for too much.
fn is_fair(error: &Error) -> bool {
    match error {
        Error::PromptTooLong { .. } | Error::ContextFull { .. } | Error::NoSuchToken { .. } => true,
        Error::Argument { what, .. } => what == "the number of sessions",
        _ => false,
    }
}

#[test]
fn random_requests_for_a_long_time_take_no_more_memory() {
    const CLIENTS: u64 = 4;
    let seconds = std::env::var(SOAK).ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(2));
    for device in devices() {
        // One place fewer than clients.
        let options = ModelOptions {
            context: Some(200),
            sessions: CLIENTS as u32 - 1,
            batch: 32,
            ..ModelOptions::default()
        };
        let model = load(&device, options);
        let (done, refused, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let start = Instant::now();
        let client = |number: u64| {
            let mut rng = Rng::new(harness::seed() ^ number, "soak");
            let (mut session, mut kept) = (None, None);
            while !over.load(Ordering::Relaxed) && start.elapsed() < time {
                match act(&model, &mut session, &mut kept, &mut rng) {
                    Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                    Err(error) if is_fair(&error) => {
                        std::thread::sleep(Duration::from_millis(5));
                        refused.fetch_add(1, Ordering::Relaxed)
                    }
                    Err(error) => {
                        over.store(true, Ordering::Relaxed);
                        panic!("client {number}: {error}");
                    }
                };
            }
        };
        let mut sizes = Vec::new();
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                scope.spawn(move || client(number));
            }
            while !over.load(Ordering::Relaxed) && start.elapsed() < time {
                std::thread::sleep(Duration::from_millis(200));
                sizes.extend(resident());
            }
        });
        let (done, refused) = (done.into_inner(), refused.into_inner());
        let largest = |part: &[u64]| part.iter().copied().max().unwrap_or(0) >> 10;
        let (early, late) =
            (largest(&sizes[sizes.len() / 4..sizes.len() / 2]), largest(&sizes[sizes.len() / 2..]));
        println!(
            "{}: {done} requests, {refused} refused, in {time:?}; resident {early} KiB in the second quarter, {late} KiB in the last half",
            device.caps().name
        );
        assert!(done > 4 && refused > 0, "{done} requests, {refused} refused");
        // Other tests of this process take memory too: only a soak that runs alone can tell.
        if seconds.is_some() {
            assert!(late <= early + (4 << 10), "it grew from {early} KiB to {late} KiB");
        }
    }
}

#[test]
fn tensors_are_checked_before_a_device_is_asked_for_anything() {
    let Some(_) = harness::device() else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let faults = Faults::counting();
    let options =
        DeviceOptions { validation: Validation::Off, faults: Some(faults.clone()), ..harness::options() };
    let device = Device::open(&options).expect("a device that counts its calls");
    let (whole, mut count) = (Tiny::experts(), 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    let calls = |tiny: &Tiny| {
        std::fs::write(&path, tiny.build().finish()).expect("a file");
        let before = faults.calls();
        let options = ModelOptions { context: Some(64), ..ModelOptions::default() };
        let opened = Model::open(&device, &path, &options, &|_, _| true).map(|_| ());
        (faults.calls() - before, opened)
    };
    for (name, data) in &whole.tensors {
        let mut dims = data.dims.clone();
        dims[0] += WIDTH;
        // A type that no kernel reads.
        let mut typed = data.clone();
        typed.ggml_type = 26;
        for changed in [
            whole.clone().tensor(name, f32s(&dims)),
            whole.clone().tensor(name, typed),
            whole.clone().lacking(name),
        ] {
            let (calls, opened) = calls(&changed);
            let error = opened.expect_err("a file that is wrong").to_string();
            assert!(error.contains(name.as_str()), "{name}: {error}");
            assert_eq!(calls, 0, "{name}: {calls} calls of the driver before: {error}");
            count += 1;
        }
    }
    let (calls, opened) = calls(&whole);
    assert!(opened.is_ok() && calls > 0, "{opened:?}");
    println!("{count} wrong files, none of which reached the driver; the right one took {calls} calls");
}

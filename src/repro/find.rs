//! Finds the first operation that a device computes otherwise than it means. Every dispatch of every step gets the
//! reference's inputs, so that errors do not add up, and runs alone on the device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vkllm_runtime::{Command, Device, Dispatch, Error as DeviceError, Kernel, Recording};

use super::capsule::{Capsule, State};
use super::judge::{Output, judge};
use super::pattern::pattern;
use super::shadow::Shadow;
use crate::engine::Model;
use crate::error::Result;
use crate::sample::SamplerOptions;
use crate::session::{Event, GenerateOptions, Session};

/// What is looked at.
#[derive(Clone, Debug)]
pub struct FindOptions {
    /// Tokens to generate after the prompt.
    pub tokens: usize,
    pub sampler: SamplerOptions,
    /// Runs of every dispatch; all must give the same bits.
    pub times: u32,
    /// Only commands whose label contains this.
    pub label: Option<String>,
    /// Only this operation.
    pub op: Option<String>,
    /// Go on after the first finding, up to so many.
    pub most: usize,
}

impl Default for FindOptions {
    fn default() -> Self {
        FindOptions { tokens: 2, sampler: SamplerOptions::greedy(), times: 2, label: None, op: None, most: 1 }
    }
}

/// What is wrong with a dispatch.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Runs with the same inputs differ.
    Nondeterministic,
    /// Words outside the outputs changed: the memory's name, and the word in it.
    Disturbed(String, i64),
    /// The device makes a NaN or an infinity of finite inputs, and the reference does not.
    NotFinite,
    /// The operation itself gives a NaN or an infinity: weights or activations are beyond f32.
    Overflow(&'static str),
    /// Values beyond their bounds.
    Wrong,
    /// The device refuses the dispatch or is lost.
    Failed(DeviceError),
}

/// A dispatch that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// Name of the step's recording.
    pub step: String,
    /// Place of the command in it.
    pub command: usize,
    pub kind: Kind,
    pub capsule: Capsule,
    /// The comparison of each argument that is written.
    pub outputs: Vec<Output>,
    /// The pieces as the reference and as the device left them.
    pub expected: State,
    pub actual: State,
}

impl Finding {
    /// What is wrong, in a sentence.
    pub fn sentence(&self, subgroup: u32) -> String {
        let place = format!("{} ({})", self.capsule.label, self.capsule.kernel.name);
        let wrong = || {
            let of = |output: &Output| {
                let first = output.wrong.first()?;
                let pattern = pattern(output, subgroup)?;
                Some(format!(
                    "{}: {pattern}; the first, word {}, is {}",
                    output.binding, first.index, first.text
                ))
            };
            self.outputs.iter().filter_map(of).collect::<Vec<_>>().join(". ")
        };
        match &self.kind {
            Kind::Nondeterministic => format!("{place} is nondeterministic. {}", wrong()),
            Kind::Disturbed(name, word) => {
                format!("{place} changes word {word} of or around {name}, which it may not")
            }
            Kind::NotFinite => format!("{place} makes values that are no finite numbers. {}", wrong()),
            Kind::Overflow(binding) => {
                format!(
                    "{place} overflows by what it means: {binding} is no finite number on the reference either"
                )
            }
            Kind::Wrong => format!("{place} is wrong. {}", wrong()),
            Kind::Failed(error) => format!("{place} cannot be run: {error}"),
        }
    }
}

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Found {
    pub steps: usize,
    /// Dispatches that were compared.
    pub dispatches: usize,
    /// Words that were compared.
    pub words: u64,
    pub findings: Vec<Finding>,
}

/// Shows every step of a prompt and of the tokens after it to `see`, until that says that it is enough.
fn watch<T: Default + Send + 'static>(
    model: &Model,
    prompt: &[u32],
    options: &FindOptions,
    mut see: impl FnMut(&Device, &Recording, &mut T) -> Result<bool> + Send + 'static,
) -> Result<(T, Result<()>)> {
    let state = Arc::new(Mutex::new((T::default(), false)));
    let mut session = Session::new(model, options.sampler)?;
    let seen = Arc::clone(&state);
    model.engine().observe(Some(Box::new(move |device, recording| {
        let (state, done) = &mut *guard(&seen);
        if !*done {
            *done = see(device, recording, state)?;
        }
        Ok(())
    })));
    let mut generate = || {
        let limits = GenerateOptions { max_tokens: Some(options.tokens), ignore_end: true };
        for event in session.generate(prompt, limits)? {
            if matches!(event?, Event::Done { .. }) || guard(&state).1 {
                break;
            }
        }
        Ok(())
    };
    let generated = generate();
    model.engine().observe(None);
    let value = std::mem::take(&mut guard(&state).0);
    Ok((value, generated))
}

fn guard<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The dispatches of a prompt and the tokens after it: label and kernel, in order.
///
/// Errors: the prompt's, the device's.
pub fn dispatches(
    model: &Model,
    prompt: &[u32],
    options: &FindOptions,
) -> Result<Vec<(String, &'static Kernel)>> {
    let (all, generated) = watch(model, prompt, options, |_, recording, all: &mut Vec<_>| {
        all.extend(recording.commands().iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some((dispatch.label.clone(), dispatch.kernel)),
            _ => None,
        }));
        Ok(false)
    })?;
    generated.map(|()| all)
}

/// The dispatches of a recording with what each would read now, if those before it had run as they mean.
///
/// Errors: the device's.
pub fn capsules(device: &Device, recording: &Recording) -> Result<Vec<Capsule>> {
    let mut shadow = Shadow::new(device, recording)?;
    let mut all = Vec::new();
    for command in recording.commands() {
        let Command::Dispatch(dispatch) = command else {
            shadow.transfer(command)?;
            continue;
        };
        let capsule = shadow.capsule(dispatch)?;
        shadow.store(dispatch, &capsule, &capsule.meaning());
        all.push(capsule);
    }
    Ok(all)
}

/// The `nth` dispatch that the options choose, with the reference's inputs.
///
/// Errors: the prompt's, the device's.
pub fn capture(model: &Model, prompt: &[u32], options: &FindOptions, nth: usize) -> Result<Option<Capsule>> {
    let (wanted, mut left) = (options.clone(), nth);
    let (capsule, generated) =
        watch(model, prompt, options, move |device, recording, found: &mut Option<Capsule>| {
            let mut shadow = Shadow::new(device, recording)?;
            for command in recording.commands() {
                let Command::Dispatch(dispatch) = command else {
                    shadow.transfer(command)?;
                    continue;
                };
                let capsule = shadow.capsule(dispatch)?;
                if is_wanted(dispatch, &wanted) {
                    if left == 0 {
                        *found = Some(capsule);
                        return Ok(true);
                    }
                    left -= 1;
                }
                shadow.store(dispatch, &capsule, &capsule.meaning());
            }
            Ok(false)
        })?;
    // What follows the capture may fail in any way.
    if capsule.is_none() {
        generated?;
    }
    Ok(capsule)
}

/// Runs a prompt and compares every dispatch. `progress` is told the step, and the commands done and in all.
///
/// Errors: the prompt's; the device's when it fails outside the dispatches.
pub fn find(
    model: &Model,
    prompt: &[u32],
    options: &FindOptions,
    progress: impl Fn(&str, usize, usize) + Send + 'static,
) -> Result<Found> {
    let wanted = options.clone();
    let (found, generated) = watch(model, prompt, options, move |device, recording, found: &mut Found| {
        step(device, recording, &wanted, found, &progress)?;
        Ok(found.findings.len() >= wanted.most)
    })?;
    // What follows a finding may fail in any way.
    if found.findings.is_empty() {
        generated?;
    }
    Ok(found)
}

fn step(
    device: &Device,
    recording: &Recording,
    options: &FindOptions,
    found: &mut Found,
    progress: &dyn Fn(&str, usize, usize),
) -> Result<()> {
    found.steps += 1;
    let mut shadow = Shadow::new(device, recording)?;
    let commands = recording.commands();
    for (index, command) in commands.iter().enumerate() {
        progress(&recording.name, index, commands.len());
        let Command::Dispatch(dispatch) = command else {
            shadow.transfer(command)?;
            continue;
        };
        let capsule = shadow.capsule(dispatch)?;
        let expected = capsule.meaning();
        if is_wanted(dispatch, options) {
            found.dispatches += 1;
            let (kind, outputs, actual) = compare(device, &capsule, &expected, options.times);
            found.words += outputs.iter().map(|output| output.words as u64).sum::<u64>();
            if let Some(kind) = kind {
                let step = recording.name.clone();
                let expected = expected.clone();
                let capsule = capsule.clone();
                found.findings.push(Finding {
                    step,
                    command: index,
                    kind,
                    capsule,
                    outputs,
                    expected,
                    actual,
                });
                if found.findings.len() >= options.most {
                    return Ok(());
                }
            }
        }
        shadow.store(dispatch, &capsule, &expected);
    }
    Ok(())
}

fn is_wanted(dispatch: &Dispatch, options: &FindOptions) -> bool {
    options.label.as_deref().is_none_or(|label| dispatch.label.contains(label))
        && options.op.as_deref().is_none_or(|op| dispatch.kernel.op == op)
}

/// Runs a dispatch some times and says what is wrong with it, if anything.
pub fn compare(
    device: &Device,
    capsule: &Capsule,
    expected: &State,
    times: u32,
) -> (Option<Kind>, Vec<Output>, State) {
    let first = match capsule.run(device) {
        Ok(ran) => ran,
        Err(error) => return (Some(Kind::Failed(error)), Vec::new(), capsule.before()),
    };
    let outputs = judge(capsule, &first.state, expected);
    for _ in 1..times {
        match capsule.run(device) {
            Ok(again) if again.state != first.state => {
                let outputs = differing(capsule, &again.state, &first.state);
                if outputs.iter().any(|output| !output.wrong.is_empty()) {
                    return (Some(Kind::Nondeterministic), outputs, again.state);
                }
            }
            Ok(_) => {}
            Err(error) => return (Some(Kind::Failed(error)), outputs, first.state),
        }
    }
    if let Some((name, word)) = first.disturbed {
        return (Some(Kind::Disturbed(name, word)), outputs, first.state);
    }
    let kind = if outputs.iter().any(|output| output.not_finite) {
        Some(Kind::NotFinite)
    } else if outputs.iter().any(|output| !output.wrong.is_empty()) {
        Some(Kind::Wrong)
    } else {
        overflow(capsule, expected).map(Kind::Overflow)
    };
    (kind, outputs, first.state)
}

/// Two runs of one dispatch, bit by bit. What a rule leaves out, such as the order of a list, is free.
fn differing(capsule: &Capsule, again: &State, first: &State) -> Vec<Output> {
    let mut outputs = judge(capsule, again, first);
    let free = [("sample", "part"), ("sample_collect", "part")];
    for output in &mut outputs {
        if free.contains(&(capsule.kernel.op, output.binding)) {
            continue;
        }
        let (a, b) = (capsule.words(again, output.binding), capsule.words(first, output.binding));
        let pairs = a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b);
        output.wrong = pairs
            .map(|(index, (&got, &want))| super::judge::Wrong {
                index,
                text: format!("{got:#010x} in one run and {want:#010x} in another"),
                got,
                want,
            })
            .collect();
    }
    outputs
}

/// The output in which the reference itself wrote a float that is not finite, though the float inputs are.
fn overflow(capsule: &Capsule, expected: &State) -> Option<&'static str> {
    // These write floats alone; -inf and NaN have a meaning for the sampler.
    let floats = ["embed", "linear", "norm", "glu", "attention_combine"];
    if !floats.contains(&capsule.kernel.op) {
        return None;
    }
    let before = capsule.before();
    let arg = capsule.arg("y")?;
    let words = expected[arg.piece][arg.range()].iter().zip(&before[arg.piece][arg.range()]);
    let broken =
        words.into_iter().any(|(after, before)| after != before && !f32::from_bits(*after).is_finite());
    broken.then_some("y")
}

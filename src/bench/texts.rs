//! Texts with and without drafts: prompts by task, because what drafts are worth depends on the text.

use std::time::Duration;

use super::Sample;
use crate::engine::Model;
use crate::error::Result;
use crate::speculate::{Method, Statistics};
use crate::{GenerateOptions, Profile, SamplerOptions, Session, SpecOptions};

/// Prompts by task, written for this project and under its licence.
pub const TASKS: [(&str, [&str; 3]); 4] = [
    (
        "chat",
        [
            include_str!("texts/chat-1.txt"),
            include_str!("texts/chat-2.txt"),
            include_str!("texts/chat-3.txt"),
        ],
    ),
    (
        "code",
        [
            include_str!("texts/code-1.txt"),
            include_str!("texts/code-2.txt"),
            include_str!("texts/code-3.txt"),
        ],
    ),
    (
        "extract",
        [
            include_str!("texts/extract-1.txt"),
            include_str!("texts/extract-2.txt"),
            include_str!("texts/extract-3.txt"),
        ],
    ),
    (
        "story",
        [
            include_str!("texts/story-1.txt"),
            include_str!("texts/story-2.txt"),
            include_str!("texts/story-3.txt"),
        ],
    ),
];

/// Token ids of a task's prompts, at most `most` each. A model without a vocabulary reads bytes as ids.
pub fn prompts(model: &Model, task: &str, most: usize) -> Vec<Vec<u32>> {
    let texts = TASKS.iter().find(|(name, _)| *name == task).map_or(&[][..], |(_, texts)| &texts[..]);
    let vocab = model.config().vocab;
    let ids = |text: &&str| -> Vec<u32> {
        let mut ids = match model.vocabulary() {
            Some(vocabulary) => vocabulary.encode(text.trim_end(), Default::default()),
            None => text.bytes().map(|byte| u32::from(byte) % vocab).collect(),
        };
        ids.truncate(most.max(1));
        ids
    };
    texts.iter().map(ids).filter(|ids| !ids.is_empty()).collect()
}

/// What continuing all prompts of a task once came to.
pub struct Texts {
    pub sample: Sample,
    /// Tokens of all texts that were decoded: without the first of each, which the prompt's step draws.
    pub tokens: u64,
    /// Of all drafts.
    pub statistics: Statistics,
}

/// Continues every prompt by `new` tokens, greedily, each in a session of its own: no history is warm.
///
/// Errors: models or options that do not go together, the context, the device's.
pub fn continued(
    model: &Model,
    draft: Option<&Model>,
    prompts: &[Vec<u32>],
    new: usize,
    spec: Option<&SpecOptions>,
) -> Result<Texts> {
    let mut all = Texts { sample: Sample::default(), tokens: 0, statistics: Statistics::default() };
    for prompt in prompts {
        let session = Session::new(model, SamplerOptions::greedy())?;
        let mut session = match (spec, draft) {
            (None, _) => session,
            (Some(spec), Some(draft)) if spec.methods.iter().any(|s| s.method == Method::DRAFT_MODEL) => {
                session.with_draft(draft, spec)?
            }
            (Some(spec), _) if spec.methods.iter().any(|s| s.method == Method::MTP) => {
                session.with_mtp(spec)?
            }
            (Some(spec), _) => session.with_history(spec)?,
        };
        let options = GenerateOptions { max_tokens: Some(new), ignore_end: true };
        session.generate(prompt, options)?.try_for_each(|event| event.map(|_| ()))?;
        let stats = session.stats();
        all.sample.wall += stats.decode_time;
        all.sample.host += stats.host_time;
        all.tokens += stats.generated.saturating_sub(1);
        if let Some(statistics) = session.speculation() {
            all.statistics.merge(statistics);
        }
    }
    Ok(all)
}

/// As [`continued`] with every command measured; gives the recordings of target and draft in their order, and the time.
///
/// Errors: as [`continued`].
pub fn profiled(
    model: &Model,
    draft: Option<&Model>,
    prompts: &[Vec<u32>],
    new: usize,
    spec: Option<&SpecOptions>,
) -> Result<(Profile, u64, Duration)> {
    let models: Vec<&Model> = std::iter::once(model).chain(draft).collect();
    for model in &models {
        let mut engine = model.engine();
        engine.set_profiling(true);
        engine.profile = Profile { spans: Some(Vec::new()), ..Profile::default() };
    }
    let device = model.device();
    let before = device.reading();
    let texts = continued(model, draft, prompts, new, spec);
    let clocks = before.zip(device.reading()).map(<[_; 2]>::from);
    let mut spans = Vec::new();
    let mut profile = Profile::default();
    for (index, model) in models.iter().enumerate() {
        let mut engine = model.engine();
        engine.set_profiling(false);
        let mut found = std::mem::take(&mut engine.profile);
        spans.extend(found.spans.take().into_iter().flatten());
        if index == 0 {
            profile = found;
        }
    }
    spans.sort_by_key(|span| span.times.began_nanoseconds);
    profile.spans = Some(spans);
    profile.clocks = clocks;
    let texts = texts?;
    Ok((profile, texts.tokens, texts.sample.wall))
}

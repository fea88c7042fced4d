//! The last operations of a step: from logits to a token, on the device.

use vkllm_runtime::{Grid, View};
use vkllm_shaders::ops;
use vkllm_shaders::reference::sampler::{
    BIN_WORDS, BINS, HEAD_WORDS, Layout, PARTIAL_WORDS, PURPOSE_DRAFT, PURPOSE_DRAW,
};
use vkllm_shaders::select::Candidate;

use super::{Recorder, Simple};
use crate::error::Result;

/// Words of a conversation's ring of tokens: twice the longest penalty window, for the rows in flight beyond it.
pub const HISTORY_RING: u32 = 2048;

/// Sizes of the working record of a row, in words unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    /// Grid of `argmax`.
    slices: u32,
    /// Grid of `sample_histogram` and `sample_collect`.
    groups: u32,
    /// Words that `argmax` clears.
    clear: u32,
    /// Tokens that fit in the list of undecided ones.
    list: u32,
    /// From a row's record to the next.
    stride: u32,
}

impl Work {
    fn new(choice: Choice, n: u32) -> Self {
        let layout = Layout::new(n as usize);
        let greedy = Work {
            slices: layout.slices as u32,
            groups: layout.groups as u32,
            clear: 0,
            list: 0,
            stride: (layout.slices * PARTIAL_WORDS) as u32,
        };
        if choice == Choice::Greedy {
            return greedy;
        }
        // More undecided tokens than this come from logits that are nearly all alike; such rows are scanned instead.
        let list = (n / 16).max(1024);
        let clear = (HEAD_WORDS + BINS * BIN_WORDS) as u32;
        Work { clear, list, stride: layout.list as u32 + 2 * list, ..greedy }
    }
}

/// Biases of single tokens that a conversation can have.
pub const MOST_BIASES: u32 = 1024;

/// How tokens are drawn in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Draw {
    pub choice: Choice,
    /// Single tokens are more or less likely first.
    pub biases: bool,
    /// Logits are lowered for recent tokens then.
    pub penalties: bool,
    /// Tokens are removed by how typical they are.
    pub typical: bool,
}

/// Greedy rows alone, or any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Choice {
    #[default]
    Greedy,
    Sampled,
}

/// What tokens are drawn for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// The text, with the noise that target and drafter share.
    Text,
    /// A draft, with noise of its own; the logits become what it was drawn from.
    Draft,
    /// The text, judging drafts that were drawn from these logits: rows of so many tokens, one for each row of the step
    /// that a draft follows.
    Judge(&'a View, u32),
}

/// Where sampling finds its rows and leaves its results.
#[derive(Clone, Copy, Debug)]
pub struct SampleViews<'a> {
    /// One step row per row of logits; advanced in place.
    pub rows: &'a View,
    pub samplers: &'a View,
    /// Rings of recent tokens.
    pub history: &'a View,
    /// Biases of single tokens.
    pub biases: &'a View,
    /// Four words per result.
    pub results: &'a View,
}

fn lanes(r: &Recorder<'_>) -> [(&'static str, u32); 2] {
    [("WG", r.caps.subgroup), ("SG", r.caps.subgroup)]
}

fn run<P: bytemuck::Pod>(
    r: &mut Recorder<'_>,
    label: &str,
    candidates: &'static [Candidate],
    specs: &[(&'static str, u32)],
    views: Vec<View>,
    push: P,
    grid: [u32; 3],
) -> Result<()> {
    r.simple(label, Simple { candidates, axes: &[], specs, views, push, grid: Grid::Fixed(grid) })
}

/// Notes the tokens of the step's rows in their conversations' rings.
pub fn note_history(r: &mut Recorder<'_>, rows: &View, samplers: &View, history: &View) -> Result<()> {
    let push = ops::sample_history::Push { row_count: r.rows, ring: HISTORY_RING, ..Default::default() };
    let args = ops::sample_history::Args {
        rows: rows.clone(),
        samplers: samplers.clone(),
        history: history.clone(),
    };
    let grid = [r.rows.div_ceil(32), 1, 1];
    run(r, "history", ops::sample_history::CANDIDATES, &[("WG", 32)], args.views(), push, grid)
}

/// From logits [count, n] to one token per row.
pub fn sample(
    r: &mut Recorder<'_>,
    logits: &View,
    count: u32,
    n: u32,
    draw: Draw,
    purpose: Purpose<'_>,
    views: SampleViews<'_>,
) -> Result<()> {
    let shared = draw.choice == Choice::Greedy || matches!(purpose, Purpose::Text) && !draw.typical;
    let work = Work::new(if shared { draw.choice } else { Choice::Greedy }, n);
    let lanes = lanes(r);
    let part = r.recording.transient("sampling parts", u64::from(count) * u64::from(work.stride) * 4);
    let (stride, part_stride, list) = (n, work.stride, work.list);
    let SampleViews { rows, samplers, history, biases, results } = views;
    if draw.biases {
        let push = ops::sample_bias::Push { n, stride, ..Default::default() };
        let args = ops::sample_bias::Args {
            logits: logits.clone(),
            samplers: samplers.clone(),
            rows: rows.clone(),
            biases: biases.clone(),
        };
        run(r, "biases", ops::sample_bias::CANDIDATES, &lanes, args.views(), push, [1, count, 1])?;
    }
    if draw.penalties {
        let push = ops::sample_penalize::Push { n, stride, ring: HISTORY_RING, ..Default::default() };
        let args = ops::sample_penalize::Args {
            logits: logits.clone(),
            samplers: samplers.clone(),
            rows: rows.clone(),
            history: history.clone(),
        };
        run(r, "penalties", ops::sample_penalize::CANDIDATES, &lanes, args.views(), push, [1, count, 1])?;
    }
    let push = ops::argmax::Push { n, stride, part_stride, clear: work.clear, ..Default::default() };
    let args = ops::argmax::Args { logits: logits.clone(), part: part.clone() };
    run(r, "argmax", ops::argmax::CANDIDATES, &lanes, args.views(), push, [work.slices, count, 1])?;
    if !shared {
        let push = ops::sample_truncate::Push { n, stride, part_stride, ..Default::default() };
        let args = ops::sample_truncate::Args {
            logits: logits.clone(),
            samplers: samplers.clone(),
            rows: rows.clone(),
            part: part.clone(),
        };
        run(r, "truncate", ops::sample_truncate::CANDIDATES, &lanes, args.views(), push, [1, count, 1])?;
        let (offers, offer_n) = match purpose {
            Purpose::Judge(offers, tokens) => (offers, tokens),
            _ => (logits, n),
        };
        let push = ops::sample_draw::Push {
            n,
            stride,
            part_stride,
            row_count: count,
            offer_n,
            offer_stride: offer_n,
            purpose: if matches!(purpose, Purpose::Draft) { PURPOSE_DRAFT } else { PURPOSE_DRAW },
            ..Default::default()
        };
        let args = ops::sample_draw::Args {
            logits: logits.clone(),
            part,
            samplers: samplers.clone(),
            rows: rows.clone(),
            offers: offers.clone(),
            results: results.clone(),
        };
        let specs = [lanes[0], lanes[1], ("OFFERS", u32::from(matches!(purpose, Purpose::Judge(..))))];
        return run(r, "draw", ops::sample_draw::CANDIDATES, &specs, args.views(), push, [1, count, 1]);
    }
    if draw.choice == Choice::Sampled {
        let push = ops::sample_histogram::Push { n, stride, part_stride, ..Default::default() };
        let args = ops::sample_histogram::Args {
            logits: logits.clone(),
            samplers: samplers.clone(),
            rows: rows.clone(),
            part: part.clone(),
        };
        let grid = [work.groups, count, 1];
        run(r, "sample_histogram", ops::sample_histogram::CANDIDATES, &lanes, args.views(), push, grid)?;
        let push = ops::sample_collect::Push { n, stride, part_stride, list, ..Default::default() };
        let args = ops::sample_collect::Args {
            logits: logits.clone(),
            samplers: samplers.clone(),
            rows: rows.clone(),
            part: part.clone(),
        };
        run(r, "sample_collect", ops::sample_collect::CANDIDATES, &lanes, args.views(), push, grid)?;
    }
    let push = ops::sample::Push { n, stride, part_stride, list, ..Default::default() };
    let args = ops::sample::Args {
        logits: logits.clone(),
        part,
        samplers: samplers.clone(),
        rows: rows.clone(),
        results: results.clone(),
    };
    let specs = [lanes[0], lanes[1], ("SAMPLED", u32::from(draw.choice == Choice::Sampled))];
    run(r, "sample", ops::sample::CANDIDATES, &specs, args.views(), push, [1, count, 1])
}

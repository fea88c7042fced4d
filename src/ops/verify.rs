//! What stands around the models of a round: draft steps that run or do not, rows made of drafts, and drafts accepted.

use vkllm_runtime::{Dispatch, Grid, Grids, View};
use vkllm_shaders::ops;

use super::{Recorder, Simple, Want};
use crate::error::Result;

/// Bytes of a record of drafts, draws and outcomes; drafts begin with a record that holds their number.
pub const RECORD: u64 = 16;

const LANES: u32 = 64;

fn run<P: bytemuck::Pod>(
    r: &mut Recorder<'_>,
    label: &str,
    candidates: &'static [vkllm_shaders::select::Candidate],
    views: Vec<View>,
    push: P,
    count: u32,
) -> Result<()> {
    let grid = Grid::Fixed([count.div_ceil(LANES), 1, 1]);
    r.simple(label, Simple { candidates, axes: &[], specs: &[("WG", LANES)], views, push, grid })
}

/// Writes the step's rows: the cursor, then the drafts. `limits` are the number of tokens the model knows, and the least
/// log probability with which a draft counts.
pub fn verify_rows(
    r: &mut Recorder<'_>,
    cursor: &View,
    drafts: &View,
    rows: &View,
    limits: (u32, f32),
) -> Result<()> {
    let push = ops::verify_rows::Push {
        row_count: r.rows,
        vocab: limits.0,
        ln_p_min: limits.1,
        ..Default::default()
    };
    let args = ops::verify_rows::Args { cursor: cursor.clone(), drafts: drafts.clone(), rows: rows.clone() };
    run(r, "verify_rows", ops::verify_rows::CANDIDATES, args.views(), push, r.rows)
}

/// Where [`accept`] finds rows and draws and what it moves on.
#[derive(Clone, Copy, Debug)]
pub struct AcceptViews<'a> {
    pub rows: &'a View,
    /// By `out_index`: token, log probability, position, segment.
    pub drawn: &'a View,
    /// One step row per segment.
    pub cursors: &'a View,
    /// Two step rows per segment: where a drafter goes on.
    pub pairs: &'a View,
    /// By segment: number of drafts, how many were accepted, the token after them, its position.
    pub outcomes: &'a View,
}

/// Accepts the longest prefix of each segment's drafts that the target drew itself. `draft_vocab` is the number of
/// tokens the drafter knows.
pub fn accept(r: &mut Recorder<'_>, segments: u32, draft_vocab: u32, views: AcceptViews<'_>) -> Result<()> {
    let push = ops::accept::Push { row_count: r.rows, segments, draft_vocab, ..Default::default() };
    let args = ops::accept::Args {
        rows: views.rows.clone(),
        drawn: views.drawn.clone(),
        cursors: views.cursors.clone(),
        pairs: views.pairs.clone(),
        outcomes: views.outcomes.clone(),
    };
    run(r, "accept", ops::accept::CANDIDATES, args.views(), push, segments)
}

/// When a draft step runs, and where its workgroup counts are.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a> {
    pub drafts: &'a View,
    /// Drafts before the step.
    pub drafted: u32,
    /// Natural logarithm of the least probability of each of them.
    pub ln_p_min: f32,
    /// Workgroup counts as [`Grids::bytes`] has them; the fixed ones are written by the host.
    pub counts: &'a View,
    /// As many, which the device reads.
    pub args: &'a View,
}

/// Makes what was recorded run only after drafts that are all likely enough. Copies and fills run in any case.
pub fn gate(r: &mut Recorder<'_>, grids: &Grids, gate: &Gate<'_>) -> Result<()> {
    let words = (grids.bytes() / 4) as u32;
    let push =
        ops::gate::Push { words, drafted: gate.drafted, ln_p_min: gate.ln_p_min, ..Default::default() };
    let args =
        ops::gate::Args { drafts: gate.drafts.clone(), counts: gate.counts.clone(), args: gate.args.clone() };
    let candidate = r.select("gate", ops::gate::CANDIDATES, Want { axes: &[], rows: 1, class: None })?;
    r.recording.regrid(grids, gate.counts, gate.args)?;
    let dispatch = Dispatch {
        label: "gate".into(),
        kernel: candidate.kernel,
        views: args.views(),
        push: bytemuck::bytes_of(&push).to_vec(),
        specs: vec![("WG", LANES)],
        grid: Grid::Fixed([words.div_ceil(LANES), 1, 1]),
    };
    Ok(r.recording.insert(grids.first, dispatch)?)
}

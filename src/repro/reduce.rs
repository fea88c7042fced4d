//! Makes a case smaller while it still shows what it showed: fewer rows and outputs, and zeros in place of data.

use std::time::Instant;

use vkllm_runtime::Access;
use vkllm_shaders::ops::PUSH_FIELDS;

use super::capsule::Capsule;

/// Push constants that count rows or outputs, and the direction of the grid that they stretch, if it is known.
const COUNTS: &[(&str, &str, Option<usize>)] = &[
    ("linear", "rows", Some(1)),
    ("linear", "n", Some(0)),
    ("embed", "rows", None),
    ("norm", "rows", None),
    ("glu", "rows", None),
    ("heads", "row_count", None),
    ("attention", "row_count", None),
    ("attention_combine", "row_count", None),
    ("quantize", "rows", None),
    ("join", "rows", None),
    ("gather", "count", None),
    ("route", "rows", None),
    ("experts_sum", "rows", None),
    ("soft_cap", "count", None),
];
/// Arguments that are data; what others hold says where data are.
const DATA: &[&str] = &[
    "weights", "x", "bias", "residual", "weight", "gate", "up", "q", "k", "v", "k_cache", "v_cache", "part",
];

/// What a smaller case is to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    /// Wrong values: the grid goes with the counts.
    Values,
    /// A hang, a crash, a message: whatever is computed, the grid may shrink by itself.
    Fate,
}

/// How much smaller a case became.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reduction {
    /// Words of inputs that are not zero, before and after.
    pub inputs: (usize, usize),
    /// Rows times outputs, before and after.
    pub outputs: (u64, u64),
    /// Runs on the device.
    pub tries: usize,
}

/// Reduces a dispatch. `still` says whether a smaller one shows the same; it is not asked after `end`.
pub fn reduce(
    capsule: &Capsule,
    keeps: Shrink,
    still: &mut dyn FnMut(&Capsule) -> bool,
    end: Instant,
) -> (Capsule, Reduction) {
    let mut all = Reduction { inputs: (filled(capsule), 0), outputs: (outputs(capsule), 0), tries: 0 };
    let mut best = capsule.clone();
    let mut tries = 0;
    let mut test = |candidate: &Capsule| {
        tries += 1;
        Instant::now() < end && still(candidate)
    };
    for (_, name, direction) in COUNTS.iter().filter(|(op, _, _)| *op == capsule.kernel.op) {
        counted(&mut best, name, *direction, &mut test);
    }
    if keeps == Shrink::Fate {
        (0..3).for_each(|direction| stretched(&mut best, direction, &mut test));
    }
    for piece in data(&best) {
        zeroed(&mut best, piece, &mut test);
    }
    all.inputs.1 = filled(&best);
    all.outputs.1 = outputs(&best);
    all.tries = tries;
    (best, all)
}

fn field(capsule: &Capsule, name: &str) -> Option<usize> {
    let (_, fields) = PUSH_FIELDS.iter().find(|(op, _)| *op == capsule.kernel.op)?;
    let at = fields.iter().find(|(other, _, _, _)| *other == name)?.2 as usize;
    (at + 4 <= capsule.push.len()).then_some(at)
}

fn count(capsule: &Capsule, name: &str) -> Option<u32> {
    let at = field(capsule, name)?;
    capsule.push[at..].first_chunk().map(|four| u32::from_le_bytes(*four))
}

/// The smallest count, by halves and then by ones.
fn counted(best: &mut Capsule, name: &str, direction: Option<usize>, test: &mut dyn FnMut(&Capsule) -> bool) {
    let (Some(at), Some(mut now)) = (field(best, name), count(best, name)) else { return };
    let mut step = now.div_ceil(2);
    while now > 1 && step > 0 {
        let fewer = now.saturating_sub(step).max(1);
        let mut candidate = best.clone();
        candidate.push[at..at + 4].copy_from_slice(&fewer.to_le_bytes());
        if let Some(direction) = direction {
            // As many workgroups as fewer elements need at most.
            let groups = u64::from(best.grid[direction]) * u64::from(fewer);
            candidate.grid[direction] = groups.div_ceil(u64::from(now)) as u32;
        }
        if fewer < now && test(&candidate) {
            *best = candidate;
            now = fewer;
            step = step.min(now.div_ceil(2));
        } else {
            step /= 2;
        }
    }
}

/// The smallest number of workgroups in a direction, by halves.
fn stretched(best: &mut Capsule, direction: usize, test: &mut dyn FnMut(&Capsule) -> bool) {
    while best.grid[direction] > 1 {
        let mut candidate = best.clone();
        candidate.grid[direction] /= 2;
        if !test(&candidate) {
            break;
        }
        *best = candidate;
    }
}

/// Pieces that hold nothing but data, the largest first.
fn data(capsule: &Capsule) -> Vec<usize> {
    let bound = || capsule.kernel.bindings.iter().zip(&capsule.args);
    let mut pieces: Vec<usize> = (0..capsule.pieces.len())
        .filter(|piece| {
            let mut own = bound().filter(|(_, arg)| arg.piece == *piece).peekable();
            own.peek().is_some()
                && own.all(|(b, _)| DATA.contains(&b.name) || b.access == Access::Write)
                && bound().any(|(b, arg)| arg.piece == *piece && b.access.reads())
        })
        .collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(capsule.pieces[*piece].words.len()));
    pieces
}

/// Zeros in as many words of a piece as possible: halves, quarters and so on of those that are left.
fn zeroed(best: &mut Capsule, piece: usize, test: &mut dyn FnMut(&Capsule) -> bool) {
    let mut left: Vec<usize> =
        (0..best.pieces[piece].words.len()).filter(|&at| best.pieces[piece].words[at] != 0).collect();
    let mut parts = 1;
    while !left.is_empty() && parts <= left.len() {
        let size = left.len().div_ceil(parts);
        let mut kept = Vec::new();
        let mut removed = false;
        for chunk in left.chunks(size) {
            let mut candidate = best.clone();
            chunk.iter().for_each(|&at| candidate.pieces[piece].words[at] = 0);
            if test(&candidate) {
                *best = candidate;
                removed = true;
            } else {
                kept.extend_from_slice(chunk);
            }
        }
        left = kept;
        // More than a few hundred parts are not worth their time.
        if !removed {
            if parts >= 256 {
                break;
            }
            parts *= 2;
        }
    }
}

fn filled(capsule: &Capsule) -> usize {
    data(capsule)
        .iter()
        .map(|piece| capsule.pieces[*piece].words.iter().filter(|word| **word != 0).count())
        .sum()
}

fn outputs(capsule: &Capsule) -> u64 {
    let counts = COUNTS.iter().filter(|(op, _, _)| *op == capsule.kernel.op);
    counts.filter_map(|(_, name, _)| count(capsule, name)).map(u64::from).product()
}

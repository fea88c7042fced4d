//! A case in the forms that driver developers take: an Amber script, a program in C, the text of an issue.

mod amber;
mod c;
mod issue;

pub use amber::amber;
pub use c::c;
pub use issue::{Code, Tracker, issue};

use super::case::Case;

/// Offsets of descriptors are multiples of this, the largest alignment that any device asks for.
const ALIGNMENT: u64 = 256;
/// Share of the largest expected value that a float may be off by.
const TOLERANCE: f32 = 1.0 / 4096.0;

/// What a storage buffer is bound to.
struct Bound {
    piece: usize,
    offset: u64,
    range: u64,
}

/// Bindings with aligned offsets, and the push block that makes up for the alignment, as bytes.
fn bound(case: &Case) -> (Vec<Bound>, Vec<u8>) {
    let capsule = &case.capsule;
    let mut push = capsule.push.clone();
    let mut all = Vec::new();
    for (binding, arg) in capsule.kernel.bindings.iter().zip(&capsule.args) {
        let at = start(case, arg.piece) + arg.at as u64 * 4;
        // A view that must be aligned begins at its phase, which was captured aligned.
        let rest = if binding.at.is_some() { at % ALIGNMENT } else { 0 };
        if let Some(field) = binding.at.and_then(|field| push.get_mut(field as usize..field as usize + 4)) {
            field.copy_from_slice(&((rest / 4) as u32).to_le_bytes());
        }
        all.push(Bound { piece: arg.piece, offset: at - rest, range: arg.len.next_multiple_of(4) + rest });
    }
    (all, push)
}

/// Byte at which a piece begins in its exported buffer.
fn start(case: &Case, piece: usize) -> u64 {
    u64::from(case.capsule.pieces[piece].phase)
}

/// The words of a buffer, from its first byte on.
fn words(case: &Case, piece: usize) -> Vec<u32> {
    let head = (start(case, piece) / 4) as usize;
    std::iter::repeat_n(0, head).chain(case.capsule.pieces[piece].words.iter().copied()).collect()
}

/// Whether what is written to a piece are floats, by every binding that writes there.
fn is_float(case: &Case, piece: usize) -> bool {
    let op = case.capsule.kernel.op;
    let bound = case.capsule.kernel.bindings.iter().zip(&case.capsule.args);
    let mut writers = bound.filter(|(binding, arg)| binding.access.writes() && arg.piece == piece).peekable();
    let float = |name: &str| match name {
        "y" => !matches!(op, "gather"),
        "q" | "logits" => true,
        "part" => op == "attention",
        "k_cache" => case.capsule.spec("K_TYPE") == Some(0),
        "v_cache" => case.capsule.spec("V_TYPE") == Some(0),
        _ => false,
    };
    writers.peek().is_some() && writers.all(|(binding, _)| float(binding.name))
}

/// The first word of blocks of int8 that are written to a piece, if nothing else is.
fn blocks_at(case: &Case, piece: usize) -> Option<usize> {
    let bound = case.capsule.kernel.bindings.iter().zip(&case.capsule.args);
    let mut writers = bound.filter(|(binding, arg)| binding.access.writes() && arg.piece == piece);
    match (writers.next(), writers.next()) {
        (Some((binding, arg)), None) if binding.name == "y_q8" => Some(arg.at),
        _ => None,
    }
}

/// What floats of a piece may be off by.
fn tolerance(case: &Case, piece: usize) -> f32 {
    let runs = &case.manifest.pieces[piece].written;
    let words = runs.iter().flat_map(|&(start, count)| &case.expected[piece][start..start + count]);
    let values = words.map(|word| f32::from_bits(*word).abs()).filter(|value| value.is_finite());
    values.fold(f32::MIN_POSITIVE, f32::max) * TOLERANCE
}

/// What the case is and where it is from.
fn title(case: &Case) -> String {
    let manifest = &case.manifest;
    format!(
        "{} in {} on {} ({})",
        manifest.kernel, manifest.label, manifest.device.name, manifest.device.driver
    )
}

//! Recurrent layers: short convolutions and the state of linear attention.

use vkllm_runtime::{Grid, View};
use vkllm_shaders::ops;

use super::{Path, Recorder, Simple};
use crate::cache::{STATE_RING, StateLayout, StateViews};
use crate::error::Result;
use crate::tensor::Tensor;

/// Arguments of [`conv`].
pub struct ConvArgs<'a> {
    /// Inputs and the elements from one row to the next.
    pub x: (&'a View, u32),
    /// [channels, taps]
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub silu: bool,
    /// The first channels whose groups are divided by their length, and of those the first that are multiplied by a factor.
    pub normed: u32,
    pub scaled: (u32, f32),
    /// Channels of a group.
    pub group: u32,
    pub eps: f32,
    pub rows: &'a View,
    pub state: &'a StateViews,
}

/// A causal convolution of each channel over the rows and those before: [rows, channels].
pub fn conv(r: &mut Recorder<'_>, layout: &StateLayout, a: &ConvArgs<'_>) -> Result<View> {
    let y = r.floats("conv", r.rows, layout.channels);
    let push = ops::conv::Push {
        width: layout.channels,
        x_stride: a.x.1,
        row_count: r.rows,
        group: a.group,
        normed: a.normed,
        scaled: a.scaled.0,
        ring: STATE_RING,
        scale: a.scaled.1,
        eps: a.eps,
        ..Default::default()
    };
    let args = ops::conv::Args {
        x: a.x.0.clone(),
        weight: a.weight.view.clone(),
        bias: a.bias.unwrap_or(a.weight).view.clone(),
        rows: a.rows.clone(),
        inputs: a.state.inputs.clone(),
        y: y.clone(),
    };
    let lanes = r.caps.subgroup;
    let groups = layout.channels.div_ceil(a.group);
    // More rows than the ring has would overwrite what the first of them see: the last ones are kept when all are done.
    let few = r.path == Path::Rows;
    let tail = r.rows.saturating_sub(layout.taps - 1);
    let turns = [(0, 1, u32::from(few)), (tail, 0, 1)];
    for (first_row, compute, keep) in turns.into_iter().take(if few { 1 } else { 2 }) {
        let specs = [
            ("WG", lanes),
            ("SG", lanes),
            ("TAPS", layout.taps),
            ("ACT", u32::from(a.silu)),
            ("BIAS", u32::from(a.bias.is_some())),
            ("COMPUTE", compute),
            ("KEEP", keep),
        ];
        r.simple(
            "conv",
            Simple {
                candidates: ops::conv::CANDIDATES,
                axes: &[],
                specs: &specs,
                views: args.clone().views(),
                push: ops::conv::Push { first_row, ..push },
                grid: Grid::Fixed([groups, r.rows - first_row, 1]),
            },
        )?;
    }
    Ok(y)
}

/// How a state takes in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Mamba2,
    GatedDelta,
}

/// Arguments of [`recurrence`].
pub struct RecurrenceArgs<'a> {
    pub rule: Rule,
    /// [rows, x_stride], of which queries, keys and values begin so many elements behind.
    pub x: (&'a View, u32),
    pub q_from: u32,
    pub k_from: u32,
    pub v_from: u32,
    /// What the decay is made of, and how much a row counts; of a head that is number `n`, at
    /// `n / gates · gate_jump + n % gates`, rows so many elements apart.
    pub alpha: &'a View,
    pub beta: &'a View,
    pub gate_stride: u32,
    pub gates: u32,
    pub gate_jump: u32,
    /// [heads]: the logarithm of the decay, what is added to alpha, and the share of values that passes by the state.
    pub decay: &'a Tensor,
    pub shift: &'a Tensor,
    pub skip: Option<&'a Tensor>,
    /// So many neighbouring heads share a key head; 0: key heads are taken in turn.
    pub share: u32,
    pub rows: &'a View,
    pub state: &'a StateViews,
}

/// Lanes that share columns, quads of a column per lane, and columns: what a lane keeps of the state is up to 64 registers.
fn shares(size: u32, columns: u32, subgroup: u32) -> (u32, u32, u32) {
    let mut lanes = 1;
    let fits = |lanes: u32| {
        let quads = size / (4 * lanes);
        size.is_multiple_of(4 * lanes) && (quads >= 4 || lanes <= 8)
    };
    while 2 * lanes <= subgroup && fits(2 * lanes) {
        lanes *= 2;
    }
    let quads = size / (4 * lanes);
    let most = (16 / quads).clamp(1, 4);
    let own = [4, 2, 1].into_iter().find(|&own| own <= most && columns.is_multiple_of(own)).unwrap_or(1);
    (lanes, quads, own)
}

/// The state over the rows of the step: [rows, heads · columns].
pub fn recurrence(r: &mut Recorder<'_>, layout: &StateLayout, a: &RecurrenceArgs<'_>) -> Result<View> {
    let y = r.floats("recurrence", r.rows, layout.heads * layout.columns);
    let push = ops::recurrence::Push {
        x_stride: a.x.1,
        q_from: a.q_from,
        k_from: a.k_from,
        v_from: a.v_from,
        gate_stride: a.gate_stride,
        gates: a.gates,
        gate_jump: a.gate_jump,
        heads: layout.heads,
        key_heads: layout.key_heads,
        share: a.share,
        columns: layout.columns,
        row_count: r.rows,
        ring: STATE_RING,
        ..Default::default()
    };
    let args = ops::recurrence::Args {
        x: a.x.0.clone(),
        alpha: a.alpha.clone(),
        beta: a.beta.clone(),
        decay: a.decay.view.clone(),
        shift: a.shift.view.clone(),
        skip: a.skip.unwrap_or(a.decay).view.clone(),
        rows: a.rows.clone(),
        state: a.state.state.clone(),
        marks: a.state.marks.clone(),
        terms: a.state.terms.clone(),
        y: y.clone(),
    };
    let subgroup = r.caps.subgroup;
    let (lanes, quads, columns) = shares(layout.size, layout.columns, subgroup);
    let commit = match r.path {
        _ if r.provisional => 0,
        Path::Rows => 1,
        Path::Prefill => 2,
    };
    let specs = [
        ("WG", subgroup),
        ("SG", subgroup),
        ("LANES", lanes),
        ("QUADS", quads),
        ("COLUMNS", columns),
        ("DELTA", u32::from(a.rule == Rule::GatedDelta)),
        ("COMMIT", commit),
    ];
    let groups = layout.columns.div_ceil(subgroup / lanes * columns);
    r.simple(
        "recurrence",
        Simple {
            candidates: ops::recurrence::CANDIDATES,
            axes: &[],
            specs: &specs,
            views: args.views(),
            push,
            grid: Grid::Fixed([groups, layout.heads, 1]),
        },
    )?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_and_columns_divide_every_state_that_occurs() {
        for (size, columns, subgroup, want) in [
            (128, 128, 64, (8, 4, 4)),
            (128, 128, 8, (8, 4, 4)),
            (128, 64, 4, (4, 8, 2)),
            (256, 64, 32, (16, 4, 4)),
            (256, 64, 8, (8, 8, 2)),
            (64, 64, 32, (8, 2, 4)),
            (16, 6, 32, (4, 1, 2)),
            (4, 3, 32, (1, 1, 1)),
        ] {
            let got = shares(size, columns, subgroup);
            assert_eq!(got, want, "{size} {columns} {subgroup}");
            assert_eq!(got.0 * got.1 * 4, size);
        }
    }
}

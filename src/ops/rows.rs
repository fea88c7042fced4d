//! Operations on whole rows: lookup, norm, gate, gather and the attention grid.

use vkllm_runtime::{Grid, View};
use vkllm_shaders::ops;

use super::{Forms, Recorder, Rows, Simple};
use crate::error::Result;
use crate::tensor::Tensor;

/// Lanes of kernels whose lanes work alone.
const LANES: u32 = 64;

/// `y[r] = table[token of row r]`: [rows, k] f32. A table beyond the binding limit is looked up window by window.
pub fn embed(r: &mut Recorder<'_>, table: &Tensor, rows: &View) -> Result<View> {
    let y = r.floats("embd", r.rows, table.k);
    let row_bytes = table.row_bytes();
    for window in super::linear::windows(table, r.caps.max_binding) {
        let push = ops::embed::Push {
            k: table.k,
            row_bytes: row_bytes as u32,
            first: window.first,
            count: window.count,
            rows: r.rows,
            scale: 1.0,
            ..Default::default()
        };
        let args = ops::embed::Args { weights: window.view, rows: rows.clone(), y: y.clone() };
        // One lane decodes a unit of 8 to 256 elements; lanes beyond the row return at once.
        let groups = table.k.div_ceil(8).div_ceil(LANES);
        r.simple(
            "token_embd",
            Simple {
                candidates: ops::embed::CANDIDATES,
                axes: &[("FORMAT", table.format.name)],
                specs: &[("WG", LANES)],
                views: args.views(),
                push,
                grid: Grid::Fixed([groups, r.rows, 1]),
            },
        )?;
    }
    Ok(y)
}

/// RMS norm of each row times a weight.
pub fn rms_norm(
    r: &mut Recorder<'_>,
    label: &str,
    x: &View,
    count: u32,
    weight: &Tensor,
    eps: f32,
    forms: Forms,
) -> Result<Rows> {
    let out = r.forms(label, count, weight.k, forms);
    let (y, y_q8) = r.form_views(&out);
    let push = ops::rms_norm::Push { k: weight.k, rows: count, eps, ..Default::default() };
    let args = ops::rms_norm::Args { x: x.clone(), weight: weight.view.clone(), y, y_q8 };
    let lanes = r.caps.subgroup;
    r.simple(
        label,
        Simple {
            candidates: ops::rms_norm::CANDIDATES,
            axes: &[],
            specs: &[("WG", lanes), ("SG", lanes), ("OUT", forms.code())],
            views: args.views(),
            push,
            grid: Grid::Fixed([count, 1, 1]),
        },
    )?;
    Ok(out)
}

/// Activation of a gated feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glu {
    Silu,
}

/// `act(gate) * up`, both [rows, k].
pub fn glu(
    r: &mut Recorder<'_>,
    gate: &View,
    up: &View,
    k: u32,
    activation: Glu,
    forms: Forms,
) -> Result<Rows> {
    let out = r.forms("ffn_act", r.rows, k, forms);
    let (y, y_q8) = r.form_views(&out);
    let push = ops::glu::Push { k, rows: r.rows, gate_stride: k, up_stride: k, ..Default::default() };
    let args = ops::glu::Args { gate: gate.clone(), up: up.clone(), y, y_q8 };
    let code = match activation {
        Glu::Silu => 0,
    };
    let groups = r.groups_of_blocks(r.rows * k.div_ceil(32));
    let lanes = r.caps.subgroup;
    r.simple(
        "ffn_act",
        Simple {
            candidates: ops::glu::CANDIDATES,
            axes: &[],
            specs: &[("WG", lanes), ("SG", lanes), ("ACTIVATION", code), ("OUT", forms.code())],
            views: args.views(),
            push,
            grid: Grid::Fixed([groups, 1, 1]),
        },
    )?;
    Ok(out)
}

/// Rows of `x` by index: [count, k].
pub fn gather(r: &mut Recorder<'_>, x: &View, k: u32, index: &View, count: u32) -> Result<View> {
    let y = r.floats("gathered", count, k);
    let push = ops::gather::Push { k, count, ..Default::default() };
    let args = ops::gather::Args { x: x.clone(), index: index.clone(), y: y.clone() };
    let lanes = ops::gather::CANDIDATES[0].local[0].max(1);
    r.simple(
        "gather",
        Simple {
            candidates: ops::gather::CANDIDATES,
            axes: &[],
            specs: &[],
            views: args.views(),
            push,
            grid: Grid::Fixed([k.div_ceil(lanes), count, 1]),
        },
    )?;
    Ok(y)
}

/// The indirect grid of attention: chunks of the longest row, heads, rows.
pub(super) fn step_grid(
    r: &mut Recorder<'_>,
    rows: &View,
    row_count: u32,
    (tiles, n_kv): (u32, u32),
) -> Result<View> {
    let grid = r.recording.transient("attention grid", 12);
    let push = ops::step_grid::Push { row_count, tiles, n_kv, ..Default::default() };
    let args = ops::step_grid::Args { rows: rows.clone(), args: grid.clone() };
    r.simple(
        "attention_grid",
        Simple {
            candidates: ops::step_grid::CANDIDATES,
            axes: &[],
            specs: &[],
            views: args.views(),
            push,
            grid: Grid::Fixed([1, 1, 1]),
        },
    )?;
    Ok(grid)
}

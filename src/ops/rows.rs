//! Operations on whole rows: lookup, norms, activations, caps, gather and the attention grid.

use vkllm_runtime::{Grid, View};
use vkllm_shaders::ops;

use super::{Forms, Recorder, Rows, Simple};
use crate::error::Result;
use crate::tensor::Tensor;

/// Lanes of kernels whose lanes work alone.
const LANES: u32 = 64;

/// `y[r] = scale · table[token of row r]`: [rows, k] f32. A table beyond the binding limit is looked up window by window.
pub fn embed(r: &mut Recorder<'_>, table: &Tensor, rows: &View, scale: f32) -> Result<View> {
    let y = r.floats("embd", r.rows, table.k);
    embed_into(r, "token_embd", table, rows, scale, &y)?;
    Ok(y)
}

/// As [`embed`], where the result goes.
pub fn embed_into(
    r: &mut Recorder<'_>,
    label: &str,
    table: &Tensor,
    rows: &View,
    scale: f32,
    y: &View,
) -> Result<()> {
    let row_bytes = table.row_bytes();
    for window in super::linear::windows(table, r.caps.max_binding) {
        let push = ops::embed::Push {
            k: table.k,
            row_bytes: row_bytes as u32,
            first: window.first,
            count: window.count,
            rows: r.rows,
            scale,
            ..Default::default()
        };
        let args = ops::embed::Args { weights: window.view, rows: rows.clone(), y: y.clone() };
        // One lane decodes a unit of 8 to 256 elements; lanes beyond the row return at once.
        let groups = table.k.div_ceil(8).div_ceil(LANES);
        r.simple(
            label,
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
    Ok(())
}

/// Weights and kind of a norm.
#[derive(Clone, Debug)]
pub struct Norm {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// The mean is taken off first: LayerNorm instead of RMS norm.
    pub centred: bool,
    pub eps: f32,
}

/// The norm of rows of `x`, which begin `stride` elements apart.
pub fn norm(
    r: &mut Recorder<'_>,
    label: &str,
    (x, stride): (&View, u32),
    count: u32,
    w: &Norm,
    forms: Forms,
) -> Result<Rows> {
    let out = r.forms(label, count, w.weight.k, forms);
    norm_into(r, label, (x, stride), count, w, Aside::None, &out, forms)?;
    Ok(out)
}

/// The norms of `count` groups of each row of `x`, [rows, count · k], by weights that groups have together or one each, times
/// silu(`gate`) where there is one. Rows of the result are whole.
pub fn norm_groups(
    r: &mut Recorder<'_>,
    label: &str,
    x: &View,
    count: u32,
    w: &Norm,
    gate: Option<&View>,
    forms: Forms,
) -> Result<Rows> {
    let out = r.forms(label, r.rows, count * w.weight.k, forms);
    let aside = gate.map_or(Aside::None, Aside::Gate);
    norm_into(r, label, (x, w.weight.k), r.rows * count, w, aside, &out, forms)?;
    Ok(out)
}

/// `x += norm(y)`, both [rows, k].
pub fn norm_add(r: &mut Recorder<'_>, label: &str, y: &View, w: &Norm, x: &View) -> Result<()> {
    let out = Rows::new(w.weight.k, Some(x.clone()), None);
    let forms = Forms { float: true, int8: false };
    norm_into(r, label, (y, w.weight.k), r.rows, w, Aside::Residual(x), &out, forms)
}

/// `norm(y) + x`, both [count, k], in rows of its own.
pub fn norm_onto(
    r: &mut Recorder<'_>,
    label: &str,
    (y, count): (&View, u32),
    w: &Norm,
    x: &View,
) -> Result<View> {
    let forms = Forms { float: true, int8: false };
    let view = r.floats(label, count, w.weight.k);
    let out = Rows::new(w.weight.k, Some(view.clone()), None);
    norm_into(r, label, (y, w.weight.k), count, w, Aside::Residual(x), &out, forms)?;
    Ok(view)
}

/// What a norm is combined with.
#[derive(Clone, Copy)]
enum Aside<'a> {
    None,
    Residual(&'a View),
    Gate(&'a View),
}

fn norm_into(
    r: &mut Recorder<'_>,
    label: &str,
    (x, x_stride): (&View, u32),
    count: u32,
    w: &Norm,
    aside: Aside<'_>,
    out: &Rows,
    forms: Forms,
) -> Result<()> {
    let (residual, kind) = match aside {
        Aside::None => (x, 0),
        Aside::Residual(view) => (view, 1),
        Aside::Gate(view) => (view, 2),
    };
    let (y, y_q8) = r.form_views(out);
    let push = ops::norm::Push {
        k: w.weight.k,
        rows: count,
        x_stride,
        weights: w.weight.n,
        eps: w.eps,
        ..Default::default()
    };
    let args = ops::norm::Args {
        x: x.clone(),
        weight: w.weight.view.clone(),
        bias: w.bias.as_ref().unwrap_or(&w.weight).view.clone(),
        residual: residual.clone(),
        y,
        y_q8,
    };
    let lanes = r.caps.subgroup;
    let specs = [
        ("WG", lanes),
        ("SG", lanes),
        ("OUT", forms.code()),
        ("CENTRE", u32::from(w.centred)),
        ("BIAS", u32::from(w.bias.is_some())),
        ("RESIDUAL", kind),
        ("GROUPED", u32::from(w.weight.n > 1)),
    ];
    r.simple(
        label,
        Simple {
            candidates: ops::norm::CANDIDATES,
            axes: &[],
            specs: &specs,
            views: args.views(),
            push,
            grid: Grid::Fixed([count, 1, 1]),
        },
    )
}

/// The forms of rows that were not normalised: `x` itself, and its int8 blocks.
pub fn forms_of_rows(r: &mut Recorder<'_>, label: &str, x: &View, k: u32, forms: Forms) -> Result<Rows> {
    forms_of(r, label, x, (r.rows, k), forms)
}

/// As [`forms_of_rows`], of so many rows.
pub fn forms_of(
    r: &mut Recorder<'_>,
    label: &str,
    x: &View,
    (rows, k): (u32, u32),
    forms: Forms,
) -> Result<Rows> {
    let mut out = r.forms(label, rows, k, Forms { float: false, ..forms });
    out.float = forms.float.then(|| x.clone());
    if let Some(y_q8) = &out.int8 {
        let push = ops::quantize::Push { k, rows, ..Default::default() };
        let args = ops::quantize::Args { x: x.clone(), y_q8: y_q8.clone() };
        let lanes = r.caps.subgroup;
        let groups = r.groups_of_blocks(rows * (k / 32));
        r.simple(
            label,
            Simple {
                candidates: ops::quantize::CANDIDATES,
                axes: &[],
                specs: &[("WG", lanes), ("SG", lanes)],
                views: args.views(),
                push,
                grid: Grid::Fixed([groups, 1, 1]),
            },
        )?;
    }
    Ok(out)
}

/// Activation of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// The tanh form.
    Gelu,
    /// gpt-oss: silu with a slope of 1.702 of a gate up to 7, times one more than an up within ±7.
    ClampedSwiglu,
    /// The square of what is positive.
    Relu2,
    /// The logistic function.
    Logistic,
    /// None: a product.
    Linear,
}

/// `act(gate) · up`, or `act(gate)` alone: [count, k]. Rows of gate and up begin `stride` elements apart.
pub fn glu(
    r: &mut Recorder<'_>,
    (gate, up): (&View, Option<&View>),
    (count, k, stride): (u32, u32, u32),
    activation: Activation,
    forms: Forms,
) -> Result<Rows> {
    gate_by(r, "ffn_act", (gate, stride), up.map(|up| (up, stride)), (count, k), activation, forms)
}

/// As [`glu`], of each of gate and up the elements from one row to the next.
pub fn gate_by(
    r: &mut Recorder<'_>,
    label: &str,
    (gate, gate_stride): (&View, u32),
    up: Option<(&View, u32)>,
    (count, k): (u32, u32),
    activation: Activation,
    forms: Forms,
) -> Result<Rows> {
    let out = r.forms(label, count, k, forms);
    let (y, y_q8) = r.form_views(&out);
    let (factor, up_stride) = up.unwrap_or((gate, gate_stride));
    let push = ops::glu::Push { k, rows: count, gate_stride, up_stride, ..Default::default() };
    let args = ops::glu::Args { gate: gate.clone(), up: factor.clone(), y, y_q8 };
    let groups = r.groups_of_blocks(count * k.div_ceil(32));
    let lanes = r.caps.subgroup;
    let specs = [
        ("WG", lanes),
        ("SG", lanes),
        ("ACTIVATION", activation as u32),
        ("OUT", forms.code()),
        ("GATED", u32::from(up.is_some())),
    ];
    r.simple(
        label,
        Simple {
            candidates: ops::glu::CANDIDATES,
            axes: &[],
            specs: &specs,
            views: args.views(),
            push,
            grid: Grid::Fixed([groups, 1, 1]),
        },
    )?;
    Ok(out)
}

/// Rows side by side, `[count, a + b]`: of each its width and the elements from one row to the next.
pub fn join(
    r: &mut Recorder<'_>,
    label: &str,
    (a, a_width, a_stride): (&View, u32, u32),
    (b, b_width, b_stride): (&View, u32, u32),
    count: u32,
) -> Result<View> {
    let y = r.floats(label, count, a_width + b_width);
    let push = ops::join::Push { rows: count, a_width, b_width, a_stride, b_stride, ..Default::default() };
    let groups = (count * (a_width + b_width)).div_ceil(LANES).min(r.caps.max_groups[0]);
    r.simple(
        label,
        Simple {
            candidates: ops::join::CANDIDATES,
            axes: &[],
            specs: &[("WG", LANES)],
            views: ops::join::Args { a: a.clone(), b: b.clone(), y: y.clone() }.views(),
            push,
            grid: Grid::Fixed([groups, 1, 1]),
        },
    )?;
    Ok(y)
}

/// Holds `count` values within ±`cap`, in place.
pub fn soft_cap(r: &mut Recorder<'_>, label: &str, y: &View, count: u32, cap: f32) -> Result<()> {
    let push = ops::soft_cap::Push { count, cap, ..Default::default() };
    let groups = count.div_ceil(LANES).min(r.caps.max_groups[0]);
    r.simple(
        label,
        Simple {
            candidates: ops::soft_cap::CANDIDATES,
            axes: &[],
            specs: &[("WG", LANES)],
            views: ops::soft_cap::Args { y: y.clone() }.views(),
            push,
            grid: Grid::Fixed([groups, 1, 1]),
        },
    )
}

/// Logits [count, n] of which `x` [count, few] has some: those of the tokens that have a place there.
pub fn spread(
    r: &mut Recorder<'_>,
    x: &View,
    places: &View,
    (count, few, n): (u32, u32, u32),
) -> Result<View> {
    let y = r.floats("spread", count, n);
    let push = ops::spread::Push { count: few, n, ..Default::default() };
    let groups = n.div_ceil(LANES).min(r.caps.max_groups[0]);
    r.simple(
        "spread",
        Simple {
            candidates: ops::spread::CANDIDATES,
            axes: &[],
            specs: &[("WG", LANES)],
            views: ops::spread::Args { x: x.clone(), places: places.clone(), y: y.clone() }.views(),
            push,
            grid: Grid::Fixed([groups, count, 1]),
        },
    )?;
    Ok(y)
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
    (tiles, n_kv, chunks_max): (u32, u32, u32),
) -> Result<View> {
    let grid = r.recording.transient("attention grid", 12);
    let push = ops::step_grid::Push { row_count, tiles, n_kv, chunks_max, ..Default::default() };
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

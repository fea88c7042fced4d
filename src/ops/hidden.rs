//! Hidden rows kept from one step to the next, for layers that predict further tokens.

use vkllm_runtime::{Grid, View};
use vkllm_shaders::ops;

use super::{Recorder, Simple};
use crate::cache::HiddenView;
use crate::error::Result;

/// Lanes of a workgroup, each of which copies an element.
const LANES: u32 = 64;

/// Keeps `count` rows of `x`, [count, k], at the positions of `rows`.
pub fn hidden_put(
    r: &mut Recorder<'_>,
    rows: &View,
    x: &View,
    (count, k): (u32, u32),
    hidden: &HiddenView,
) -> Result<()> {
    let push = ops::hidden_put::Push { k, row_count: count, ring: hidden.ring, ..Default::default() };
    let args = ops::hidden_put::Args { rows: rows.clone(), x: x.clone(), hidden: hidden.rows.clone() };
    r.simple(
        "hidden_put",
        Simple {
            candidates: ops::hidden_put::CANDIDATES,
            axes: &[],
            specs: &[("WG", LANES)],
            views: args.views(),
            push,
            grid: Grid::Fixed([k.div_ceil(LANES), count, 1]),
        },
    )
}

/// The rows that were kept at the positions before those of `rows`: [rows, k].
pub fn hidden_get(r: &mut Recorder<'_>, rows: &View, k: u32, hidden: &HiddenView) -> Result<View> {
    let y = r.floats("hidden", r.rows, k);
    let push = ops::hidden_get::Push { k, row_count: r.rows, ring: hidden.ring, ..Default::default() };
    let args = ops::hidden_get::Args { rows: rows.clone(), hidden: hidden.rows.clone(), y: y.clone() };
    r.simple(
        "hidden_get",
        Simple {
            candidates: ops::hidden_get::CANDIDATES,
            axes: &[],
            specs: &[("WG", LANES)],
            views: args.views(),
            push,
            grid: Grid::Fixed([k.div_ceil(LANES), r.rows, 1]),
        },
    )?;
    Ok(y)
}

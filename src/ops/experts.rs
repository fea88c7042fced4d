//! Mixtures of experts: which experts a row uses, rows sorted by expert, and the sum of what experts give.

use vkllm_runtime::{Grid, View};
use vkllm_shaders::ops;

use super::linear::{Operand, operand, tile_rows};
use super::{Recorder, Simple, Stack};
use crate::error::Result;
use crate::tensor::Tensor;

/// Lanes of kernels whose lanes work alone.
const LANES: u32 = 64;

/// How logits of a router become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    Softmax,
    Sigmoid,
    /// The softmax of the chosen logits alone.
    SoftmaxOfChosen,
}

/// How a row's experts are chosen and weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    pub experts: u32,
    /// Experts of a row.
    pub used: u32,
    pub gating: Gating,
    /// Groups of neighbouring experts, and how many of them may be used.
    pub groups: (u32, u32),
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// The experts of the rows of a step.
#[derive(Clone, Debug)]
pub struct Routing {
    pub experts: u32,
    pub used: u32,
    /// [rows, used]
    pub weights: View,
    pub(super) tiles: View,
    pub(super) order: View,
    pub(super) tile_rows: u32,
    pub(super) tile_count: u32,
}

/// Chooses the experts of each row by its logits [rows, experts] and `bias`, which counts for the choice alone, and sorts
/// the rows by expert for products with stacks like `weight`.
///
/// Errors: no kernel for the format on this device.
pub fn route(
    r: &mut Recorder<'_>,
    router: &Router,
    logits: &View,
    bias: Option<&Tensor>,
    stack: &Stack,
) -> Result<Routing> {
    let assignments = r.rows * router.used;
    let tile_rows = tile_rows(r, "expert_tiles", &stack.weight, operand(r, &stack.weight))?;
    let tile_count = assignments.min(router.experts + assignments / tile_rows);
    let ids = r.floats("expert_ids", r.rows, router.used);
    let weights = r.floats("expert_weights", r.rows, router.used);
    let tiles = r.floats("expert_tiles", tile_count, 4);
    let order = r.floats("expert_order", r.rows, router.used);
    let lanes = r.caps.subgroup;
    let push = ops::route::Push {
        rows: r.rows,
        used: router.used,
        groups: router.groups.0,
        groups_used: router.groups.1,
        normalise: u32::from(router.normalise),
        scale: router.scale,
        ..Default::default()
    };
    let args = ops::route::Args {
        logits: logits.clone(),
        bias: bias.map_or_else(|| logits.clone(), |bias| bias.view.clone()),
        ids: ids.clone(),
        weights: weights.clone(),
        tiles: tiles.clone(),
        order: order.clone(),
    };
    let specs = [
        ("WG", lanes),
        ("SG", lanes),
        ("GATING", router.gating as u32),
        ("BIAS", u32::from(bias.is_some())),
        ("EXPERTS", router.experts),
    ];
    r.simple(
        "ffn_route",
        Simple {
            candidates: ops::route::CANDIDATES,
            axes: &[],
            specs: &specs,
            views: args.views(),
            push,
            grid: Grid::Fixed([r.rows, 1, 1]),
        },
    )?;
    // The router itself writes the tiles of one row.
    if r.rows > 1 {
        let shape = (router.experts, assignments, tile_rows, tile_count);
        group(r, "ffn_group", shape, Some(ids), &tiles, &order)?;
    }
    let (experts, used) = (router.experts, router.used);
    Ok(Routing { experts, used, weights, tiles, order, tile_rows, tile_count })
}

/// Sorts (row, head) assignments by head, for products of heads with matrices of their own.
///
/// Errors: no kernel for the format on this device.
pub fn route_heads(r: &mut Recorder<'_>, heads: u32, stack: &Stack) -> Result<Routing> {
    let assignments = r.rows * heads;
    let tile_rows = tile_rows(r, "head_tiles", &stack.weight, Operand::Float)?;
    let tile_count = heads * r.rows.div_ceil(tile_rows);
    let tiles = r.floats("head_tiles", tile_count, 4);
    let order = r.floats("head_order", r.rows, heads);
    group(r, "head_group", (heads, assignments, tile_rows, tile_count), None, &tiles, &order)?;
    Ok(Routing { experts: heads, used: heads, weights: order.clone(), tiles, order, tile_rows, tile_count })
}

/// Sorts assignments by the experts in `ids`, or evenly where there are none.
fn group(
    r: &mut Recorder<'_>,
    label: &str,
    (experts, count, tile_rows, tile_count): (u32, u32, u32, u32),
    ids: Option<View>,
    tiles: &View,
    order: &View,
) -> Result<()> {
    let lanes = r.caps.subgroup;
    let round = u32::from(ids.is_none());
    let push = ops::group::Push { count, tile_rows, tile_count, ..Default::default() };
    let ids = ids.unwrap_or_else(|| r.unused());
    let args = ops::group::Args { ids, tiles: tiles.clone(), order: order.clone() };
    r.simple(
        label,
        Simple {
            candidates: ops::group::CANDIDATES,
            axes: &[],
            specs: &[("WG", lanes), ("SG", lanes), ("EXPERTS", experts), ("ROUND", round)],
            views: args.views(),
            push,
            grid: Grid::Fixed([1, 1, 1]),
        },
    )
}

/// What experts share: the output [rows, k] of one that all rows use, and its share [rows] before the logistic function.
#[derive(Clone, Copy, Debug)]
pub struct SharedExpert<'a> {
    pub output: &'a View,
    pub share: Option<&'a View>,
}

/// `x += scale · (Σ weight · part + share · shared)`, the parts [rows · used, k] in the order of the row's experts.
pub fn experts_sum(
    r: &mut Recorder<'_>,
    (parts, k): (&View, u32),
    routing: &Routing,
    shared: Option<SharedExpert<'_>>,
    x: &View,
    scale: f32,
) -> Result<()> {
    let push = ops::experts_sum::Push { k, used: routing.used, scale, ..Default::default() };
    let share = shared.and_then(|shared| shared.share);
    let args = ops::experts_sum::Args {
        part: parts.clone(),
        weights: routing.weights.clone(),
        common_part: shared.map_or(parts, |shared| shared.output).clone(),
        share: share.unwrap_or(parts).clone(),
        residual: x.clone(),
        y: x.clone(),
    };
    let kind = u32::from(shared.is_some()) + u32::from(share.is_some());
    r.simple(
        "ffn_sum",
        Simple {
            candidates: ops::experts_sum::CANDIDATES,
            axes: &[],
            specs: &[("WG", LANES), ("SHARED", kind)],
            views: args.views(),
            push,
            grid: Grid::Fixed([k.div_ceil(LANES), r.rows, 1]),
        },
    )
}

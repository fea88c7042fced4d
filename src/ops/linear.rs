//! Matrix products: weights times rows, with bias and residual in the epilogue.

use vkllm_runtime::{Caps, DeviceKind, Grid, Need, View};
use vkllm_shaders::matrix::division;
use vkllm_shaders::ops;
use vkllm_shaders::reference::halve::HALF_TAIL;
use vkllm_shaders::select::Candidate;

use super::experts::Routing;
use super::{Activations, Path, Recorder, Rows, Simple, Want};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Rows that one decode or verification dispatch takes at once; more are tiles of them.
const MAX_ROWS: u32 = 16;
/// Windows of a large matrix start at multiples of this many rows, so that every vector load stays aligned.
const WINDOW_ROWS: u64 = 64;

/// Rows `first..first + count` of a matrix, small enough to be bound.
pub(super) struct Window {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) view: View,
}

/// Cuts a matrix into windows of at most `max_binding` bytes, at rows.
pub(super) fn windows(tensor: &Tensor, max_binding: u64) -> Vec<Window> {
    let row = tensor.row_bytes().max(1);
    // The descriptor may have to start up to 256 bytes before the view.
    let most = (max_binding.saturating_sub(256) / row).max(1);
    let step = if u64::from(tensor.n) <= most {
        u64::from(tensor.n)
    } else {
        (most / WINDOW_ROWS).max(1) * WINDOW_ROWS
    };
    let mut first = 0;
    let mut all = Vec::new();
    while first < u64::from(tensor.n) {
        let count = step.min(u64::from(tensor.n) - first);
        let view = tensor.view.part(first * row, count * row);
        all.push(Window { first: first as u32, count: count as u32, view });
        first += count;
    }
    all
}

/// The form of activations that a matrix is multiplied by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    Float,
    Int8,
    Half,
}

impl Operand {
    /// Value of the axis `ACT`.
    fn axis(self) -> &'static str {
        match self {
            Operand::Float => "f32",
            Operand::Int8 => "q8",
            Operand::Half => "f16",
        }
    }

    /// Words of a row of k activations.
    fn stride(self, k: u32) -> u32 {
        match self {
            Operand::Float => k,
            Operand::Int8 => k / 32 * 12,
            Operand::Half => k / 2 + HALF_TAIL as u32,
        }
    }
}

pub(super) fn operand(r: &Recorder<'_>, tensor: &Tensor) -> Operand {
    let allowed = |operand: Operand| {
        let is_own = |c: &&Candidate| {
            c.kernel.axis("FORMAT") == tensor.format.name && c.kernel.axis("ACT") == operand.axis()
        };
        let avoided = |c: &Candidate| r.caps.avoid.iter().any(|name| name == c.kernel.name);
        let mut own = ops::linear::CANDIDATES.iter().filter(is_own).peekable();
        let fits = match (operand, own.peek()) {
            (_, None) => false,
            (Operand::Half, Some(own)) => {
                own.kernel.needs.iter().all(|need| r.caps.has(*need)) && division(own, r.caps).is_some()
            }
            _ => true,
        };
        // Where one of them is wrong all products of the format are of floats, so that steps of all sizes agree.
        fits && tensor.k.is_multiple_of(32) && !own.any(avoided)
    };
    // Software has no units for matrices, whatever it offers.
    let matrices = match r.activations {
        Activations::Half => true,
        Activations::Auto => r.caps.kind != DeviceKind::Cpu,
        Activations::Float | Activations::Int8 => false,
    };
    let int8 = match r.activations {
        Activations::Float => false,
        Activations::Int8 => true,
        Activations::Half | Activations::Auto => r.caps.has(Need::IntegerDot),
    };
    if matrices && r.path == Path::Prefill && allowed(Operand::Half) {
        Operand::Half
    } else if int8 && allowed(Operand::Int8) {
        Operand::Int8
    } else {
        Operand::Float
    }
}

/// Whether a matrix is multiplied by int8 activations.
pub fn takes_int8(r: &Recorder<'_>, tensor: &Tensor) -> bool {
    operand(r, tensor) == Operand::Int8
}

/// The rows in the form that a matrix is multiplied by.
fn input_of(r: &mut Recorder<'_>, label: &str, x: &Rows, count: u32, operand: Operand) -> Result<View> {
    let form = match operand {
        Operand::Float => x.float.as_ref(),
        Operand::Int8 => x.int8.as_ref(),
        Operand::Half => x.half.get().or(x.float.as_ref()),
    };
    let Some(form) = form else {
        return Err(Error::NoKernel {
            op: label.to_owned(),
            reasons: "its input form was not written".into(),
        });
    };
    if operand != Operand::Half || x.half.get().is_some() {
        return Ok(form.clone());
    }
    let half = halve(r, form, count, x.width)?;
    Ok(x.half.get_or_init(|| half).clone())
}

/// Rows of f32 as rows of f16, with a power of two for each.
fn halve(r: &mut Recorder<'_>, x: &View, count: u32, k: u32) -> Result<View> {
    let y = r.floats("half", count, Operand::Half.stride(k));
    let push = ops::halve::Push { k, rows: count, ..Default::default() };
    let lanes = r.caps.subgroup;
    r.simple(
        "half",
        Simple {
            candidates: ops::halve::CANDIDATES,
            axes: &[],
            specs: &[("WG", lanes), ("SG", lanes)],
            views: ops::halve::Args { x: x.clone(), y_half: y.clone() }.views(),
            push,
            grid: Grid::Fixed([count.min(r.caps.max_groups[0]), 1, 1]),
        },
    )?;
    Ok(y)
}

/// What is added to a product.
#[derive(Clone, Copy, Debug)]
pub struct LinearArgs<'a> {
    /// [n]
    pub bias: Option<&'a Tensor>,
    /// [rows, n]; may be the result's own view.
    pub residual: Option<&'a View>,
    /// Where the result goes; a transient of its own otherwise.
    pub into: Option<&'a View>,
    /// Factor on the product and its bias.
    pub scale: f32,
}

impl Default for LinearArgs<'_> {
    fn default() -> Self {
        LinearArgs { bias: None, residual: None, into: None, scale: 1.0 }
    }
}

/// `y = (W·x + bias) · scale + residual`: [count, n] f32.
///
/// Errors: a shape that does not fit, no kernel for the format on this device.
pub fn linear(
    r: &mut Recorder<'_>,
    label: &str,
    x: &Rows,
    count: u32,
    weight: &Tensor,
    args: LinearArgs<'_>,
) -> Result<View> {
    if x.width != weight.k {
        let reasons = format!("{} has rows of {}, its input {}", weight.name, weight.k, x.width);
        return Err(Error::NoKernel { op: label.to_owned(), reasons });
    }
    let operand = operand(r, weight);
    let input = input_of(r, label, x, count, operand)?;
    let few = r.path == Path::Rows;
    let rows = if few { count.min(MAX_ROWS) } else { count };
    let candidate = kernel_of(r, label, weight, operand, (few, rows))?;
    let y = match args.into {
        Some(view) => view.clone(),
        None => r.floats(label, count, weight.n),
    };
    let tile = tile_of(candidate, rows, r.caps);
    for window in windows(weight, r.caps.max_binding) {
        let push = ops::linear::Push {
            k: weight.k,
            n: window.count,
            rows: count,
            row_bytes: weight.row_bytes() as u32,
            x_stride: operand.stride(weight.k),
            y_stride: weight.n,
            residual_stride: weight.n,
            scale: args.scale,
            ..Default::default()
        };
        let start = u64::from(window.first) * 4;
        let cut = |view: &View| {
            let len = (u64::from(count - 1) * u64::from(weight.n) + u64::from(window.count)) * 4;
            view.part(start, len)
        };
        let views = ops::linear::Args {
            weights: window.view,
            x: input.clone(),
            bias: args
                .bias
                .map_or_else(|| input.clone(), |b| b.view.part(start, u64::from(window.count) * 4)),
            residual: args.residual.map_or_else(|| input.clone(), cut),
            y: cut(&y),
            bias2: input.clone(),
            tiles: input.clone(),
            order: input.clone(),
        };
        let mut specs = tile.specs.clone();
        specs.push(("BIAS", u32::from(args.bias.is_some())));
        specs.push(("RESIDUAL", u32::from(args.residual.is_some())));
        let grid = [window.count.div_ceil(tile.outputs), count.div_ceil(tile.rows), 1];
        r.append(label, candidate, specs, views.views(), &push, Grid::Fixed(grid))?;
    }
    Ok(y)
}

/// The kernel for so many rows of few or of a prompt.
fn kernel_of(
    r: &Recorder<'_>,
    label: &str,
    weight: &Tensor,
    operand: Operand,
    (few, rows): (bool, u32),
) -> Result<&'static Candidate> {
    let axes = [("FORMAT", weight.format.name), ("ACT", operand.axis())];
    let class = match (few, operand) {
        (_, Operand::Half) => "prefill-half",
        (true, Operand::Int8) => "int8",
        (true, Operand::Float) => "float",
        (false, Operand::Int8) => "prefill-int8",
        (false, Operand::Float) => "prefill-float",
    };
    let select =
        |class| r.select(label, ops::linear::CANDIDATES, Want { axes: &axes, rows, class: Some(class) });
    // The kernels of the other class stand in for those that the device computes wrongly.
    let other = match class {
        "int8" => "prefill-int8",
        "float" => "prefill-float",
        "prefill-int8" => "int8",
        _ => "float",
    };
    match select(class) {
        Err(refused) if !r.caps.avoid.is_empty() => select(other).map_err(|_| refused),
        chosen => chosen,
    }
}

/// A stack of matrices, one for each expert, and a bias for each of their outputs.
#[derive(Clone, Debug)]
pub struct Stack {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

/// Rows that one tile of assignments has in the kernel for a stack.
pub(super) fn tile_rows(r: &Recorder<'_>, label: &str, weight: &Tensor, operand: Operand) -> Result<u32> {
    let few = r.path == Path::Rows;
    let rows = if few { r.rows.min(MAX_ROWS) } else { r.rows };
    Ok(tile_of(kernel_of(r, label, weight, operand, (few, rows))?, rows, r.caps).rows)
}

/// Dispatches that multiply stacks of one shape: the view, its first expert and their number, and whether the second
/// stack is in it as well, so many bytes behind the first.
struct Piece {
    stack: usize,
    view: View,
    first: u32,
    count: u32,
    second_bytes: Option<u32>,
}

fn pieces(stacks: &[&Stack], experts: u32, max_binding: u64) -> Vec<Piece> {
    let most = max_binding.saturating_sub(256);
    if let [first, second] = stacks
        && let (Some(buffer), Some(other)) = (first.weight.view.buffer(), second.weight.view.buffer())
        && buffer == other
        && second.weight.view.offset > first.weight.view.offset
    {
        let distance = second.weight.view.offset - first.weight.view.offset;
        let span = distance + second.weight.view.len;
        if span <= most {
            let view = buffer.view(first.weight.view.offset, span);
            return vec![Piece {
                stack: 0,
                view,
                first: 0,
                count: experts,
                second_bytes: Some(distance as u32),
            }];
        }
    }
    let mut all = Vec::new();
    for (stack, of) in stacks.iter().enumerate() {
        let bytes = of.weight.view.len / u64::from(experts);
        // Windows start where every vector load stays aligned.
        let step = if bytes.is_multiple_of(16) { 1 } else { 16 };
        let fit = (most / bytes.max(1)).min(u64::from(experts)) as u32;
        let fit = if fit == experts { fit } else { (fit / step).max(1) * step };
        let mut first = 0;
        while first < experts {
            let count = fit.min(experts - first);
            let view = of.weight.view.part(u64::from(first) * bytes, u64::from(count) * bytes);
            all.push(Piece { stack, view, first, count, second_bytes: None });
            first += count;
        }
    }
    all
}

/// The products of each assignment of a row to an expert with the expert's matrices of one or two stacks of one shape and
/// format: [rows · used, stacks · n]. `slots` assignments share a row of `x`.
///
/// Errors: a shape that does not fit, no kernel for the format on this device.
pub fn linear_experts(
    r: &mut Recorder<'_>,
    label: &str,
    (x, slots): (&Rows, u32),
    stacks: &[&Stack],
    routing: &Routing,
) -> Result<View> {
    let weight = &stacks[0].weight;
    if x.width != weight.k {
        let reasons = format!("{} has rows of {}, its input {}", weight.name, weight.k, x.width);
        return Err(Error::NoKernel { op: label.to_owned(), reasons });
    }
    let operand = operand(r, weight);
    let count = r.rows * routing.used / slots;
    let view = &input_of(r, label, x, count, operand)?;
    stacked(r, label, &Input { view, stride: operand.stride(weight.k), operand, slots }, stacks, routing)
}

/// The products of each head of each row with a matrix of its own: [rows · heads, n]. The heads of `x` are f32 and begin
/// `stride` elements apart.
///
/// Errors: no kernel for the format on this device.
pub fn linear_heads(
    r: &mut Recorder<'_>,
    label: &str,
    (view, stride): (&View, u32),
    stack: &Stack,
    routing: &Routing,
) -> Result<View> {
    stacked(r, label, &Input { view, stride, operand: Operand::Float, slots: 1 }, &[stack], routing)
}

/// Rows that assignments multiply.
struct Input<'a> {
    view: &'a View,
    /// Words from one row to the next.
    stride: u32,
    operand: Operand,
    /// Assignments that share a row.
    slots: u32,
}

fn stacked(
    r: &mut Recorder<'_>,
    label: &str,
    x: &Input<'_>,
    stacks: &[&Stack],
    routing: &Routing,
) -> Result<View> {
    let weight = &stacks[0].weight;
    let (n, experts, input) = (weight.n / routing.experts, routing.experts, x.view);
    let refuse = |reasons: String| Error::NoKernel { op: label.to_owned(), reasons };
    let few = r.path == Path::Rows;
    let rows = if few { r.rows.min(MAX_ROWS) } else { r.rows };
    let candidate = kernel_of(r, label, weight, x.operand, (few, rows))?;
    let tile = tile_of(candidate, rows, r.caps);
    if tile.rows != routing.tile_rows {
        return Err(refuse(format!(
            "its tiles have {} rows, those of the router {}",
            tile.rows, routing.tile_rows
        )));
    }
    let width = n * stacks.len() as u32;
    let y = r.floats(label, r.rows * routing.used, width);
    for piece in pieces(stacks, experts, r.caps.max_binding) {
        let push = ops::linear::Push {
            k: weight.k,
            n,
            row_bytes: weight.row_bytes() as u32,
            x_stride: x.stride,
            y_stride: width,
            scale: 1.0,
            slots: x.slots,
            first_expert: piece.first,
            expert_count: piece.count,
            expert_bytes: (weight.row_bytes() * u64::from(n)) as u32,
            second_bytes: piece.second_bytes.unwrap_or(0),
            ..Default::default()
        };
        let bias_of = |stack: usize| {
            let bias = stacks.get(stack).and_then(|stack| stack.bias.as_ref());
            bias.map_or_else(|| input.clone(), |bias| bias.view.clone())
        };
        let skip = u64::from(n) * piece.stack as u64 * 4;
        let views = ops::linear::Args {
            weights: piece.view,
            x: input.clone(),
            bias: bias_of(piece.stack),
            residual: input.clone(),
            y: y.part(skip, y.len - skip),
            bias2: bias_of(1),
            tiles: routing.tiles.clone(),
            order: routing.order.clone(),
        };
        let mut specs = tile.specs.clone();
        specs.push(("BIAS", u32::from(stacks[0].bias.is_some())));
        specs.push(("RESIDUAL", 0));
        specs.push(("EXPERTS", 1));
        let stacks_at_once = 1 + u32::from(piece.second_bytes.is_some());
        let grid = [n.div_ceil(tile.outputs), routing.tile_count, stacks_at_once];
        r.append(label, candidate, specs, views.views(), &push, Grid::Fixed(grid))?;
    }
    Ok(y)
}

/// Specialisation of a candidate for a number of rows, and what one workgroup then covers.
struct Tile {
    specs: Vec<(&'static str, u32)>,
    outputs: u32,
    rows: u32,
}

fn tile_of(candidate: &'static Candidate, rows: u32, caps: &Caps) -> Tile {
    let subgroup = caps.subgroup;
    if let Some((sides, outputs, tile_rows)) = division(candidate, caps) {
        let specs = [("SG", subgroup)].into_iter().chain(sides).chain(candidate.spec.iter().copied());
        return Tile { specs: specs.collect(), outputs, rows: tile_rows };
    }
    let wg = candidate.fixed("WG").unwrap_or(subgroup);
    let mut lanes = candidate.fixed("LANES").unwrap_or(1);
    if candidate.kernel.needs.contains(&Need::SubgroupShuffle) {
        lanes = lanes.min(subgroup);
    }
    let per_lane = candidate.fixed("OUTS").unwrap_or(1);
    let tile_rows = candidate.fixed("ROWS").unwrap_or(rows.min(MAX_ROWS));
    let mut specs = vec![("WG", wg), ("SG", subgroup), ("ROWS", tile_rows)];
    specs.extend(candidate.fixed("LANES").map(|_| ("LANES", lanes)));
    specs.extend(candidate.spec.iter().filter(|(name, _)| !matches!(*name, "WG" | "ROWS" | "LANES")));
    Tile { specs, outputs: (wg / lanes * per_lane).max(1), rows: tile_rows }
}

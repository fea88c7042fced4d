//! Operations on models with several residual streams: mixing, correction, sizes, sums, sparse activations.

use vkllm_runtime::{Grid, View};
use vkllm_shaders::ops;

use super::{Recorder, Simple};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Lanes of kernels whose lanes work alone.
const LANES: u32 = 64;

/// Residual streams, one behind the other: `[count, rows, k]`.
#[derive(Clone, Debug)]
pub struct Streams {
    pub all: View,
    pub count: u32,
    pub rows: u32,
    pub k: u32,
    /// The one that layers compute.
    pub active: u32,
}

impl Streams {
    /// Rows of one stream.
    pub fn one(&self, index: u32) -> View {
        let bytes = u64::from(self.rows) * u64::from(self.k) * 4;
        self.all.part(u64::from(index) * bytes, bytes)
    }

    /// All streams behind the first, as rows.
    pub fn others(&self) -> View {
        let bytes = u64::from(self.rows) * u64::from(self.k) * 4;
        self.all.part(bytes, self.all.len - bytes)
    }
}

/// Mixes streams by coefficients that come from a router's logits [rows, count], in place; a copy of the active one.
///
/// Errors: coefficients of a type that is not a float's.
pub fn altup_predict(
    r: &mut Recorder<'_>,
    streams: &Streams,
    logits: &View,
    coefficients: &Tensor,
) -> Result<View> {
    altup(r, "altup_predict", streams, (logits, coefficients), None)
}

/// Gives each stream its share of what `computed` differs from the active one, in place; the active one afterwards, times
/// `factor`.
///
/// Errors: as [`altup_predict`].
pub fn altup_correct(
    r: &mut Recorder<'_>,
    streams: &Streams,
    router: (&View, &Tensor),
    computed: &View,
    factor: &Tensor,
) -> Result<View> {
    altup(r, "altup_correct", streams, router, Some((computed, factor)))
}

fn altup(
    r: &mut Recorder<'_>,
    label: &str,
    streams: &Streams,
    (logits, coefficients): (&View, &Tensor),
    correct: Option<(&View, &Tensor)>,
) -> Result<View> {
    let kind = ["f32", "f16", "bf16"].iter().position(|name| *name == coefficients.format.name);
    let Some(kind) = kind else {
        let reasons = format!("it has type {}; allowed are F32, F16, BF16", coefficients.format.label);
        return Err(Error::NoKernel { op: coefficients.name.clone(), reasons });
    };
    let y = r.floats(label, streams.rows, streams.k);
    let push = ops::altup::Push {
        k: streams.k,
        rows: streams.rows,
        active_stream: streams.active,
        ..Default::default()
    };
    let args = ops::altup::Args {
        x: streams.all.clone(),
        logits: logits.clone(),
        coefficients: coefficients.view.clone(),
        computed: correct.map_or(logits, |(computed, _)| computed).clone(),
        factor: correct.map_or(logits, |(_, factor)| &factor.view).clone(),
        y: y.clone(),
    };
    let lanes = r.caps.subgroup;
    let specs = [
        ("WG", lanes),
        ("STREAMS", streams.count),
        ("CORRECT", u32::from(correct.is_some())),
        ("TYPE", kind as u32),
    ];
    r.simple(
        label,
        Simple {
            candidates: ops::altup::CANDIDATES,
            axes: &[],
            specs: &specs,
            views: args.views(),
            push,
            // Each workgroup computes the coefficients, so that it should have some elements for them.
            grid: Grid::Fixed([streams.k.div_ceil(4 * lanes), streams.rows, 1]),
        },
    )?;
    Ok(y)
}

/// Rows of the size of others: `x · sqrt(mean(size²) / max(mean(x²), least))`, in `y` or added to it. `x` may be `y`; the
/// rows of `size` repeat.
pub fn rescale(
    r: &mut Recorder<'_>,
    label: &str,
    (x, count, k): (&View, u32, u32),
    (size, size_rows): (&View, u32),
    (y, add): (&View, bool),
    least: f32,
) -> Result<()> {
    let push = ops::rescale::Push { k, rows: count, size_rows, least, ..Default::default() };
    let args = ops::rescale::Args { x: x.clone(), size: size.clone(), y: y.clone() };
    let lanes = r.caps.subgroup;
    r.simple(
        label,
        Simple {
            candidates: ops::rescale::CANDIDATES,
            axes: &[],
            specs: &[("WG", lanes), ("SG", lanes), ("ADD", u32::from(add))],
            views: args.views(),
            push,
            grid: Grid::Fixed([count, 1, 1]),
        },
    )
}

/// Leaves of each row of `y` what is more than so many deviations above its mean, less that: in place. Rows begin `stride`
/// elements apart.
pub fn sparsify(
    r: &mut Recorder<'_>,
    y: &View,
    (count, k, stride): (u32, u32, u32),
    deviations: f32,
) -> Result<()> {
    let push = ops::sparsify::Push { k, rows: count, stride, deviations, ..Default::default() };
    let lanes = r.caps.subgroup;
    r.simple(
        "ffn_sparsify",
        Simple {
            candidates: ops::sparsify::CANDIDATES,
            axes: &[],
            specs: &[("WG", lanes), ("SG", lanes)],
            views: ops::sparsify::Args { y: y.clone() }.views(),
            push,
            grid: Grid::Fixed([count, 1, 1]),
        },
    )
}

/// `y = (y + x) · scale`, in place: `count` values, those of `x` in turn.
pub fn add(
    r: &mut Recorder<'_>,
    label: &str,
    (x, x_count): (&View, u32),
    (y, count): (&View, u32),
    scale: f32,
) -> Result<()> {
    let push = ops::add::Push { count, x_count, scale, ..Default::default() };
    let groups = count.div_ceil(LANES).min(r.caps.max_groups[0]);
    r.simple(
        label,
        Simple {
            candidates: ops::add::CANDIDATES,
            axes: &[],
            specs: &[("WG", LANES)],
            views: ops::add::Args { x: x.clone(), y: y.clone() }.views(),
            push,
            grid: Grid::Fixed([groups, 1, 1]),
        },
    )
}

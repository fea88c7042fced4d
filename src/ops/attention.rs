//! Attention: heads normalised, rotated and written to the cache; scores and sums per chunk; chunks combined.

use vkllm_runtime::{DeviceKind, Grid, View};
use vkllm_shaders::ops;
use vkllm_shaders::select::Candidate;

use super::{Forms, Path, Recorder, Rows, Simple, Want};
use crate::cache::{BLOCK, KvLayout};
use crate::error::Result;
use crate::tensor::Tensor;

/// Bytes of a step row.
const ROW_BYTES: u64 = size_of::<vkllm_shaders::records::StepRow>() as u64;

/// Most bytes of the partial results of one dispatch; more rows are done in turns.
const PART_BYTES: u64 = 32 << 20;
/// Most products of one dispatch whose context is full, on a GPU and on software Vulkan: its grid is computed by the device,
/// so that it cannot be cut when it takes long. Of fewer than 16 rows too few pairs would share keys.
const TILE_PRODUCTS: [u64; 2] = [4 << 30, 16 << 20];

/// Sizes of the attention of one model.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub heads: u32,
    pub layout: KvLayout,
    /// Elements that RoPE rotates.
    pub rot: u32,
    /// Positions the cache can hold per session.
    pub context: u32,
    /// Keys that a row sees, its own included; 0 for all.
    pub window: u32,
    /// Scores are held within ± this; 0 for no cap.
    pub cap: f32,
}

impl AttentionShape {
    /// Most chunks that a row sees.
    fn chunks(&self) -> u32 {
        let all = self.context.div_ceil(BLOCK);
        if self.window == 0 { all } else { all.min((self.window - 1).div_ceil(BLOCK) + 1) }
    }

    /// Bytes of the partial results of one row.
    fn part_row(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.chunks()) * u64::from(self.layout.head_v + 2) * 4
    }
}

/// Arguments of [`heads`].
pub struct HeadsArgs<'a> {
    /// [rows, heads · head], rotated in place. Each with the elements from one row to the next.
    pub q: (&'a View, u32),
    pub k: (&'a View, u32),
    pub v: (&'a View, u32),
    /// Per-head norms of queries and keys, with their epsilon.
    pub norms: Option<HeadNorms<'a>>,
    /// Table of (cos, sin) and the pairing code; `None` for a layer without RoPE.
    pub rope: Option<(&'a View, u32)>,
    pub query_scale: Option<&'a View>,
    pub rows: &'a View,
    pub block_table: &'a View,
    pub cache: (&'a View, &'a View),
    pub stored: Stored,
    /// Epsilon of a norm of values without weights.
    pub value_norm: Option<f32>,
}

/// What of a row goes to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Nothing: the layer reads what another one stored.
    Nothing,
    /// Keys, whose ends are the values.
    Keys,
    KeysAndValues,
}

/// Norms of each head of queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub eps: f32,
    /// RoPE comes first.
    pub after_rope: bool,
}

/// Splits q, k, v into heads: norm, RoPE and scale; keys and values go to the cache.
pub fn heads(r: &mut Recorder<'_>, shape: &AttentionShape, a: &HeadsArgs<'_>) -> Result<()> {
    let layout = &shape.layout;
    let ((q, q_stride), (k, k_stride), (v, v_stride)) = (a.q, a.k, a.v);
    let (q_norm, k_norm) =
        a.norms.map_or((k.clone(), k.clone()), |norms| (norms.q.view.clone(), norms.k.view.clone()));
    let push = ops::heads::Push {
        n_head: shape.heads,
        n_kv: layout.kv_heads,
        q_stride,
        k_stride,
        v_stride,
        row_count: r.rows,
        eps: a.norms.map(|norms| norms.eps).or(a.value_norm).unwrap_or(0.0),
        stored: a.stored as u32,
        ..Default::default()
    };
    let args = ops::heads::Args {
        q: q.clone(),
        k: k.clone(),
        v: v.clone(),
        q_norm,
        k_norm,
        rope: a.rope.map_or(k.clone(), |(table, _)| table.clone()),
        q_scale: a.query_scale.unwrap_or(k).clone(),
        rows: a.rows.clone(),
        block_table: a.block_table.clone(),
        k_cache: if a.stored == Stored::Nothing { r.unused() } else { a.cache.0.clone() },
        v_cache: if a.stored == Stored::KeysAndValues { a.cache.1.clone() } else { r.unused() },
    };
    let lanes = r.caps.subgroup;
    let specs = [
        ("WG", lanes),
        ("SG", lanes),
        ("HEAD", layout.head),
        ("HEAD_V", layout.head_v),
        ("ROT", shape.rot),
        ("PAIRING", a.rope.map_or(0, |(_, code)| code)),
        ("NORM", a.norms.map_or(0, |norms| 1 + u32::from(norms.after_rope))),
        ("QSCALE", u32::from(a.query_scale.is_some())),
        ("K_TYPE", layout.k_type.code()),
        ("V_TYPE", layout.v_type.code()),
        ("V_NORM", u32::from(a.value_norm.is_some())),
    ];
    r.simple(
        "attn_heads",
        Simple {
            candidates: ops::heads::CANDIDATES,
            axes: &[],
            specs: &specs,
            views: args.views(),
            push,
            grid: Grid::Fixed([shape.heads + a.stored as u32 * layout.kv_heads, r.rows, 1]),
        },
    )
}

/// Lanes that share one key where lanes share them: a power of two that leaves each at least 16 elements, which come in
/// loads of eight.
fn lanes_per_key(layout: &KvLayout, subgroup: u32) -> u32 {
    let mut lanes = 1;
    let fits = |size: u32, lanes: u32| size.is_multiple_of(8 * lanes) && size >= 16 * lanes;
    while lanes * 2 <= subgroup && fits(layout.head, lanes * 2) && fits(layout.head_v, lanes * 2) {
        lanes *= 2;
    }
    lanes
}

/// Elements of queries or of sums that a lane keeps in registers.
const REGISTERS: u32 = 64;

/// The kernel for the (row, head) pairs of `rows` rows that read the same KV head.
fn kernel_of(r: &Recorder<'_>, shape: &AttentionShape, rows: u32) -> Result<&'static Candidate> {
    let layout = &shape.layout;
    let of = |pairs: u32| {
        let want = Want { axes: &[], rows: pairs, class: None };
        r.select("attn_scores", ops::attention::CANDIDATES, want)
    };
    let pairs = rows * (shape.heads / layout.kv_heads);
    let best = of(pairs)?;
    if !best.kernel.specs.iter().any(|spec| spec.name == "D_SPLIT") {
        return Ok(best);
    }
    // Lanes that share keys keep their shares of all pairs at once.
    let share = layout.head.max(layout.head_v) / lanes_per_key(layout, r.caps.subgroup);
    of(pairs.min((REGISTERS / share).max(1)))
}

/// Rows that attention does at once, with their indirect grid.
#[derive(Clone, Debug)]
pub struct AttentionTile {
    first: u32,
    count: u32,
    kernel: &'static Candidate,
    grid: View,
}

/// Cuts the rows of a step so that the partial results of one dispatch stay small; computes the grid of each tile.
pub fn attention_tiles(
    r: &mut Recorder<'_>,
    shape: &AttentionShape,
    rows: &View,
) -> Result<Vec<AttentionTile>> {
    let most = (PART_BYTES.min(r.caps.max_binding) / shape.part_row()).clamp(1, 1 << 16) as u32;
    let row = u64::from(shape.heads) * u64::from(shape.chunks() * BLOCK);
    let products = TILE_PRODUCTS[usize::from(r.caps.kind == DeviceKind::Cpu)];
    let short = products / (row * u64::from(shape.layout.head + shape.layout.head_v)).max(1);
    let most = most.min(short.clamp(16, 1 << 16) as u32);
    let tile = if r.path == Path::Rows { most.min(16) } else { most };
    let mut tiles = Vec::new();
    let mut first = 0;
    while first < r.rows {
        let count = tile.min(r.rows - first);
        let part = rows.part(u64::from(first) * ROW_BYTES, u64::from(count) * ROW_BYTES);
        let kernel = kernel_of(r, shape, count)?;
        let kv_heads = shape.layout.kv_heads;
        let groups = (count * (shape.heads / kv_heads)).div_ceil(kernel.fixed("PAIRS").unwrap_or(1));
        let grid = super::rows::step_grid(r, &part, count, (groups, kv_heads, shape.chunks()))?;
        tiles.push(AttentionTile { first, count, kernel, grid });
        first += count;
    }
    Ok(tiles)
}

/// Scaled dot-product attention of the rotated queries over the visible keys: [rows, heads · head_v].
pub fn attention(
    r: &mut Recorder<'_>,
    shape: &AttentionShape,
    (q, q_stride): (&View, u32),
    step: (&View, &View, &[AttentionTile]),
    cache: (&View, &View),
    scale: f32,
    sinks: Option<&Tensor>,
    forms: Forms,
) -> Result<Rows> {
    let (rows, block_table, tiles) = step;
    let layout = &shape.layout;
    let width = shape.heads * layout.head_v;
    let out = r.forms("attn", r.rows, width, forms);
    // One after the other, the tiles use the same memory for their parts.
    let rows_at_once = tiles.iter().map(|tile| tile.count).max().unwrap_or(0);
    let parts = r.recording.transient("attention parts", u64::from(rows_at_once) * shape.part_row());
    for tile in tiles {
        let of =
            |view: &View, bytes: u64| view.part(u64::from(tile.first) * bytes, u64::from(tile.count) * bytes);
        let row_records = of(rows, ROW_BYTES);
        let part = parts.part(0, u64::from(tile.count) * shape.part_row());
        let first = u64::from(tile.first) * u64::from(q_stride) * 4;
        let args = ops::attention::Args {
            // The last row need not be a whole stride long.
            q: q.part(first, (u64::from(tile.count) * u64::from(q_stride) * 4).min(q.len - first)),
            k_cache: cache.0.clone(),
            v_cache: cache.1.clone(),
            rows: row_records.clone(),
            block_table: block_table.clone(),
            part: part.clone(),
        };
        scores(r, shape, tile, args, (q_stride, scale))?;
        let y = match &out.float {
            Some(view) => of(view, u64::from(width) * 4),
            None => r.unused(),
        };
        let y_q8 = match &out.int8 {
            Some(view) => of(view, u64::from(width / 32) * super::Q8_BLOCK),
            None => r.unused(),
        };
        let sink_views = sinks.map_or_else(|| part.clone(), |sinks| sinks.view.clone());
        let args = ops::attention_combine::Args { part, rows: row_records, sinks: sink_views, y, y_q8 };
        combine(r, shape, tile, args, sinks.is_some(), forms)?;
    }
    Ok(out)
}

fn scores(
    r: &mut Recorder<'_>,
    shape: &AttentionShape,
    tile: &AttentionTile,
    args: ops::attention::Args,
    (q_stride, scale): (u32, f32),
) -> Result<()> {
    let layout = &shape.layout;
    let lanes = r.caps.subgroup;
    let push = ops::attention::Push {
        n_head: shape.heads,
        n_kv: layout.kv_heads,
        q_stride,
        chunks_max: shape.chunks(),
        scale,
        row_count: tile.count,
        window: shape.window,
        cap: shape.cap,
        ..Default::default()
    };
    let specs = [
        ("WG", lanes),
        ("SG", lanes),
        ("HEAD", layout.head),
        ("HEAD_V", layout.head_v),
        ("K_TYPE", layout.k_type.code()),
        ("V_TYPE", layout.v_type.code()),
        ("CAP", u32::from(shape.cap != 0.0)),
        ("D_SPLIT", lanes_per_key(layout, lanes)),
        ("V_IN_K", u32::from(layout.v_in_k)),
    ];
    let specs = specs.into_iter().chain(tile.kernel.spec.iter().copied()).collect();
    let grid = Grid::Indirect(tile.grid.clone());
    r.append("attn_scores", tile.kernel, specs, args.views(), &push, grid)
}

fn combine(
    r: &mut Recorder<'_>,
    shape: &AttentionShape,
    tile: &AttentionTile,
    args: ops::attention_combine::Args,
    sinks: bool,
    forms: Forms,
) -> Result<()> {
    let push = ops::attention_combine::Push {
        n_head: shape.heads,
        chunks_max: shape.chunks(),
        row_count: tile.count,
        window: shape.window,
        ..Default::default()
    };
    let groups = r.groups_of_blocks((shape.heads * shape.layout.head_v).div_ceil(32));
    let lanes = r.caps.subgroup;
    r.simple(
        "attn_combine",
        Simple {
            candidates: ops::attention_combine::CANDIDATES,
            axes: &[],
            specs: &[
                ("WG", lanes),
                ("SG", lanes),
                ("HEAD_V", shape.layout.head_v),
                ("OUT", forms.code()),
                ("SINKS", u32::from(sinks)),
            ],
            views: args.views(),
            push,
            grid: Grid::Fixed([groups, tile.count, 1]),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KvType;

    #[test]
    fn lanes_divide_every_head_size_that_occurs() {
        for (head, head_v, lanes) in [
            (8, 8, 1),
            (64, 64, 4),
            (80, 80, 2),
            (96, 96, 4),
            (128, 128, 8),
            (192, 128, 8),
            (256, 256, 16),
            (576, 512, 8),
        ] {
            let (k_type, v_type) = (KvType::F16, KvType::Q4_0);
            let layout = KvLayout {
                layers: 1,
                near: 0,
                ring: 0,
                kv_heads: 1,
                head,
                head_v,
                v_in_k: false,
                k_type,
                v_type,
            };
            assert_eq!(lanes_per_key(&layout, 64), lanes, "{head} {head_v}");
            assert_eq!(lanes_per_key(&layout, 4), lanes.min(4), "{head} {head_v}");
        }
    }
}

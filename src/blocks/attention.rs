//! Self-attention of a layer: queries, keys and values, heads, scores, output.

use vkllm_runtime::View;

use super::{Onto, Projection, forms_for, forms_of};
use crate::error::{Error, Result};
use crate::ops::{
    self, Activation, AttentionShape, AttentionTile, Forms, HeadNorms, HeadsArgs, Norm, Recorder, Routing,
    Rows, Stack, Stored,
};
use crate::tensor::Tensor;

/// Weights of a layer's attention.
#[derive(Clone, Debug)]
pub struct Attention {
    pub source: Source,
    /// Norms of each head of queries and keys.
    pub head_norms: Option<(Tensor, Tensor)>,
    /// Norms of all heads of a row together.
    pub whole_norms: Option<(Tensor, Tensor)>,
    /// A score per head that has no value.
    pub sinks: Option<Tensor>,
    /// The matrix of queries has for each head the rows of a gate behind those of its query.
    pub gated: bool,
    /// Values are normalised, without weights.
    pub value_norm: bool,
    pub output: Projection,
}

/// Where queries, keys and values come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Up to three matrices, each of which gives one or more of queries, keys and values, in this order.
    Heads(Vec<Projection>),
    Latent(Box<Latent>),
}

/// Multi-head latent attention (DeepSeek-V2): all heads share one key, a latent beside a rotated part, and its latent is
/// their value. Matrices of each head take queries to the latent space and values out of it.
#[derive(Clone, Debug)]
pub struct Latent {
    /// To a narrower space and its norm, where there are any.
    pub narrow: Option<(Projection, Norm)>,
    /// Queries: of each head the part for the latent, then the rotated one.
    pub q: Projection,
    /// The latent, then the rotated part of the key.
    pub kv: Projection,
    pub kv_norm: Norm,
    pub k_b: Stack,
    pub v_b: Stack,
}

/// What attention needs besides weights and rows.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    pub shape: &'a AttentionShape,
    pub eps: f32,
    /// Table of angles and pairing code; `None` for a layer without RoPE.
    pub rope: Option<(&'a View, u32)>,
    pub norm_after_rope: bool,
    pub query_scale: Option<&'a View>,
    /// Factor on the scores.
    pub scale: f32,
    pub rows: &'a View,
    pub block_table: &'a View,
    pub tiles: &'a [AttentionTile],
    /// Keys and values of this layer.
    pub cache: (&'a View, &'a View),
    /// What of the rows goes there.
    pub stored: Stored,
    /// The rows' heads, where heads have matrices of their own.
    pub heads: Option<&'a Routing>,
}

impl Latent {
    fn entry(&self) -> &Projection {
        self.narrow.as_ref().map_or(&self.q, |(narrow, _)| narrow)
    }

    fn bytes(&self) -> u64 {
        let narrow = self.narrow.as_ref().map_or(0, |(narrow, _)| narrow.weight.view.len);
        let stacks = self.k_b.weight.view.len + self.v_b.weight.view.len;
        narrow + stacks + self.q.weight.view.len + self.kv.weight.view.len
    }

    /// Queries and the key with the rotated part first, and the value.
    fn project(
        &self,
        r: &mut Recorder<'_>,
        shape: &AttentionShape,
        h: &Rows,
        routing: &Routing,
    ) -> Result<[(View, u32); 3]> {
        let (rank, rot, heads) = (shape.layout.head_v, shape.rot, shape.heads);
        let float = Forms { float: true, int8: false };
        let q = match &self.narrow {
            None => self.q.of(r, "attn_q", h)?,
            Some((narrow, norm)) => {
                let low = narrow.of(r, "attn_q_a", h)?;
                let forms = forms_of(r, &self.q.weight);
                let low = ops::norm(r, "attn_q_a_norm", (&low, narrow.weight.n), r.rows, norm, forms)?;
                self.q.of(r, "attn_q_b", &low)?
            }
        };
        let size = self.q.weight.n / heads;
        let plain = u64::from(size - rot) * 4;
        let absorbed = ops::linear_heads(r, "attn_k_b", (&q, size), &self.k_b, routing)?;
        let rotated = q.part(plain, q.len - plain);
        let queries =
            ops::join(r, "attn_q_join", (&rotated, rot, size), (&absorbed, rank, rank), r.rows * heads)?;
        let kv = self.kv.of(r, "attn_kv_a", h)?;
        let latent = ops::norm(r, "attn_kv_a_norm", (&kv, rank + rot), r.rows, &self.kv_norm, float)?;
        let latent = latent.float.unwrap_or_else(|| kv.clone());
        let behind = u64::from(rank) * 4;
        let rotated = kv.part(behind, kv.len - behind);
        let keys = ops::join(r, "attn_k_join", (&rotated, rot, rank + rot), (&latent, rank, rank), r.rows)?;
        Ok([(queries, heads * (rank + rot)), (keys, rank + rot), (latent, rank)])
    }
}

impl Attention {
    /// The forms in which attention wants its input.
    pub fn forms(&self, r: &Recorder<'_>) -> Forms {
        match &self.source {
            Source::Heads(projections) => forms_for(r, projections.iter().map(|p| &p.weight)),
            Source::Latent(latent) => forms_for(r, [&latent.entry().weight, &latent.kv.weight]),
        }
    }

    /// Bytes of the matrices that one row reads.
    pub fn bytes(&self) -> u64 {
        let source = match &self.source {
            Source::Heads(projections) => projections.iter().map(|p| p.weight.view.len).sum(),
            Source::Latent(latent) => latent.bytes(),
        };
        source + self.output.weight.view.len
    }

    /// Queries, keys and values of the rows, each with the elements from one row to the next; and the queries' gates, which
    /// lie two heads apart.
    fn project(
        &self,
        r: &mut Recorder<'_>,
        h: &Rows,
        inputs: &AttentionInputs<'_>,
    ) -> Result<([(View, u32); 3], Option<View>)> {
        let (shape, eps) = (inputs.shape, inputs.eps);
        let projections = match (&self.source, inputs.heads) {
            (Source::Heads(projections), _) => projections,
            (Source::Latent(latent), Some(routing)) => {
                return Ok((latent.project(r, shape, h, routing)?, None));
            }
            (Source::Latent(_), None) => {
                let reasons = "the rows' heads were not sorted".to_owned();
                return Err(Error::NoKernel { op: "attn_k_b".to_owned(), reasons });
            }
        };
        let (q, k, v) = (
            shape.heads * shape.layout.head * (1 + u32::from(self.gated)),
            shape.layout.kv_heads * shape.layout.head,
            shape.layout.kv_heads * shape.layout.head_v,
        );
        let mut gates = None;
        let mut parts = Vec::with_capacity(4);
        for projection in projections {
            let (first, n) = (parts.len(), projection.weight.n);
            let sizes = [q, k, v].into_iter().skip(first);
            let ends = sizes.scan(0, |end, size| Some(std::mem::replace(end, *end + size)));
            let places: Vec<u32> = ends.take_while(|place| *place < n).collect();
            let label = match (first, places.len()) {
                (0, 1) => "attn_q",
                (0, 2) => "attn_qk",
                (0, _) => "attn_qkv",
                (1, 1) => "attn_k",
                (1, _) => "attn_kv",
                _ => "attn_v",
            };
            let all = projection.of(r, label, h)?;
            let from = |place: u32| all.part(u64::from(place) * 4, all.len - u64::from(place) * 4);
            parts.extend(places.into_iter().map(|place| (from(place), n)));
        }
        // A layer that reads keys and values of another one has none.
        if let ([queries], Stored::Nothing) = (&parts[..], inputs.stored) {
            parts.extend([queries.clone(), queries.clone()]);
        }
        let mut parts: [(View, u32); 3] = parts.try_into().map_err(|parts: Vec<_>| Error::NoKernel {
            op: "attn_qkv".to_owned(),
            reasons: format!("the matrices give {} of queries, keys and values", parts.len()),
        })?;
        if let Some((q_norm, k_norm)) = &self.whole_norms {
            for (part, weight, label) in [(0, q_norm, "attn_q_norm"), (1, k_norm, "attn_k_norm")] {
                let norm = Norm { weight: weight.clone(), bias: None, centred: false, eps };
                let forms = Forms { float: true, int8: false };
                let (x, stride) = &parts[part];
                if let Some(y) = ops::norm(r, label, (x, *stride), r.rows, &norm, forms)?.float {
                    parts[part] = (y, weight.k);
                }
            }
        }
        if self.gated {
            let (both, head) = (parts[0].0.clone(), shape.layout.head);
            let count = r.rows * shape.heads;
            let (queries, none) = ((&both, head, 2 * head), (&both, 0, 2 * head));
            parts[0] = (ops::join(r, "attn_q_split", queries, none, count)?, shape.heads * head);
            let bytes = u64::from(head) * 4;
            gates = Some(both.part(bytes, both.len - bytes));
        }
        Ok((parts, gates))
    }
}

/// Norms and angles of the heads; keys and values go into the cache.
fn enter_heads(
    r: &mut Recorder<'_>,
    w: &Attention,
    inputs: &AttentionInputs<'_>,
    [q, k, v]: &[(View, u32); 3],
) -> Result<()> {
    let heads = HeadsArgs {
        q: (&q.0, q.1),
        k: (&k.0, k.1),
        v: (&v.0, v.1),
        norms: w.head_norms.as_ref().map(|(q, k)| HeadNorms {
            q,
            k,
            eps: inputs.eps,
            after_rope: inputs.norm_after_rope,
        }),
        rope: inputs.rope,
        query_scale: inputs.query_scale,
        rows: inputs.rows,
        block_table: inputs.block_table,
        cache: inputs.cache,
        stored: inputs.stored,
        value_norm: w.value_norm.then_some(inputs.eps),
    };
    ops::heads(r, inputs.shape, &heads)
}

/// Puts the keys and values of the rows `h` into the cache; nobody wants their attention.
pub fn attention_keys(
    r: &mut Recorder<'_>,
    h: &Rows,
    w: &Attention,
    inputs: &AttentionInputs<'_>,
) -> Result<()> {
    let (parts, _) = w.project(r, h, inputs)?;
    enter_heads(r, w, inputs, &parts)
}

/// Adds the attention of the rows `h` to the residual stream.
pub fn attention(
    r: &mut Recorder<'_>,
    h: &Rows,
    w: &Attention,
    inputs: &AttentionInputs<'_>,
    onto: &Onto<'_>,
) -> Result<()> {
    let (parts, gates) = w.project(r, h, inputs)?;
    enter_heads(r, w, inputs, &parts)?;
    let [q, ..] = parts;
    let step = (inputs.rows, inputs.block_table, inputs.tiles);
    let output_forms = forms_of(r, &w.output.weight);
    let latent = match (&w.source, inputs.heads) {
        (Source::Latent(latent), Some(routing)) => Some((latent, routing)),
        _ => None,
    };
    let changed = latent.is_some() || gates.is_some();
    let forms = if changed { Forms { float: true, int8: false } } else { output_forms };
    let queries = (&q.0, q.1);
    let mut attended =
        ops::attention(r, inputs.shape, queries, step, inputs.cache, inputs.scale, w.sinks.as_ref(), forms)?;
    if let (Some((latent, routing)), Some(values)) = (latent, &attended.float) {
        let rank = inputs.shape.layout.head_v;
        let values = ops::linear_heads(r, "attn_v_b", (values, rank), &latent.v_b, routing)?;
        attended = ops::forms_of_rows(r, "attn_v", &values, w.output.weight.k, output_forms)?;
    }
    if let (Some(gates), Some(values)) = (gates, &attended.float) {
        let (head, size) = (inputs.shape.layout.head, inputs.shape.layout.head_v);
        let shape = (r.rows * inputs.shape.heads, size);
        let (gates, values) = ((&gates, 2 * head), Some((values, size)));
        let gated = ops::gate_by(r, "attn_gate", gates, values, shape, Activation::Logistic, output_forms)?;
        attended = gated.shaped(w.output.weight.k);
    }
    onto.add(r, "attn_output", &attended, &w.output)
}

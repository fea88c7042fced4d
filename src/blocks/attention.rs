//! Self-attention of a layer: queries, keys and values, heads, scores, output.

use vkllm_runtime::View;

use super::{Onto, Projection, forms_for, forms_of};
use crate::error::Result;
use crate::ops::{self, AttentionShape, AttentionTile, Forms, HeadNorms, HeadsArgs, Norm, Recorder, Rows};
use crate::tensor::Tensor;

/// Weights of a layer's attention.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Queries, keys and values: three matrices, or one.
    pub projections: Vec<Projection>,
    /// Norms of each head of queries and keys.
    pub head_norms: Option<(Tensor, Tensor)>,
    /// Norms of all heads of a row together.
    pub whole_norms: Option<(Tensor, Tensor)>,
    /// A score per head that has no value.
    pub sinks: Option<Tensor>,
    pub output: Projection,
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
}

impl Attention {
    /// The forms in which attention wants its input.
    pub fn forms(&self, r: &Recorder<'_>) -> Forms {
        forms_for(r, self.projections.iter().map(|projection| &projection.weight))
    }

    /// Bytes of the matrices that one row reads.
    pub fn bytes(&self) -> u64 {
        let projections = self.projections.iter().map(|projection| projection.weight.view.len);
        projections.sum::<u64>() + self.output.weight.view.len
    }

    /// Queries, keys and values of the rows, each with the elements from one row to the next.
    fn project(
        &self,
        r: &mut Recorder<'_>,
        shape: &AttentionShape,
        h: &Rows,
        eps: f32,
    ) -> Result<[(View, u32); 3]> {
        let (q, k, v) = (
            shape.heads * shape.layout.head,
            shape.layout.kv_heads * shape.layout.head,
            shape.layout.kv_heads * shape.layout.head_v,
        );
        let mut parts = match &self.projections[..] {
            [queries, keys, values] => [
                (queries.of(r, "attn_q", h)?, q),
                (keys.of(r, "attn_k", h)?, k),
                (values.of(r, "attn_v", h)?, v),
            ],
            fused => {
                let all = fused[0].of(r, "attn_qkv", h)?;
                let from = |first: u32| all.part(u64::from(first) * 4, all.len - u64::from(first) * 4);
                let stride = q + k + v;
                [(all.clone(), stride), (from(q), stride), (from(q + k), stride)]
            }
        };
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
        Ok(parts)
    }
}

/// Adds the attention of the rows `h` to the residual stream.
pub fn attention(
    r: &mut Recorder<'_>,
    h: &Rows,
    w: &Attention,
    inputs: &AttentionInputs<'_>,
    onto: &Onto<'_>,
) -> Result<()> {
    let [q, k, v] = w.project(r, inputs.shape, h, inputs.eps)?;
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
    };
    ops::heads(r, inputs.shape, &heads)?;
    let step = (inputs.rows, inputs.block_table, inputs.tiles);
    let forms = forms_of(r, &w.output.weight);
    let queries = (&q.0, q.1);
    let attended =
        ops::attention(r, inputs.shape, queries, step, inputs.cache, inputs.scale, w.sinks.as_ref(), forms)?;
    onto.add(r, "attn_output", &attended, &w.output)
}

//! Self-attention of a layer: norm, queries, keys and values, heads, scores, output with the residual added.

use vkllm_runtime::View;

use super::{forms_for, forms_of};
use crate::error::Result;
use crate::ops::{self, AttentionShape, AttentionTile, HeadsArgs, LinearArgs, Recorder};
use crate::tensor::Tensor;

/// Weights of a layer's attention.
#[derive(Clone, Debug)]
pub struct Attention {
    pub norm: Tensor,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub q_bias: Option<Tensor>,
    pub k_bias: Option<Tensor>,
    pub v_bias: Option<Tensor>,
    pub head_norms: Option<(Tensor, Tensor)>,
    pub output: Tensor,
    pub output_bias: Option<Tensor>,
}

/// What attention needs besides weights.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    pub shape: &'a AttentionShape,
    pub eps: f32,
    /// Table of angles and pairing code; `None` for a layer without RoPE.
    pub rope: Option<(&'a View, u32)>,
    pub query_scale: Option<&'a View>,
    /// Factor on the scores.
    pub scale: f32,
    pub rows: &'a View,
    pub block_table: &'a View,
    pub tiles: &'a [AttentionTile],
    /// Keys and values of this layer.
    pub cache: (&'a View, &'a View),
}

/// Adds the layer's attention to the residual stream `x` [rows, width].
pub fn attention(r: &mut Recorder<'_>, x: &View, w: &Attention, inputs: &AttentionInputs<'_>) -> Result<()> {
    let rows = r.rows;
    let forms = forms_for(r, &[&w.q, &w.k, &w.v]);
    let h = ops::rms_norm(r, "attn_norm", x, rows, &w.norm, inputs.eps, forms)?;
    let project = |r: &mut Recorder<'_>, label, weight, bias: &Option<Tensor>| {
        let args = LinearArgs { bias: bias.as_ref(), ..LinearArgs::default() };
        ops::linear(r, label, &h, rows, weight, args)
    };
    let q = project(r, "attn_q", &w.q, &w.q_bias)?;
    let k = project(r, "attn_k", &w.k, &w.k_bias)?;
    let v = project(r, "attn_v", &w.v, &w.v_bias)?;
    let heads = HeadsArgs {
        q: &q,
        k: &k,
        v: &v,
        norms: w.head_norms.as_ref().map(|(q, k)| (q, k, inputs.eps)),
        rope: inputs.rope,
        query_scale: inputs.query_scale,
        rows: inputs.rows,
        block_table: inputs.block_table,
        cache: inputs.cache,
    };
    ops::heads(r, inputs.shape, &heads)?;
    let step = (inputs.rows, inputs.block_table, inputs.tiles);
    let forms = forms_of(r, &w.output);
    let attended = ops::attention(r, inputs.shape, &q, step, inputs.cache, inputs.scale, forms)?;
    let args = LinearArgs { bias: w.output_bias.as_ref(), residual: Some(x), into: Some(x), path: None };
    ops::linear(r, "attn_output", &attended, rows, &w.output, args)?;
    Ok(())
}

//! The gated feed-forward block of a layer.

use vkllm_runtime::View;

use super::{forms_for, forms_of};
use crate::error::Result;
use crate::ops::{self, Glu, LinearArgs, Recorder};
use crate::tensor::Tensor;

/// Weights of a layer's feed-forward block.
#[derive(Clone, Debug)]
pub struct FeedForward {
    pub norm: Tensor,
    pub gate: Tensor,
    pub up: Tensor,
    pub down: Tensor,
}

/// Adds `down(silu(gate(h)) · up(h))`, `h` the norm of `x`, to the residual stream `x` [rows, width].
pub fn feed_forward(r: &mut Recorder<'_>, x: &View, w: &FeedForward, eps: f32) -> Result<()> {
    let rows = r.rows;
    let forms = forms_for(r, &[&w.gate, &w.up]);
    let h = ops::rms_norm(r, "ffn_norm", x, rows, &w.norm, eps, forms)?;
    let gate = ops::linear(r, "ffn_gate", &h, rows, &w.gate, LinearArgs::default())?;
    let up = ops::linear(r, "ffn_up", &h, rows, &w.up, LinearArgs::default())?;
    let forms = forms_of(r, &w.down);
    let act = ops::glu(r, &gate, &up, w.gate.n, Glu::Silu, forms)?;
    let args = LinearArgs { residual: Some(x), into: Some(x), ..LinearArgs::default() };
    ops::linear(r, "ffn_down", &act, rows, &w.down, args)?;
    Ok(())
}

//! Recurrent layers: gated delta networks, Mamba-2 and short convolutions.

use vkllm_runtime::View;

use super::{Onto, Projection, forms_for, forms_of};
use crate::cache::{StateLayout, StateViews};
use crate::error::Result;
use crate::ops::{self, Activation, ConvArgs, Forms, Norm, Recorder, RecurrenceArgs, Rows, Rule};
use crate::tensor::Tensor;

/// Weights of a recurrent layer.
#[derive(Clone, Debug)]
pub enum Recurrent {
    Delta(Box<DeltaNet>),
    Mamba(Box<Mamba>),
    Conv(Box<ShortConv>),
}

/// A gated delta network (Yang et al. 2024, as Qwen3-Next has it).
#[derive(Clone, Debug)]
pub struct DeltaNet {
    /// Queries, keys and values.
    pub qkv: Projection,
    /// What the output is gated by.
    pub gate: Projection,
    pub rates: Rates,
    pub conv: Tensor,
    /// [heads]: the logarithm of the decay, and what is added to alpha.
    pub decay: Tensor,
    pub shift: Tensor,
    /// Of each head.
    pub norm: Norm,
    pub output: Projection,
    /// So many neighbouring heads share a key head; 0: key heads are taken in turn.
    pub share: u32,
}

/// How much a row counts, and how much of the state it leaves.
#[derive(Clone, Debug)]
pub enum Rates {
    Apart {
        alpha: Projection,
        beta: Projection,
    },
    /// One behind the other.
    Pair {
        both: Projection,
        alpha_first: bool,
    },
    /// Of each key head beta of its value heads, then alpha.
    Joint(Projection),
}

/// Mamba-2 (Dao and Gu 2024).
#[derive(Clone, Debug)]
pub struct Mamba {
    /// The gate, values, B and C, and the step sizes.
    pub input: Projection,
    pub conv: Tensor,
    pub conv_bias: Option<Tensor>,
    /// [heads]: the logarithm of the decay, what is added to step sizes, and the share of values that passes by the state.
    pub decay: Tensor,
    pub shift: Tensor,
    pub skip: Tensor,
    /// Of each group of heads.
    pub norm: Option<Norm>,
    pub output: Projection,
}

/// A gated convolution without a state (LFM2).
#[derive(Clone, Debug)]
pub struct ShortConv {
    /// What the input is multiplied by, what the output is, and the input.
    pub input: Projection,
    pub conv: Tensor,
    pub output: Projection,
}

/// What recurrent layers need besides weights and rows.
#[derive(Clone, Copy, Debug)]
pub struct RecurrentInputs<'a> {
    pub layout: &'a StateLayout,
    pub eps: f32,
    pub rows: &'a View,
    /// State of this layer.
    pub state: &'a StateViews,
}

/// Channels of a group of a convolution whose groups are not normalised.
const GROUP: u32 = 64;

/// A view from an element on.
fn from(view: &View, element: u32) -> View {
    let bytes = u64::from(element) * 4;
    view.part(bytes, view.len - bytes)
}

const FLOAT: Forms = Forms { float: true, int8: false };

impl Recurrent {
    fn matrices(&self) -> Vec<&Projection> {
        match self {
            Recurrent::Delta(delta) => match &delta.rates {
                Rates::Apart { alpha, beta } => vec![&delta.qkv, &delta.gate, alpha, beta],
                Rates::Pair { both, .. } | Rates::Joint(both) => vec![&delta.qkv, &delta.gate, both],
            },
            Recurrent::Mamba(mamba) => vec![&mamba.input],
            Recurrent::Conv(conv) => vec![&conv.input],
        }
    }

    fn output(&self) -> &Projection {
        match self {
            Recurrent::Delta(delta) => &delta.output,
            Recurrent::Mamba(mamba) => &mamba.output,
            Recurrent::Conv(conv) => &conv.output,
        }
    }

    /// The forms in which the layer wants its input.
    pub fn forms(&self, r: &Recorder<'_>) -> Forms {
        forms_for(r, self.matrices().into_iter().map(|matrix| &matrix.weight))
    }

    /// Bytes of the matrices that one row reads.
    pub fn bytes(&self) -> u64 {
        let matrices = self.matrices().into_iter().chain([self.output()]);
        matrices.map(|matrix| matrix.weight.view.len).sum()
    }
}

impl DeltaNet {
    fn mix(&self, r: &mut Recorder<'_>, h: &Rows, inputs: &RecurrentInputs<'_>) -> Result<Rows> {
        let layout = inputs.layout;
        let qkv = self.qkv.of(r, "attn_qkv", h)?;
        let gate = self.gate.of(r, "attn_gate", h)?;
        let (alpha, beta, gate_stride, gates, gate_jump) = match &self.rates {
            Rates::Apart { alpha, beta } => {
                let (alpha, beta) = (alpha.of(r, "ssm_alpha", h)?, beta.of(r, "ssm_beta", h)?);
                (alpha, beta, layout.heads, layout.heads, 0)
            }
            Rates::Pair { both, alpha_first } => {
                let both = both.of(r, "ssm_alpha_beta", h)?;
                let behind = from(&both, layout.heads);
                let (alpha, beta) = if *alpha_first { (both, behind) } else { (behind, both) };
                (alpha, beta, 2 * layout.heads, layout.heads, 0)
            }
            Rates::Joint(both) => {
                let both = both.of(r, "ssm_ba", h)?;
                let per_key = layout.heads / layout.key_heads;
                (from(&both, per_key), both, 2 * layout.heads, per_key, 2 * per_key)
            }
        };
        let keys = layout.key_heads * layout.size;
        let conv = ConvArgs {
            x: (&qkv, layout.channels),
            weight: &self.conv,
            bias: None,
            silu: true,
            normed: 2 * keys,
            scaled: (keys, 1.0 / (layout.size as f32).sqrt()),
            group: layout.size,
            eps: inputs.eps,
            rows: inputs.rows,
            state: inputs.state,
        };
        let x = ops::conv(r, layout, &conv)?;
        let recurrence = RecurrenceArgs {
            rule: Rule::GatedDelta,
            x: (&x, layout.channels),
            q_from: 0,
            k_from: keys,
            v_from: 2 * keys,
            alpha: &alpha,
            beta: &beta,
            gate_stride,
            gates,
            gate_jump,
            decay: &self.decay,
            shift: &self.shift,
            skip: None,
            share: self.share,
            rows: inputs.rows,
            state: inputs.state,
        };
        let y = ops::recurrence(r, layout, &recurrence)?;
        let forms = forms_of(r, &self.output.weight);
        ops::norm_groups(r, "ssm_norm", &y, layout.heads, &self.norm, Some(&gate), forms)
    }
}

impl Mamba {
    fn mix(&self, r: &mut Recorder<'_>, h: &Rows, inputs: &RecurrentInputs<'_>) -> Result<Rows> {
        let layout = inputs.layout;
        let (inner, keys) = (layout.heads * layout.columns, layout.key_heads * layout.size);
        let all = self.input.of(r, "ssm_in", h)?;
        let stride = self.input.weight.n;
        let (xbc, dt) = (from(&all, inner), from(&all, inner + layout.channels));
        let conv = ConvArgs {
            x: (&xbc, stride),
            weight: &self.conv,
            bias: self.conv_bias.as_ref(),
            silu: true,
            normed: 0,
            scaled: (0, 1.0),
            group: GROUP,
            eps: inputs.eps,
            rows: inputs.rows,
            state: inputs.state,
        };
        let x = ops::conv(r, layout, &conv)?;
        let recurrence = RecurrenceArgs {
            rule: Rule::Mamba2,
            x: (&x, layout.channels),
            q_from: inner + keys,
            k_from: inner,
            v_from: 0,
            alpha: &dt,
            beta: &dt,
            gate_stride: stride,
            gates: layout.heads,
            gate_jump: 0,
            decay: &self.decay,
            shift: &self.shift,
            skip: Some(&self.skip),
            share: layout.heads / layout.key_heads,
            rows: inputs.rows,
            state: inputs.state,
        };
        let y = ops::recurrence(r, layout, &recurrence)?;
        let wanted = forms_of(r, &self.output.weight);
        let forms = if self.norm.is_some() { FLOAT } else { wanted };
        let up = Some((&y, inner));
        let gated =
            ops::gate_by(r, "ssm_gate", (&all, stride), up, (r.rows, inner), Activation::Silu, forms)?;
        match (&self.norm, &gated.float) {
            (Some(norm), Some(gated)) => {
                ops::norm_groups(r, "ssm_norm", gated, inner / norm.weight.k, norm, None, wanted)
            }
            _ => Ok(gated),
        }
    }
}

impl ShortConv {
    fn mix(&self, r: &mut Recorder<'_>, h: &Rows, inputs: &RecurrentInputs<'_>) -> Result<Rows> {
        let width = inputs.layout.channels;
        let all = self.input.of(r, "shortconv_in", h)?;
        let (stride, shape, product) = (3 * width, (r.rows, width), Activation::Linear);
        let x = from(&all, 2 * width);
        let x = ops::gate_by(r, "shortconv_gate", (&all, stride), Some((&x, stride)), shape, product, FLOAT)?;
        let x = x.float.unwrap_or_else(|| all.clone());
        let conv = ConvArgs {
            x: (&x, width),
            weight: &self.conv,
            bias: None,
            silu: false,
            normed: 0,
            scaled: (0, 1.0),
            group: GROUP,
            eps: inputs.eps,
            rows: inputs.rows,
            state: inputs.state,
        };
        let y = ops::conv(r, inputs.layout, &conv)?;
        let forms = forms_of(r, &self.output.weight);
        let gate = (&from(&all, width), stride);
        ops::gate_by(r, "shortconv_act", gate, Some((&y, width)), shape, product, forms)
    }
}

/// Adds what a recurrent layer makes of the rows `h` to the residual stream.
pub fn recurrent(
    r: &mut Recorder<'_>,
    h: &Rows,
    w: &Recurrent,
    inputs: &RecurrentInputs<'_>,
    onto: &Onto<'_>,
) -> Result<()> {
    let (mixed, label) = match w {
        Recurrent::Delta(delta) => (delta.mix(r, h, inputs)?, "ssm_out"),
        Recurrent::Mamba(mamba) => (mamba.mix(r, h, inputs)?, "ssm_out"),
        Recurrent::Conv(conv) => (conv.mix(r, h, inputs)?, "shortconv_out"),
    };
    onto.add(r, label, &mixed, w.output())
}

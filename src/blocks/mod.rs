//! The parts of a decoder layer, built from operations.

mod attention;
mod ffn;
mod recurrent;
mod streams;

pub use attention::{Attention, AttentionInputs, Latent, Source, attention, attention_keys};
pub use ffn::{Dense, Experts, FeedForward, Gate, feed_forward};
pub use recurrent::{DeltaNet, Mamba, Rates, Recurrent, RecurrentInputs, ShortConv, recurrent};
pub use streams::{StreamLayer, StreamWeights};

use vkllm_runtime::View;

use crate::error::Result;
use crate::ops::{self, Forms, LinearArgs, Norm, Recorder, Rows, takes_int8};
use crate::tensor::Tensor;

/// A matrix and what is added to its product.
#[derive(Clone, Debug)]
pub struct Projection {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Projection {
    /// The product with the rows of `h`: [rows, n].
    fn of(&self, r: &mut Recorder<'_>, label: &str, h: &Rows) -> Result<View> {
        let args = LinearArgs { bias: self.bias.as_ref(), ..LinearArgs::default() };
        ops::linear(r, label, h, r.rows, &self.weight, args)
    }

    /// This and the projection right behind it in memory as one, which gives the outputs of both side by side.
    pub fn with(&self, next: &Projection) -> Option<Projection> {
        let bias = match (&self.bias, &next.bias) {
            (None, None) => None,
            (Some(one), Some(other)) => Some(one.elements_with(other)?),
            _ => return None,
        };
        Some(Projection { weight: self.weight.rows_with(&next.weight)?, bias })
    }

    /// Projections of the same rows, those that adjoin as one.
    pub fn joined(all: Vec<Projection>) -> Vec<Projection> {
        let mut joined: Vec<Projection> = Vec::with_capacity(all.len());
        for next in all {
            match joined.last_mut().and_then(|last| last.with(&next).map(|both| (last, both))) {
                Some((last, both)) => *last = both,
                None => joined.push(next),
            }
        }
        joined
    }
}

/// Where a block's output goes.
#[derive(Clone, Copy, Debug)]
pub struct Onto<'a> {
    /// The residual stream [rows, width].
    pub x: &'a View,
    /// Norm of what is added.
    pub post_norm: Option<&'a Norm>,
    pub post_label: &'static str,
    /// Factor on what is added.
    pub scale: f32,
}

impl Onto<'_> {
    /// Adds the product of the block's last matrix to the residual stream.
    fn add(&self, r: &mut Recorder<'_>, label: &str, input: &Rows, last: &Projection) -> Result<()> {
        let args = LinearArgs { bias: last.bias.as_ref(), scale: self.scale, ..LinearArgs::default() };
        let Some(norm) = self.post_norm else {
            let args = LinearArgs { residual: Some(self.x), into: Some(self.x), ..args };
            return ops::linear(r, label, input, r.rows, &last.weight, args).map(|_| ());
        };
        let y = ops::linear(r, label, input, r.rows, &last.weight, args)?;
        ops::norm_add(r, self.post_label, &y, norm, self.x)
    }
}

/// The forms in which the given matrices want their input.
fn forms_for<'a>(r: &Recorder<'_>, weights: impl IntoIterator<Item = &'a Tensor>) -> Forms {
    weights.into_iter().fold(Forms::default(), |forms, weight| forms.and(forms_of(r, weight)))
}

/// The form in which one matrix wants its input.
pub fn forms_of(r: &Recorder<'_>, weight: &Tensor) -> Forms {
    let int8 = takes_int8(r, weight);
    Forms { float: !int8, int8 }
}

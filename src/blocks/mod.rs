//! The parts of a decoder layer, built from operations.

mod attention;
mod ffn;

pub use attention::{Attention, AttentionInputs, attention};
pub use ffn::{FeedForward, feed_forward};

use crate::ops::{Forms, Recorder, takes_int8};
use crate::tensor::Tensor;

/// The forms in which the given matrices want their input.
fn forms_for(r: &Recorder<'_>, weights: &[&Tensor]) -> Forms {
    let int8 = weights.iter().filter(|w| takes_int8(r, w)).count();
    Forms { float: int8 < weights.len(), int8: int8 > 0 }
}

/// The forms in which one matrix wants its input.
pub fn forms_of(r: &Recorder<'_>, weight: &Tensor) -> Forms {
    forms_for(r, &[weight])
}

//! The feed-forward block of a layer.

use super::{Onto, Projection, forms_for, forms_of};
use crate::error::Result;
use crate::ops::{self, Activation, Forms, Recorder, Rows};

/// Weights of a layer's feed-forward block.
#[derive(Clone, Debug)]
pub enum FeedForward {
    Dense(Dense),
}

/// One gated or plain perceptron.
#[derive(Clone, Debug)]
pub struct Dense {
    pub gate: Gate,
    pub up: Projection,
    pub down: Projection,
    pub activation: Activation,
}

/// Where the gate comes from.
#[derive(Clone, Debug)]
pub enum Gate {
    /// There is none: the activation is that of `up`.
    None,
    Apart(Projection),
    /// The first half of `up`.
    Fused,
}

impl FeedForward {
    /// The forms in which the block wants its input.
    pub fn forms(&self, r: &Recorder<'_>) -> Forms {
        match self {
            FeedForward::Dense(dense) => dense.forms(r),
        }
    }

    /// Bytes of the matrices that one row reads.
    pub fn bytes(&self) -> u64 {
        match self {
            FeedForward::Dense(dense) => dense.bytes(),
        }
    }
}

impl Dense {
    fn forms(&self, r: &Recorder<'_>) -> Forms {
        let gate = match &self.gate {
            Gate::Apart(gate) => Some(&gate.weight),
            _ => None,
        };
        forms_for(r, gate.into_iter().chain([&self.up.weight]))
    }

    fn bytes(&self) -> u64 {
        let gate = match &self.gate {
            Gate::Apart(gate) => gate.weight.view.len,
            _ => 0,
        };
        gate + self.up.weight.view.len + self.down.weight.view.len
    }

    /// What the last matrix is multiplied with.
    fn activated(&self, r: &mut Recorder<'_>, h: &Rows) -> Result<Rows> {
        let gate = match &self.gate {
            Gate::Apart(gate) => Some(gate.of(r, "ffn_gate", h)?),
            _ => None,
        };
        let up = self.up.of(r, "ffn_up", h)?;
        let (n, k) = (self.up.weight.n, self.down.weight.k);
        let forms = forms_of(r, &self.down.weight);
        let half = up.part(u64::from(n - k) * 4, up.len - u64::from(n - k) * 4);
        let pair = match (&self.gate, &gate) {
            (Gate::Fused, _) => (&up, Some(&half)),
            (_, Some(gate)) => (gate, Some(&up)),
            (_, None) => (&up, None),
        };
        ops::glu(r, pair, (r.rows, k, n), self.activation, forms)
    }
}

/// Adds the block's output for the rows `h` to the residual stream: `down(act(gate(h)) · up(h))`, or `down(act(up(h)))`.
pub fn feed_forward(r: &mut Recorder<'_>, h: &Rows, w: &FeedForward, onto: &Onto<'_>) -> Result<()> {
    match w {
        FeedForward::Dense(dense) => {
            let act = dense.activated(r, h)?;
            onto.add(r, "ffn_down", &act, &dense.down)
        }
    }
}

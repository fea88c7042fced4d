//! The feed-forward block of a layer: one perceptron, or a mixture of experts.

use super::{Onto, Projection, forms_for, forms_of};
use crate::error::Result;
use crate::ops::{self, Activation, Forms, Recorder, Router, Rows, SharedExpert, Stack};
use crate::tensor::Tensor;

/// Weights of a layer's feed-forward block.
#[derive(Clone, Debug)]
pub enum FeedForward {
    Dense(Box<Dense>),
    Experts(Box<Experts>),
}

/// One gated or plain perceptron.
#[derive(Clone, Debug)]
pub struct Dense {
    pub gate: Gate,
    pub up: Projection,
    pub down: Projection,
    pub activation: Activation,
    /// Gates less than so many deviations above their mean are closed; 0 closes none.
    pub sparsity: f32,
}

/// A mixture of experts.
#[derive(Clone, Debug)]
pub struct Experts {
    pub router: Router,
    /// Logits of the experts.
    pub logits: Projection,
    /// What is added to scores to choose by.
    pub bias: Option<Tensor>,
    pub gate: Stack,
    pub up: Stack,
    pub down: Stack,
    pub activation: Activation,
    /// An expert that every row uses, and the projection to its share.
    pub shared: Option<(Dense, Option<Projection>)>,
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

impl Dense {
    /// A perceptron with a gate; the two matrices that read its input are one where they adjoin.
    pub fn gated(gate: Projection, up: Projection, down: Projection, activation: Activation) -> Self {
        match gate.with(&up) {
            Some(both) => Dense { gate: Gate::Fused, up: both, down, activation, sparsity: 0.0 },
            None => Dense { gate: Gate::Apart(gate), up, down, activation, sparsity: 0.0 },
        }
    }
}

impl FeedForward {
    /// The forms in which the block wants its input.
    pub fn forms(&self, r: &Recorder<'_>) -> Forms {
        match self {
            FeedForward::Dense(dense) => dense.forms(r),
            FeedForward::Experts(experts) => experts.forms(r),
        }
    }

    /// Bytes of the matrices that one row reads.
    pub fn bytes(&self) -> u64 {
        match self {
            FeedForward::Dense(dense) => dense.bytes(),
            FeedForward::Experts(experts) => experts.bytes(),
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
        let label = if matches!(self.gate, Gate::Fused) { "ffn_gate_up" } else { "ffn_up" };
        let up = self.up.of(r, label, h)?;
        let (n, k) = (self.up.weight.n, self.down.weight.k);
        let forms = forms_of(r, &self.down.weight);
        let half = up.part(u64::from(n - k) * 4, up.len - u64::from(n - k) * 4);
        let pair = match (&self.gate, &gate) {
            (Gate::Fused, _) => (&up, Some(&half)),
            (_, Some(gate)) => (gate, Some(&up)),
            (_, None) => (&up, None),
        };
        if self.sparsity > 0.0 {
            ops::sparsify(r, pair.0, (r.rows, k, n), self.sparsity)?;
        }
        ops::glu(r, pair, (r.rows, k, n), self.activation, forms)
    }
}

impl Experts {
    fn forms(&self, r: &Recorder<'_>) -> Forms {
        let forms = forms_for(r, [&self.logits.weight, &self.gate.weight, &self.up.weight]);
        let Some((dense, share)) = &self.shared else { return forms };
        forms.and(dense.forms(r)).and(forms_for(r, share.iter().map(|share| &share.weight)))
    }

    /// A row reads the experts it uses.
    fn bytes(&self) -> u64 {
        let stacks =
            [&self.gate, &self.up, &self.down].map(|stack| stack.weight.view.len).iter().sum::<u64>();
        let used = stacks / u64::from(self.router.experts) * u64::from(self.router.used);
        let shared = self.shared.as_ref().map_or(0, |(dense, share)| {
            dense.bytes() + share.as_ref().map_or(0, |share| share.weight.view.len)
        });
        used + self.logits.weight.view.len + shared
    }

    fn add(&self, r: &mut Recorder<'_>, h: &Rows, onto: &Onto<'_>) -> Result<()> {
        let used = self.router.used;
        let logits = self.logits.of(r, "ffn_gate_inp", h)?;
        let routing = ops::route(r, &self.router, &logits, self.bias.as_ref(), &self.gate)?;
        let (n, k) = (self.gate.weight.n / self.router.experts, self.down.weight.k);
        let alike = self.gate.weight.format.name == self.up.weight.format.name
            && self.gate.bias.is_some() == self.up.bias.is_some();
        let (gate, up, stride) = if alike {
            // In the order of their places, because one dispatch reads both.
            let up_first = self.up.weight.view.offset < self.gate.weight.view.offset;
            let stacks = if up_first { [&self.up, &self.gate] } else { [&self.gate, &self.up] };
            let both = ops::linear_experts(r, "ffn_gate_up_exps", (h, used), &stacks, &routing)?;
            let behind = both.part(u64::from(n) * 4, both.len - u64::from(n) * 4);
            if up_first { (behind, both, 2 * n) } else { (both, behind, 2 * n) }
        } else {
            let gate = ops::linear_experts(r, "ffn_gate_exps", (h, used), &[&self.gate], &routing)?;
            let up = ops::linear_experts(r, "ffn_up_exps", (h, used), &[&self.up], &routing)?;
            (gate, up, n)
        };
        let forms = forms_of(r, &self.down.weight);
        let act = ops::glu(r, (&gate, Some(&up)), (r.rows * used, k, stride), self.activation, forms)?;
        let parts = ops::linear_experts(r, "ffn_down_exps", (&act, 1), &[&self.down], &routing)?;
        let shared = match &self.shared {
            None => None,
            Some((dense, share)) => {
                let act = dense.activated(r, h)?;
                let output = dense.down.of(r, "ffn_down_shexp", &act)?;
                let share = share.as_ref().map(|share| share.of(r, "ffn_gate_inp_shexp", h)).transpose()?;
                Some((output, share))
            }
        };
        let shared = shared.as_ref().map(|(output, share)| SharedExpert { output, share: share.as_ref() });
        let width = self.down.weight.n / self.router.experts;
        ops::experts_sum(r, (&parts, width), &routing, shared, onto.x, onto.scale)
    }
}

/// Adds the block's output for the rows `h` to the residual stream: `down(act(gate(h)) · up(h))`, or `down(act(up(h)))`.
pub fn feed_forward(r: &mut Recorder<'_>, h: &Rows, w: &FeedForward, onto: &Onto<'_>) -> Result<()> {
    match w {
        FeedForward::Dense(dense) => {
            let act = dense.activated(r, h)?;
            onto.add(r, "ffn_down", &act, &dense.down)
        }
        FeedForward::Experts(experts) => experts.add(r, h, onto),
    }
}

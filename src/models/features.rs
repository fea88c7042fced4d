//! What a model has beyond the plain decoder, in words.

use super::{Config, HeadNorm, RecurrentKind, RopeScaling};
use crate::ops::{Activation, Gating};

impl Config {
    /// What the model has beyond the plain decoder, as people of this field name it.
    pub fn features(&self) -> Vec<String> {
        let a = self.architecture;
        let mut all = Vec::new();
        let mut add = |holds: bool, text: &str| {
            if holds {
                all.push(text.to_owned());
            }
        };
        add(self.latent.is_some(), "multi-head latent attention");
        add(self.latent.is_none() && self.kv_heads < self.heads, "grouped-query attention");
        add(self.head_norm == HeadNorm::Before, "q/k norm per head");
        add(self.head_norm == HeadNorm::After, "q/k norm per head after RoPE");
        add(self.head_norm == HeadNorm::Whole, "q/k norm over all heads");
        add(a.layer_norm, "LayerNorm");
        add(!a.pre_norm, "no norms before blocks");
        add(a.post_norm, "norms after blocks");
        add(a.parallel, "parallel attention and feed-forward");
        add(self.fused_qkv, "fused q, k, v");
        add(self.fused_gate, "fused gate and up");
        add(!a.gated, "feed-forward without a gate");
        add(a.activation == Activation::Gelu, "GELU");
        add(a.activation == Activation::ClampedSwiglu, "clamped SwiGLU");
        add(self.attention_cap != 0.0, "soft cap on attention");
        add(self.final_cap != 0.0, "soft cap on logits");
        add(self.rot < self.head && self.latent.is_none(), "partial RoPE");
        add(matches!(self.scaling, RopeScaling::Linear { .. }), "linear RoPE scaling");
        add(matches!(self.scaling, RopeScaling::Yarn { .. }), "YaRN");
        add(self.window_base.is_some(), "RoPE of its own in layers with a window");
        add((0..self.layers).any(|layer| !self.has_rope(layer)), "layers without RoPE");
        add(self.query_scale.is_some(), "queries scaled by position");
        add(a.gated_attention, "gated attention");
        add(a.activation == Activation::Relu2, "squared ReLU");
        if let Some(streams) = &self.streams {
            all.push(format!("{} residual streams (AltUp), LAuReL, per-layer embeddings", streams.count));
            let sparse = streams.sparsity.iter().filter(|deviations| **deviations > 0.0).count();
            all.push(format!("sparse activations in {sparse} of {} layers", self.layers));
            let shared = (0..self.layers).filter(|layer| self.cached_in(*layer) != *layer).count();
            all.push(format!("keys and values shared by {shared} of {} layers", self.layers));
        }
        if let Some(recurrent) = &self.recurrent {
            let name = match recurrent.kind {
                RecurrentKind::GatedDelta => "gated delta networks",
                RecurrentKind::Mamba2 => "Mamba-2",
                RecurrentKind::ShortConv => "short convolutions",
            };
            let count = self.kinds.iter().filter(|kind| kind.recurrent).count();
            all.push(format!("{name} in {count} of {} layers", self.layers));
        }
        if self.predictors > 0 {
            all.push("multi-token prediction".to_owned());
        }
        if let Some(window) = &self.window {
            let near = window.layers.iter().filter(|has| **has).count();
            all.push(format!("sliding window of {} keys in {near} of {} layers", window.keys, self.layers));
        }
        if let Some(experts) = &self.experts {
            let router = &experts.router;
            let gating = match router.gating {
                Gating::Softmax => "softmax",
                Gating::Sigmoid => "sigmoid",
                Gating::SoftmaxOfChosen => "softmax of those chosen",
            };
            let shared = if experts.shared_ffn > 0 { " and a shared one" } else { "" };
            all.push(format!("{} of {} experts{shared} ({gating})", router.used, router.experts));
        }
        all
    }
}

//! The table of architectures.

use super::RecurrentKind;
use crate::ops::{Activation, Gating};

/// Which elements of a head RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// 2i with 2i + 1.
    Adjacent,
    /// i with i + n/2.
    Halves,
}

impl Pairing {
    /// Value of the specialisation constant `PAIRING`.
    pub fn code(self) -> u32 {
        match self {
            Pairing::Adjacent => 1,
            Pairing::Halves => 2,
        }
    }
}

/// How queries and keys are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    None,
    /// Each head, before RoPE.
    Before,
    /// Each head, after RoPE.
    After,
    /// The whole projection, before it is split into heads.
    Whole,
}

/// What `logit_scale` does to the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Times,
    Divides,
}

/// One architecture: how its files differ from the plain decoder. Biases, a tied output, fused matrices, sinks and
/// frequency factors are not here, because the tensors present say so; nor are numbers, which the metadata have.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    pub pairing: Pairing,
    pub head_norm: HeadNorm,
    /// Every n-th layer has no RoPE; 0 means that all have it.
    pub no_rope_every: u32,
    /// Where layers have windows, those without have no RoPE either.
    pub rope_in_windows: bool,
    /// Every n-th layer sees all keys and the others a window, unless the file says otherwise; 0 ignores windows.
    pub global_every: u32,
    /// Base of RoPE in layers with a window, which is not stretched there; `None` where it is that of all layers.
    pub window_base: Option<f64>,
    /// In layers with a window RoPE is not stretched.
    pub window_unscaled: bool,
    /// LayerNorm instead of RMS norm.
    pub layer_norm: bool,
    /// Blocks normalise what they read.
    pub pre_norm: bool,
    /// Blocks normalise what they add.
    pub post_norm: bool,
    /// Attention and feed-forward block read the same norm.
    pub parallel: bool,
    /// Tensor of the feed-forward block's norm, whose name ends there where it is bare.
    pub ffn_norm: &'static str,
    pub bare_ffn_norm: bool,
    /// Tensor of the norm before the output matrix.
    pub output_norm: &'static str,
    pub activation: Activation,
    /// The feed-forward block has a gate.
    pub gated: bool,
    /// Embeddings are multiplied by the root of the width.
    pub root_embedding: bool,
    pub logit_scale: Scale,
    /// How experts are weighted where the file does not say, and whether their weights are divided by their sum; `None` for
    /// an architecture without experts.
    pub experts: Option<(Gating, bool)>,
    /// Attention is in latent space.
    pub latent: bool,
    /// Files without norms of heads exist.
    pub head_norm_optional: bool,
    /// What recurrent layers are, where there are some.
    pub recurrent: Option<RecurrentKind>,
    /// The output of attention is multiplied by gates that come with the queries.
    pub gated_attention: bool,
    /// Several residual streams with what belongs to them; values are normalised and scores not scaled (Gemma 3n).
    pub streams: bool,
    /// Of a model with so many layers, queries are scaled by width / heads instead of the size of a head.
    pub wide_queries: Option<u32>,
}

/// Rows of the table are told apart by their names.
impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

const PLAIN: Architecture = Architecture {
    name: "",
    pairing: Pairing::Adjacent,
    head_norm: HeadNorm::None,
    no_rope_every: 0,
    rope_in_windows: false,
    global_every: 0,
    window_base: None,
    window_unscaled: false,
    layer_norm: false,
    pre_norm: true,
    post_norm: false,
    parallel: false,
    ffn_norm: "ffn_norm",
    bare_ffn_norm: false,
    output_norm: "output_norm",
    activation: Activation::Silu,
    gated: true,
    root_embedding: false,
    logit_scale: Scale::Times,
    experts: None,
    latent: false,
    head_norm_optional: false,
    recurrent: None,
    gated_attention: false,
    streams: false,
    wide_queries: None,
};
const HALVES: Architecture = Architecture { pairing: Pairing::Halves, ..PLAIN };
const GEMMA: Architecture = Architecture { activation: Activation::Gelu, root_embedding: true, ..HALVES };
const QWEN35: Architecture = Architecture {
    head_norm: HeadNorm::Before,
    ffn_norm: "post_attention_norm",
    recurrent: Some(RecurrentKind::GatedDelta),
    gated_attention: true,
    ..HALVES
};
const COHERE: Architecture = Architecture { layer_norm: true, parallel: true, ..PLAIN };

/// Softmax over all experts, weights divided by their sum or not.
const NORMALISED: Option<(Gating, bool)> = Some((Gating::Softmax, true));
const PROBABILITIES: Option<(Gating, bool)> = Some((Gating::Softmax, false));

/// All architectures.
pub static ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "llama", experts: NORMALISED, ..PLAIN },
    Architecture { name: "mistral3", ..PLAIN },
    Architecture { name: "qwen2", ..HALVES },
    Architecture { name: "qwen2vl", ..HALVES },
    Architecture { name: "qwen3", head_norm: HeadNorm::Before, ..HALVES },
    Architecture { name: "qwen3vl", head_norm: HeadNorm::Before, ..HALVES },
    Architecture { name: "qwen2moe", experts: PROBABILITIES, ..HALVES },
    Architecture { name: "qwen3moe", head_norm: HeadNorm::Before, experts: NORMALISED, ..HALVES },
    Architecture { name: "qwen3vlmoe", head_norm: HeadNorm::Before, experts: NORMALISED, ..HALVES },
    Architecture { name: "olmoe", head_norm: HeadNorm::Whole, experts: PROBABILITIES, ..HALVES },
    Architecture { name: "granitemoe", logit_scale: Scale::Divides, experts: NORMALISED, ..PLAIN },
    Architecture { name: "phimoe", experts: NORMALISED, ..HALVES },
    Architecture { name: "deepseek", experts: PROBABILITIES, ..PLAIN },
    Architecture { name: "deepseek2", latent: true, experts: PROBABILITIES, ..PLAIN },
    Architecture { name: "dots1", head_norm: HeadNorm::Before, experts: PROBABILITIES, ..HALVES },
    Architecture { name: "bailingmoe2", head_norm: HeadNorm::Before, experts: PROBABILITIES, ..HALVES },
    Architecture { name: "hunyuan-moe", head_norm: HeadNorm::After, experts: NORMALISED, ..HALVES },
    Architecture { name: "minimax-m2", head_norm: HeadNorm::Whole, experts: NORMALISED, ..HALVES },
    Architecture {
        name: "glm4moe",
        head_norm: HeadNorm::Before,
        head_norm_optional: true,
        ffn_norm: "post_attention_norm",
        experts: PROBABILITIES,
        ..HALVES
    },
    Architecture {
        name: "gpt-oss",
        ffn_norm: "post_attention_norm",
        global_every: 2,
        activation: Activation::ClampedSwiglu,
        experts: Some((Gating::SoftmaxOfChosen, true)),
        ..HALVES
    },
    Architecture { name: "qwen3next", experts: NORMALISED, ..QWEN35 },
    Architecture { name: "qwen35", ..QWEN35 },
    Architecture { name: "qwen35moe", experts: NORMALISED, ..QWEN35 },
    Architecture {
        name: "lfm2",
        head_norm: HeadNorm::Before,
        output_norm: "token_embd_norm",
        recurrent: Some(RecurrentKind::ShortConv),
        ..HALVES
    },
    Architecture { name: "mamba2", recurrent: Some(RecurrentKind::Mamba2), ..PLAIN },
    Architecture { name: "falcon-h1", bare_ffn_norm: true, recurrent: Some(RecurrentKind::Mamba2), ..HALVES },
    Architecture {
        name: "nemotron_h",
        no_rope_every: 1,
        ffn_norm: "attn_norm",
        activation: Activation::Relu2,
        gated: false,
        recurrent: Some(RecurrentKind::Mamba2),
        ..HALVES
    },
    Architecture { name: "smollm3", no_rope_every: 4, ..PLAIN },
    Architecture { name: "ernie4_5", ..PLAIN },
    Architecture { name: "ernie4_5-moe", experts: NORMALISED, ..PLAIN },
    Architecture { name: "gemma", ..GEMMA },
    Architecture { name: "gemma2", post_norm: true, global_every: 2, wide_queries: Some(46), ..GEMMA },
    Architecture {
        name: "gemma3",
        post_norm: true,
        global_every: 6,
        window_base: Some(10_000.0),
        window_unscaled: true,
        head_norm: HeadNorm::Before,
        wide_queries: Some(62),
        ..GEMMA
    },
    Architecture {
        name: "gemma3n",
        post_norm: true,
        global_every: 5,
        window_base: Some(10_000.0),
        window_unscaled: true,
        head_norm: HeadNorm::Before,
        streams: true,
        ..GEMMA
    },
    Architecture {
        name: "phi2",
        layer_norm: true,
        parallel: true,
        activation: Activation::Gelu,
        gated: false,
        ..HALVES
    },
    Architecture { name: "phi3", ..HALVES },
    Architecture { name: "command-r", ..COHERE },
    Architecture { name: "cohere2", global_every: 4, rope_in_windows: true, ..COHERE },
    Architecture { name: "granite", logit_scale: Scale::Divides, ..PLAIN },
    Architecture {
        name: "olmo2",
        head_norm: HeadNorm::Whole,
        pre_norm: false,
        post_norm: true,
        global_every: 4,
        window_unscaled: true,
        ..HALVES
    },
    Architecture {
        name: "starcoder2",
        layer_norm: true,
        activation: Activation::Gelu,
        gated: false,
        ..HALVES
    },
    Architecture {
        name: "exaone4",
        head_norm: HeadNorm::Before,
        pre_norm: false,
        post_norm: true,
        global_every: 4,
        rope_in_windows: true,
        ..HALVES
    },
    Architecture { name: "glm4", post_norm: true, ..PLAIN },
    Architecture { name: "seed_oss", ffn_norm: "post_attention_norm", ..HALVES },
];

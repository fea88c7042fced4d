//! The hyper-parameters of a model, read from its metadata and checked before anything is allocated.

use super::experts::{self, ExpertConfig};
use super::recurrent::{self, LayerKind, RecurrentConfig};
use super::rope::{self, RopeScaling};
use super::streams::{self, StreamConfig};
use super::{ARCHITECTURES, Architecture, HeadNorm, Pairing, Scale};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, escaped};

/// What the metadata say about a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub architecture: &'static Architecture,
    pub name: Option<String>,
    pub layers: u32,
    /// Layers behind them that predict further tokens from hidden rows and are used: 0 or 1.
    pub predictors: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Width between the feed-forward matrices.
    pub ffn: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// Elements of a query or key head, and of a value head.
    pub head: u32,
    pub head_v: u32,
    /// Elements of a head that RoPE rotates.
    pub rot: u32,
    pub rope_base: f64,
    pub scaling: RopeScaling,
    /// Factor on cos and sin.
    pub rope_magnitude: f64,
    /// Base of a table of its own for layers with a window, not stretched.
    pub window_base: Option<f64>,
    /// Contexts beyond this many positions use the long frequency factors, others the short ones.
    pub short_context: u32,
    pub window: Option<Window>,
    /// Factor on the scores.
    pub attention_scale: f32,
    /// Scores and logits are held within ± these; 0 for no cap.
    pub attention_cap: f32,
    pub final_cap: f32,
    /// Factors on embeddings, on what a block adds, and on logits.
    pub embedding_scale: f32,
    pub residual_scale: f32,
    pub logit_scale: f32,
    /// Mixtures of experts, in the layers behind the leading dense ones.
    pub experts: Option<ExpertConfig>,
    /// Sizes of recurrent layers, and the blocks of each layer.
    pub recurrent: Option<RecurrentConfig>,
    pub kinds: Vec<LayerKind>,
    /// Residual streams, where there are several.
    pub streams: Option<StreamConfig>,
    pub head_norm: HeadNorm,
    pub latent: Option<LatentConfig>,
    /// Queries, keys and values come from one matrix; so do gate and up.
    pub fused_qkv: bool,
    pub fused_gate: bool,
    pub norm_eps: f32,
    pub vocab: u32,
    /// Context of training.
    pub context: u32,
    /// Queries are multiplied by 1 + scale·ln(⌊position / original⌋ + 1): (scale, original).
    pub query_scale: Option<(f64, f64)>,
}

/// Sizes of attention in latent space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentConfig {
    /// Width between the two matrices of queries; 0 where there is one.
    pub q_rank: u32,
    /// Elements of a head's query, the rotated ones included, and of its value, outside of the latent space.
    pub key: u32,
    pub value: u32,
}

/// Layers that see the last keys alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Keys that a row sees, its own included.
    pub keys: u32,
    /// Whether each layer has the window.
    pub layers: Vec<bool>,
}

/// Largest sizes that are believed: beyond them a file is damaged or hostile.
const MAX_LAYERS: u32 = 1024;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_HEAD: u32 = 256;
const MAX_LATENT: u32 = 1024;

impl Config {
    /// Reads and checks the metadata.
    ///
    /// Errors: an unknown architecture, a missing key, a value that makes no sense; each names file, key, found, allowed.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        let meta = gguf.metadata();
        let refuse = |reason: String| Error::Model { path: gguf.path().to_owned(), reason };
        let name = meta.require_str("general.architecture")?;
        let architecture = ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
            let known: Vec<_> = ARCHITECTURES.iter().map(|a| a.name).collect();
            let found = format!("\"{}\"", escaped(name.as_bytes()));
            meta.refuse("general.architecture", found, format_args!("one of {}", known.join(", ")))
        })?;
        let key = |suffix: &str| format!("{}.{suffix}", architecture.name);
        let within = |suffix: &str, value: u32, low: u32, high: u32| {
            let fits = (low..=high).contains(&value);
            let refuse = || meta.refuse(&key(suffix), value, format_args!("{low} to {high}"));
            if fits { Ok(value) } else { Err(Error::from(refuse())) }
        };
        let required = |suffix: &str, high: u32| within(suffix, meta.require_u32(&key(suffix))?, 1, high);
        let blocks = required("block_count", MAX_LAYERS)?;
        if blocks as usize > gguf.tensors().len() {
            let allowed = format!("at most one for each of the {} tensors", gguf.tensors().len());
            return Err(meta.refuse(&key("block_count"), blocks, allowed).into());
        }
        // The last blocks may predict further tokens; they take no part in the logits. The first of them is fed its own rows
        // to predict more than one token; the others of a file that has several are not used.
        let layers = match meta.u32(&key("nextn_predict_layers"))? {
            Some(extra) => blocks - within("nextn_predict_layers", extra, 0, blocks - 1)?,
            None => blocks,
        };
        let predicts = gguf.tensor(&format!("blk.{layers}.nextn.eh_proj.weight")).is_some();
        let predictors = u32::from(layers < blocks && predicts);
        let width = required("embedding_length", MAX_WIDTH)?;
        let kinds = recurrent::kinds(gguf, architecture, layers)?;
        let recurrent = recurrent::read(gguf, architecture, width)?;
        // Where layers have different blocks, those without one state a size of 0 for it, and the others are alike.
        let of_layers = |suffix: &str| -> Result<Option<u32>> {
            if architecture.recurrent.is_none() && !architecture.streams || !meta.is_array(&key(suffix)) {
                return Ok(meta.u32(&key(suffix))?);
            }
            let stated = meta.u32s(&key(suffix))?.unwrap_or_default();
            let value = stated.iter().copied().max().unwrap_or(0);
            match stated.into_iter().find(|other| *other != 0 && *other != value) {
                Some(other) => {
                    Err(refuse(format!("{} has {other} and {value}; allowed is one", key(suffix))))
                }
                None => Ok(Some(value)),
            }
        };
        // Mixtures may state the width of their experts alone.
        let dense = kinds.iter().any(|kind| kind.ffn) && architecture.experts.is_none();
        let least = u32::from(dense || architecture.recurrent.is_none());
        let ffn = match of_layers("feed_forward_length")? {
            None if least == 1 => required("feed_forward_length", MAX_WIDTH)?,
            stated => within("feed_forward_length", stated.unwrap_or(0), least, MAX_WIDTH)?,
        };
        let attends = kinds.iter().any(|kind| kind.attention);
        let heads = match of_layers("attention.head_count")? {
            _ if !attends => 1,
            Some(value) => within("attention.head_count", value, 1, 1024)?,
            None => required("attention.head_count", 1024)?,
        };
        let kv_heads = match of_layers("attention.head_count_kv")? {
            Some(value) if attends => within("attention.head_count_kv", value, 1, heads)?,
            _ => heads,
        };
        if heads % kv_heads != 0 {
            let allowed = format!("a multiple of the {kv_heads} of {}", key("attention.head_count_kv"));
            return Err(meta.refuse(&key("attention.head_count"), heads, allowed).into());
        }
        let head_size = |suffix: &str| -> Result<u32> {
            let value = match meta.u32(&key(suffix))? {
                Some(value) => value,
                None if !attends => 8,
                None if width % heads == 0 => width / heads,
                None => {
                    return Err(refuse(format!(
                        "{} is missing and the width {width} is not a multiple of {heads} heads",
                        key(suffix)
                    )));
                }
            };
            within(suffix, value, 8, if architecture.latent { MAX_LATENT } else { MAX_HEAD })?;
            if value % 8 != 0 {
                return Err(meta.refuse(&key(suffix), value, "a multiple of 8").into());
            }
            Ok(value)
        };
        let head = head_size("attention.key_length")?;
        let head_v = head_size("attention.value_length")?;
        if architecture.gated_attention && (head != head_v || head % 32 != 0) {
            let sizes = format!("{head} and {head_v}");
            return Err(refuse(format!(
                "{} and {} are {sizes}; allowed are equal multiples of 32",
                key("attention.key_length"),
                key("attention.value_length")
            )));
        }
        let rot = match meta.u32(&key("rope.dimension_count"))? {
            Some(value) => within("rope.dimension_count", value, 2, head)?,
            None => head,
        };
        let step = if architecture.pairing == Pairing::Halves { 4 } else { 2 };
        if rot % step != 0 {
            let allowed = format!("a multiple of {step}");
            return Err(meta.refuse(&key("rope.dimension_count"), rot, allowed).into());
        }
        let positive = |suffix: &str, default: Option<f32>| -> Result<f32> {
            let value = match (meta.f32(&key(suffix))?, default) {
                (Some(value), _) | (None, Some(value)) => value,
                (None, None) => meta.require_f32(&key(suffix))?,
            };
            if value > 0.0 && value.is_finite() {
                Ok(value)
            } else {
                Err(meta.refuse(&key(suffix), value, "a positive number").into())
            }
        };
        let context = match meta.u32(&key("context_length"))? {
            Some(value) => within("context_length", value, 1, u32::MAX)?,
            None => 2048,
        };
        let (scaling, rope_magnitude) = rope::read_scaling(gguf, architecture, &positive)?;
        let window = read_window(gguf, architecture, layers)?;
        let factor = |suffix: &str| -> Result<f32> {
            // A factor of 0 says that there is none.
            let stated = meta.f32(&key(suffix))?.filter(|value| *value != 0.0);
            Ok(stated.map(|_| positive(suffix, None)).transpose()?.unwrap_or(1.0))
        };
        let cap = |suffix: &str| -> Result<f32> {
            let stated = meta.f32(&key(suffix))?.filter(|value| *value != 0.0);
            Ok(stated.map(|_| positive(suffix, None)).transpose()?.unwrap_or(0.0))
        };
        let rope_base = f64::from(positive("rope.freq_base", Some(10_000.0))?);
        let stretched = scaling != RopeScaling::None;
        let window_base = match (&window, meta.f32(&key("rope.freq_base_swa"))?, architecture.window_base) {
            (None, ..) => None,
            (_, Some(_), _) => Some(f64::from(positive("rope.freq_base_swa", None)?)),
            (_, None, Some(base)) => Some(base),
            _ => (architecture.window_unscaled && stretched).then_some(rope_base),
        };
        let latent = if architecture.latent {
            let rank = required("attention.kv_lora_rank", MAX_LATENT)?;
            if kv_heads != 1 || head_v != rank || head != rank + rot {
                return Err(refuse(format!(
                    "{} has {kv_heads} key heads of {head} elements with values of {head_v}; allowed is one of rank \
                     {rank} and {rot} rotated elements with values of the rank (matrices attn_k_b and attn_v_b)",
                    architecture.name
                )));
            }
            let key_size = required("attention.key_length_mla", MAX_LATENT)?;
            let key_size = within("attention.key_length_mla", key_size, rot + 4, MAX_LATENT)?;
            let value = required("attention.value_length_mla", MAX_LATENT)?;
            let q_rank = meta.u32(&key("attention.q_lora_rank"))?.unwrap_or(0);
            let q_rank = within("attention.q_lora_rank", q_rank, 0, MAX_WIDTH)?;
            for (suffix, size) in [("key_length_mla", key_size), ("value_length_mla", value)] {
                if size % 4 != 0 {
                    let name = key(&format!("attention.{suffix}"));
                    return Err(meta.refuse(&name, size, "a multiple of 4").into());
                }
            }
            Some(LatentConfig { q_rank, key: key_size, value })
        } else {
            None
        };
        // Of a stretched context, scores have the square of the magnitude that cancels on cos and sin.
        let sharpened = match (&scaling, meta.f32(&key("rope.scaling.yarn_log_multiplier"))?, &latent) {
            (RopeScaling::Yarn { factor, .. }, Some(multiplier), Some(_)) => {
                (1.0 + f64::from(multiplier) * factor.ln()).powi(2) as f32
            }
            _ => 1.0,
        };
        let per_query = match architecture.wide_queries {
            Some(n) if n == layers => width / heads,
            _ => latent.map_or(head, |latent| latent.key),
        };
        let attention_scale = match factor("attention.scale")? {
            1.0 if meta.f32(&key("attention.scale"))?.is_none_or(|scale| scale == 0.0) => {
                sharpened / (per_query as f32).sqrt()
            }
            stated => stated,
        };
        let attention_scale = match meta.f32(&key("attention.scale"))? {
            None if architecture.streams => 1.0,
            _ => attention_scale,
        };
        let logit_scale = match (factor("logit_scale")?, architecture.logit_scale) {
            (scale, Scale::Times) => scale,
            (scale, Scale::Divides) => 1.0 / scale,
        };
        let root = if architecture.root_embedding { (width as f32).sqrt() } else { 1.0 };
        let norm_key = if architecture.layer_norm { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
        let whole =
            |name: &str| (0..layers).any(|layer| gguf.tensor(&format!("blk.{layer}.{name}")).is_some());
        let attending: Vec<u32> = (0..layers).filter(|layer| kinds[*layer as usize].attention).collect();
        let any = |name: &str| {
            let mut attending = attending.iter();
            attending.any(|layer| gguf.tensor(&format!("blk.{layer}.{name}")).is_some())
        };
        let query_scale = match meta.f32(&key("attention.temperature_scale"))? {
            Some(scale) if scale != 0.0 => {
                let original = meta.require_u32(&key("rope.scaling.original_context_length"))?;
                within("rope.scaling.original_context_length", original, 1, u32::MAX)?;
                Some((f64::from(scale), f64::from(original)))
            }
            _ => None,
        };
        let embedding = gguf.require_tensor("token_embd.weight")?;
        let vocab = embedding.dims.get(1).copied().unwrap_or(0);
        if vocab == 0 || vocab > 1 << 24 {
            let allowed = format!("1 to {} rows", 1 << 24);
            return Err(gguf.refuse_tensor(embedding, format_args!("{vocab} rows"), allowed).into());
        }
        if let Some(stated) = meta.u32(&key("vocab_size"))?
            && u64::from(stated) != vocab
        {
            let allowed = format!("{vocab}, the rows of token_embd.weight");
            return Err(meta.refuse(&key("vocab_size"), stated, allowed).into());
        }
        Ok(Config {
            architecture,
            name: meta.str("general.name")?.map(str::to_owned),
            layers,
            predictors,
            width,
            ffn,
            heads,
            kv_heads,
            head,
            head_v,
            rot,
            rope_base,
            scaling,
            rope_magnitude,
            window_base,
            short_context: meta.u32(&key("rope.scaling.original_context_length"))?.unwrap_or(u32::MAX),
            window,
            attention_scale,
            attention_cap: cap("attn_logit_softcapping")?,
            // The first files of models with streams do not state theirs.
            final_cap: match meta.f32(&key("final_logit_softcapping"))? {
                None if architecture.streams => 30.0,
                _ => cap("final_logit_softcapping")?,
            },
            embedding_scale: root * factor("embedding_scale")?,
            residual_scale: factor("residual_scale")?,
            logit_scale,
            latent,
            experts: experts::read(gguf, architecture, ffn)?,
            recurrent,
            kinds,
            streams: streams::read(gguf, architecture, layers)?,
            head_norm: match architecture.head_norm {
                _ if architecture.head_norm_optional && !any("attn_q_norm.weight") => HeadNorm::None,
                stated => stated,
            },
            fused_qkv: any("attn_qkv.weight"),
            fused_gate: architecture.gated && whole("ffn_up.weight") && !whole("ffn_gate.weight"),
            norm_eps: positive(&format!("attention.{norm_key}"), None)?,
            vocab: vocab as u32,
            context,
            query_scale,
        })
    }

    /// The layer that predicts further tokens as a decoder of one layer, whose tensors have the number behind the last of this
    /// one's.
    pub fn predictor(&self) -> Option<Config> {
        let experts = self.experts.clone().map(|experts| ExpertConfig { leading_dense: 0, ..experts });
        (self.predictors > 0).then(|| Config {
            layers: 1,
            predictors: 0,
            kinds: vec![LayerKind::PLAIN],
            recurrent: None,
            window: None,
            window_base: None,
            experts,
            ..self.clone()
        })
    }

    /// Whether RoPE applies to a layer.
    pub fn has_rope(&self, layer: u32) -> bool {
        let every = self.architecture.no_rope_every;
        let windows = self.architecture.rope_in_windows && self.window.is_some();
        (every == 0 || !(layer + 1).is_multiple_of(every)) && (!windows || self.has_window(layer))
    }

    /// Whether a layer sees the last keys alone.
    pub fn has_window(&self, layer: u32) -> bool {
        self.window.as_ref().is_some_and(|window| window.layers.get(layer as usize) == Some(&true))
    }

    /// The mixture of a layer; `None` for a dense one.
    pub fn experts_of(&self, layer: u32) -> Option<&ExpertConfig> {
        let has = |experts: &&ExpertConfig| {
            layer >= experts.leading_dense && (layer + 1).is_multiple_of(experts.every)
        };
        self.experts.as_ref().filter(has)
    }

    /// Elements of the queries, keys and values of a row.
    pub fn projected(&self) -> (u32, u32, u32) {
        (self.heads * self.head, self.kv_heads * self.head, self.kv_heads * self.head_v)
    }

    /// Whether queries and keys are normalised head by head.
    pub fn norms_heads(&self) -> bool {
        matches!(self.head_norm, HeadNorm::Before | HeadNorm::After)
    }
}

fn read_window(gguf: &Gguf, architecture: &Architecture, layers: u32) -> Result<Option<Window>> {
    let meta = gguf.metadata();
    let key = |suffix: &str| format!("{}.attention.{suffix}", architecture.name);
    let keys = match meta.u32(&key("sliding_window"))? {
        Some(keys) if keys > 0 && architecture.global_every > 0 => keys,
        _ => return Ok(None),
    };
    let pattern = key("sliding_window_pattern");
    let each = |every: u32| (1..=layers).map(|layer| every == 0 || !layer.is_multiple_of(every)).collect();
    let layers: Vec<bool> = if meta.is_array(&pattern) {
        let stated = meta.bools(&pattern)?.unwrap_or_default();
        if stated.len() < layers as usize {
            let found = format!("{} entries", stated.len());
            return Err(meta.refuse(&pattern, found, format_args!("{layers} or more")).into());
        }
        stated[..layers as usize].to_vec()
    } else {
        each(meta.u32(&pattern)?.unwrap_or(architecture.global_every))
    };
    Ok(layers.contains(&true).then_some(Window { keys, layers }))
}

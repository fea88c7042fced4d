//! The hyper-parameters of a model, read from its metadata and checked before anything is allocated.

use super::{ARCHITECTURES, Architecture, Pairing};
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// How RoPE is stretched beyond the context of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// YaRN (Peng et al. 2023): interpolation by frequency.
    Yarn {
        factor: f64,
        /// Context of training.
        original: f64,
        beta_fast: f64,
        beta_slow: f64,
        /// Factor on cos and sin.
        magnitude: f64,
    },
}

/// What the metadata say about a decoder.
#[derive(Clone, Debug)]
pub struct Config {
    pub architecture: &'static Architecture,
    pub name: Option<String>,
    pub layers: u32,
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
    pub norm_eps: f32,
    pub vocab: u32,
    /// Context of training.
    pub context: u32,
    /// Queries are multiplied by 1 + scale·ln(⌊position / original⌋ + 1): (scale, original).
    pub query_scale: Option<(f64, f64)>,
}

/// Largest sizes that are believed: beyond them a file is damaged or hostile.
const MAX_LAYERS: u32 = 1024;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_HEAD: u32 = 256;

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
            let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
            refuse(format!("general.architecture is \"{shown}\"; supported are {}", known.join(", ")))
        })?;
        let key = |suffix: &str| format!("{}.{suffix}", architecture.name);
        let within = |suffix: &str, value: u32, low: u32, high: u32| {
            if (low..=high).contains(&value) {
                Ok(value)
            } else {
                Err(refuse(format!("{} is {value}; allowed is {low} to {high}", key(suffix))))
            }
        };
        let required = |suffix: &str, high: u32| within(suffix, meta.require_u32(&key(suffix))?, 1, high);
        let layers = required("block_count", MAX_LAYERS)?;
        let width = required("embedding_length", MAX_WIDTH)?;
        let ffn = required("feed_forward_length", MAX_WIDTH)?;
        let heads = required("attention.head_count", 1024)?;
        let kv_heads = match meta.u32(&key("attention.head_count_kv"))? {
            Some(value) => within("attention.head_count_kv", value, 1, heads)?,
            None => heads,
        };
        if heads % kv_heads != 0 {
            return Err(refuse(format!(
                "{} is {heads}, not a multiple of {} {kv_heads}",
                key("attention.head_count"),
                key("attention.head_count_kv")
            )));
        }
        let head_size = |suffix: &str| -> Result<u32> {
            let value = match meta.u32(&key(suffix))? {
                Some(value) => value,
                None if width % heads == 0 => width / heads,
                None => {
                    return Err(refuse(format!(
                        "{} is missing and the width {width} is not a multiple of {heads} heads",
                        key(suffix)
                    )));
                }
            };
            within(suffix, value, 8, MAX_HEAD)?;
            if value % 8 != 0 {
                return Err(refuse(format!("{} is {value}; allowed are multiples of 8", key(suffix))));
            }
            Ok(value)
        };
        let head = head_size("attention.key_length")?;
        let head_v = head_size("attention.value_length")?;
        let rot = match meta.u32(&key("rope.dimension_count"))? {
            Some(value) => within("rope.dimension_count", value, 2, head)?,
            None => head,
        };
        let step = if architecture.pairing == Pairing::Halves { 4 } else { 2 };
        if rot % step != 0 {
            let found = format!("{} is {rot}", key("rope.dimension_count"));
            return Err(refuse(format!("{found}; allowed are multiples of {step}")));
        }
        let positive = |suffix: &str, default: Option<f32>| -> Result<f32> {
            let value = match (meta.f32(&key(suffix))?, default) {
                (Some(value), _) | (None, Some(value)) => value,
                (None, None) => meta.require_f32(&key(suffix))?,
            };
            if value > 0.0 && value.is_finite() {
                Ok(value)
            } else {
                Err(refuse(format!("{} is {value}; allowed are positive numbers", key(suffix))))
            }
        };
        let context = match meta.u32(&key("context_length"))? {
            Some(value) => within("context_length", value, 1, u32::MAX)?,
            None => 2048,
        };
        let scaling = read_scaling(gguf, architecture, &positive)?;
        let query_scale = match meta.f32(&key("attention.temperature_scale"))? {
            Some(scale) if scale != 0.0 => {
                let original = meta.require_u32(&key("rope.scaling.original_context_length"))?;
                within("rope.scaling.original_context_length", original, 1, u32::MAX)?;
                Some((f64::from(scale), f64::from(original)))
            }
            _ => None,
        };
        let embedding = gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| refuse("the tensor token_embd.weight is missing".into()))?;
        let vocab = embedding.dims.get(1).copied().unwrap_or(0);
        if vocab == 0 || vocab > 1 << 24 {
            return Err(refuse(format!("token_embd.weight has {vocab} rows; allowed is 1 to {}", 1 << 24)));
        }
        if let Some(stated) = meta.u32(&key("vocab_size"))?
            && u64::from(stated) != vocab
        {
            return Err(refuse(format!(
                "{} is {stated}, but token_embd.weight has {vocab} rows",
                key("vocab_size")
            )));
        }
        Ok(Config {
            architecture,
            name: meta.str("general.name")?.map(str::to_owned),
            layers,
            width,
            ffn,
            heads,
            kv_heads,
            head,
            head_v,
            rot,
            rope_base: f64::from(positive("rope.freq_base", Some(10_000.0))?),
            scaling,
            norm_eps: positive("attention.layer_norm_rms_epsilon", None)?,
            vocab: vocab as u32,
            context,
            query_scale,
        })
    }

    /// Whether RoPE applies to a layer.
    pub fn has_rope(&self, layer: u32) -> bool {
        let every = self.architecture.no_rope_every;
        every == 0 || !(layer + 1).is_multiple_of(every)
    }
}

fn read_scaling(
    gguf: &Gguf,
    architecture: &Architecture,
    positive: &dyn Fn(&str, Option<f32>) -> Result<f32>,
) -> Result<RopeScaling> {
    let meta = gguf.metadata();
    let key = |suffix: &str| format!("{}.rope.scaling.{suffix}", architecture.name);
    let number = |suffix: &str, default: f32| {
        positive(&format!("rope.scaling.{suffix}"), Some(default)).map(f64::from)
    };
    match meta.str(&key("type"))? {
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: number("factor", 1.0)? }),
        Some("yarn") => {
            let factor = number("factor", 1.0)?;
            let original = f64::from(meta.require_u32(&key("original_context_length"))?);
            // With a log multiplier the magnitudes of numerator and denominator cancel (DeepSeek's mscale = mscale_all_dim).
            let cancels = meta.f32(&key("yarn_log_multiplier"))?.is_some_and(|m| m != 0.0);
            let magnitude = if cancels { 1.0 } else { 1.0 + 0.1 * factor.ln() };
            Ok(RopeScaling::Yarn {
                factor,
                original,
                beta_fast: number("yarn_beta_fast", 32.0)?,
                beta_slow: number("yarn_beta_slow", 1.0)?,
                magnitude: magnitude * number("attn_factor", 1.0)?,
            })
        }
        Some(other) => {
            let shown: String = other.chars().take(64).flat_map(char::escape_default).collect();
            Err(Error::Model {
                path: gguf.path().to_owned(),
                reason: format!("{} is \"{shown}\"; supported are none, linear, yarn", key("type")),
            })
        }
    }
}

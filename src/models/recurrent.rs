//! What the metadata say about recurrent layers, and which blocks each layer has.

use super::{Architecture, Config};
use crate::cache::StateLayout;
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// Kinds of recurrent layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecurrentKind {
    GatedDelta,
    Mamba2,
    ShortConv,
}

/// The blocks of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    pub attention: bool,
    pub recurrent: bool,
    pub ffn: bool,
}

impl LayerKind {
    /// A layer of a plain decoder.
    pub const PLAIN: LayerKind = LayerKind { attention: true, recurrent: false, ffn: true };
}

/// Sizes of the recurrent layers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentConfig {
    pub kind: RecurrentKind,
    /// Inputs that one output of the convolution sees.
    pub taps: u32,
    /// Elements of a key, key heads, value heads and their elements.
    pub size: u32,
    pub key_heads: u32,
    pub heads: u32,
    pub columns: u32,
    /// Decay and weight of a row come from one matrix.
    pub joint_rates: bool,
    /// Groups of the norm of the output have weights.
    pub normed: bool,
}

impl RecurrentConfig {
    /// Elements of the values of a row.
    pub fn inner(&self) -> u32 {
        self.heads * self.columns
    }

    /// Channels of the convolution of a model of that width.
    pub fn channels(&self, width: u32) -> u32 {
        match self.kind {
            RecurrentKind::ShortConv => width,
            _ => self.inner() + 2 * self.key_heads * self.size,
        }
    }
}

/// Largest sizes that are believed.
const MOST_TAPS: u32 = 8;
const MOST_SIZE: u32 = 256;
const MOST_HEADS: u32 = 1024;

/// Reads sizes of the recurrent layers, if there are any.
///
/// Errors: sizes that do not fit each other or the kernels.
pub(super) fn read(gguf: &Gguf, architecture: &Architecture, width: u32) -> Result<Option<RecurrentConfig>> {
    let Some(kind) = architecture.recurrent else { return Ok(None) };
    let meta = gguf.metadata();
    let key = |suffix: &str| format!("{}.{suffix}", architecture.name);
    let refuse = |suffix: &str, found: u32, allowed: String| {
        let reason = format!("{} is {found}; allowed is {allowed}", key(suffix));
        Error::Model { path: gguf.path().to_owned(), reason }
    };
    let required = |suffix: &str, low: u32, high: u32, step: u32| -> Result<u32> {
        let value = meta.require_u32(&key(suffix))?;
        if (low..=high).contains(&value) && value % step == 0 {
            return Ok(value);
        }
        let steps = if step == 1 { String::new() } else { format!(" in steps of {step}") };
        Err(refuse(suffix, value, format!("{low} to {high}{steps}")))
    };
    if kind == RecurrentKind::ShortConv {
        let taps = required("shortconv.l_cache", 2, MOST_TAPS, 1)?;
        let none = RecurrentConfig {
            kind,
            taps,
            size: 0,
            key_heads: 0,
            heads: 0,
            columns: 0,
            joint_rates: false,
            normed: false,
        };
        return Ok(Some(none));
    }
    let taps = required("ssm.conv_kernel", 2, MOST_TAPS, 1)?;
    let size = required("ssm.state_size", 4, MOST_SIZE, 4)?;
    let heads = required("ssm.time_step_rank", 1, MOST_HEADS, 1)?;
    let key_heads = match meta.u32(&key("ssm.group_count"))? {
        Some(_) => required("ssm.group_count", 1, heads, 1)?,
        None => 1,
    };
    if heads % key_heads != 0 {
        return Err(refuse("ssm.group_count", key_heads, format!("a divisor of {heads} heads")));
    }
    let inner = required("ssm.inner_size", heads, width.saturating_mul(64), heads)?;
    let columns = inner / heads;
    // Heads are normalised one by one, and int8 activations come in blocks of 32.
    let step = if kind == RecurrentKind::GatedDelta { 32 } else { 4 };
    if columns % step != 0 || columns > 1024 {
        let allowed = format!("heads of up to 1024 elements in steps of {step} for {heads} heads");
        return Err(refuse("ssm.inner_size", inner, allowed));
    }
    let any = |name: &str| gguf.tensors().iter().any(|info| info.name.ends_with(name));
    let (joint_rates, normed) = (any(".ssm_ba.weight"), any(".ssm_norm.weight"));
    Ok(Some(RecurrentConfig { kind, taps, size, key_heads, heads, columns, joint_rates, normed }))
}

/// Which blocks each layer has.
///
/// Errors: lists that are shorter than the model is deep.
pub(super) fn kinds(gguf: &Gguf, architecture: &Architecture, layers: u32) -> Result<Vec<LayerKind>> {
    let meta = gguf.metadata();
    let key = |suffix: &str| format!("{}.{suffix}", architecture.name);
    let short = |name: &str, found: usize| {
        let reason = format!("{name} has {found} entries; allowed are {layers} or more");
        Error::Model { path: gguf.path().to_owned(), reason }
    };
    let list = |suffix: &str| -> Result<Option<Vec<u32>>> {
        let name = key(suffix);
        if !meta.is_array(&name) {
            return Ok(None);
        }
        let values = meta.u32s(&name)?.unwrap_or_default();
        if values.len() < layers as usize { Err(short(&name, values.len())) } else { Ok(Some(values)) }
    };
    let plain = LayerKind::PLAIN;
    let every = |kind: LayerKind| vec![kind; layers as usize];
    let Some(kind) = architecture.recurrent else { return Ok(every(plain)) };
    let kv_heads = list("attention.head_count_kv")?;
    let ffns = list("feed_forward_length")?;
    Ok(match (kind, kv_heads, ffns) {
        (RecurrentKind::GatedDelta, ..) => {
            let name = key("attention.recurrent_layers");
            let stated = if meta.is_array(&name) { meta.bools(&name)? } else { None };
            if let Some(found) = stated.as_ref().map(Vec::len).filter(|len| *len < layers as usize) {
                return Err(short(&name, found));
            }
            let every = meta.u32(&key("full_attention_interval"))?.filter(|every| *every > 0).unwrap_or(4);
            let recurrent = |layer: u32| match &stated {
                Some(stated) => stated[layer as usize],
                None => !(layer + 1).is_multiple_of(every),
            };
            let of =
                |layer| LayerKind { attention: !recurrent(layer), recurrent: recurrent(layer), ffn: true };
            (0..layers).map(of).collect()
        }
        // Layers of one block each.
        (_, Some(kv_heads), Some(ffns)) => kv_heads
            .iter()
            .zip(&ffns)
            .take(layers as usize)
            .map(|(&kv, &ffn)| LayerKind {
                attention: kv > 0,
                recurrent: kv == 0 && ffn == 0,
                ffn: kv == 0 && ffn > 0,
            })
            .collect(),
        (_, Some(kv_heads), None) => kv_heads
            .iter()
            .take(layers as usize)
            .map(|&kv| LayerKind { attention: kv > 0, recurrent: kv == 0, ffn: true })
            .collect(),
        _ => {
            let some = |suffix: &str| -> Result<bool> {
                Ok(meta.is_array(&key(suffix)) || meta.u32(&key(suffix))?.unwrap_or(0) > 0)
            };
            let (attention, ffn) = (some("attention.head_count")?, some("feed_forward_length")?);
            every(LayerKind { attention, recurrent: true, ffn })
        }
    })
}

impl Config {
    /// The blocks of a layer.
    pub fn kind(&self, layer: u32) -> LayerKind {
        self.kinds.get(layer as usize).copied().unwrap_or(LayerKind::PLAIN)
    }

    /// The layers that have keys and values of their own, in order.
    pub fn attention_layers(&self) -> Vec<u32> {
        let caches = |layer: &u32| self.kind(*layer).attention && self.cached_in(*layer) == *layer;
        (0..self.layers).filter(caches).collect()
    }

    /// The shape of the states of a session, of layers that may be more than this configuration's.
    pub fn states(&self) -> StateLayout {
        let Some(recurrent) = &self.recurrent else { return StateLayout::default() };
        StateLayout {
            layers: self.kinds.iter().filter(|kind| kind.recurrent).count() as u32,
            channels: recurrent.channels(self.width),
            taps: recurrent.taps,
            size: recurrent.size,
            key_heads: recurrent.key_heads,
            heads: recurrent.heads,
            columns: recurrent.columns,
        }
    }

    /// So many of the first layers that each kind of layer is among them.
    pub fn typical_layers(&self) -> u32 {
        let mut seen: Vec<LayerKind> = Vec::new();
        let mut enough = 2;
        for (layer, kind) in (1..).zip(&self.kinds) {
            if !seen.contains(kind) {
                seen.push(*kind);
                enough = enough.max(layer);
            }
        }
        enough.min(self.layers)
    }
}

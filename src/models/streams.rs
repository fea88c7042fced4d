//! What files say about several residual streams (Gemma 3n), and their tensors.

use super::layers::{Expected, Finder, Presence};
use super::{Architecture, Config};
use crate::blocks::{Projection, StreamLayer, StreamWeights};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::tensor::Tensor;

/// Sizes of the streams of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamConfig {
    pub count: u32,
    /// The stream that layers compute.
    pub active: u32,
    /// Elements of the input that each layer has of its own, and between the matrices beside attention.
    pub own: u32,
    pub laurel: u32,
    /// Layers from this one on read keys and values of an earlier one.
    pub caching: u32,
    /// By layer: deviations above the mean below which gates are closed; 0 closes none.
    pub sparsity: Vec<f32>,
}

/// Deviations above the mean that 5 % of a normal distribution exceed, the layers that close gates and those with keys of
/// their own, of the published models (Gemma 3n E2B and E4B), whose first files do not state them.
const DEVIATIONS: f32 = 1.644_853_5;
const SPARSE: u32 = 10;
const CACHING: u32 = 20;
/// Most streams: what kernels are tested with, and published models have.
const MOST: u32 = 4;

/// Reads them; `None` for an architecture with one stream.
///
/// Errors: numbers that do not fit each other.
pub(super) fn read(gguf: &Gguf, architecture: &Architecture, layers: u32) -> Result<Option<StreamConfig>> {
    if !architecture.streams {
        return Ok(None);
    }
    let meta = gguf.metadata();
    let key = |suffix: &str| format!("{}.{suffix}", architecture.name);
    let number = |suffix: &str, usual: u32, low: u32, high: u32| -> Result<u32> {
        let value = meta.u32(&key(suffix))?.unwrap_or(usual);
        let refuse = || Error::from(meta.refuse(&key(suffix), value, format!("{low} to {high}")));
        if (low..=high).contains(&value) { Ok(value) } else { Err(refuse()) }
    };
    let count = number("altup.num_inputs", 4, 2, MOST)?;
    let active = number("altup.active_idx", 0, 0, count - 1)?;
    let own = number("embedding_length_per_layer_input", 256, 8, 1 << 16)?;
    let shared = number("attention.shared_kv_layers", layers.saturating_sub(CACHING), 0, layers - 1)?;
    let laurel = gguf.require_tensor("blk.0.laurel_l.weight")?.dims.get(1).copied().unwrap_or(0);
    let laurel = u32::try_from(laurel).ok().filter(|rank| (1..=1 << 16).contains(rank));
    let Some(laurel) = laurel else {
        let info = gguf.require_tensor("blk.0.laurel_l.weight")?;
        return Err(gguf.refuse_tensor(info, format_args!("{:?}", info.dims), "1 to 65536 rows").into());
    };
    let name = key("activation_sparsity_scale");
    let sparsity: Vec<f32> = match meta.f32s_any(&name)? {
        Some(stated) if stated.len() < layers as usize => {
            let found = format!("{} entries", stated.len());
            return Err(meta.refuse(&name, found, format_args!("{layers} or more")).into());
        }
        // A share of nothing is minus infinity deviations.
        Some(stated) => stated.iter().map(|&d| if d > 0.0 && d.is_finite() { d } else { 0.0 }).collect(),
        None => (0..layers).map(|layer| if layer < SPARSE { DEVIATIONS } else { 0.0 }).collect(),
    };
    Ok(Some(StreamConfig { count, active, own, laurel, caching: layers - shared, sparsity }))
}

impl Config {
    /// The layer whose keys and values a layer reads: its own, but for the last layers of models that share them.
    pub fn cached_in(&self, layer: u32) -> u32 {
        let first = self.streams.as_ref().map_or(u32::MAX, |streams| streams.caching);
        let alike = |earlier: &u32| self.has_window(*earlier) == self.has_window(layer);
        if layer < first { layer } else { (0..first).rev().find(alike).unwrap_or(layer) }
    }
}

/// The tensors that all layers share.
pub(super) fn expected(config: &Config, streams: &StreamConfig, all: &mut Vec<Expected>) {
    let width = u64::from(config.width);
    let own = u64::from(streams.own);
    let others = u64::from(streams.count - 1);
    let inputs = own * u64::from(config.layers);
    for (name, k, n, count) in [
        ("altup_proj", width, width, others),
        ("altup_unembd_proj", width, width, others),
        ("per_layer_token_embd", inputs, config.vocab.into(), 1),
        ("per_layer_model_proj", width, inputs, 1),
        ("per_layer_proj_norm", own, 1, 1),
    ] {
        all.push(Expected { name: format!("{name}.weight"), k, n, count, presence: Presence::Required });
    }
}

/// The tensors of one layer.
pub(super) fn layer(config: &Config, s: &StreamConfig, add: &mut dyn FnMut(&str, u32, u32, Presence)) {
    let width = config.width;
    for (name, k, n) in [
        ("altup_router_norm", width, 1),
        ("altup_router", width, s.count),
        ("altup_predict_coef", s.count, s.count * s.count),
        ("altup_correct_coef", s.count, s.count),
        ("altup_correct_scale", width, 1),
        ("laurel_l", width, s.laurel),
        ("laurel_r", s.laurel, width),
        ("laurel_post_norm", width, 1),
        ("inp_gate", width, s.own),
        ("proj", s.own, width),
        ("post_norm", width, 1),
    ] {
        add(&format!("{name}.weight"), k, n, Presence::Required);
    }
}

impl Finder<'_> {
    /// Weights that all layers share.
    pub(super) fn streams(&self, streams: &StreamConfig) -> Result<StreamWeights> {
        let stack = |name: &str| -> Result<Vec<Projection>> {
            let all = self.required(&format!("{name}.weight"))?;
            let one = all.row_bytes() * u64::from(all.k);
            let part = |index: u32| {
                let name = format!("{} {index}", all.name);
                let weight = Tensor {
                    name,
                    n: all.k,
                    view: all.view.part(u64::from(index) * one, one),
                    ..all.clone()
                };
                Projection { weight, bias: None }
            };
            Ok((0..streams.count - 1).map(part).collect())
        };
        Ok(StreamWeights {
            count: streams.count,
            active: streams.active,
            embedding: self.required("per_layer_token_embd.weight")?,
            projection: self.projection("per_layer_model_proj")?,
            norm: self.norm("per_layer_proj_norm")?,
            out: stack("altup_proj")?,
            back: stack("altup_unembd_proj")?,
        })
    }

    /// Weights of one layer.
    pub(super) fn stream_layer(&self) -> Result<StreamLayer> {
        Ok(StreamLayer {
            router_norm: self.norm("altup_router_norm")?,
            router: self.projection("altup_router")?,
            predict: self.required("altup_predict_coef.weight")?,
            correct: self.required("altup_correct_coef.weight")?,
            factor: self.plain("altup_correct_scale.weight")?,
            laurel: (
                self.projection("laurel_l")?,
                self.projection("laurel_r")?,
                self.norm("laurel_post_norm")?,
            ),
            gate: self.projection("inp_gate")?,
            output: self.projection("proj")?,
            output_norm: self.norm("post_norm")?,
        })
    }
}

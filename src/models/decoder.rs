//! The llama-like decoder: which tensors it needs, and the recording of one step through it.

use vkllm_runtime::View;

use super::Config;
use crate::blocks::{self, Attention, AttentionInputs, FeedForward};
use crate::cache::KvPool;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::ops::{self, AttentionShape, LinearArgs, Path, Recorder};
use crate::tensor::Tensor;
use crate::weights::Weights;

/// The weights of a model in the shape its layers use them.
#[derive(Debug)]
pub struct Parts {
    pub embedding: Tensor,
    pub layers: Vec<(Attention, FeedForward)>,
    pub output_norm: Tensor,
    /// The embedding again where the file has no output matrix.
    pub output: Tensor,
}

/// Optional tensors may be absent; a required one that is absent is an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

/// Every tensor the decoder may use: name, elements per row, rows, presence.
fn expected(config: &Config) -> Vec<(String, u64, u64, Presence)> {
    use Presence::{Optional, Required};
    let width = u64::from(config.width);
    let ffn = u64::from(config.ffn);
    let q = u64::from(config.heads) * u64::from(config.head);
    let k = u64::from(config.kv_heads) * u64::from(config.head);
    let v = u64::from(config.kv_heads) * u64::from(config.head_v);
    let attended = u64::from(config.heads) * u64::from(config.head_v);
    let mut all = vec![
        ("token_embd.weight".to_owned(), width, u64::from(config.vocab), Required),
        ("output_norm.weight".to_owned(), width, 1, Required),
        ("output.weight".to_owned(), width, u64::from(config.vocab), Optional),
        ("rope_freqs.weight".to_owned(), u64::from(config.rot / 2), 1, Optional),
    ];
    let norm = if config.architecture.head_norm { Required } else { Optional };
    for layer in 0..config.layers {
        let mut add = |name: &str, k, n, presence| all.push((format!("blk.{layer}.{name}"), k, n, presence));
        add("attn_norm.weight", width, 1, Required);
        add("attn_q.weight", width, q, Required);
        add("attn_k.weight", width, k, Required);
        add("attn_v.weight", width, v, Required);
        add("attn_q.bias", q, 1, Optional);
        add("attn_k.bias", k, 1, Optional);
        add("attn_v.bias", v, 1, Optional);
        if norm == Required {
            add("attn_q_norm.weight", u64::from(config.head), 1, norm);
            add("attn_k_norm.weight", u64::from(config.head), 1, norm);
        }
        add("attn_output.weight", attended, width, Required);
        add("attn_output.bias", width, 1, Optional);
        add("ffn_norm.weight", width, 1, Required);
        add("ffn_gate.weight", width, ffn, Required);
        add("ffn_up.weight", width, ffn, Required);
        add("ffn_down.weight", ffn, width, Required);
    }
    all
}

/// The tensors to load, each checked against the shape the hyper-parameters imply. A tensor the decoder does not
/// know is warned of and left in the file.
///
/// Errors: a missing tensor, a wrong shape, a vector that is not f32; all before any memory is taken.
pub fn required_tensors<'a>(gguf: &'a Gguf, config: &Config) -> Result<Vec<&'a TensorInfo>> {
    const F32: u32 = 0;
    let refuse = |reason: String| Error::Model { path: gguf.path().to_owned(), reason };
    let mut wanted = Vec::new();
    for (name, k, n, presence) in expected(config) {
        let Some(info) = gguf.tensor(&name) else {
            if presence == Presence::Required {
                return Err(refuse(format!("the tensor {name} is missing")));
            }
            continue;
        };
        let rows: u64 = info.dims[1..].iter().product();
        if info.dims[0] != k || rows != n || info.dims.len() > 2 {
            return Err(refuse(format!(
                "tensor {name} has the shape {:?}; allowed is [{k}, {n}]",
                info.dims
            )));
        }
        if n == 1 && info.ggml_type != F32 {
            let found = crate::gguf::type_name(info.ggml_type);
            return Err(refuse(format!("tensor {name} has type {found}; allowed is F32")));
        }
        wanted.push(info);
    }
    let known: std::collections::HashSet<&str> = wanted.iter().map(|info| info.name.as_str()).collect();
    for stranger in gguf.tensors().iter().filter(|info| !known.contains(info.name.as_str())) {
        let name: String = stranger.name.chars().flat_map(char::escape_default).collect();
        tracing::warn!(tensor = name, "this version does not use the tensor; the output may be wrong");
    }
    wanted.sort_by_key(|info| info.offset);
    Ok(wanted)
}

impl Parts {
    /// Finds the weights of each layer.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let optional = |name: &str| weights.get(name).cloned();
        let required = |name: &str| {
            optional(name).ok_or_else(|| Error::NoKernel {
                op: name.to_owned(),
                reasons: "the tensor was not loaded".to_owned(),
            })
        };
        let layers = (0..config.layers)
            .map(|layer| {
                let find = |name: &str| required(&format!("blk.{layer}.{name}"));
                let maybe = |name: &str| optional(&format!("blk.{layer}.{name}"));
                let attention = Attention {
                    norm: find("attn_norm.weight")?,
                    q: find("attn_q.weight")?,
                    k: find("attn_k.weight")?,
                    v: find("attn_v.weight")?,
                    q_bias: maybe("attn_q.bias"),
                    k_bias: maybe("attn_k.bias"),
                    v_bias: maybe("attn_v.bias"),
                    head_norms: maybe("attn_q_norm.weight").zip(maybe("attn_k_norm.weight")),
                    output: find("attn_output.weight")?,
                    output_bias: maybe("attn_output.bias"),
                };
                let ffn = FeedForward {
                    norm: find("ffn_norm.weight")?,
                    gate: find("ffn_gate.weight")?,
                    up: find("ffn_up.weight")?,
                    down: find("ffn_down.weight")?,
                };
                Ok((attention, ffn))
            })
            .collect::<Result<Vec<_>>>()?;
        let embedding = required("token_embd.weight")?;
        let output = optional("output.weight").unwrap_or_else(|| embedding.clone());
        Ok(Parts { embedding, layers, output_norm: required("output_norm.weight")?, output })
    }

    /// Bytes of the matrices that one decoded token reads (the embedding counts only as output matrix).
    pub fn bytes_per_token(&self) -> u64 {
        let layers: u64 = self
            .layers
            .iter()
            .flat_map(|(a, f)| [&a.q, &a.k, &a.v, &a.output, &f.gate, &f.up, &f.down])
            .map(|tensor| tensor.view.len)
            .sum();
        layers + self.output.view.len
    }
}

/// What a step reads besides weights.
pub struct StepViews<'a> {
    pub rows: &'a View,
    pub block_table: &'a View,
    /// (cos, sin) per position.
    pub rope: &'a View,
    pub query_scale: Option<&'a View>,
    /// Indices of the rows whose logits are wanted.
    pub outputs: &'a View,
}

/// Which rows get logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outputs {
    /// None: the step only fills the cache.
    None,
    /// All rows, in order.
    All,
    /// The last row.
    Last,
    /// That many rows, chosen by the step's list.
    Chosen(u32),
}

/// Records a step; returns the logits [outputs, vocab], when any are wanted.
pub fn record(
    r: &mut Recorder<'_>,
    config: &Config,
    parts: &Parts,
    kv: &KvPool,
    context: u32,
    step: &StepViews<'_>,
    outputs: Outputs,
) -> Result<Option<View>> {
    let shape = AttentionShape { heads: config.heads, layout: *kv.layout(), rot: config.rot, context };
    let tiles = ops::attention_tiles(r, &shape, step.rows)?;
    let x = ops::embed(r, &parts.embedding, step.rows)?;
    for (index, (attention, ffn)) in parts.layers.iter().enumerate() {
        let layer = index as u32;
        r.scope(format!("blk.{layer}"));
        let (keys, values) = kv.layer(layer);
        let inputs = AttentionInputs {
            shape: &shape,
            eps: config.norm_eps,
            rope: config.has_rope(layer).then(|| (step.rope, config.architecture.pairing.code())),
            query_scale: step.query_scale,
            scale: 1.0 / (config.head as f32).sqrt(),
            rows: step.rows,
            block_table: step.block_table,
            tiles: &tiles,
            cache: (&keys, &values),
        };
        blocks::attention(r, &x, attention, &inputs)?;
        blocks::feed_forward(r, &x, ffn, config.norm_eps)?;
    }
    r.scope("");
    let (x, count) = match outputs {
        Outputs::None => return Ok(None),
        Outputs::All => (x, r.rows),
        Outputs::Last => {
            let bytes = u64::from(config.width) * 4;
            (x.part(u64::from(r.rows - 1) * bytes, bytes), 1)
        }
        Outputs::Chosen(count) => (ops::gather(r, &x, config.width, step.outputs, count)?, count),
    };
    let forms = blocks::forms_of(r, &parts.output);
    let h = ops::rms_norm(r, "output_norm", &x, count, &parts.output_norm, config.norm_eps, forms)?;
    // Few rows of many are the last of a prompt: their logits come from the same kernels as a decoded row's.
    let path = if outputs == Outputs::All { r.path } else { Path::Rows };
    let args = LinearArgs { path: Some(path), ..LinearArgs::default() };
    ops::linear(r, "output", &h, count, &parts.output, args).map(Some)
}

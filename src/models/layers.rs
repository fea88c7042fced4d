//! The tensors of a decoder: which it needs, their shapes, and the weights of each layer.

use super::{Config, ExpertConfig, HeadNorm, LatentConfig, RecurrentConfig, RecurrentKind, streams};
use crate::blocks::{
    Attention, DeltaNet, Dense, Experts, FeedForward, Gate, Latent, Mamba, Projection, Rates, Recurrent,
    ShortConv, Source, StreamLayer, StreamWeights,
};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::ops::{Norm, Stack};
use crate::tensor::Tensor;

/// The weights of one layer. Blocks that mix positions read the same rows.
#[derive(Debug)]
pub struct Layer {
    /// What attention and recurrence read; the residual stream itself where there is none.
    pub attn_norm: Option<Norm>,
    pub attention: Option<Attention>,
    pub recurrent: Option<Recurrent>,
    /// Norm of what attention adds.
    pub attn_post_norm: Option<Norm>,
    /// What the feed-forward block reads.
    pub ffn_norm: Option<Norm>,
    pub ffn: Option<FeedForward>,
    pub ffn_post_norm: Option<Norm>,
    /// What a layer of several residual streams has besides.
    pub streams: Option<Box<StreamLayer>>,
}

/// What a layer that predicts further tokens reads: a token's embedding beside the hidden row before it, both normalised.
#[derive(Debug)]
pub struct Entry {
    pub token_norm: Norm,
    pub hidden_norm: Norm,
    /// From both side by side to the width of the layer.
    pub projection: Tensor,
}

/// The weights of a model in the shape its layers use them.
#[derive(Debug)]
pub struct Parts {
    /// In place of the embedding alone, for a predictor.
    pub entry: Option<Entry>,
    pub embedding: Tensor,
    pub layers: Vec<Layer>,
    pub output_norm: Norm,
    /// The embedding again where the file has no output matrix.
    pub output: Tensor,
    pub output_bias: Option<Tensor>,
    pub streams: Option<StreamWeights>,
}

/// Optional tensors may be absent; a required one that is absent is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Required,
    Optional,
}

/// A tensor that the decoder may use.
#[derive(Clone, Debug)]
pub struct Expected {
    pub name: String,
    /// Elements per row, rows, matrices.
    pub k: u64,
    pub n: u64,
    pub count: u64,
    pub presence: Presence,
}

impl Expected {
    pub fn is_required(&self) -> bool {
        self.presence == Presence::Required
    }
}

/// Every tensor the decoder may use.
pub fn expected(config: &Config) -> Vec<Expected> {
    use Presence::{Optional, Required};
    let mut all = Vec::new();
    let mut stack = |name: String, k: u32, n: u32, count: u32, presence| {
        all.push(Expected { name, k: k.into(), n: n.into(), count: count.into(), presence });
    };
    let mut add = |name: String, k: u32, n: u32, presence| stack(name, k, n, 1, presence);
    let a = config.architecture;
    let (width, vocab) = (config.width, config.vocab);
    add("token_embd.weight".into(), width, vocab, Required);
    add(format!("{}.weight", a.output_norm), width, 1, Required);
    add(format!("{}.bias", a.output_norm), width, 1, Optional);
    add("output.weight".into(), width, vocab, Optional);
    add("output.bias".into(), vocab, 1, Optional);
    for name in ["rope_freqs", "rope_factors_long", "rope_factors_short"] {
        add(format!("{name}.weight"), config.rot / 2, 1, Optional);
    }
    for layer in 0..config.layers {
        layer_tensors(config, layer, &mut |name, k, n, count, presence| {
            stack(format!("blk.{layer}.{name}"), k, n, count, presence);
        });
    }
    if let Some(predictor) = config.predictor() {
        let mut stack = |name: &str, k, n, count, presence| {
            stack(format!("blk.{}.{name}", config.layers), k, n, count, presence);
        };
        layer_tensors(&predictor, 0, &mut stack);
        let mut add = |name: &str, k, n, presence| stack(&format!("nextn.{name}.weight"), k, n, 1, presence);
        add("eh_proj", 2 * width, width, Required);
        add("enorm", width, 1, Required);
        add("hnorm", width, 1, Required);
        add("shared_head_norm", width, 1, Optional);
        add("shared_head_head", width, vocab, Optional);
        add("embed_tokens", width, vocab, Optional);
    }
    if let Some(sizes) = &config.streams {
        streams::expected(config, sizes, &mut all);
    }
    all
}

/// The tensors of one layer, without its number.
fn layer_tensors(config: &Config, layer: u32, stack: &mut AddStack<'_>) {
    use Presence::{Optional, Required};
    let (a, width, kind) = (config.architecture, config.width, config.kind(layer));
    match config.experts_of(layer).filter(|_| kind.ffn) {
        Some(experts) => mixture(config, experts, stack),
        None if kind.ffn => feed_forward(config, &mut |name, k, n, presence| stack(name, k, n, 1, presence)),
        None => {}
    }
    if let Some(sizes) = config.latent {
        latent(config, sizes, stack);
    }
    let mut add = |name: &str, k, n, presence| stack(name, k, n, 1, presence);
    if a.pre_norm && (kind.attention || kind.recurrent) {
        add("attn_norm.weight", width, 1, Required);
        add("attn_norm.bias", width, 1, Optional);
    }
    if kind.attention && config.latent.is_none() {
        attention(config, config.cached_in(layer) == layer, &mut add);
    }
    if let Some(sizes) = &config.streams {
        streams::layer(config, sizes, &mut add);
    }
    if let Some(sizes) = config.recurrent.filter(|_| kind.recurrent) {
        recurrent(config, &sizes, &mut add);
    }
    if a.post_norm {
        add("post_attention_norm.weight", width, 1, Required);
        add("post_ffw_norm.weight", width, 1, Required);
    }
    if a.pre_norm && !a.parallel && kind.ffn {
        let end = if a.bare_ffn_norm { "" } else { ".weight" };
        add(&format!("{}{end}", a.ffn_norm), width, 1, Required);
        add(&format!("{}.bias", a.ffn_norm), width, 1, Optional);
    }
}

type Add<'a> = dyn FnMut(&str, u32, u32, Presence) + 'a;

/// A layer that does not cache reads keys and values of another one, and has queries alone.
fn attention(config: &Config, caches: bool, add: &mut Add<'_>) {
    use Presence::{Optional, Required};
    let (q, k, v) = config.projected();
    let projections: &[(&str, u32)] = match (config.fused_qkv, caches) {
        (true, _) => &[("qkv", q + k + v)],
        (false, true) => &[("q", q), ("k", k), ("v", v)],
        (false, false) => &[("q", q)],
    };
    for (name, n) in projections {
        let gates = if config.architecture.gated_attention && *name == "q" { q } else { 0 };
        add(&format!("attn_{name}.weight"), config.width, n + gates, Required);
        add(&format!("attn_{name}.bias"), n + gates, 1, Optional);
    }
    match config.head_norm {
        HeadNorm::None => {}
        HeadNorm::Before | HeadNorm::After => {
            add("attn_q_norm.weight", config.head, 1, Required);
            if caches {
                add("attn_k_norm.weight", config.head, 1, Required);
            }
        }
        HeadNorm::Whole => {
            add("attn_q_norm.weight", q, 1, Required);
            add("attn_k_norm.weight", k, 1, Required);
        }
    }
    add("attn_sinks.weight", config.heads, 1, Optional);
    add("attn_output.weight", config.heads * config.head_v, config.width, Required);
    add("attn_output.bias", config.width, 1, Optional);
}

type AddStack<'a> = dyn FnMut(&str, u32, u32, u32, Presence) + 'a;

fn latent(config: &Config, sizes: LatentConfig, add: &mut AddStack<'_>) {
    use Presence::Required;
    let (width, heads, rank, rot) = (config.width, config.heads, config.head_v, config.rot);
    let LatentConfig { q_rank, key, value } = sizes;
    if q_rank > 0 {
        add("attn_q_a.weight", width, q_rank, 1, Required);
        add("attn_q_a_norm.weight", q_rank, 1, 1, Required);
        add("attn_q_b.weight", q_rank, heads * key, 1, Required);
    } else {
        add("attn_q.weight", width, heads * key, 1, Required);
    }
    add("attn_kv_a_mqa.weight", width, rank + rot, 1, Required);
    add("attn_kv_a_norm.weight", rank, 1, 1, Required);
    add("attn_k_b.weight", key - rot, rank, heads, Required);
    add("attn_v_b.weight", rank, value, heads, Required);
    add("attn_output.weight", heads * value, width, 1, Required);
}

fn recurrent(config: &Config, sizes: &RecurrentConfig, add: &mut Add<'_>) {
    use Presence::{Optional, Required};
    let (width, channels, inner, heads) =
        (config.width, sizes.channels(config.width), sizes.inner(), sizes.heads);
    match sizes.kind {
        RecurrentKind::ShortConv => {
            add("shortconv.in_proj.weight", width, 3 * width, Required);
            add("shortconv.conv.weight", sizes.taps, width, Required);
            add("shortconv.out_proj.weight", width, width, Required);
            return;
        }
        RecurrentKind::GatedDelta => {
            add("attn_qkv.weight", width, channels, Required);
            add("attn_gate.weight", width, inner, Required);
            let rates: &[(&str, u32)] =
                if sizes.joint_rates { &[("ba", 2 * heads)] } else { &[("beta", heads), ("alpha", heads)] };
            for (name, n) in rates {
                add(&format!("ssm_{name}.weight"), width, *n, Required);
            }
            add("ssm_norm.weight", sizes.columns, 1, Required);
            add("ssm_a", heads, 1, Required);
        }
        RecurrentKind::Mamba2 => {
            add("ssm_in.weight", width, inner + channels + heads, Required);
            add("ssm_conv1d.bias", channels, 1, Optional);
            add("ssm_a", 1, heads, Required);
            add("ssm_d", 1, heads, Required);
            if sizes.normed {
                add("ssm_norm.weight", inner / sizes.key_heads, sizes.key_heads, Required);
            }
        }
    }
    add("ssm_conv1d.weight", sizes.taps, channels, Required);
    add("ssm_dt.bias", heads, 1, Required);
    add("ssm_out.weight", inner, width, Required);
}

fn mixture(config: &Config, experts: &ExpertConfig, add: &mut AddStack<'_>) {
    use Presence::{Optional, Required};
    let (width, ffn, count) = (config.width, experts.ffn, experts.router.experts);
    add("ffn_gate_inp.weight", width, count, 1, Required);
    add("ffn_gate_inp.bias", count, 1, 1, Optional);
    add("exp_probs_b.bias", count, 1, 1, Optional);
    for (name, k, n) in [("gate", width, ffn), ("up", width, ffn), ("down", ffn, width)] {
        add(&format!("ffn_{name}_exps.weight"), k, n, count, Required);
        add(&format!("ffn_{name}_exps.bias"), n, count, 1, Optional);
    }
    if experts.shared_ffn > 0 {
        let ffn = experts.shared_ffn;
        for (name, k, n) in [("gate", width, ffn), ("up", width, ffn), ("down", ffn, width)] {
            add(&format!("ffn_{name}_shexp.weight"), k, n, 1, Required);
        }
        add("ffn_gate_inp_shexp.weight", width, 1, 1, Optional);
    }
}

fn feed_forward(config: &Config, add: &mut Add<'_>) {
    use Presence::{Optional, Required};
    let (width, ffn) = (config.width, config.ffn);
    if config.architecture.gated && !config.fused_gate {
        add("ffn_gate.weight", width, ffn, Required);
        add("ffn_gate.bias", ffn, 1, Optional);
    }
    let up = if config.fused_gate { 2 * ffn } else { ffn };
    add("ffn_up.weight", width, up, Required);
    add("ffn_up.bias", up, 1, Optional);
    add("ffn_down.weight", ffn, width, Required);
    add("ffn_down.bias", width, 1, Optional);
}

/// The tensors to load in the order in which they are placed, each checked against the shape the hyper-parameters imply. A tensor the decoder does not
/// know is warned of and left in the file.
///
/// Errors: a missing tensor, a wrong shape, a vector that is not f32; all before any memory is taken.
pub fn required_tensors<'a>(gguf: &'a Gguf, config: &Config) -> Result<Vec<&'a TensorInfo>> {
    const F32: u32 = 0;
    let mut wanted = Vec::new();
    for Expected { name, k, n, count, presence } in expected(config) {
        let info = match presence {
            Presence::Required => gguf.require_tensor(&name)?,
            Presence::Optional => match gguf.tensor(&name) {
                Some(info) => info,
                None => continue,
            },
        };
        let dims: Vec<u64> = [k, n, count].into_iter().take(if count > 1 { 3 } else { 2 }).collect();
        // Trailing dimensions of one may be left out or not.
        let size = |dims: &[u64], i: usize| dims.get(i).copied().unwrap_or(1);
        if (0..info.dims.len().max(3)).any(|i| size(&info.dims, i) != size(&dims, i)) {
            let found = format!("the shape {:?}", info.dims);
            return Err(gguf.refuse_tensor(info, found, format_args!("{dims:?}")).into());
        }
        if (n == 1 || name.ends_with(".bias")) && info.ggml_type != F32 {
            let found = crate::gguf::type_name(info.ggml_type);
            return Err(gguf.refuse_tensor(info, format_args!("the type {found}"), "F32").into());
        }
        wanted.push(info);
    }
    for stranger in strangers(gguf, config) {
        let name = crate::gguf::escaped(stranger.name.as_bytes());
        tracing::warn!(tensor = name, "this version does not use the tensor; the output may be wrong");
    }
    sort(&mut wanted);
    Ok(wanted)
}

/// The tensors of a file that the decoder does not know, but for those of blocks that predict further tokens, and keys and
/// values of layers that read another one's.
pub fn strangers<'a>(gguf: &'a Gguf, config: &Config) -> Vec<&'a TensorInfo> {
    let known: std::collections::HashSet<String> = expected(config).into_iter().map(|e| e.name).collect();
    let left_out = |name: &str| {
        let mut words = name.strip_prefix("blk.").unwrap_or_default().split('.');
        let block = words.next().and_then(|number| number.parse::<u32>().ok());
        let keys = matches!(words.next(), Some("attn_k" | "attn_v" | "attn_k_norm"));
        block.is_some_and(|block| block >= config.layers || keys && config.cached_in(block) != block)
    };
    let unknown = |info: &&TensorInfo| !known.contains(info.name.as_str()) && !left_out(&info.name);
    gguf.tensors().iter().filter(unknown).collect()
}

/// Matrices that multiply the same rows: where they adjoin in memory, one dispatch multiplies them.
const TOGETHER: [&[&str]; 3] =
    [&["attn_q", "attn_k", "attn_v"], &["ffn_gate", "ffn_up"], &["ffn_gate_shexp", "ffn_up_shexp"]];

/// The order in which tensors are placed: that of the file, but for those that belong behind another.
fn sort(wanted: &mut [&TensorInfo]) {
    let places: std::collections::HashMap<&str, u64> =
        wanted.iter().map(|info| (info.name.as_str(), info.offset)).collect();
    wanted.sort_by_cached_key(|info| {
        let mut words = info.name.rsplitn(3, '.');
        let (end, stem, scope) = (words.next(), words.next(), words.next());
        let group = TOGETHER.iter().find_map(|group| {
            let rank = group.iter().position(|name| Some(*name) == stem)?;
            let first = format!("{}.{}.{}", scope?, group[0], end?);
            Some((*places.get(first.as_str())?, rank))
        });
        group.unwrap_or((info.offset, 0))
    });
}

/// Finds tensors of one layer, or of none, by name.
pub(super) struct Finder<'a> {
    config: &'a Config,
    prefix: String,
    get: &'a dyn Fn(&str) -> Option<Tensor>,
}

impl Finder<'_> {
    fn optional(&self, name: &str) -> Option<Tensor> {
        (self.get)(&format!("{}{name}", self.prefix))
    }

    pub(super) fn required(&self, name: &str) -> Result<Tensor> {
        self.optional(name).ok_or_else(|| Error::NoKernel {
            op: format!("{}{name}", self.prefix),
            reasons: "the tensor was not loaded".to_owned(),
        })
    }

    /// A tensor that kernels read as floats.
    pub(super) fn plain(&self, name: &str) -> Result<Tensor> {
        let tensor = self.required(name)?;
        if tensor.format.name == "f32" {
            return Ok(tensor);
        }
        let reasons = format!("it has type {}; allowed is F32", tensor.format.label);
        Err(Error::NoKernel { op: tensor.name, reasons })
    }

    pub(super) fn norm(&self, name: &str) -> Result<Norm> {
        let weight = format!("{name}.weight");
        let bare = self.config.architecture.bare_ffn_norm && name == self.config.architecture.ffn_norm;
        Ok(Norm {
            weight: self.plain(if bare { name } else { &weight })?,
            bias: self.optional(&format!("{name}.bias")),
            centred: self.config.architecture.layer_norm,
            eps: self.config.norm_eps,
        })
    }

    pub(super) fn projection(&self, name: &str) -> Result<Projection> {
        let weight = self.required(&format!("{name}.weight"))?;
        Ok(Projection { weight, bias: self.optional(&format!("{name}.bias")) })
    }

    fn latent(&self, sizes: LatentConfig) -> Result<Attention> {
        let (narrow, q) = if sizes.q_rank > 0 {
            let narrow = (self.projection("attn_q_a")?, self.norm("attn_q_a_norm")?);
            (Some(narrow), self.projection("attn_q_b")?)
        } else {
            (None, self.projection("attn_q")?)
        };
        let latent = Latent {
            narrow,
            q,
            kv: self.projection("attn_kv_a_mqa")?,
            kv_norm: self.norm("attn_kv_a_norm")?,
            k_b: self.stack("attn_k_b")?,
            v_b: self.stack("attn_v_b")?,
        };
        Ok(Attention {
            source: Source::Latent(Box::new(latent)),
            head_norms: None,
            whole_norms: None,
            sinks: None,
            gated: false,
            value_norm: false,
            output: self.projection("attn_output")?,
        })
    }

    fn attention(&self, caches: bool) -> Result<Attention> {
        if let Some(sizes) = self.config.latent {
            return self.latent(sizes);
        }
        let names: &[&str] =
            if self.config.fused_qkv { &["attn_qkv"] } else { &["attn_q", "attn_k", "attn_v"] };
        let names = if caches { names } else { &names[..1] };
        let norms = |wanted: bool| -> Result<Option<(Tensor, Tensor)>> {
            if !wanted {
                return Ok(None);
            }
            let queries = self.required("attn_q_norm.weight")?;
            let keys = if caches { self.required("attn_k_norm.weight")? } else { queries.clone() };
            Ok(Some((queries, keys)))
        };
        let projections = names.iter().map(|name| self.projection(name)).collect::<Result<Vec<_>>>()?;
        // Queries with gates between them are taken apart from whole rows.
        let gated = self.config.architecture.gated_attention;
        Ok(Attention {
            source: Source::Heads(if gated { projections } else { Projection::joined(projections) }),
            head_norms: norms(self.config.norms_heads())?,
            whole_norms: norms(self.config.head_norm == HeadNorm::Whole)?,
            sinks: self.optional("attn_sinks.weight"),
            gated,
            value_norm: self.config.architecture.streams,
            output: self.projection("attn_output")?,
        })
    }

    fn recurrent(&self, sizes: &RecurrentConfig) -> Result<Recurrent> {
        let projection = |name: &str| self.projection(name);
        if sizes.kind == RecurrentKind::ShortConv {
            return Ok(Recurrent::Conv(Box::new(ShortConv {
                input: projection("shortconv.in_proj")?,
                conv: self.plain("shortconv.conv.weight")?,
                output: projection("shortconv.out_proj")?,
            })));
        }
        let (conv, decay) = (self.plain("ssm_conv1d.weight")?, self.plain("ssm_a")?);
        let (shift, output) = (self.plain("ssm_dt.bias")?, projection("ssm_out")?);
        if sizes.kind == RecurrentKind::Mamba2 {
            return Ok(Recurrent::Mamba(Box::new(Mamba {
                input: projection("ssm_in")?,
                conv,
                conv_bias: self.optional("ssm_conv1d.bias"),
                decay,
                shift,
                skip: self.plain("ssm_d")?,
                norm: sizes.normed.then(|| self.norm("ssm_norm")).transpose()?,
                output,
            })));
        }
        let rates = if sizes.joint_rates {
            Rates::Joint(projection("ssm_ba")?)
        } else {
            let (alpha, beta) = (projection("ssm_alpha")?, projection("ssm_beta")?);
            let pair = alpha.with(&beta).map(|both| (both, true));
            match pair.or_else(|| beta.with(&alpha).map(|both| (both, false))) {
                Some((both, alpha_first)) => Rates::Pair { both, alpha_first },
                None => Rates::Apart { alpha, beta },
            }
        };
        // Where one matrix has the rates of a key head together, its value heads are neighbours.
        let share = if sizes.joint_rates { sizes.heads / sizes.key_heads } else { 0 };
        Ok(Recurrent::Delta(Box::new(DeltaNet {
            qkv: projection("attn_qkv")?,
            gate: projection("attn_gate")?,
            rates,
            conv,
            decay,
            shift,
            norm: self.norm("ssm_norm")?,
            output,
            share,
        })))
    }

    fn stack(&self, name: &str) -> Result<Stack> {
        let weight = self.required(&format!("{name}.weight"))?;
        Ok(Stack { weight, bias: self.optional(&format!("{name}.bias")) })
    }

    fn experts(&self, config: &ExpertConfig) -> Result<Experts> {
        let activation = self.config.architecture.activation;
        let shared = || -> Result<(Dense, Option<Projection>)> {
            let [gate, up, down] = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
            let (gate, up) = (self.projection(gate)?, self.projection(up)?);
            let dense = Dense::gated(gate, up, self.projection(down)?, activation);
            let share =
                self.optional("ffn_gate_inp_shexp.weight").map(|weight| Projection { weight, bias: None });
            Ok((dense, share))
        };
        Ok(Experts {
            router: config.router,
            logits: self.projection("ffn_gate_inp")?,
            bias: self.optional("exp_probs_b.bias"),
            gate: self.stack("ffn_gate_exps")?,
            up: self.stack("ffn_up_exps")?,
            down: self.stack("ffn_down_exps")?,
            activation,
            shared: (config.shared_ffn > 0).then(shared).transpose()?,
        })
    }

    fn feed_forward(&self, layer: u32) -> Result<FeedForward> {
        if let Some(experts) = self.config.experts_of(layer) {
            return Ok(FeedForward::Experts(Box::new(self.experts(experts)?)));
        }
        let (up, down) = (self.projection("ffn_up")?, self.projection("ffn_down")?);
        let activation = self.config.architecture.activation;
        let sparsity = self.config.streams.as_ref().and_then(|streams| streams.sparsity.get(layer as usize));
        let sparsity = sparsity.copied().unwrap_or(0.0);
        Ok(FeedForward::Dense(Box::new(match (self.config.architecture.gated, self.config.fused_gate) {
            (false, _) => Dense { gate: Gate::None, up, down, activation, sparsity },
            (true, true) => Dense { gate: Gate::Fused, up, down, activation, sparsity },
            (true, false) => {
                Dense { sparsity, ..Dense::gated(self.projection("ffn_gate")?, up, down, activation) }
            }
        })))
    }

    fn layer(&self, layer: u32) -> Result<Layer> {
        let a = self.config.architecture;
        let kind = self.config.kind(layer);
        let norm = |wanted: bool, name: &str| wanted.then(|| self.norm(name)).transpose();
        let recurrent = self.config.recurrent.filter(|_| kind.recurrent);
        Ok(Layer {
            attn_norm: norm(a.pre_norm && (kind.attention || kind.recurrent), "attn_norm")?,
            attention: kind
                .attention
                .then(|| self.attention(self.config.cached_in(layer) == layer))
                .transpose()?,
            recurrent: recurrent.map(|sizes| self.recurrent(&sizes)).transpose()?,
            attn_post_norm: norm(a.post_norm, "post_attention_norm")?,
            ffn_norm: norm(a.pre_norm && !a.parallel && kind.ffn, a.ffn_norm)?,
            ffn: kind.ffn.then(|| self.feed_forward(layer)).transpose()?,
            ffn_post_norm: norm(a.post_norm, "post_ffw_norm")?,
            streams: a.streams.then(|| self.stream_layer().map(Box::new)).transpose()?,
        })
    }
}

impl Parts {
    /// Finds the weights of each layer by name.
    ///
    /// Errors: a tensor that was not loaded.
    pub fn new(config: &Config, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<Self> {
        let finder = |prefix: String| Finder { config, prefix, get };
        let layers = (0..config.layers).map(|layer| finder(format!("blk.{layer}.")).layer(layer));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let top = finder(String::new());
        let embedding = top.required("token_embd.weight")?;
        let output = top.optional("output.weight").unwrap_or_else(|| embedding.clone());
        let mut output_norm = top.norm(config.architecture.output_norm)?;
        let streams = config.streams.as_ref().map(|sizes| top.streams(sizes)).transpose()?;
        if let Some(streams) = &streams {
            // It reads the streams' mean, which comes to it as their sum.
            output_norm.eps *= (streams.count * streams.count) as f32;
        }
        let output_bias = top.optional("output.bias");
        Ok(Parts { entry: None, embedding, layers, output_norm, output, output_bias, streams })
    }

    /// The weights of a model's [`Config::predictor`], which share embedding, output norm and output matrix with the model
    /// where the file has none for it.
    ///
    /// Errors: a tensor that was not loaded.
    pub fn predictor(config: &Config, model: &Config, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<Self> {
        let own = Finder { config, prefix: format!("blk.{}.", model.layers), get };
        let shared = Finder { config, prefix: String::new(), get };
        let whole = shared.required("token_embd.weight")?;
        let norm = |name: &str| own.norm(&format!("nextn.{name}"));
        let head = own.optional("nextn.shared_head_head.weight");
        let has_norm = own.optional("nextn.shared_head_norm.weight").is_some();
        Ok(Parts {
            streams: None,
            entry: Some(Entry {
                token_norm: norm("enorm")?,
                hidden_norm: norm("hnorm")?,
                projection: own.required("nextn.eh_proj.weight")?,
            }),
            embedding: own.optional("nextn.embed_tokens.weight").unwrap_or_else(|| whole.clone()),
            layers: vec![own.layer(0)?],
            output_norm: match has_norm {
                true => norm("shared_head_norm")?,
                false => shared.norm(config.architecture.output_norm)?,
            },
            output_bias: head.is_none().then(|| shared.optional("output.bias")).flatten(),
            output: head.or_else(|| shared.optional("output.weight")).unwrap_or(whole),
        })
    }

    /// Bytes of the matrices that one decoded token reads (the embedding counts only as output matrix).
    pub fn bytes_per_token(&self) -> u64 {
        let bytes = |layer: &Layer| {
            layer.attention.as_ref().map_or(0, Attention::bytes)
                + layer.recurrent.as_ref().map_or(0, Recurrent::bytes)
                + layer.ffn.as_ref().map_or(0, FeedForward::bytes)
                + layer.streams.as_ref().map_or(0, |streams| streams.bytes())
        };
        let streams = self.streams.as_ref().map_or(0, StreamWeights::bytes);
        let entry = self.entry.as_ref().map_or(0, |entry| entry.projection.view.len);
        self.layers.iter().map(bytes).sum::<u64>() + entry + self.output.view.len + streams
    }
}

//! Hyper-parameters of real models as data, and the keys and tensors that files of their architectures hold.
//! Sources: the models' published configurations; keys and names as the GGUF converters write them.

use vkllm_shaders::formats::Format;

use super::gguf::Value;
use super::types::{Mix, Role};

/// One model.
pub(super) struct Model {
    pub(super) name: &'static str,
    arch: &'static str,
    pub(super) layers: u32,
    width: u32,
    heads: u32,
    kv_heads: u32,
    head: u32,
    /// Width of the dense feed-forward block; 0 where every block has experts and no such key is written.
    ffn: u32,
    vocab: u32,
    context: u32,
    rope_base: f32,
    eps: f32,
    /// The embedding is the output matrix.
    tied: bool,
    /// Per-head norms of queries and keys.
    qk_norm: bool,
    /// Biases of the query, key and value projections.
    qkv_bias: bool,
    /// Factor of the Llama 3 frequency scaling.
    rope_factor: Option<f32>,
    experts: Option<Experts>,
    hybrid: Option<Hybrid>,
}

/// Routed experts.
struct Experts {
    count: u32,
    used: u32,
    width: u32,
    /// Width of the shared expert, 0 without one.
    shared: u32,
}

/// Gated DeltaNet layers with a full attention layer every `interval` layers, and one multi-token-prediction block.
struct Hybrid {
    interval: u32,
    key_heads: u32,
    value_heads: u32,
    state: u32,
    conv: u32,
    rotated: u32,
    sections: [i32; 4],
}

const DENSE: Model = Model {
    name: "",
    arch: "",
    layers: 0,
    width: 0,
    heads: 0,
    kv_heads: 8,
    head: 128,
    ffn: 0,
    vocab: 151_936,
    context: 40_960,
    rope_base: 1e6,
    eps: 1e-6,
    tied: false,
    qk_norm: false,
    qkv_bias: false,
    rope_factor: None,
    experts: None,
    hybrid: None,
};

const QWEN3: Model = Model { arch: "qwen3", qk_norm: true, ..DENSE };

const LLAMA3: Model =
    Model { arch: "llama", vocab: 128_256, context: 131_072, rope_base: 5e5, eps: 1e-5, ..DENSE };

const QWEN35: Model = Model {
    head: 256,
    kv_heads: 2,
    vocab: 248_320,
    context: 262_144,
    rope_base: 1e7,
    qk_norm: true,
    ..DENSE
};

const DELTA: Hybrid = Hybrid {
    interval: 4,
    key_heads: 16,
    value_heads: 16,
    state: 128,
    conv: 4,
    rotated: 64,
    sections: [11, 11, 10, 0],
};

/// The models, by size within a family.
pub(super) const MODELS: &[Model] = &[
    Model { name: "qwen3-0.6b", layers: 28, width: 1024, heads: 16, ffn: 3072, tied: true, ..QWEN3 },
    Model { name: "qwen3-4b", layers: 36, width: 2560, heads: 32, ffn: 9728, tied: true, ..QWEN3 },
    Model { name: "qwen3-8b", layers: 36, width: 4096, heads: 32, ffn: 12288, ..QWEN3 },
    Model {
        name: "llama-3.2-1b",
        layers: 16,
        width: 2048,
        heads: 32,
        head: 64,
        ffn: 8192,
        tied: true,
        rope_factor: Some(32.0),
        ..LLAMA3
    },
    Model {
        name: "llama-3.1-8b",
        layers: 32,
        width: 4096,
        heads: 32,
        ffn: 14336,
        rope_factor: Some(8.0),
        ..LLAMA3
    },
    Model {
        name: "qwen2.5-7b",
        arch: "qwen2",
        layers: 28,
        width: 3584,
        heads: 28,
        kv_heads: 4,
        ffn: 18944,
        vocab: 152_064,
        context: 32_768,
        qkv_bias: true,
        ..DENSE
    },
    Model {
        name: "qwen3-30b-a3b",
        arch: "qwen3moe",
        layers: 48,
        width: 2048,
        heads: 32,
        kv_heads: 4,
        ffn: 6144,
        experts: Some(Experts { count: 128, used: 8, width: 768, shared: 0 }),
        ..QWEN3
    },
    Model {
        name: "gpt-oss-20b",
        arch: "gpt-oss",
        layers: 24,
        width: 2880,
        heads: 64,
        head: 64,
        ffn: 2880,
        vocab: 201_088,
        context: 131_072,
        rope_base: 150_000.0,
        eps: 1e-5,
        qkv_bias: true,
        experts: Some(Experts { count: 32, used: 4, width: 2880, shared: 0 }),
        ..DENSE
    },
    Model {
        name: "qwen3.5-0.8b",
        arch: "qwen35",
        layers: 24,
        width: 1024,
        heads: 8,
        ffn: 3584,
        tied: true,
        hybrid: Some(DELTA),
        ..QWEN35
    },
    Model {
        name: "qwen3.6-35b-a3b",
        arch: "qwen35moe",
        layers: 40,
        width: 2048,
        heads: 16,
        experts: Some(Experts { count: 256, used: 8, width: 512, shared: 512 }),
        hybrid: Some(Hybrid { value_heads: 32, ..DELTA }),
        ..QWEN35
    },
];

/// A model by its name.
pub(super) fn by_name(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// How the values of a tensor are made.
#[derive(Clone, Copy)]
pub(super) enum Fill {
    /// Random blocks of a format.
    Blocks(&'static Format),
    /// F32, evenly spread around a mean.
    Around { mean: f32, spread: f32 },
    /// F32, decay rates of recurrent layers.
    Decay,
    /// F32, frequency factors of Llama 3.
    RopeFactors { factor: f32, base: f32 },
}

/// One tensor, fastest dimension first.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dims: Vec<u64>,
    pub(super) fill: Fill,
}

impl Tensor {
    /// Bytes in the file, without padding.
    pub(super) fn bytes(&self) -> u64 {
        let elements: u64 = self.dims.iter().product();
        match self.fill {
            Fill::Blocks(format) => elements / format.block as u64 * format.bytes as u64,
            _ => elements * 4,
        }
    }

    /// Type number in GGUF.
    pub(super) fn ggml_type(&self) -> u32 {
        match self.fill {
            Fill::Blocks(format) => format.ggml_type,
            _ => 0,
        }
    }
}

/// A file to write.
pub(super) struct Plan {
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) tensors: Vec<Tensor>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// Keys and tensors of a model cut to `layers` layers.
pub(super) fn plan(model: &Model, mix: &Mix, layers: u32) -> Plan {
    let mut maker = Maker { model, mix, layers, tensors: Vec::new(), notes: Vec::new() };
    maker.all();
    Plan { metadata: metadata(model, mix, layers), tensors: maker.tensors, notes: maker.notes }
}

fn metadata(model: &Model, mix: &Mix, layers: u32) -> Vec<(String, Value)> {
    let mut keys = vec![
        ("general.architecture".to_owned(), Value::Text(model.arch.to_owned())),
        ("general.name".to_owned(), Value::Text(format!("synthetic {}", model.name))),
        ("general.file_type".to_owned(), Value::U32(mix.file_type)),
        ("general.quantization_version".to_owned(), Value::U32(2)),
        // Said explicitly, because some readers insist on the key; ids are the only text of such a file.
        ("tokenizer.ggml.model".to_owned(), Value::Text("none".to_owned())),
    ];
    let mut key = |name: &str, value: Value| keys.push((format!("{}.{name}", model.arch), value));
    key("vocab_size", Value::U32(model.vocab));
    key("block_count", Value::U32(layers + u32::from(model.hybrid.is_some())));
    key("context_length", Value::U32(model.context));
    key("embedding_length", Value::U32(model.width));
    if model.ffn > 0 {
        key("feed_forward_length", Value::U32(model.ffn));
    }
    key("attention.head_count", Value::U32(model.heads));
    key("attention.head_count_kv", Value::U32(model.kv_heads));
    key("rope.freq_base", Value::F32(model.rope_base));
    key("attention.layer_norm_rms_epsilon", Value::F32(model.eps));
    // qwen2 files leave the head size to width / heads.
    if model.arch != "qwen2" {
        key("attention.key_length", Value::U32(model.head));
        key("attention.value_length", Value::U32(model.head));
    }
    if model.arch == "llama" {
        key("rope.dimension_count", Value::U32(model.head));
    }
    if model.arch == "gpt-oss" {
        key("rope.scaling.type", Value::Text("yarn".to_owned()));
        key("rope.scaling.factor", Value::F32(32.0));
        key("rope.scaling.original_context_length", Value::U32(4096));
        key("rope.scaling.yarn_beta_fast", Value::F32(32.0));
        key("rope.scaling.yarn_beta_slow", Value::F32(1.0));
        key("attention.sliding_window", Value::U32(128));
    }
    if let Some(experts) = &model.experts {
        key("expert_count", Value::U32(experts.count));
        key("expert_used_count", Value::U32(experts.used));
        key("expert_feed_forward_length", Value::U32(experts.width));
        if experts.shared > 0 {
            key("expert_shared_feed_forward_length", Value::U32(experts.shared));
        }
    }
    if let Some(hybrid) = &model.hybrid {
        key("rope.dimension_count", Value::U32(hybrid.rotated));
        key("rope.dimension_sections", Value::Ints(hybrid.sections.to_vec()));
        key("ssm.conv_kernel", Value::U32(hybrid.conv));
        key("ssm.state_size", Value::U32(hybrid.state));
        key("ssm.group_count", Value::U32(hybrid.key_heads));
        key("ssm.time_step_rank", Value::U32(hybrid.value_heads));
        key("ssm.inner_size", Value::U32(hybrid.value_heads * hybrid.state));
        key("full_attention_interval", Value::U32(hybrid.interval));
        key("nextn_predict_layers", Value::U32(1));
    }
    keys
}

/// Factor that divides the rotation frequency of pair `index` of a head of `head` rotated elements (Llama 3: low
/// frequencies slowed by `factor`, high ones kept, those between blended; original context 8192, bounds 1 and 4).
pub(super) fn rope_factor(index: u64, head: u64, base: f32, factor: f32) -> f32 {
    let wavelength = 2.0 * std::f64::consts::PI * f64::from(base).powf(2.0 * index as f64 / head as f64);
    let turns = 8192.0 / wavelength;
    let blend = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
    (1.0 / ((1.0 - blend) / f64::from(factor) + blend)) as f32
}

/// Collects tensors in the order converters write them.
struct Maker<'a> {
    model: &'a Model,
    mix: &'a Mix,
    layers: u32,
    tensors: Vec<Tensor>,
    notes: Vec<String>,
}

const NORM: Fill = Fill::Around { mean: 1.0, spread: 0.1 };
const BIAS: Fill = Fill::Around { mean: 0.0, spread: 0.05 };

impl Maker<'_> {
    fn all(&mut self) {
        let m = self.model;
        self.matrix("token_embd.weight", &[m.width, m.vocab], Role::Embedding { tied: m.tied });
        self.small("output_norm.weight", &[m.width], NORM);
        if !m.tied {
            self.matrix("output.weight", &[m.width, m.vocab], Role::Output);
        }
        if let Some(factor) = m.rope_factor {
            let fill = Fill::RopeFactors { factor, base: m.rope_base };
            self.small("rope_freqs.weight", &[m.head / 2], fill);
        }
        for layer in 0..self.layers {
            self.layer(layer);
        }
        if m.hybrid.is_some() {
            let layer = self.layers;
            self.layer(layer);
            let prefix = format!("blk.{layer}.nextn");
            self.matrix(&format!("{prefix}.eh_proj.weight"), &[2 * m.width, m.width], Role::Other);
            for norm in ["enorm", "hnorm", "shared_head_norm"] {
                self.small(&format!("{prefix}.{norm}.weight"), &[m.width], NORM);
            }
        }
    }

    /// True for a layer with full attention; the prediction block behind the last layer is one.
    fn attends(&self, layer: u32) -> bool {
        let interval = self.model.hybrid.as_ref().map_or(1, |hybrid| hybrid.interval);
        layer == self.layers || (layer + 1).is_multiple_of(interval)
    }

    fn layer(&mut self, layer: u32) {
        let m = self.model;
        let at = |name: &str| format!("blk.{layer}.{name}");
        self.small(&at("attn_norm.weight"), &[m.width], NORM);
        if self.attends(layer) {
            self.attention(layer);
        } else if let Some(hybrid) = &m.hybrid {
            self.recurrent(layer, hybrid);
        }
        let second_norm =
            if m.hybrid.is_some() || m.arch == "gpt-oss" { "post_attention_norm" } else { "ffn_norm" };
        self.small(&at(&format!("{second_norm}.weight")), &[m.width], NORM);
        match &m.experts {
            Some(experts) => self.experts(layer, experts),
            None => self.feed_forward(layer, "", m.ffn),
        }
    }

    fn attention(&mut self, layer: u32) {
        let m = self.model;
        let at = |name: &str| format!("blk.{layer}.{name}");
        let (q, kv) = (m.heads * m.head, m.kv_heads * m.head);
        // Hybrid models hold a gate row for every query row.
        let q_rows = if m.hybrid.is_some() { 2 * q } else { q };
        let blocks = self.layers + u32::from(m.hybrid.is_some());
        let of = (0..blocks).filter(|&l| self.attends(l)).count() as u32;
        let index = (0..layer).filter(|&l| self.attends(l)).count() as u32;
        self.matrix(&at("attn_q.weight"), &[m.width, q_rows], Role::Other);
        self.matrix(&at("attn_k.weight"), &[m.width, kv], Role::Other);
        self.matrix(&at("attn_v.weight"), &[m.width, kv], Role::Value { index, of });
        if m.qkv_bias {
            self.small(&at("attn_q.bias"), &[q], BIAS);
            self.small(&at("attn_k.bias"), &[kv], BIAS);
            self.small(&at("attn_v.bias"), &[kv], BIAS);
        }
        self.matrix(&at("attn_output.weight"), &[q, m.width], Role::Other);
        if m.arch == "gpt-oss" {
            self.small(&at("attn_output.bias"), &[m.width], BIAS);
            self.small(&at("attn_sinks.weight"), &[m.heads], Fill::Around { mean: 0.0, spread: 1.0 });
        }
        if m.qk_norm {
            self.small(&at("attn_q_norm.weight"), &[m.head], NORM);
            self.small(&at("attn_k_norm.weight"), &[m.head], NORM);
        }
    }

    fn recurrent(&mut self, layer: u32, hybrid: &Hybrid) {
        let m = self.model;
        let at = |name: &str| format!("blk.{layer}.{name}");
        let inner = hybrid.value_heads * hybrid.state;
        let mixed = 2 * hybrid.key_heads * hybrid.state + inner;
        self.matrix(&at("attn_qkv.weight"), &[m.width, mixed], Role::Other);
        self.matrix(&at("attn_gate.weight"), &[m.width, inner], Role::Other);
        self.small(&at("ssm_conv1d.weight"), &[hybrid.conv, mixed], Fill::Around { mean: 0.0, spread: 0.5 });
        self.small(&at("ssm_dt.bias"), &[hybrid.value_heads], Fill::Around { mean: -3.0, spread: 2.0 });
        self.small(&at("ssm_a"), &[hybrid.value_heads], Fill::Decay);
        self.matrix(&at("ssm_beta.weight"), &[m.width, hybrid.value_heads], Role::Other);
        self.matrix(&at("ssm_alpha.weight"), &[m.width, hybrid.value_heads], Role::Other);
        self.small(&at("ssm_norm.weight"), &[hybrid.state], NORM);
        self.matrix(&at("ssm_out.weight"), &[inner, m.width], Role::Other);
    }

    fn feed_forward(&mut self, layer: u32, suffix: &str, ffn: u32) {
        let width = self.model.width;
        let at = |name: &str| format!("blk.{layer}.{name}{suffix}.weight");
        let down = self.down(layer, false);
        self.matrix(&at("ffn_gate"), &[width, ffn], Role::Other);
        self.matrix(&at("ffn_up"), &[width, ffn], Role::Other);
        self.matrix(&at("ffn_down"), &[ffn, width], down);
    }

    fn experts(&mut self, layer: u32, experts: &Experts) {
        let m = self.model;
        let at = |name: &str| format!("blk.{layer}.{name}");
        let (width, ffn, count) = (m.width, experts.width, experts.count);
        let router = Fill::Around { mean: 0.0, spread: 0.07 };
        let down = self.down(layer, true);
        self.small(&at("ffn_gate_inp.weight"), &[width, count], router);
        self.matrix(&at("ffn_gate_exps.weight"), &[width, ffn, count], Role::Experts);
        self.matrix(&at("ffn_up_exps.weight"), &[width, ffn, count], Role::Experts);
        self.matrix(&at("ffn_down_exps.weight"), &[ffn, width, count], down);
        if m.arch == "gpt-oss" {
            self.small(&at("ffn_gate_inp.bias"), &[count], BIAS);
            self.small(&at("ffn_gate_exps.bias"), &[ffn, count], BIAS);
            self.small(&at("ffn_up_exps.bias"), &[ffn, count], BIAS);
            self.small(&at("ffn_down_exps.bias"), &[width, count], BIAS);
        }
        if experts.shared > 0 {
            self.small(&at("ffn_gate_inp_shexp.weight"), &[width], router);
            self.feed_forward(layer, "_shexp", experts.shared);
        }
    }

    fn down(&self, layer: u32, experts: bool) -> Role {
        Role::Down { index: layer, of: self.layers + u32::from(self.model.hybrid.is_some()), experts }
    }

    fn matrix(&mut self, name: &str, dims: &[u32], role: Role) {
        let width = u64::from(dims[0]);
        let format = self.mix.format(role, width, self.model.experts.is_some());
        if role == Role::Other && name.contains(".0.") && !width.is_multiple_of(256) {
            let note =
                format!("rows of {width} elements are not whole blocks of 256: {} is used", format.label);
            if self.mix.format(role, 256, self.model.experts.is_some()).name != format.name
                && !self.notes.contains(&note)
            {
                self.notes.push(note);
            }
        }
        self.push(name, dims, Fill::Blocks(format));
    }

    fn small(&mut self, name: &str, dims: &[u32], fill: Fill) {
        self.push(name, dims, fill);
    }

    fn push(&mut self, name: &str, dims: &[u32], fill: Fill) {
        let dims = dims.iter().map(|&d| u64::from(d)).collect();
        self.tensors.push(Tensor { name: name.to_owned(), dims, fill });
    }
}

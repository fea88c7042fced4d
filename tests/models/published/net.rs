//! Small models of any architecture with random weights, and the arithmetic that their naive evaluation shares: f64, one
//! position after the other, straight from the published formulas.

use std::collections::BTreeMap;

use vkllm::gguf::Gguf;
use vkllm::selftest::{Rng, SEED};

use crate::gguf::build::{ARRAY, BOOL, Build, F32};

/// A model in the making: keys, and tensors of f32 that are drawn when they are named.
pub struct Net {
    build: Build,
    rng: Rng,
    arch: &'static str,
    tensors: BTreeMap<String, (Vec<u64>, Vec<f64>)>,
}

pub const VOCAB: usize = 48;

impl Net {
    pub fn new(arch: &'static str, layers: u32, width: u32) -> Self {
        println!("{arch}: seed {SEED}");
        let mut net = Net {
            build: Build::new().text("general.architecture", arch.as_bytes()),
            rng: Rng::new(SEED, arch),
            arch,
            tensors: BTreeMap::new(),
        };
        net.u32("block_count", layers);
        net.u32("context_length", 512);
        net.u32("embedding_length", width);
        net.f32("attention.layer_norm_rms_epsilon", 1e-5);
        net.matrix("token_embd", &[width, VOCAB as u32]);
        net.norm("output_norm", width);
        net
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.build = self.build.clone().u32(&format!("{}.{key}", self.arch), value);
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.build = self.build.clone().f32(&format!("{}.{key}", self.arch), value);
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, F32, values.len(), &bytes);
    }

    pub fn bools(&mut self, key: &str, values: &[bool]) {
        let bytes: Vec<u8> = values.iter().map(|value| u8::from(*value)).collect();
        self.array(key, BOOL, values.len(), &bytes);
    }

    fn array(&mut self, key: &str, element: u32, count: usize, bytes: &[u8]) {
        let value = [&element.to_le_bytes()[..], &(count as u64).to_le_bytes(), bytes].concat();
        self.build = self.build.clone().key(&format!("{}.{key}", self.arch), ARRAY, &value);
    }

    fn add(&mut self, name: &str, dims: &[u32], draw: impl Fn(f32) -> f32) {
        let count = dims.iter().product::<u32>() as usize;
        let values: Vec<f32> = self.rng.normals(count).into_iter().map(draw).collect();
        let name = full(name);
        let dims: Vec<u64> = dims.iter().map(|dim| u64::from(*dim)).collect();
        self.tensors.insert(name, (dims, values.into_iter().map(f64::from).collect()));
    }

    /// A matrix whose products have the size of what they multiply: [elements of a row, rows, matrices].
    pub fn matrix(&mut self, name: &str, dims: &[u32]) {
        let scale = 1.0 / (dims[0] as f32).sqrt();
        self.add(name, dims, |value| value * scale);
    }

    pub fn norm(&mut self, name: &str, width: u32) {
        self.add(name, &[width], |value| 1.0 + value / 4.0);
    }

    /// Small numbers around zero.
    pub fn bias(&mut self, name: &str, count: u32) {
        self.add(&format!("{name}.bias"), &[count], |value| value / 8.0);
    }

    /// Attention's matrices, and a plain feed-forward block where one is wanted.
    pub fn layer(&mut self, layer: u32, s: &Sizes) {
        let at = |name: &str| format!("blk.{layer}.{name}");
        let (q, kv) = (s.heads * s.head, s.kv_heads * s.head);
        self.norm(&at("attn_norm"), s.width);
        self.norm(&at("ffn_norm"), s.width);
        for (name, k, n) in [("attn_q", s.width, q), ("attn_k", s.width, kv), ("attn_v", s.width, kv)] {
            self.matrix(&at(name), &[k, n]);
        }
        self.matrix(&at("attn_output"), &[q, s.width]);
        self.ffn(layer, "", s.width, s.ffn);
    }

    pub fn ffn(&mut self, layer: u32, suffix: &str, width: u32, ffn: u32) {
        for (name, k, n) in [("gate", width, ffn), ("up", width, ffn), ("down", ffn, width)] {
            self.matrix(&format!("blk.{layer}.ffn_{name}{suffix}"), &[k, n]);
        }
    }

    /// The file.
    pub fn file(&self) -> Gguf {
        let mut build = self.build.clone();
        for (name, (dims, values)) in &self.tensors {
            let bytes: Vec<u8> = values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
            build = build.tensor(name, dims, 0, &bytes);
        }
        Gguf::from_bytes(build.finish(), self.arch).expect("a GGUF")
    }

    pub fn get(&self, name: &str) -> &[f64] {
        let found = self.tensors.get(&full(name));
        &found.unwrap_or_else(|| panic!("{name} is not there")).1
    }

    /// The product of a matrix, or of one of a stack, with a vector.
    pub fn times(&self, name: &str, which: usize, x: &[f64]) -> Vec<f64> {
        let (dims, values) = &self.tensors[&full(name)];
        let (k, n) = (dims[0] as usize, dims[1] as usize);
        assert_eq!(k, x.len(), "{name}");
        let rows = values[which * k * n..][..k * n].chunks_exact(k);
        rows.map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    /// RMS norm by the weights of a tensor.
    pub fn normed(&self, name: &str, x: &[f64]) -> Vec<f64> {
        rms(x).iter().zip(self.get(name)).map(|(x, w)| x * w).collect()
    }

    pub fn embedding(&self, token: u32, width: usize) -> Vec<f64> {
        self.get("token_embd")[token as usize * width..][..width].to_vec()
    }

    /// Logits by the embedding, as the output matrix it is too.
    pub fn logits(&self, x: &[f64]) -> Vec<f64> {
        self.times("token_embd", 0, &self.normed("output_norm", x))
    }
}

fn full(name: &str) -> String {
    if name.ends_with(".bias") { name.to_owned() } else { format!("{name}.weight") }
}

/// Sizes of a plain decoder.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub width: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head: u32,
    pub ffn: u32,
}

impl Sizes {
    pub fn keys(&self, net: &mut Net) {
        net.u32("attention.head_count", self.heads);
        net.u32("attention.head_count_kv", self.kv_heads);
        net.u32("attention.key_length", self.head);
        net.u32("attention.value_length", self.head);
        net.u32("feed_forward_length", self.ffn);
    }
}

pub fn rms(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().map(|x| x / (mean + 1e-5).sqrt()).collect()
}

pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The tanh form.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

pub fn sum(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

pub fn scaled(x: &[f64], by: f64) -> Vec<f64> {
    x.iter().map(|x| x * by).collect()
}

/// A head at a position, all of it rotated: neighbours together, or halves.
pub fn rotated(x: &[f64], position: usize, base: f64, neighbours: bool) -> Vec<f64> {
    let half = x.len() / 2;
    let mut y = x.to_vec();
    for i in 0..half {
        let angle = position as f64 * base.powf(-2.0 * i as f64 / x.len() as f64);
        let (a, b) = if neighbours { (2 * i, 2 * i + 1) } else { (i, i + half) };
        y[a] = x[a] * angle.cos() - x[b] * angle.sin();
        y[b] = x[a] * angle.sin() + x[b] * angle.cos();
    }
    y
}

/// Softmax attention of one query over some keys and values.
pub fn attend(q: &[f64], keys: &[&[f64]], values: &[&[f64]], scale: f64) -> Vec<f64> {
    let scores: Vec<f64> =
        keys.iter().map(|k| q.iter().zip(*k).map(|(q, k)| q * k).sum::<f64>() * scale).collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut y = vec![0.0; values[0].len()];
    for (weight, value) in weights.iter().zip(values) {
        y.iter_mut().zip(*value).for_each(|(y, v)| *y += weight / total * v);
    }
    y
}

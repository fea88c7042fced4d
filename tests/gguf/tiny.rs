//! A whole model of a few kilobytes, made byte by byte, in which any key or tensor can be another one.

use super::build::*;

/// Elements of a row.
pub(crate) const WIDTH: u64 = 32;
pub(crate) const VOCAB: u64 = 16;
const HEADS: u64 = 4;
const FFN: u64 = 64;

/// A key's type and bytes.
type Value = (u32, Vec<u8>);

/// A tensor's shape, type and data.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) dims: Vec<u64>,
    pub(crate) ggml_type: u32,
    pub(crate) bytes: Vec<u8>,
}

/// The model: keys and tensors by name, in the order of the file.
#[derive(Clone)]
pub(crate) struct Tiny {
    keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<(String, Data)>,
}

/// Small numbers of both signs, the same ones everywhere.
pub(crate) fn f32s(dims: &[u64]) -> Data {
    let count = dims.iter().product::<u64>();
    let bytes = (0..count).flat_map(|i| (((i * 7919 % 17) as f32 - 8.0) / 64.0).to_le_bytes()).collect();
    Data { dims: dims.to_vec(), ggml_type: 0, bytes }
}

/// The payload of an array of strings.
fn list(values: &[&[u8]]) -> Vec<u8> {
    let mut all = [&STRING.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
    values.iter().for_each(|value| all.extend(string(value)));
    all
}

/// The payload of an array of four-byte elements.
fn words(element: u32, values: impl ExactSizeIterator<Item = [u8; 4]>) -> Vec<u8> {
    let mut all = [&element.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
    all.extend(values.flatten());
    all
}

pub(crate) const TOKENS: [&[u8]; VOCAB as usize] = [
    b"<unk>",
    b"<s>",
    b"</s>",
    b"a",
    b"b",
    b"ab",
    "▁".as_bytes(),
    b"c",
    b"d",
    b"e",
    b"f",
    b"g",
    b"h",
    b"i",
    b"j",
    b"k",
];

impl Tiny {
    /// A llama of one layer with a SentencePiece vocabulary and a template.
    pub(crate) fn new() -> Self {
        Tiny::wide(WIDTH)
    }

    /// The same with rows of `width` elements.
    pub(crate) fn wide(width: u64) -> Self {
        let mut tiny = Tiny { keys: Vec::new(), tensors: Vec::new() }
            .text("general.architecture", "llama")
            .text("general.name", "tiny")
            .u32("llama.block_count", 1)
            .u32("llama.context_length", 64)
            .u32("llama.embedding_length", width as u32)
            .u32("llama.feed_forward_length", FFN as u32)
            .u32("llama.attention.head_count", HEADS as u32)
            .u32("llama.attention.head_count_kv", HEADS as u32 / 2)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .text("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &TOKENS)
            .f32s("tokenizer.ggml.scores", &[0.0; VOCAB as usize])
            .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
            .u32("tokenizer.ggml.bos_token_id", 1)
            .u32("tokenizer.ggml.eos_token_id", 2)
            .text("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
        let kv = width / 2;
        for (name, dims) in [
            ("token_embd.weight", vec![width, VOCAB]),
            ("blk.0.attn_norm.weight", vec![width]),
            ("blk.0.attn_q.weight", vec![width, width]),
            ("blk.0.attn_k.weight", vec![width, kv]),
            ("blk.0.attn_v.weight", vec![width, kv]),
            ("blk.0.attn_output.weight", vec![width, width]),
            ("blk.0.ffn_norm.weight", vec![width]),
            ("blk.0.ffn_gate.weight", vec![width, FFN]),
            ("blk.0.ffn_up.weight", vec![width, FFN]),
            ("blk.0.ffn_down.weight", vec![FFN, width]),
            ("output_norm.weight", vec![width]),
        ] {
            tiny = tiny.tensor(name, f32s(&dims));
        }
        tiny
    }

    /// The same as a mixture of four experts, two of which a row uses.
    pub(crate) fn experts() -> Self {
        let mut tiny = Tiny::new()
            .u32("llama.expert_count", 4)
            .u32("llama.expert_used_count", 2)
            .tensor("blk.0.ffn_gate_inp.weight", f32s(&[WIDTH, 4]));
        for (name, dims) in [("gate", [WIDTH, FFN, 4]), ("up", [WIDTH, FFN, 4]), ("down", [FFN, WIDTH, 4])] {
            tiny = tiny.lacking(&format!("blk.0.ffn_{name}.weight"));
            tiny = tiny.tensor(&format!("blk.0.ffn_{name}_exps.weight"), f32s(&dims));
        }
        tiny
    }

    /// The same with a byte-level BPE vocabulary of five pieces.
    pub(crate) fn bpe() -> Self {
        let mut tokens = TOKENS;
        tokens[6] = "Ġ".as_bytes();
        Tiny::new()
            .without("tokenizer.ggml.scores")
            .text("tokenizer.ggml.model", "gpt2")
            .text("tokenizer.ggml.pre", "gpt-2")
            .strings("tokenizer.ggml.tokens", &tokens)
            .strings("tokenizer.ggml.merges", &[b"a b"])
    }

    /// Sets a key, where it stands or behind the others.
    pub(crate) fn key(mut self, key: &str, kind: u32, bytes: &[u8]) -> Self {
        let value = (kind, bytes.to_vec());
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some(entry) => entry.1 = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.key(key, U32, &value.to_le_bytes())
    }

    pub(crate) fn i32(self, key: &str, value: i32) -> Self {
        self.key(key, I32, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.key(key, F32, &value.to_le_bytes())
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.key(key, STRING, &string(value.as_bytes()))
    }

    pub(crate) fn strings(self, key: &str, values: &[&[u8]]) -> Self {
        self.key(key, ARRAY, &list(values))
    }

    pub(crate) fn f32s(self, key: &str, values: &[f32]) -> Self {
        self.key(key, ARRAY, &words(F32, values.iter().map(|value| value.to_le_bytes())))
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.key(key, ARRAY, &words(I32, values.iter().map(|value| value.to_le_bytes())))
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    /// Sets a tensor, where it stands or behind the others.
    pub(crate) fn tensor(mut self, name: &str, data: Data) -> Self {
        match self.tensors.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = data,
            None => self.tensors.push((name.to_owned(), data)),
        }
        self
    }

    pub(crate) fn lacking(mut self, tensor: &str) -> Self {
        self.tensors.retain(|(name, _)| name != tensor);
        self
    }

    pub(crate) fn build(&self) -> Build {
        let keys =
            self.keys.iter().fold(Build::new(), |build, (key, (kind, bytes))| build.key(key, *kind, bytes));
        self.tensors
            .iter()
            .fold(keys, |build, (name, data)| build.tensor(name, &data.dims, data.ggml_type, &data.bytes))
    }
}

//! Builds small GGUF files, valid and deliberately wrong ones, byte by byte.

pub(crate) const U8: u32 = 0;
pub(crate) const I8: u32 = 1;
pub(crate) const U16: u32 = 2;
pub(crate) const I16: u32 = 3;
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;
pub(crate) const I64: u32 = 11;
pub(crate) const F64: u32 = 12;

/// A file in the making. Lengths and counts are the true ones unless they are set.
#[derive(Clone)]
pub(crate) struct Build {
    pub(crate) version: u32,
    pub(crate) key_count: Option<u64>,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) alignment: usize,
    /// Number of keys and their bytes.
    pub(crate) keys: (u64, Vec<u8>),
    /// Number of tensors and their records.
    pub(crate) tensors: (u64, Vec<u8>),
    pub(crate) data: Vec<u8>,
}

/// A length-prefixed string.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

impl Build {
    pub(crate) fn new() -> Self {
        Build {
            version: 3,
            key_count: None,
            tensor_count: None,
            alignment: 32,
            keys: (0, Vec::new()),
            tensors: (0, Vec::new()),
            data: Vec::new(),
        }
    }

    /// A key from its parts, whatever they are.
    pub(crate) fn raw_key(mut self, parts: &[&[u8]]) -> Self {
        self.keys.0 += 1;
        parts.iter().for_each(|part| self.keys.1.extend_from_slice(part));
        self
    }

    pub(crate) fn key(self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.raw_key(&[&string(key.as_bytes()), &kind.to_le_bytes(), value])
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.key(key, U32, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.key(key, F32, &value.to_le_bytes())
    }

    pub(crate) fn text(self, key: &str, value: &[u8]) -> Self {
        self.key(key, STRING, &string(value))
    }

    pub(crate) fn array(self, key: &str, element: u32, count: u64, payload: &[u8]) -> Self {
        self.key(key, ARRAY, &[&element.to_le_bytes()[..], &count.to_le_bytes(), payload].concat())
    }

    pub(crate) fn strings(self, key: &str, values: &[&[u8]]) -> Self {
        let payload: Vec<u8> = values.iter().flat_map(|value| string(value)).collect();
        self.array(key, STRING, values.len() as u64, &payload)
    }

    /// A tensor's record from its parts, whatever they are.
    pub(crate) fn raw_tensor(mut self, parts: &[&[u8]]) -> Self {
        self.tensors.0 += 1;
        parts.iter().for_each(|part| self.tensors.1.extend_from_slice(part));
        self
    }

    /// A record without data.
    pub(crate) fn tensor_at(self, name: &[u8], dims: &[u64], ggml_type: u32, offset: u64) -> Self {
        let dim_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        self.raw_tensor(&[
            &string(name),
            &(dims.len() as u32).to_le_bytes(),
            &dim_bytes,
            &ggml_type.to_le_bytes(),
            &offset.to_le_bytes(),
        ])
    }

    /// A tensor with data behind what is there, padded to the alignment.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], ggml_type: u32, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(data);
        self.tensor_at(name.as_bytes(), dims, ggml_type, offset)
    }

    /// Bytes behind the tensor table, from the start of the data section.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.data.extend_from_slice(data);
        self
    }

    /// Bytes of header, keys and tensor table.
    pub(crate) fn head_len(&self) -> usize {
        24 + self.keys.1.len() + self.tensors.1.len()
    }

    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.0).to_le_bytes());
        file.extend(self.key_count.unwrap_or(self.keys.0).to_le_bytes());
        file.extend_from_slice(&self.keys.1);
        file.extend_from_slice(&self.tensors.1);
        if !self.data.is_empty() {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend_from_slice(&self.data);
        }
        file
    }
}

/// A valid file of about `size` bytes with every kind of value and several tensors.
pub(crate) fn sample(size: usize) -> Build {
    let tokens: Vec<Vec<u8>> = (0..40u32).map(|i| format!("▁token{i}").into_bytes()).collect();
    let mut tokens: Vec<&[u8]> = tokens.iter().map(Vec::as_slice).collect();
    tokens.push(b"\xff\xfe not UTF-8");
    tokens.push(b"");
    let scores: Vec<u8> = (0..42).flat_map(|i| (-(i as f32)).to_le_bytes()).collect();
    let kinds: Vec<u8> = (0..42i32).flat_map(|i| (i % 7).to_le_bytes()).collect();
    let build = Build::new()
        .text("general.architecture", b"llama")
        .text("general.name", "Größe".as_bytes())
        .u32("general.alignment", 32)
        .key("a.u8", U8, &[200])
        .key("a.i8", I8, &[0x80])
        .key("a.u16", U16, &60_000u16.to_le_bytes())
        .key("a.i16", I16, &(-2i16).to_le_bytes())
        .key("a.i32", I32, &(-70_000i32).to_le_bytes())
        .key("a.u64", U64, &(1u64 << 40).to_le_bytes())
        .key("a.i64", I64, &7i64.to_le_bytes())
        .f32("a.f32", 1e-5)
        .key("a.f64", F64, &2.5f64.to_le_bytes())
        .key("a.bool", BOOL, &[1])
        .strings("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.scores", F32, 42, &scores)
        .array("tokenizer.ggml.token_type", I32, 42, &kinds)
        .array("a.bools", BOOL, 3, &[1, 0, 1])
        .array("a.u8s", U8, 3, &[1, 2, 255])
        .array("a.empty", F32, 0, &[])
        .tensor("token_embd.weight", &[32, 4, 1], 8, &[1; 34 * 4])
        .tensor("blk.0.attn_norm.weight", &[5], 0, &[2; 20])
        .tensor("blk.0.ffn_down.weight", &[256, 2], 12, &[3; 288])
        .tensor("blk.0.ffn_up.weight", &[3, 2, 2, 2], 1, &[4; 48]);
    let rest = (size.saturating_sub(build.finish().len()) / 4).max(1);
    build.tensor("output.weight", &[rest as u64], 0, &vec![5; rest * 4])
}

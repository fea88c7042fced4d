//! The head of a GGUF file, version 3: keys, tensor descriptions and padding.

use super::models::Tensor;

/// Every tensor starts at a multiple of this.
pub(super) const ALIGNMENT: u64 = 32;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Text(String),
    Ints(Vec<i32>),
}

/// Bytes rounded up to the alignment.
pub(super) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Everything before the weights.
pub(super) fn header(metadata: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        match value {
            Value::U32(v) => tagged(&mut out, 4, &v.to_le_bytes()),
            Value::F32(v) => tagged(&mut out, 6, &v.to_le_bytes()),
            Value::Text(v) => {
                tagged(&mut out, 8, &[]);
                text(&mut out, v);
            }
            Value::Ints(v) => {
                tagged(&mut out, 9, &5u32.to_le_bytes());
                out.extend((v.len() as u64).to_le_bytes());
                out.extend(v.iter().flat_map(|i| i.to_le_bytes()));
            }
        }
    }
    let mut offset = 0u64;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.dims.len() as u32).to_le_bytes());
        out.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
        out.extend(tensor.ggml_type().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += padded(tensor.bytes());
    }
    out.resize(padded(out.len() as u64) as usize, 0);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn tagged(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    out.extend(tag.to_le_bytes());
    out.extend(bytes);
}

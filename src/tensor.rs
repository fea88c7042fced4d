//! A tensor: shape, block format and the bytes it lives in.

use std::fmt;

use vkllm_runtime::View;
use vkllm_shaders::formats::Format;

/// A weight matrix, vector or stack of matrices in device memory.
#[derive(Clone)]
pub struct Tensor {
    /// GGUF name, for example `blk.7.ffn_down.weight`.
    pub name: String,
    pub format: &'static Format,
    /// Elements of one row (`ne[0]`).
    pub k: u32,
    /// Rows (`ne[1]`, 1 for a vector).
    pub n: u32,
    pub view: View,
}

impl Tensor {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        u64::from(self.k) / self.format.block as u64 * self.format.bytes as u64
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}, {}]", self.name, self.format.label, self.k, self.n)
    }
}

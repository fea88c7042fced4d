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

    /// One matrix of this one's rows and those of `next`, where these follow in memory.
    pub fn with_next(&self, next: &Tensor) -> Option<Tensor> {
        let alike = self.format.name == next.format.name && self.k == next.k;
        let view = self.view.with_next(&next.view).filter(|_| alike)?;
        Some(Tensor { n: self.n + next.n, view, ..self.clone() })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}, {}]", self.name, self.format.label, self.k, self.n)
    }
}

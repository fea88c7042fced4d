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

    /// This and the tensor right behind it in the same buffer, as one view; `None` where something lies between.
    fn view_with(&self, next: &Tensor) -> Option<View> {
        let (buffer, other) = (self.view.buffer()?, next.view.buffer()?);
        let adjoin = buffer == other && self.view.offset + self.view.len == next.view.offset;
        let joined = || buffer.view(self.view.offset, self.view.len + next.view.len);
        (adjoin && self.format.name == next.format.name).then(joined)
    }

    /// The rows of this matrix and of the one right behind it in memory.
    pub fn rows_with(&self, next: &Tensor) -> Option<Tensor> {
        let (n, name) = (self.n.checked_add(next.n)?, format!("{} and {}", self.name, next.name));
        let view = self.view_with(next).filter(|_| self.k == next.k)?;
        Some(Tensor { name, n, view, ..self.clone() })
    }

    /// The elements of this vector and of the one right behind it in memory.
    pub fn elements_with(&self, next: &Tensor) -> Option<Tensor> {
        let (k, name) = (self.k.checked_add(next.k)?, format!("{} and {}", self.name, next.name));
        let view = self.view_with(next).filter(|_| self.n == 1 && next.n == 1)?;
        Some(Tensor { name, k, view, ..self.clone() })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}, {}]", self.name, self.format.label, self.k, self.n)
    }
}

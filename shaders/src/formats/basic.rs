//! Formats without blocks: f32, f16 and bf16.

use half::{bf16, f16};

use super::{Format, SPREAD};

pub(super) static F32: Format = Format {
    name: "f32",
    label: "F32",
    ggml_type: 0,
    block: 1,
    bytes: 4,
    decode: |block, out| out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
    sample: |next, block| block.copy_from_slice(&normal(next).to_le_bytes()),
};

pub(super) static F16: Format = Format {
    name: "f16",
    label: "F16",
    ggml_type: 1,
    block: 1,
    bytes: 2,
    decode: |block, out| out[0] = f16::from_le_bytes([block[0], block[1]]).to_f32(),
    sample: |next, block| block.copy_from_slice(&f16::from_f32(normal(next)).to_le_bytes()),
};

pub(super) static BF16: Format = Format {
    name: "bf16",
    label: "BF16",
    ggml_type: 30,
    block: 1,
    bytes: 2,
    decode: |block, out| out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
    sample: |next, block| block.copy_from_slice(&bf16::from_f32(normal(next)).to_le_bytes()),
};

/// Roughly normal: the sum of four uniform bytes, whose standard deviation is about 147.8.
fn normal(next: &mut dyn FnMut() -> u32) -> f32 {
    let sum: u32 = next().to_le_bytes().into_iter().map(u32::from).sum();
    (sum as f32 - 510.0) * (SPREAD / 147.8)
}

//! What a compute kernel is, as static data: its code, its interface as the shader declares it, and the naive
//! CPU function that says what it means. Values of these types are generated from reflected SPIR-V, never typed.

use crate::call::Call;
use crate::caps::Need;

/// How a kernel touches one of its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    /// True for `Read` and `ReadWrite`.
    pub fn reads(self) -> bool {
        self != Access::Write
    }

    /// True for `Write` and `ReadWrite`.
    pub fn writes(self) -> bool {
        self != Access::Read
    }
}

/// One storage buffer of a kernel. Its index in [`Kernel::bindings`] is its binding number in set 0.
#[derive(Debug)]
pub struct Binding {
    /// Name in the shader, for example `weights`.
    pub name: &'static str,
    pub access: Access,
    /// Largest array stride, in bytes, of the declarations that alias this binding: 4 for `uint[]`, 16 for `uvec4[]`.
    pub stride: u32,
    /// Byte offset in the push block of `<name>_at`, which receives what remains, in 4-byte words, after the
    /// descriptor's offset was rounded down to the device's alignment. `None`: the view must be aligned.
    pub at: Option<u32>,
}

/// One specialisation constant (32 bits wide).
#[derive(Debug)]
pub struct SpecConstant {
    pub name: &'static str,
    pub id: u32,
    pub default: u32,
}

/// One way to do an operation on a GPU.
#[derive(Debug)]
pub struct Kernel {
    /// `<op>.<way>` and the axis values, for example `linear.matvec.q4_k`.
    pub name: &'static str,
    /// The operation it implements; all kernels of an operation share bindings and push fields.
    pub op: &'static str,
    /// Axis values it was compiled with, for example `("FORMAT", "q4_k")`.
    pub axes: &'static [(&'static str, &'static str)],
    /// SPIR-V, little endian, a multiple of four bytes.
    pub spirv: &'static [u8],
    /// First 64 bits of the SHA-256 of `spirv`.
    pub hash: u64,
    pub bindings: &'static [Binding],
    /// Size of the push constant block in bytes, at most 128.
    pub push_size: u32,
    pub specs: &'static [SpecConstant],
    /// Device features the code uses, from its SPIR-V capabilities.
    pub needs: &'static [Need],
    /// What the operation means, one naive function for all kernels of it.
    pub meaning: fn(&Call<'_>),
}

impl Kernel {
    /// A value for each specialisation constant, in the kernel's order: the given one, else the subgroup size for
    /// `SG`, else the shader's default. Given names the kernel does not declare are ignored.
    pub fn spec_values(&self, given: &[(&'static str, u32)], subgroup: u32) -> Vec<u32> {
        let value = |name: &str| given.iter().find(|(other, _)| *other == name).map(|&(_, value)| value);
        self.specs
            .iter()
            .map(|spec| value(spec.name).unwrap_or(if spec.name == "SG" { subgroup } else { spec.default }))
            .collect()
    }

    /// Value of an axis, or `""` when the kernel does not have it.
    pub fn axis(&self, name: &str) -> &'static str {
        self.axes.iter().find(|(axis, _)| *axis == name).map_or("", |(_, value)| value)
    }
}

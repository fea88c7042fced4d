//! One dispatch as the reference device sees it: arguments as words, push and specialisation values by name.

use std::cell::Cell;

use bytemuck::Pod;

use crate::kernel::Kernel;

/// The words of one bound view. Views of the same buffer may overlap, as they may on a GPU, hence the cells.
#[derive(Clone, Copy)]
pub struct Words<'a>(pub(crate) &'a [Cell<u32>]);

impl<'a> Words<'a> {
    /// Wraps words that live outside a device, for tests of meanings.
    pub fn new(words: &'a mut [u32]) -> Self {
        Words(Cell::from_mut(words).as_slice_of_cells())
    }

    /// Number of 32-bit words.
    pub fn len(self) -> usize {
        self.0.len()
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub fn u32(self, index: usize) -> u32 {
        self.0[index].get()
    }

    pub fn i32(self, index: usize) -> i32 {
        self.u32(index) as i32
    }

    pub fn f32(self, index: usize) -> f32 {
        f32::from_bits(self.u32(index))
    }

    /// 16-bit value at a 16-bit index.
    pub fn u16(self, index: usize) -> u16 {
        (self.u32(index / 2) >> (16 * (index % 2))) as u16
    }

    /// Byte at a byte offset.
    pub fn u8(self, index: usize) -> u8 {
        (self.u32(index / 4) >> (8 * (index % 4))) as u8
    }

    pub fn set_u32(self, index: usize, value: u32) {
        self.0[index].set(value);
    }

    pub fn set_f32(self, index: usize, value: f32) {
        self.set_u32(index, value.to_bits());
    }

    /// Writes a 16-bit value at a 16-bit index, leaving its neighbour alone.
    pub fn set_u16(self, index: usize, value: u16) {
        let shift = 16 * (index % 2);
        let cell = &self.0[index / 2];
        cell.set(cell.get() & !(0xffff << shift) | u32::from(value) << shift);
    }

    /// Copies `len` bytes from byte offset `at`.
    pub fn bytes(self, at: usize, len: usize) -> Vec<u8> {
        (at..at + len).map(|index| self.u8(index)).collect()
    }

    /// Writes one byte.
    pub fn set_u8(self, index: usize, value: u8) {
        let shift = 8 * (index % 4);
        let cell = &self.0[index / 4];
        cell.set(cell.get() & !(0xff << shift) | u32::from(value) << shift);
    }
}

/// Everything a meaning may look at.
pub struct Call<'a> {
    pub kernel: &'static Kernel,
    /// One per binding, in binding order, exactly the bytes of the view (rounded up to words).
    pub args: &'a [Words<'a>],
    /// The push block; `<name>_at` fields are zero, because `args` start where the views start.
    pub push: &'a [u8],
    /// Values of `kernel.specs`, in their order.
    pub specs: &'a [u32],
    /// Workgroup counts.
    pub grid: [u32; 3],
}

impl<'a> Call<'a> {
    /// The argument bound as `name`. Panics when the kernel has none: a meaning that does not fit its shader is a bug.
    pub fn arg(&self, name: &str) -> Words<'a> {
        let index = self.kernel.bindings.iter().position(|binding| binding.name == name);
        self.args[index.unwrap_or_else(|| panic!("{} has no buffer named {name}", self.kernel.name))]
    }

    /// The push block as its generated struct.
    pub fn push<P: Pod>(&self) -> P {
        bytemuck::pod_read_unaligned(&self.push[..size_of::<P>()])
    }

    /// A specialisation constant by its name in the shader, or `None` when this kernel does not declare it.
    pub fn spec(&self, name: &str) -> Option<u32> {
        self.kernel.specs.iter().position(|spec| spec.name == name).map(|index| self.specs[index])
    }
}

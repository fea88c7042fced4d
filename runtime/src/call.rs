//! One dispatch as the reference device sees it: arguments as words, push and specialisation values by name.

use std::cell::Cell;

use bytemuck::Pod;

use crate::kernel::Kernel;

/// The words of one bound view. Views of the same buffer may overlap, as they may on a GPU, hence the cells.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    words: &'a [Cell<u32>],
    /// What was done to each word, where somebody wants to know.
    seen: Option<&'a [Cell<u8>]>,
}

/// Marks of [`Words::watched`].
pub const READ: u8 = 1;
pub const WRITTEN: u8 = 2;

impl<'a> Words<'a> {
    /// Wraps words that live outside a device.
    pub fn new(words: &'a mut [u32]) -> Self {
        Words::cells(Cell::from_mut(words).as_slice_of_cells())
    }

    /// Words that several arguments may share.
    pub fn cells(words: &'a [Cell<u32>]) -> Self {
        Words { words, seen: None }
    }

    /// As [`Words::cells`]; adds [`READ`] and [`WRITTEN`] to the mark of every word that is touched. Marks are as many as
    /// words, or the call panics.
    pub fn watched(words: &'a [Cell<u32>], marks: &'a [Cell<u8>]) -> Self {
        assert_eq!(words.len(), marks.len(), "a mark for every word");
        Words { words, seen: Some(marks) }
    }

    /// Number of 32-bit words.
    pub fn len(self) -> usize {
        self.words.len()
    }

    pub fn is_empty(self) -> bool {
        self.words.is_empty()
    }

    fn mark(self, index: usize, mark: u8) {
        if let Some(seen) = self.seen {
            seen[index].set(seen[index].get() | mark);
        }
    }

    pub fn u32(self, index: usize) -> u32 {
        self.mark(index, READ);
        self.words[index].get()
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
        self.mark(index, WRITTEN);
        self.words[index].set(value);
    }

    pub fn set_f32(self, index: usize, value: f32) {
        self.set_u32(index, value.to_bits());
    }

    /// Writes a 16-bit value at a 16-bit index, leaving its neighbour alone.
    pub fn set_u16(self, index: usize, value: u16) {
        let shift = 16 * (index % 2);
        self.mark(index / 2, WRITTEN);
        let cell = &self.words[index / 2];
        cell.set(cell.get() & !(0xffff << shift) | u32::from(value) << shift);
    }

    /// Copies `len` bytes from byte offset `at`.
    pub fn bytes(self, at: usize, len: usize) -> Vec<u8> {
        (at..at + len).map(|index| self.u8(index)).collect()
    }

    /// Writes one byte.
    pub fn set_u8(self, index: usize, value: u8) {
        let shift = 8 * (index % 4);
        self.mark(index / 4, WRITTEN);
        let cell = &self.words[index / 4];
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

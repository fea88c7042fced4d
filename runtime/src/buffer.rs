//! Named memory and views of it. A view is the only way to pass memory to a kernel.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::memory::Storage;

/// What a buffer is for; decides the kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// Constant data that kernels read: device-local, and visible to the host where all of the device's memory is.
    Constant,
    /// Data that only kernels touch: device-local.
    Local,
    /// Small data that kernels read and write, and the host may write between submissions.
    Shared,
    /// Results that the host reads: host-cached where the device has such memory.
    Readback,
    /// Data on their way to or from memory that the host cannot see.
    Staging,
    /// Data in memory of the type with this number ([`crate::MemoryType::index`]), to measure it.
    Exact(u32),
}

/// A piece of device memory with a name; freed when the last handle and the last submission using it are gone.
#[derive(Clone)]
pub struct Buffer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) usage: Usage,
    pub(crate) storage: Storage,
}

impl Buffer {
    /// Name given at creation, used in messages and labels.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Size in bytes, a multiple of four.
    pub fn size(&self) -> u64 {
        self.inner.size
    }

    pub fn usage(&self) -> Usage {
        self.inner.usage
    }

    /// A view of `len` bytes from `offset`.
    pub fn view(&self, offset: u64, len: u64) -> View {
        View { memory: Memory::Buffer(self.clone()), offset, len }
    }

    /// A view of everything.
    pub fn whole(&self) -> View {
        self.view(0, self.size())
    }

    /// Writes bytes from the host. Only between submissions that use the range.
    ///
    /// Errors: [`Error::Recording`] when the range leaves the buffer or the memory is not visible to the host.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.check(offset, bytes.len() as u64)?;
        self.inner.storage.write(&self.inner.name, offset, bytes)
    }

    /// Reads bytes to the host. Only after the submissions that write the range were waited for.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.check(offset, bytes.len() as u64)?;
        self.inner.storage.read(&self.inner.name, offset, bytes)
    }

    /// Lets `fill` write a range in place, for example straight from a file.
    pub fn write_with<E: From<Error>>(
        &self,
        offset: u64,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check(offset, len)?;
        self.inner.storage.write_with(&self.inner.name, offset, len as usize, fill)
    }

    /// Whether the host can write the memory directly.
    pub fn is_host_visible(&self) -> bool {
        self.inner.storage.is_host_visible()
    }

    /// Whether its memory was lent by the host: kernels may not write it.
    pub fn is_read_only(&self) -> bool {
        self.inner.storage.is_read_only()
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::Recording {
                label: self.name().to_owned(),
                reason: format!("bytes {offset}..+{len} leave the buffer of {} bytes", self.size()),
            }),
        }
    }

    /// Whether both are handles to one buffer.
    pub fn is(&self, other: &Buffer) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// A number that tells buffers apart while they live.
    pub fn key(&self) -> usize {
        Arc::as_ptr(&self.inner) as usize
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name(), self.size())
    }
}

/// What a view looks at: a buffer, or a transient of the recording it was made for.
#[derive(Clone, Debug)]
pub enum Memory {
    Buffer(Buffer),
    /// Index in the recording's list of transients.
    Transient(u32),
}

/// Which bytes of which memory.
#[derive(Clone, Debug)]
pub struct View {
    pub memory: Memory,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl View {
    /// A part of this view: `len` bytes from `offset` within it.
    ///
    /// Panics when the part leaves the view, which is a bug of the caller.
    pub fn part(&self, offset: u64, len: u64) -> View {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "part leaves its view");
        View { memory: self.memory.clone(), offset: self.offset + offset, len }
    }

    /// A view of this one's bytes and those of `next`, where these follow in the same buffer.
    pub fn with_next(&self, next: &View) -> Option<View> {
        let same = Arc::ptr_eq(&self.buffer()?.inner, &next.buffer()?.inner);
        (same && self.offset + self.len == next.offset)
            .then(|| View { len: self.len + next.len, ..self.clone() })
    }

    /// The buffer, when the view does not look at a transient.
    pub fn buffer(&self) -> Option<&Buffer> {
        match &self.memory {
            Memory::Buffer(buffer) => Some(buffer),
            Memory::Transient(_) => None,
        }
    }
}

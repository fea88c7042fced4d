//! Memory for the transients of recordings that run one after the other.

use std::sync::{Arc, Mutex};

use crate::buffer::{Buffer, Inner, Usage};
use crate::device::Device;
use crate::error::Error;
use crate::memory::{Storage, VulkanBuffer};
use crate::vulkan::{Context, lock};

/// Shared by recordings that are never in flight together, which on one queue are all: transients hold nothing
/// between submissions, and parts of one submission that touch the same bytes are fenced like any others. It grows
/// when a recording needs more; recordings made before keep what they were made with.
#[derive(Clone, Debug, Default)]
pub struct Arena {
    buffer: Arc<Mutex<Option<Buffer>>>,
}

impl Arena {
    /// An arena that holds `bytes` already, see [`crate::Recording::arena_bytes`].
    ///
    /// Errors: [`Error::OutOfMemory`], [`Error::Limit`].
    pub fn new(device: &Device, bytes: u64) -> Result<Self, Error> {
        let buffer = device.buffer("arena", bytes, Usage::Local)?;
        Ok(Arena { buffer: Arc::new(Mutex::new(Some(buffer))) })
    }

    /// A buffer of at least `size` bytes.
    pub(crate) fn buffer(&self, context: &Arc<Context>, name: &str, size: u64) -> Result<Buffer, Error> {
        let mut held = lock(&self.buffer);
        let fits = held.as_ref().filter(|buffer| {
            let here = matches!(&buffer.inner.storage, Storage::Vulkan(storage) if storage.is_of(context));
            here && buffer.size() >= size
        });
        if let Some(buffer) = fits {
            return Ok(buffer.clone());
        }
        let size = size.next_multiple_of(4);
        let name = format!("arena of {name}");
        let storage = Storage::Vulkan(VulkanBuffer::new(context, &name, size, Usage::Local)?);
        let buffer = Buffer { inner: Arc::new(Inner { name, size, usage: Usage::Local, storage }) };
        *held = Some(buffer.clone());
        Ok(buffer)
    }

    /// Bytes it holds now.
    pub fn bytes(&self) -> u64 {
        lock(&self.buffer).as_ref().map_or(0, Buffer::size)
    }
}

//! Where buffers live: memory from the device's heaps, mapped when the host can see it, or words of the host for
//! the reference device.

use std::sync::{Arc, Mutex};

use ash::vk;
use gpu_allocator::MemoryLocation;
use gpu_allocator::vulkan::{Allocation, AllocationCreateDesc, AllocationScheme};

use crate::buffer::Usage;
use crate::error::Error;
use crate::vulkan::{Context, failed, lock};

/// Memory behind a buffer.
pub(crate) enum Storage {
    Vulkan(VulkanBuffer),
    Host(Mutex<Vec<u32>>),
}

/// A Vulkan buffer with its allocation.
pub(crate) struct VulkanBuffer {
    pub(crate) handle: vk::Buffer,
    context: Arc<Context>,
    allocation: Option<Allocation>,
    size: u64,
    // Ranges that a host access holds right now: overlapping accesses from two threads are refused, not raced.
    claims: Mutex<Vec<(u64, u64)>>,
}

struct Claim<'a> {
    claims: &'a Mutex<Vec<(u64, u64)>>,
    range: (u64, u64),
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = lock(self.claims);
        if let Some(index) = claims.iter().position(|range| *range == self.range) {
            claims.swap_remove(index);
        }
    }
}

impl Storage {
    pub(crate) fn is_host_visible(&self) -> bool {
        match self {
            Storage::Vulkan(buffer) => buffer.allocation.as_ref().is_some_and(|a| a.mapped_ptr().is_some()),
            Storage::Host(_) => true,
        }
    }

    pub(crate) fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write_with(name, offset, bytes.len(), |target| {
            target.copy_from_slice(bytes);
            Ok(())
        })
    }

    pub(crate) fn write_with<E: From<Error>>(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Storage::Vulkan(buffer) => buffer.access(name, offset, len, fill),
            Storage::Host(words) => {
                let mut words = lock(words);
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
                fill(&mut bytes[offset as usize..offset as usize + len])
            }
        }
    }

    pub(crate) fn read(&self, name: &str, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let len = bytes.len();
        self.write_with(name, offset, len, |source| {
            bytes.copy_from_slice(source);
            Ok(())
        })
    }
}

impl VulkanBuffer {
    /// Creates a buffer of `size` bytes, a multiple of four.
    pub(crate) fn new(context: &Arc<Context>, name: &str, size: u64, usage: Usage) -> Result<Self, Error> {
        let out_of_memory =
            |detail: String| Error::OutOfMemory { what: name.to_owned(), wanted: size, detail };
        let caps = &context.caps;
        if size > caps.max_buffer {
            return Err(Error::Limit {
                device: caps.name.clone(),
                what: format!("the size of buffer {name}"),
                found: size,
                allowed: caps.max_buffer,
            });
        }
        let info = vk::BufferCreateInfo::default().size(size).usage(
            vk::BufferUsageFlags::STORAGE_BUFFER
                | vk::BufferUsageFlags::TRANSFER_SRC
                | vk::BufferUsageFlags::TRANSFER_DST
                | vk::BufferUsageFlags::INDIRECT_BUFFER,
        );
        // SAFETY: the device is alive as long as the context.
        let handle =
            unsafe { context.device.create_buffer(&info, None) }.map_err(failed("vkCreateBuffer"))?;
        let mut buffer = VulkanBuffer {
            handle,
            context: Arc::clone(context),
            allocation: None,
            size,
            claims: Mutex::default(),
        };
        // SAFETY: the handle was created above.
        let requirements = unsafe { context.device.get_buffer_memory_requirements(handle) };
        let location = match usage {
            Usage::Constant | Usage::Shared => MemoryLocation::CpuToGpu,
            Usage::Readback => MemoryLocation::GpuToCpu,
        };
        let description = AllocationCreateDesc {
            name,
            requirements,
            location,
            linear: true,
            allocation_scheme: AllocationScheme::GpuAllocatorManaged,
        };
        let allocation = match lock(&context.allocator).as_mut() {
            Some(allocator) => {
                allocator.allocate(&description).map_err(|e| out_of_memory(format!(" ({e})")))?
            }
            None => return Err(out_of_memory(" (the allocator is gone)".into())),
        };
        // SAFETY: fresh buffer, memory that meets its requirements; the allocation lives as long as the buffer.
        let bound =
            unsafe { context.device.bind_buffer_memory(handle, allocation.memory(), allocation.offset()) };
        buffer.allocation = Some(allocation);
        bound.map_err(failed("vkBindBufferMemory"))?;
        Ok(buffer)
    }

    /// Whether it was made on this device.
    pub(crate) fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }

    fn access<E: From<Error>>(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        body: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let refuse = |reason: &str| Error::Recording { label: name.to_owned(), reason: reason.to_owned() };
        let Some(pointer) = self.allocation.as_ref().and_then(Allocation::mapped_ptr) else {
            return Err(refuse("the host cannot see this memory").into());
        };
        let range = (offset, offset + len as u64);
        if range.1 > self.size {
            return Err(refuse("the access leaves the buffer").into());
        }
        {
            let mut claims = lock(&self.claims);
            if claims.iter().any(|c| c.0 < range.1 && range.0 < c.1) {
                return Err(refuse("two threads access the same bytes").into());
            }
            claims.push(range);
        }
        let _claim = Claim { claims: &self.claims, range };
        // SAFETY: the allocation is mapped for its life, the range lies inside it, and the claim keeps every other
        // host access away from it; submissions that use the range are the caller's to wait for.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(pointer.as_ptr().cast::<u8>().add(offset as usize), len)
        };
        body(bytes)
    }
}

impl Drop for VulkanBuffer {
    fn drop(&mut self) {
        // SAFETY: compiled recordings keep their buffers until their submissions are over, so nothing uses it now.
        unsafe { self.context.device.destroy_buffer(self.handle, None) };
        if let (Some(allocation), Some(allocator)) =
            (self.allocation.take(), lock(&self.context.allocator).as_mut())
            && let Err(error) = allocator.free(allocation)
        {
            tracing::warn!(%error, "device memory could not be given back");
        }
    }
}

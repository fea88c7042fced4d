//! Where buffers live: an allocation of the device for each, mapped when the host can see it, pages of the host that the
//! device borrows, or words of the host for the reference device. Nothing outside knows whether memory is coherent.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ash::vk;
use gpu_allocator::MemoryLocation;
use gpu_allocator::vulkan::{Allocation, AllocationCreateDesc, AllocationScheme};

use crate::buffer::Usage;
use crate::caps::MemoryType;
use crate::choose::{HUGE, choose, in_huge_pages};
use crate::error::Error;
use crate::vulkan::{Context, failed, lock};

/// Memory behind a buffer.
pub(crate) enum Storage {
    Vulkan(VulkanBuffer),
    Host(Mutex<Vec<u32>>),
    /// None: the buffer was only counted. Whether the host would see it.
    Planned(bool),
}

/// Memory of the host that a device may read for as long as this lives.
pub trait HostMemory: Send + Sync {
    /// The same bytes at the same place whenever it is asked.
    fn bytes(&self) -> &[u8];
}

/// A Vulkan buffer with its memory.
pub(crate) struct VulkanBuffer {
    pub(crate) handle: vk::Buffer,
    context: Arc<Context>,
    backing: Backing,
    host: Host,
    size: u64,
    /// Position of the heap and bytes taken from it.
    taken: (usize, u64),
    // Ranges that a host access holds right now: overlapping accesses from two threads are refused, not raced.
    claims: Mutex<Vec<(u64, u64)>>,
}

enum Backing {
    None,
    Own(Allocation),
    /// Borrowed pages, and what keeps them in place.
    Imported(vk::DeviceMemory, Arc<dyn HostMemory>),
    /// Pages of our own that the device uses.
    Pages(vk::DeviceMemory, Pages),
}

/// Zeroed memory in whole huge pages, none of which is there before it is touched.
struct Pages {
    pointer: *mut u8,
    len: u64,
    allocation: *mut u8,
    layout: Layout,
}

// SAFETY: plain memory that the buffer which owns it guards with its claims.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(size: u64) -> Result<Self, Error> {
        let len = size.next_multiple_of(HUGE);
        let none = |detail: &str| Error::OutOfMemory {
            what: "huge pages".into(),
            wanted: size,
            detail: format!(" ({detail})"),
        };
        let bytes = usize::try_from(len + HUGE).map_err(|_| none("too large"))?;
        let layout = Layout::from_size_align(bytes, 16).map_err(|_| none("too large"))?;
        // SAFETY: the layout is not empty. Zeroed memory of this size is mapped anew, not written.
        let allocation = unsafe { alloc_zeroed(layout) };
        if allocation.is_null() {
            return Err(none("the system has none"));
        }
        let pointer = allocation.wrapping_add(allocation.align_offset(HUGE as usize));
        #[cfg(target_os = "linux")]
        // SAFETY: the range is mapped and ours. It is advice: a kernel without huge pages ignores it.
        unsafe {
            libc::madvise(pointer.cast(), len as usize, libc::MADV_HUGEPAGE)
        };
        Ok(Pages { pointer, len, allocation, layout })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the device's memory over it was freed before.
        unsafe { dealloc(self.allocation, self.layout) };
    }
}

/// How the host reaches the memory.
enum Host {
    Invisible,
    Coherent,
    /// Flushed and invalidated in multiples of the device's atom.
    Flushed,
    /// As `Flushed`, simulated on coherent memory: the host has a copy of its own that only these two carry over.
    Shadow(Mutex<Vec<u8>>),
}

/// What a host access does with the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    Read,
    Write,
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

fn invisible(name: &str) -> Error {
    Error::Recording { label: name.to_owned(), reason: "the host cannot see this memory".to_owned() }
}

impl Storage {
    pub(crate) fn is_host_visible(&self) -> bool {
        match self {
            Storage::Vulkan(buffer) => !matches!(buffer.host, Host::Invisible),
            Storage::Host(_) => true,
            Storage::Planned(visible) => *visible,
        }
    }

    /// Memory that nobody may write: it was borrowed.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self, Storage::Vulkan(VulkanBuffer { backing: Backing::Imported(..), .. }))
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
        self.access(name, offset, len, Touch::Write, fill)
    }

    pub(crate) fn read(&self, name: &str, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let len = bytes.len();
        if let Storage::Vulkan(buffer) = self {
            buffer.context.read.fetch_add(len as u64, Ordering::Relaxed);
        }
        self.access(name, offset, len, Touch::Read, |source| {
            bytes.copy_from_slice(source);
            Ok(())
        })
    }

    /// Reads from the begin what the device may be writing: each word is an old or a new one.
    pub(crate) fn peek(&self, bytes: &mut [u8]) -> Result<(), Error> {
        self.access("trail", 0, bytes.len(), Touch::Read, |source| {
            bytes.copy_from_slice(source);
            Ok(())
        })
    }

    fn access<E: From<Error>>(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        touch: Touch,
        body: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Storage::Vulkan(buffer) => buffer.access(name, offset, len, touch, body),
            Storage::Host(words) => {
                let mut words = lock(words);
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
                body(&mut bytes[offset as usize..offset as usize + len])
            }
            Storage::Planned(_) => Err(invisible(name).into()),
        }
    }
}

impl VulkanBuffer {
    /// Creates a buffer of `size` bytes, a multiple of four, in the best memory that has room.
    pub(crate) fn new(context: &Arc<Context>, name: &str, size: u64, usage: Usage) -> Result<Self, Error> {
        if in_huge_pages(&context.caps, usage, size) {
            match VulkanBuffer::on_pages(context, name, size) {
                Err(Error::Import { reason, .. }) => tracing::debug!(name, reason, "no huge pages"),
                done => return done,
            }
        }
        let mut buffer = VulkanBuffer::bare(context, name, size, false)?;
        // SAFETY: the handle was created above.
        let requirements = unsafe { context.device.get_buffer_memory_requirements(buffer.handle) };
        let types = choose(&context.caps, usage);
        let mut detail = " (the device has no memory of this kind)".to_owned();
        for kind in types.iter().filter(|kind| requirements.memory_type_bits & (1 << kind.index) != 0) {
            // One allocation for each buffer: there are few, and what is counted is what is taken.
            let description = AllocationCreateDesc {
                name,
                requirements: vk::MemoryRequirements { memory_type_bits: 1 << kind.index, ..requirements },
                location: MemoryLocation::Unknown,
                linear: true,
                allocation_scheme: AllocationScheme::DedicatedBuffer(buffer.handle),
            };
            let allocated = match lock(&context.allocator).as_mut() {
                Some(allocator) => allocator.allocate(&description),
                None => break,
            };
            match allocated {
                Ok(allocation) => {
                    buffer.take(kind, allocation, requirements.size);
                    buffer.bind()?;
                    return Ok(buffer);
                }
                Err(error) => detail = format!(" ({error})"),
            }
        }
        Err(Error::OutOfMemory { what: name.to_owned(), wanted: size, detail })
    }

    /// Lets the device read pages of the host: `len` bytes from `offset`, both multiples of the import alignment.
    pub(crate) fn import(
        context: &Arc<Context>,
        name: &str,
        memory: &Arc<dyn HostMemory>,
        offset: u64,
        len: u64,
    ) -> Result<Self, Error> {
        let bytes = memory.bytes();
        // The last page of a mapping reaches beyond its last byte.
        if offset.checked_add(len).is_none_or(|end| end > (bytes.len() as u64).next_multiple_of(4096)) {
            let reason = format!("{len} bytes from {offset} leave the {} there are", bytes.len());
            return Err(Error::Import { what: name.to_owned(), reason });
        }
        let pointer = bytes.as_ptr().wrapping_add(offset as usize).cast_mut();
        // SAFETY: the pages are mapped for as long as `memory` lives; no kernel writes to them, because recordings refuse
        // it.
        let (mut buffer, imported, _) = unsafe { VulkanBuffer::import_pages(context, name, pointer, len) }?;
        buffer.backing = Backing::Imported(imported, Arc::clone(memory));
        buffer.bind()?;
        Ok(buffer)
    }

    /// Memory for a software driver, which reads and writes it as any other program does: in huge pages, of which there
    /// are few to fault in and to look up.
    fn on_pages(context: &Arc<Context>, name: &str, size: u64) -> Result<Self, Error> {
        let pages = Pages::new(size)?;
        // SAFETY: the pages are mapped as long as the buffer lives, which keeps them.
        let (mut buffer, imported, kind) =
            unsafe { VulkanBuffer::import_pages(context, name, pages.pointer, pages.len) }?;
        if kind.host_visible && kind.coherent {
            buffer.host = Host::Coherent;
        }
        buffer.count(&kind, pages.len);
        buffer.backing = Backing::Pages(imported, pages);
        buffer.bind()?;
        Ok(buffer)
    }

    /// A buffer, not bound yet, and memory over pages of the host.
    ///
    /// # Safety
    /// The pages are mapped until the memory is freed; nobody writes to them unless the device may.
    unsafe fn import_pages(
        context: &Arc<Context>,
        name: &str,
        pointer: *mut u8,
        len: u64,
    ) -> Result<(Self, vk::DeviceMemory, MemoryType), Error> {
        let refuse = |reason: String| Error::Import { what: name.to_owned(), reason };
        let (Some(align), Some(host)) = (context.caps.import_alignment, &context.host_memory) else {
            return Err(refuse(format!("{} lacks VK_EXT_external_memory_host", context.caps.name)));
        };
        // Some drivers take an address that is not aligned and read from elsewhere.
        if !(pointer as u64 | len).is_multiple_of(align) {
            return Err(refuse(format!("{pointer:p} and {len} bytes are not multiples of {align}")));
        }
        let kind = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
        let mut properties = vk::MemoryHostPointerPropertiesEXT::default();
        // SAFETY: the caller's promise.
        unsafe {
            (host.fp().get_memory_host_pointer_properties_ext)(
                context.device.handle(),
                kind,
                pointer.cast(),
                &mut properties,
            )
        }
        .result()
        .map_err(|result| refuse(format!("the driver says {result}")))?;
        let buffer = VulkanBuffer::bare(context, name, len, true)?;
        // SAFETY: the handle was created above.
        let requirements = unsafe { context.device.get_buffer_memory_requirements(buffer.handle) };
        let bits = requirements.memory_type_bits & properties.memory_type_bits;
        let types = choose(&context.caps, Usage::Constant);
        let found = types.iter().find(|t| bits & (1 << t.index) != 0);
        let found = found.ok_or_else(|| refuse("no kind of memory can hold it".into()))?;
        if requirements.size > len {
            return Err(refuse(format!("a buffer of {len} bytes needs {}", requirements.size)));
        }
        let mut import =
            vk::ImportMemoryHostPointerInfoEXT::default().handle_type(kind).host_pointer(pointer.cast());
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(len)
            .memory_type_index(found.index)
            .push_next(&mut import);
        // SAFETY: the caller's promise.
        let imported = unsafe { context.device.allocate_memory(&info, None) }
            .map_err(|result| refuse(format!("the driver says {result}")))?;
        Ok((buffer, imported, *found))
    }

    /// Binds the buffer to its memory.
    fn bind(&self) -> Result<(), Error> {
        let (memory, offset) = self.memory();
        // SAFETY: fresh buffer, memory that meets its requirements and lives as long as the buffer.
        unsafe { self.context.device.bind_buffer_memory(self.handle, memory, offset) }
            .map_err(failed("vkBindBufferMemory"))
    }

    /// A buffer without memory.
    fn bare(context: &Arc<Context>, name: &str, size: u64, import: bool) -> Result<Self, Error> {
        context.caps.check_buffer(name, size)?;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default()
            .handle_types(vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT);
        let mut info = vk::BufferCreateInfo::default().size(size).usage(
            vk::BufferUsageFlags::STORAGE_BUFFER
                | vk::BufferUsageFlags::TRANSFER_SRC
                | vk::BufferUsageFlags::TRANSFER_DST
                | vk::BufferUsageFlags::INDIRECT_BUFFER,
        );
        if import {
            info = info.push_next(&mut external);
        }
        // SAFETY: the device is alive as long as the context.
        let handle =
            unsafe { context.device.create_buffer(&info, None) }.map_err(failed("vkCreateBuffer"))?;
        Ok(VulkanBuffer {
            handle,
            context: Arc::clone(context),
            backing: Backing::None,
            host: Host::Invisible,
            size,
            taken: (0, 0),
            claims: Mutex::default(),
        })
    }

    fn take(&mut self, kind: &MemoryType, allocation: Allocation, bytes: u64) {
        let really_coherent = allocation.memory_properties().contains(vk::MemoryPropertyFlags::HOST_COHERENT);
        self.host = match allocation.mapped_ptr() {
            Some(_) if kind.host_visible && kind.coherent => Host::Coherent,
            Some(_) if kind.host_visible && really_coherent => {
                Host::Shadow(Mutex::new(vec![0; self.size as usize]))
            }
            Some(_) if kind.host_visible => Host::Flushed,
            _ => Host::Invisible,
        };
        self.backing = Backing::Own(allocation);
        self.count(kind, bytes);
    }

    fn count(&mut self, kind: &MemoryType, bytes: u64) {
        self.taken = (kind.heap, bytes);
        self.context.taken[kind.heap].fetch_add(bytes, Ordering::Relaxed);
    }

    /// A buffer of the device itself, which is not among those that its users take.
    pub(crate) fn uncounted(mut self) -> Self {
        self.context.taken[self.taken.0].fetch_sub(self.taken.1, Ordering::Relaxed);
        self.taken.1 = 0;
        self
    }

    fn memory(&self) -> (vk::DeviceMemory, u64) {
        match &self.backing {
            // SAFETY: the memory is used for binding, mapping and flushing only, while the allocation lives.
            Backing::Own(allocation) => (unsafe { allocation.memory() }, allocation.offset()),
            Backing::Imported(memory, _) | Backing::Pages(memory, _) => (*memory, 0),
            Backing::None => (vk::DeviceMemory::null(), 0),
        }
    }

    /// Whether it was made on this device.
    pub(crate) fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }

    /// The mapped bytes of a range.
    ///
    /// # Safety
    /// The range lies inside the buffer and nobody else touches it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn mapped(&self, start: u64, end: u64) -> Option<&mut [u8]> {
        let pointer = match &self.backing {
            Backing::Own(allocation) => allocation.mapped_ptr()?.as_ptr().cast::<u8>(),
            Backing::Pages(_, pages) => pages.pointer,
            Backing::None | Backing::Imported(..) => return None,
        };
        // SAFETY: the allocation is mapped for its life; the caller's promise.
        Some(unsafe { std::slice::from_raw_parts_mut(pointer.add(start as usize), (end - start) as usize) })
    }

    fn access<E: From<Error>>(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        touch: Touch,
        body: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.context.check()?;
        let refuse = |reason: &str| Error::Recording { label: name.to_owned(), reason: reason.to_owned() };
        let end = offset + len as u64;
        if end > self.size {
            return Err(refuse("the access leaves the buffer").into());
        }
        // Memory that is not coherent is carried over in whole atoms, so those are what an access holds.
        let atom = match self.host {
            Host::Invisible => return Err(invisible(name).into()),
            Host::Coherent => 1,
            Host::Flushed | Host::Shadow(_) => self.context.caps.flush_alignment,
        };
        let range = (offset - offset % atom, end.next_multiple_of(atom).min(self.size));
        {
            let mut claims = lock(&self.claims);
            if claims.iter().any(|c| c.0 < range.1 && range.0 < c.1) {
                return Err(refuse("two threads access the same bytes").into());
            }
            claims.push(range);
        }
        let _claim = Claim { claims: &self.claims, range };
        // SAFETY: the range lies inside the buffer and the claim keeps every other host access away from it;
        // submissions that use the range are the caller's to wait for.
        let bytes = unsafe { self.mapped(range.0, range.1) }.ok_or_else(|| invisible(name))?;
        let inner = (offset - range.0) as usize;
        match &self.host {
            Host::Invisible | Host::Coherent => body(&mut bytes[inner..inner + len]),
            Host::Flushed => {
                self.carry(range, Touch::Read)?;
                body(&mut bytes[inner..inner + len])?;
                if touch == Touch::Write {
                    self.carry(range, Touch::Write)?;
                }
                Ok(())
            }
            Host::Shadow(shadow) => {
                let mut shadow = lock(shadow);
                let copy = &mut shadow[range.0 as usize..range.1 as usize];
                copy.copy_from_slice(bytes);
                body(&mut copy[inner..inner + len])?;
                if touch == Touch::Write {
                    bytes.copy_from_slice(copy);
                }
                Ok(())
            }
        }
    }

    /// Invalidates before reading, flushes after writing.
    fn carry(&self, range: (u64, u64), touch: Touch) -> Result<(), Error> {
        let (memory, offset) = self.memory();
        // The end of the memory counts as a multiple of the atom.
        let size = if range.1 == self.size { vk::WHOLE_SIZE } else { range.1 - range.0 };
        let ranges = [vk::MappedMemoryRange::default().memory(memory).offset(offset + range.0).size(size)];
        let device = &self.context.device;
        // SAFETY: the memory is mapped as a whole and the range lies inside it, in whole atoms.
        unsafe {
            match touch {
                Touch::Read => device
                    .invalidate_mapped_memory_ranges(&ranges)
                    .map_err(failed("vkInvalidateMappedMemoryRanges")),
                Touch::Write => {
                    device.flush_mapped_memory_ranges(&ranges).map_err(failed("vkFlushMappedMemoryRanges"))
                }
            }
        }
    }
}

impl Drop for VulkanBuffer {
    fn drop(&mut self) {
        if self.context.is_stuck() {
            std::mem::forget(std::mem::replace(&mut self.backing, Backing::None));
            return;
        }
        // SAFETY: compiled recordings keep their buffers until their submissions are over, so nothing uses it now.
        unsafe { self.context.device.destroy_buffer(self.handle, None) };
        self.context.taken[self.taken.0].fetch_sub(self.taken.1, Ordering::Relaxed);
        match std::mem::replace(&mut self.backing, Backing::None) {
            Backing::None => {}
            Backing::Own(allocation) => {
                if let Some(allocator) = lock(&self.context.allocator).as_mut()
                    && let Err(error) = allocator.free(allocation)
                {
                    tracing::warn!(%error, "device memory could not be given back");
                }
            }
            // SAFETY: its only buffer is gone; the pages go when the last handle to them does.
            Backing::Imported(memory, _pages) => unsafe { self.context.device.free_memory(memory, None) },
            // SAFETY: as above; the pages go after it.
            Backing::Pages(memory, _pages) => unsafe { self.context.device.free_memory(memory, None) },
        }
    }
}

/// Bytes taken from each heap.
pub(crate) fn counters(heaps: usize) -> Vec<AtomicU64> {
    (0..heaps.max(1)).map(|_| AtomicU64::new(0)).collect()
}

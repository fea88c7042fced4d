//! A device: a Vulkan device with one compute queue, or the CPU reference, behind the same methods.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::arena::Arena;
use crate::buffer::{Buffer, Inner, Usage};
use crate::caps::{Caps, Need};
use crate::choose::{choose, expected};
use crate::encode::{Encoded, Fence, Held, constant_bytes};
use crate::error::Error;
use crate::fault::Faults;
use crate::kernel::Kernel;
use crate::memory::{HostMemory, Storage, VulkanBuffer, counters};
use crate::physical;
use crate::pipeline::{PipelineTime, Pipelines};
use crate::recording::Recording;
use crate::reference::Program;
use crate::simulate::Simulated;
use crate::slice::{Pace, budget, halved};
use crate::submit::{Calls, Timeline};
use crate::trace::{Reading, Times};
use crate::vulkan::{Borrowed, Context, Message, Validation, lock};

/// Which device to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selector {
    /// The first discrete GPU, else integrated, else virtual, else a software driver.
    #[default]
    Auto,
    /// Position in [`Device::list`].
    Index(usize),
    /// Part of the device's name, any case.
    Name(String),
    /// The device with these [`Caps::uuid`].
    Same([u8; 32]),
    /// The CPU interpreter. Never chosen unless asked for.
    Reference,
}

/// Kernels that a device computes wrongly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Avoid {
    /// [`Caps::uuid`] of the device.
    pub uuid: [u8; 32],
    /// Names.
    pub kernels: Vec<String>,
}

/// Another code for a kernel. Exists so that tests can show that a wrong one is noticed.
#[derive(Clone, Debug)]
pub struct Substitute {
    /// Runs in place of the kernel of its name, whose bindings and constants it has; its hash differs.
    pub kernel: &'static Kernel,
    /// Only in the command of this label; everywhere without one.
    pub label: Option<String>,
}

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    pub selector: Selector,
    pub validation: Validation,
    /// Features to treat as absent.
    pub minus: Vec<Need>,
    /// What the device is made to look like, for tests.
    pub simulate: Vec<Simulated>,
    /// Subgroup size to run with, within the device's range.
    pub subgroup: Option<u32>,
    /// Folder of the pipeline cache; none without it.
    pub cache_dir: Option<PathBuf>,
    /// What the cache belongs to besides the driver, such as a hash of all shaders: another one starts anew.
    pub cache_key: String,
    /// Kernels not to be used; those who choose kernels see the device's own in [`Caps::avoid`].
    pub avoid: Vec<Avoid>,
    /// Time of the device that one submission takes at most; longer work is cut into several. 100 ms by default, zero for
    /// no limit. It is halved whenever the device was lost.
    pub slice: Option<Duration>,
    /// Somebody captures what the process does, to replay it: commands bear their labels, and no memory of the host is
    /// imported, which other processes could not have at the same place.
    pub capture: bool,
    /// Calls of the driver that fail, for tests. One device of a process at a time can have them.
    pub faults: Option<Arc<Faults>>,
}

impl DeviceOptions {
    /// Takes away what the device is not to have.
    pub(crate) fn restrict(&self, caps: &mut Caps) {
        caps.has.retain(|need| !self.minus.contains(need));
        for simulated in &self.simulate {
            simulated.apply(caps);
        }
        if self.capture {
            caps.import_alignment = None;
        }
        let own = self.avoid.iter().filter(|avoid| avoid.uuid == caps.uuid);
        caps.avoid = own.flat_map(|avoid| avoid.kernels.iter().cloned()).collect();
    }
}

/// How to compile a recording.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileOptions<'a> {
    /// Measure every command, not only the whole.
    pub label_times: bool,
    /// Where transients live; memory of its own without one.
    pub arena: Option<&'a Arena>,
    /// Leaves out the n-th inferred barrier. Exists so that tests can show that a missing barrier is noticed.
    pub omit_barrier: Option<usize>,
}

/// A device that can be opened.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    pub index: usize,
    pub caps: Caps,
}

/// An open Vulkan device with what is shared by everything on it.
pub(crate) struct Gpu {
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) fence: Fence,
    /// How work is cut.
    pub(crate) pace: Pace,
    /// What the latest submissions took, in nanoseconds.
    pub(crate) slices: Mutex<VecDeque<u64>>,
    pub(crate) pipelines: Pipelines,
    substitutes: Mutex<Vec<Substitute>>,
    /// What living command buffers keep alive.
    held: Mutex<Vec<Weak<Mutex<Held>>>>,
    /// How it was opened.
    options: DeviceOptions,
    pub(crate) context: Arc<Context>,
}

impl Gpu {
    fn new(context: Context, options: &DeviceOptions) -> Result<Self, Error> {
        let context = Arc::new(context);
        let pipelines = Pipelines::new(&context, options.cache_dir.as_deref(), &options.cache_key)?;
        let timeline = Arc::new(Timeline::new(&context)?);
        let fence = Fence::new(&context)?;
        let (substitutes, held, options) = (Mutex::default(), Mutex::default(), options.clone());
        let (pace, slices) = (Pace::new(context.caps.kind, budget(options.slice)), Mutex::default());
        Ok(Gpu { timeline, fence, pace, slices, pipelines, substitutes, held, options, context })
    }

    /// The kernel whose code runs for a command.
    pub(crate) fn kernel(&self, kernel: &'static Kernel, label: &str) -> &'static Kernel {
        let fits = |other: &&Substitute| {
            other.kernel.name == kernel.name && other.label.as_deref().is_none_or(|wanted| wanted == label)
        };
        lock(&self.substitutes).iter().find(fits).map_or(kernel, |other| other.kernel)
    }

    /// Notes what a new command buffer keeps alive.
    pub(crate) fn hold(&self, held: &Arc<Mutex<Held>>) {
        let mut all = lock(&self.held);
        if all.len() == all.capacity() {
            all.retain(|held| held.strong_count() > 0);
        }
        all.push(Arc::downgrade(held));
    }

    /// Lets go of what command buffers keep alive. Only for a lost device, which runs none of them any more.
    fn release(&self) {
        let all = std::mem::take(&mut *lock(&self.held));
        for held in all.iter().filter_map(Weak::upgrade) {
            drop(std::mem::take(&mut *lock(&held)));
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // A ticket may outlive the device; what its submission uses must not be destroyed before it ends.
        self.timeline.settle();
    }
}

pub(crate) enum Backend {
    Vulkan(Arc<Gpu>),
    Reference(Box<Caps>),
    /// Counts the bytes of each heap and takes none.
    Planner(Box<Caps>, Vec<AtomicU64>),
}

/// An open device. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Device {
    pub(crate) backend: Arc<Backend>,
}

/// A recording ready to be submitted as often as wished.
pub struct Compiled {
    pub(crate) name: Arc<str>,
    constant_bytes: u64,
    commands: usize,
    pub(crate) work: Work,
}

pub(crate) enum Work {
    Vulkan(Box<Encoded>),
    Reference(Program),
}

impl Device {
    /// Every Vulkan 1.3 device with a compute queue.
    ///
    /// Errors: [`Error::NoLoader`], [`Error::NoDevice`].
    pub fn list() -> Result<Vec<DeviceInfo>, Error> {
        physical::list()
    }

    /// Opens a device.
    ///
    /// Errors: [`Error::NoLoader`], [`Error::NoDevice`], [`Error::NoSuchDevice`] with what is there.
    pub fn open(options: &DeviceOptions) -> Result<Self, Error> {
        let backend = if options.selector == Selector::Reference {
            let mut caps = Caps::reference();
            options.restrict(&mut caps);
            Backend::Reference(Box::new(caps))
        } else {
            Backend::Vulkan(Arc::new(Gpu::new(Context::open(options, false)?, options)?))
        };
        Ok(Device { backend: Arc::new(backend) })
    }

    /// Uses a device that another part of the program opened and goes on using. Selector, validation and faults of the
    /// options mean nothing here; features that it was created without stand in [`DeviceOptions::minus`].
    ///
    /// # Safety
    /// All handles are valid, belong together and outlive everything made on the device that is returned. Instance and
    /// device are of Vulkan 1.3 or later; timelineSemaphore, synchronization2, maintenance4 and all features of
    /// [`Device::lendable`] but those in `minus` were enabled. Whoever uses the queue or waits for it holds the lock.
    ///
    /// Errors: [`Error::OutOfMemory`], the driver's.
    pub unsafe fn borrow(borrowed: Borrowed, options: &DeviceOptions) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        let context = unsafe { Context::borrow(borrowed, options)? };
        Ok(Device { backend: Arc::new(Backend::Vulkan(Arc::new(Gpu::new(context, options)?))) })
    }

    /// Helps to create a device that can be borrowed: calls `create` with a family of queues that compute, the features to
    /// enable (to be chained to the `VkDeviceCreateInfo`) and the extensions.
    ///
    /// # Safety
    /// `physical` belongs to `instance`, which was made by `entry`; both are of Vulkan 1.3 or later.
    ///
    /// Errors: [`Error::NoDevice`] without such a family.
    pub unsafe fn lendable<T>(
        (entry, instance): (&ash::Entry, &ash::Instance),
        physical: ash::vk::PhysicalDevice,
        create: impl FnOnce(u32, &mut ash::vk::PhysicalDeviceFeatures2<'_>, &[&std::ffi::CStr]) -> T,
    ) -> Result<T, Error> {
        // SAFETY: the caller's promise.
        unsafe { physical::lendable((entry, instance), physical, create) }
    }

    /// Why the device can do no more, after it was lost or a submission was given up.
    pub fn lost(&self) -> Option<Error> {
        match &*self.backend {
            Backend::Vulkan(gpu) => gpu.context.check().err(),
            Backend::Reference(_) | Backend::Planner(..) => None,
        }
    }

    /// Treats the device as lost once its work has ended. For tests of what happens then.
    pub fn lose(&self) {
        if let Backend::Vulkan(gpu) = &*self.backend {
            gpu.timeline.settle();
            gpu.context.give_up(Error::Lost {
                doing: "a test".into(),
                place: gpu.timeline.trail.place().map(Box::new),
            });
        }
    }

    /// Opens the same device again after it was lost. What recordings made on the lost one kept alive is let go; they can
    /// never be submitted again. A device that is well is returned as it is.
    ///
    /// Errors: as [`Device::open`]; [`Error::Timeout`] when submissions that were given up may still run; [`Error::Lent`] when
    /// the device was borrowed: its owner opens it again.
    pub fn reopen(&self) -> Result<Self, Error> {
        let Backend::Vulkan(gpu) = &*self.backend else { return Ok(self.clone()) };
        match gpu.context.check() {
            Ok(()) => Ok(self.clone()),
            Err(Error::Lost { .. }) if gpu.context.is_borrowed() => {
                gpu.release();
                Err(Error::Lent { device: gpu.context.caps.name.clone() })
            }
            Err(Error::Lost { .. }) => {
                gpu.release();
                let selector = Selector::Same(gpu.context.caps.uuid);
                let (faults, slice) = (None, halved(gpu.options.slice));
                Device::open(&DeviceOptions { selector, faults, slice, ..gpu.options.clone() })
            }
            Err(other) => Err(other),
        }
    }

    /// A device that only counts: its buffers have no memory, and what is recorded on them cannot be compiled.
    pub fn planner(caps: Caps) -> Self {
        let taken = counters(caps.heaps.len());
        Device { backend: Arc::new(Backend::Planner(Box::new(caps), taken)) }
    }

    pub fn caps(&self) -> &Caps {
        match &*self.backend {
            Backend::Vulkan(gpu) => &gpu.context.caps,
            Backend::Reference(caps) | Backend::Planner(caps, _) => caps,
        }
    }

    /// Bytes that living buffers take from each of [`Caps::heaps`]; empty on the reference device.
    pub fn taken(&self) -> Vec<u64> {
        let taken = match &*self.backend {
            Backend::Vulkan(gpu) => &gpu.context.taken[..],
            Backend::Reference(_) => &[],
            Backend::Planner(_, taken) => taken,
        };
        taken.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect()
    }

    /// Bytes of each of [`Caps::heaps`] that this process may still take; `None` where the driver does not tell.
    pub fn free(&self) -> Option<Vec<u64>> {
        match &*self.backend {
            Backend::Vulkan(gpu) => gpu.context.free(),
            Backend::Reference(_) | Backend::Planner(..) => None,
        }
    }

    /// Makes a buffer of at least `size` bytes.
    ///
    /// Errors: [`Error::OutOfMemory`], [`Error::Limit`].
    pub fn buffer(&self, name: impl Into<String>, size: u64, usage: Usage) -> Result<Buffer, Error> {
        let name = name.into();
        let size = size.max(4).next_multiple_of(4);
        let storage = match &*self.backend {
            Backend::Vulkan(gpu) => {
                let context = &gpu.context;
                Storage::Vulkan(context.guard(|| VulkanBuffer::new(context, &name, size, usage))?)
            }
            Backend::Reference(_) => {
                let words = usize::try_from(size / 4).unwrap_or(usize::MAX);
                let mut memory = Vec::new();
                memory.try_reserve_exact(words).map_err(|error| Error::OutOfMemory {
                    what: name.clone(),
                    wanted: size,
                    detail: format!(" ({error})"),
                })?;
                memory.resize(words, 0);
                Storage::Host(Mutex::new(memory))
            }
            Backend::Planner(caps, taken) => {
                caps.check_buffer(&name, size)?;
                // The reference device has no heaps and sees everything.
                let kind = choose(caps, usage).first().copied();
                let (heap, visible) = kind.map_or((0, true), |kind| (kind.heap, kind.host_visible));
                taken[heap].fetch_add(expected(caps, usage, size), Ordering::Relaxed);
                Storage::Planned(visible)
            }
        };
        Ok(Buffer { inner: Arc::new(Inner { name, size, usage, storage }) })
    }

    /// Lets kernels read `len` bytes of the host's memory from `offset`, without a copy. Address, offset and length are
    /// multiples of [`Caps::import_alignment`]; the last may reach to the end of the memory's last page.
    ///
    /// Errors: [`Error::Import`] with why the device or its driver refuses.
    pub fn import(
        &self,
        name: impl Into<String>,
        memory: &Arc<dyn HostMemory>,
        offset: u64,
        len: u64,
    ) -> Result<Buffer, Error> {
        let name = name.into();
        let storage = match &*self.backend {
            Backend::Vulkan(gpu) => {
                let context = &gpu.context;
                Storage::Vulkan(context.guard(|| VulkanBuffer::import(context, &name, memory, offset, len))?)
            }
            Backend::Planner(..) => Storage::Planned(false),
            Backend::Reference(_) => {
                let reason = "the reference device has memory of its own only".to_owned();
                return Err(Error::Import { what: name, reason });
            }
        };
        Ok(Buffer { inner: Arc::new(Inner { name, size: len, usage: Usage::Constant, storage }) })
    }

    /// Places transients, infers barriers and encodes the recording.
    ///
    /// Errors: what the device cannot do or hold.
    pub fn compile(&self, recording: &Recording, options: &CompileOptions<'_>) -> Result<Compiled, Error> {
        let work = match &*self.backend {
            Backend::Vulkan(gpu) => {
                Work::Vulkan(Box::new(gpu.context.guard(|| Encoded::new(gpu, recording, options))?))
            }
            Backend::Reference(_) => Work::Reference(Program::new(recording)),
            Backend::Planner(..) => return Err(planned(&recording.name)),
        };
        Ok(Compiled {
            name: recording.name.as_str().into(),
            constant_bytes: recording.commands().iter().map(constant_bytes).sum(),
            commands: recording.commands().len(),
            work,
        })
    }

    /// Runs other code in place of some kernels in what is compiled from now on. The reference device knows no code.
    pub fn substitute(&self, substitutes: Vec<Substitute>) {
        if let Backend::Vulkan(gpu) = &*self.backend {
            *lock(&gpu.substitutes) = substitutes;
        }
    }

    /// Reads the device's clock beside the host's; the closest of a few readings. `None` where it cannot be read.
    pub fn reading(&self) -> Option<Reading> {
        match &*self.backend {
            Backend::Vulkan(gpu) => gpu.context.reading(),
            Backend::Reference(_) | Backend::Planner(..) => None,
        }
    }

    /// How often the driver was called so far, and how much was read; zeros on the reference device.
    pub fn calls(&self) -> Calls {
        match &*self.backend {
            Backend::Vulkan(gpu) => gpu.timeline.calls(),
            Backend::Reference(_) | Backend::Planner(..) => Calls::default(),
        }
    }

    /// Messages of the validation layers so far, and the list they will be added to.
    pub fn messages(&self) -> Arc<Mutex<Vec<Message>>> {
        match &*self.backend {
            Backend::Vulkan(gpu) => Arc::clone(&gpu.context.log),
            Backend::Reference(_) | Backend::Planner(..) => Arc::default(),
        }
    }

    /// Takes the messages of the validation layers so far.
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut *lock(&self.messages()))
    }

    /// Compiles the pipelines that recordings need and that are not there yet, several at once. `progress` is called with
    /// (pipelines done, pipelines in all).
    ///
    /// Errors: kernels that need what the device lacks, the driver's.
    pub fn prepare(
        &self,
        recordings: &[&Recording],
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(), Error> {
        match &*self.backend {
            Backend::Vulkan(gpu) => {
                gpu.context.guard(|| gpu.pipelines.prepare(recordings, &gpu.pace, progress))
            }
            Backend::Reference(_) | Backend::Planner(..) => Ok(()),
        }
    }

    /// The pipelines made so far, in the order in which they became ready.
    pub fn pipelines(&self) -> Vec<PipelineTime> {
        match &*self.backend {
            Backend::Vulkan(gpu) => gpu.pipelines.times(),
            Backend::Reference(_) | Backend::Planner(..) => Vec::new(),
        }
    }

    /// Writes the pipeline cache to disk, if it has a folder and is not there yet.
    pub fn save_pipelines(&self) {
        if let Backend::Vulkan(gpu) = &*self.backend {
            gpu.pipelines.save();
        }
    }
}

pub(crate) fn planned(name: &str) -> Error {
    Error::Recording { label: name.to_owned(), reason: "a planner only counts".into() }
}

pub(crate) fn foreign(part: &Compiled) -> Error {
    Error::Recording { label: part.name.to_string(), reason: "it was compiled for another device".into() }
}

impl Compiled {
    /// The recording's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Times of the last submission. Call after its ticket was waited for.
    pub fn times(&self) -> Times {
        match &self.work {
            Work::Vulkan(encoded) => encoded.times(),
            Work::Reference(_) => Times::default(),
        }
    }

    /// Whether it should be compiled anew: its times have shown that it is cut into submissions that take too long, or into
    /// needlessly many pieces.
    pub fn should_recut(&self) -> bool {
        match &self.work {
            Work::Vulkan(encoded) => encoded.should_recut(),
            Work::Reference(_) => false,
        }
    }

    /// Command buffers that it is cut into.
    pub fn pieces(&self) -> usize {
        match &self.work {
            Work::Vulkan(encoded) => encoded.pieces.len(),
            Work::Reference(_) => 1,
        }
    }

    /// Bytes of constant buffers that one run reads.
    pub fn constant_bytes(&self) -> u64 {
        self.constant_bytes
    }

    /// Number of commands.
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// Number of barriers inferred; 0 on the reference device.
    pub fn barriers(&self) -> usize {
        match &self.work {
            Work::Vulkan(encoded) => encoded.barriers(),
            Work::Reference(_) => 0,
        }
    }

    /// Bytes that the transients take together.
    pub fn arena_bytes(&self) -> u64 {
        match &self.work {
            Work::Vulkan(encoded) => encoded.arena(),
            Work::Reference(_) => 0,
        }
    }
}

//! The Vulkan context: loader, instance, one device with one compute queue, and the messages of validation layers.

use std::ffi::{CStr, c_void};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ash::vk;
use gpu_allocator::vulkan::{Allocator, AllocatorCreateDesc};

use crate::caps::{Caps, Need};
use crate::device::DeviceOptions;
use crate::error::Error;
use crate::fault::{self, Faults};
use crate::memory::counters;
use crate::physical::{Candidate, candidate, candidates, create_device, pick};
use crate::trace::Reading;

/// Which validation layer checks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    #[default]
    Off,
    /// Core checks.
    Core,
    /// Core and synchronisation checks.
    Sync,
    /// Shader accesses checked on the device.
    Gpu,
}

/// One message of the validation layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Message id, for example `SYNC-HAZARD-READ-AFTER-WRITE`.
    pub id: String,
    pub text: String,
}

pub(crate) type Log = Arc<Mutex<Vec<Message>>>;

/// Asked for only to read compiled pipelines.
const EXECUTABLES: &CStr = ash::khr::pipeline_executable_properties::NAME;
/// Readings of a clock of which the closest counts.
const READINGS: usize = 8;
const LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// Extensions that layers know from this version of Vulkan on.
const RECENT: [&CStr; 2] = [ash::khr::cooperative_matrix::NAME, ash::ext::frame_boundary::NAME];
const RECENT_SINCE: u32 = vk::make_api_version(0, 1, 3, 261);

/// An open device. Everything that holds Vulkan objects keeps it alive.
pub(crate) struct Context {
    pub(crate) caps: Caps,
    pub(crate) device: ash::Device,
    queue: Mutex<vk::Queue>,
    pub(crate) family: u32,
    pub(crate) allocator: Mutex<Option<Allocator>>,
    /// Bytes that the host read from buffers.
    pub(crate) read: AtomicU64,
    /// Names commands for debuggers, when the layers are on or somebody captures.
    pub(crate) debug: Option<ash::ext::debug_utils::Device>,
    /// Set when the context was opened to inspect pipelines and the device offers their executables.
    pub(crate) executables: Option<ash::khr::pipeline_executable_properties::Device>,
    /// Reads the device's clock, where timestamps have a period and the device offers it.
    pub(crate) clock: Option<ash::ext::calibrated_timestamps::Device>,
    /// Imports memory of the host.
    pub(crate) host_memory: Option<ash::ext::external_memory_host::Device>,
    /// Bytes taken from each heap of the caps.
    pub(crate) taken: Vec<AtomicU64>,
    pub(crate) log: Log,
    /// Why the device can do no more: every later use of it fails with the same error, without asking the driver.
    lost: OnceLock<Error>,
    /// Its calls may fail on purpose.
    faulty: bool,
    physical: vk::PhysicalDevice,
    /// The driver tells how much of each heap is free.
    tells_budget: bool,
    /// Debuggers are told where a run ends.
    pub(crate) frames: bool,
    instance: ash::Instance,
    owner: Owner,
}

/// What a context is made on.
struct Handles {
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    family: u32,
    queue: vk::Queue,
    device: ash::Device,
}

/// Who destroys device and instance.
enum Owner {
    /// The context.
    Own {
        messenger: Option<(ash::ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
        // The callback holds a pointer into it: dropped after the instance.
        _log_pointer: Box<Log>,
        // Keeps the loader's library open.
        _entry: ash::Entry,
    },
    /// Whoever lent them, with the lock of the queue.
    Lender(AssertUnwindSafe<Arc<dyn QueueLock>>),
}

/// The lock under which everybody who shares a queue uses it.
pub trait QueueLock: Send + Sync {
    /// Calls `work` while nobody else uses the queue.
    fn locked(&self, work: &mut dyn FnMut());
}

/// A device that another part of the program opened and goes on using. It lends device and queue; both outlive everything
/// that is made on them. See [`crate::Device::borrow`].
pub struct Borrowed {
    pub entry: ash::Entry,
    pub instance: ash::Instance,
    pub physical: vk::PhysicalDevice,
    pub device: ash::Device,
    /// Family of the queue, which can compute.
    pub family: u32,
    pub queue: vk::Queue,
    pub lock: Arc<dyn QueueLock>,
    /// Extensions that the device was created with.
    pub extensions: Vec<std::ffi::CString>,
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.is_stuck() {
            return;
        }
        // SAFETY: nothing else holds objects of this device any more; the order is the reverse of creation.
        unsafe {
            let Owner::Own { messenger, .. } = &mut self.owner else {
                // The timeline has waited for everything that was submitted from here.
                lock(&self.allocator).take();
                return;
            };
            if self.lost.get().is_none() {
                let _ = self.device.device_wait_idle();
            }
            lock(&self.allocator).take();
            self.device.destroy_device(None);
            if self.faulty {
                fault::uninstall();
            }
            if let Some((ext, messenger)) = messenger.take() {
                ext.destroy_debug_utils_messenger(messenger, None);
            }
            self.instance.destroy_instance(None);
        }
    }
}

/// Locks even if a thread panicked while it held the lock: the data are plain values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns a Vulkan result into an error that names the call.
pub(crate) fn failed(call: &'static str) -> impl FnOnce(vk::Result) -> Error {
    move |result| match result {
        vk::Result::ERROR_DEVICE_LOST => Error::Lost { doing: call.to_owned(), place: None },
        vk::Result::ERROR_OUT_OF_HOST_MEMORY | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
            Error::OutOfMemory { what: call.to_owned(), wanted: 0, detail: format!(" ({result})") }
        }
        other => Error::Vulkan { call, result: format!("{other} ({})", other.as_raw()) },
    }
}

unsafe extern "system" fn on_message(
    severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    user: *mut c_void,
) -> vk::Bool32 {
    let worth = vk::DebugUtilsMessageSeverityFlagsEXT::WARNING | vk::DebugUtilsMessageSeverityFlagsEXT::ERROR;
    if severity.intersects(worth) && !data.is_null() && !user.is_null() {
        // SAFETY: the layer passes valid data; `user` is the boxed log, which outlives the instance.
        unsafe {
            let log = &*user.cast::<Log>();
            let text = |p: *const std::ffi::c_char| {
                if p.is_null() { String::new() } else { CStr::from_ptr(p).to_string_lossy().into_owned() }
            };
            let message = Message { id: text((*data).p_message_id_name), text: text((*data).p_message) };
            lock(log).push(message);
        }
    }
    vk::FALSE
}

pub(crate) struct Opened {
    pub(crate) entry: ash::Entry,
    pub(crate) instance: ash::Instance,
    messenger: Option<(ash::ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    /// Commands can be named.
    names: bool,
    /// Vulkan's version that the validation layer was written for, where it is on.
    layer: Option<u32>,
    log: Box<Log>,
}

impl Opened {
    /// Takes from a device what is newer than the layer, which would report it as an error.
    fn known_to_layer(&self, caps: &mut Caps, extensions: &mut Vec<&'static CStr>) {
        if self.layer.is_some_and(|version| version < RECENT_SINCE) {
            extensions.retain(|name| !RECENT.contains(name));
            caps.has.retain(|need| *need != Need::CooperativeMatrix);
            caps.matrix = None;
        }
    }

    pub(crate) fn destroy(self) {
        // SAFETY: no device was created from the instance.
        unsafe {
            if let Some((ext, messenger)) = self.messenger {
                ext.destroy_debug_utils_messenger(messenger, None);
            }
            self.instance.destroy_instance(None);
        }
    }
}

/// `names` asks that commands can be named, where somebody is there who reads it.
pub(crate) fn open_instance(validation: Validation, names: bool) -> Result<Opened, Error> {
    // SAFETY: loading the system's Vulkan loader runs its initialisers, as in every Vulkan program.
    let entry = unsafe { ash::Entry::load() }.map_err(|e| Error::NoLoader { reason: e.to_string() })?;
    let application = vk::ApplicationInfo::default()
        .application_name(c"vkllm")
        .engine_name(c"vkllm")
        .api_version(vk::API_VERSION_1_3);
    let mut layers: Vec<*const std::ffi::c_char> = Vec::new();
    let mut extensions: Vec<*const std::ffi::c_char> = Vec::new();
    let mut flags = vk::InstanceCreateFlags::empty();
    // SAFETY: plain queries of the loader.
    let (available, portable, named) = unsafe {
        let layers = entry
            .enumerate_instance_layer_properties()
            .map_err(failed("vkEnumerateInstanceLayerProperties"))?;
        let extensions = entry
            .enumerate_instance_extension_properties(None)
            .map_err(failed("vkEnumerateInstanceExtensionProperties"))?;
        let has = |name| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
        let named = names && has(ash::ext::debug_utils::NAME);
        (layers, has(ash::khr::portability_enumeration::NAME), named)
    };
    if portable {
        extensions.push(ash::khr::portability_enumeration::NAME.as_ptr());
        flags |= vk::InstanceCreateFlags::ENUMERATE_PORTABILITY_KHR;
    }
    let mut layer = None;
    let mut enables = Vec::new();
    let mut disables = Vec::new();
    if validation != Validation::Off {
        let found = available.iter().find(|layer| layer.layer_name_as_c_str() == Ok(LAYER));
        let Some(found) = found else {
            let device = "the Vulkan loader".to_owned();
            return Err(Error::Incapable { device, what: "the layer VK_LAYER_KHRONOS_validation" });
        };
        layer = Some(found.spec_version);
        layers.push(LAYER.as_ptr());
        extensions.push(ash::ext::validation_features::NAME.as_ptr());
        match validation {
            Validation::Sync => enables.push(vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION),
            Validation::Gpu => {
                enables.push(vk::ValidationFeatureEnableEXT::GPU_ASSISTED);
                enables.push(vk::ValidationFeatureEnableEXT::GPU_ASSISTED_RESERVE_BINDING_SLOT);
                disables.push(vk::ValidationFeatureDisableEXT::CORE_CHECKS);
            }
            Validation::Core | Validation::Off => {}
        }
    }
    let names = named || validation != Validation::Off;
    if names {
        extensions.push(ash::ext::debug_utils::NAME.as_ptr());
    }
    let mut features = vk::ValidationFeaturesEXT::default()
        .enabled_validation_features(&enables)
        .disabled_validation_features(&disables);
    let log: Box<Log> = Box::default();
    let user = std::ptr::from_ref::<Log>(&log).cast_mut().cast::<c_void>();
    let messenger_info = || {
        vk::DebugUtilsMessengerCreateInfoEXT::default()
            .message_severity(
                vk::DebugUtilsMessageSeverityFlagsEXT::ERROR | vk::DebugUtilsMessageSeverityFlagsEXT::WARNING,
            )
            .message_type(
                vk::DebugUtilsMessageTypeFlagsEXT::GENERAL | vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION,
            )
            .pfn_user_callback(Some(on_message))
            .user_data(user)
    };
    let mut early = messenger_info();
    let mut info = vk::InstanceCreateInfo::default()
        .application_info(&application)
        .flags(flags)
        .enabled_layer_names(&layers)
        .enabled_extension_names(&extensions);
    if validation != Validation::Off {
        info = info.push_next(&mut features).push_next(&mut early);
    }
    // SAFETY: all pointers in `info` live until the call returns; the log outlives the instance.
    let instance = unsafe { entry.create_instance(&info, None) }.map_err(|result| match result {
        vk::Result::ERROR_INCOMPATIBLE_DRIVER => Error::NoDevice { reason: "no driver is installed".into() },
        other => failed("vkCreateInstance")(other),
    })?;
    let mut messenger = None;
    if validation != Validation::Off {
        let ext = ash::ext::debug_utils::Instance::new(&entry, &instance);
        // SAFETY: the extension is enabled on this instance.
        match unsafe { ext.create_debug_utils_messenger(&messenger_info(), None) } {
            Ok(handle) => messenger = Some((ext, handle)),
            Err(result) => {
                Opened { entry, instance, messenger, names, layer, log }.destroy();
                return Err(failed("vkCreateDebugUtilsMessengerEXT")(result));
            }
        }
    }
    Ok(Opened { entry, instance, messenger, names, layer, log })
}

impl Context {
    /// `inspect` enables what reading compiled pipelines needs, where the device has it.
    pub(crate) fn open(options: &DeviceOptions, inspect: bool) -> Result<Context, Error> {
        let opened = open_instance(options.validation, options.capture)?;
        let chosen =
            candidates(&opened.entry, &opened.instance).and_then(|found| pick(found, &options.selector));
        let Candidate { physical, family, mut caps, mut extensions } = match chosen {
            Ok(candidate) => candidate,
            Err(error) => {
                opened.destroy();
                return Err(error);
            }
        };
        options.restrict(&mut caps);
        opened.known_to_layer(&mut caps, &mut extensions);
        extensions.retain(|name| inspect || *name != EXECUTABLES);
        if let Some(size) = options.subgroup {
            if size.is_power_of_two() && (caps.subgroup_range.0..=caps.subgroup_range.1).contains(&size) {
                caps.subgroup = size;
            } else {
                opened.destroy();
                return Err(Error::Limit {
                    device: caps.name,
                    what: "the subgroup size".into(),
                    found: u64::from(size),
                    allowed: u64::from(caps.subgroup_range.1),
                });
            }
        }
        match create_device(&opened.instance, physical, family, &caps, &extensions) {
            Ok(device) => {
                Context::own(opened, (physical, family), caps, device, &extensions, options.faults.as_ref())
            }
            Err(error) => {
                opened.destroy();
                Err(error)
            }
        }
    }

    /// # Safety
    /// As [`crate::Device::borrow`].
    pub(crate) unsafe fn borrow(borrowed: Borrowed, options: &DeviceOptions) -> Result<Context, Error> {
        let Borrowed { entry, instance, physical, device, family, queue, lock, extensions } = borrowed;
        let enabled = |name: &CStr| extensions.iter().any(|extension| extension.as_c_str() == name);
        // SAFETY: the caller's promise.
        let Candidate { mut caps, extensions, .. } =
            unsafe { candidate((&entry, &instance), physical, family, &enabled)? };
        options.restrict(&mut caps);
        let handles = Handles { instance, physical, family, queue, device };
        let (debug, log, faulty) = (None, Log::default(), false);
        Context::assemble(
            handles,
            caps,
            &extensions,
            debug,
            log,
            faulty,
            Owner::Lender(AssertUnwindSafe(lock)),
        )
    }

    fn own(
        opened: Opened,
        place: (vk::PhysicalDevice, u32),
        caps: Caps,
        device: ash::Device,
        extensions: &[&CStr],
        faults: Option<&Arc<Faults>>,
    ) -> Result<Context, Error> {
        let device = match faults.map(|faults| fault::install(faults, device.clone())) {
            None => device,
            Some(Ok(faulty)) => faulty,
            Some(Err(error)) => {
                // SAFETY: nothing was made on the device.
                unsafe { device.destroy_device(None) };
                opened.destroy();
                return Err(error);
            }
        };
        // SAFETY: the device was created with one queue of this family.
        let queue = unsafe { device.get_device_queue(place.1, 0) };
        let debug = opened.names.then(|| ash::ext::debug_utils::Device::new(&opened.instance, &device));
        let Opened { entry, instance, messenger, log, .. } = opened;
        let (told, faulty) = (Log::clone(&log), faults.is_some());
        let owner = Owner::Own { messenger, _log_pointer: log, _entry: entry };
        let handles = Handles { instance, physical: place.0, family: place.1, queue, device };
        Context::assemble(handles, caps, extensions, debug, told, faulty, owner)
    }

    fn assemble(
        handles: Handles,
        caps: Caps,
        extensions: &[&CStr],
        debug: Option<ash::ext::debug_utils::Device>,
        log: Log,
        faulty: bool,
        owner: Owner,
    ) -> Result<Context, Error> {
        let Handles { instance, physical, family, queue, device } = handles;
        let allocator = Allocator::new(&AllocatorCreateDesc {
            instance: instance.clone(),
            device: device.clone(),
            physical_device: physical,
            debug_settings: gpu_allocator::AllocatorDebugSettings::default(),
            buffer_device_address: false,
            allocation_sizes: gpu_allocator::AllocationSizes::default(),
        });
        let (allocator, error) = match allocator {
            Ok(allocator) => (Some(allocator), None),
            Err(e) => (
                None,
                Some(Error::OutOfMemory { what: "the allocator".into(), wanted: 0, detail: e.to_string() }),
            ),
        };
        let clock = (caps.timestamp_period.is_some()
            && extensions.contains(&ash::ext::calibrated_timestamps::NAME))
        .then(|| ash::ext::calibrated_timestamps::Device::new(&instance, &device));
        let host_memory =
            caps.import_alignment.map(|_| ash::ext::external_memory_host::Device::new(&instance, &device));
        let executables = extensions
            .contains(&EXECUTABLES)
            .then(|| ash::khr::pipeline_executable_properties::Device::new(&instance, &device));
        let context = Context {
            executables,
            taken: counters(caps.heaps.len()),
            clock,
            host_memory,
            physical,
            tells_budget: extensions.contains(&ash::ext::memory_budget::NAME),
            frames: extensions.contains(&ash::ext::frame_boundary::NAME),
            caps,
            device,
            queue: Mutex::new(queue),
            family,
            allocator: Mutex::new(allocator),
            read: AtomicU64::new(0),
            debug,
            lost: OnceLock::new(),
            faulty,
            log,
            instance,
            owner,
        };
        match error {
            None => Ok(context),
            Some(error) => Err(error),
        }
    }

    /// The closest of a few readings of the device's clock between two of the host's.
    pub(crate) fn reading(&self) -> Option<Reading> {
        let (clock, period) = (self.clock.as_ref()?, f64::from(self.caps.timestamp_period?));
        let info = [vk::CalibratedTimestampInfoEXT::default().time_domain(vk::TimeDomainEXT::DEVICE)];
        self.check().ok()?;
        let one = |_| {
            let before = Instant::now();
            // SAFETY: the extension is enabled, and every device that has it has this clock.
            let (ticks, deviation) = unsafe { clock.get_calibrated_timestamps(&info) }.ok()?;
            let half = before.elapsed() / 2;
            let nanoseconds = (*ticks.first().filter(|tick| **tick > 0)? as f64 * period) as u64;
            Some(Reading { at: before + half, nanoseconds, within: half + Duration::from_nanos(deviation) })
        };
        (0..READINGS).filter_map(one).min_by_key(|reading| reading.within)
    }

    /// Errors: what ended the use of the device, if something did.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.lost.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Whether submissions were given up that may still run: what they use must never be destroyed.
    pub(crate) fn is_stuck(&self) -> bool {
        matches!(self.lost.get(), Some(Error::Timeout { .. }))
    }

    /// Ends the use of the device; the first reason stays.
    pub(crate) fn give_up(&self, error: Error) {
        let _ = self.lost.set(error);
    }

    /// Does something with the device, unless its use has ended. A loss or a wait without end ends it.
    pub(crate) fn guard<T>(&self, action: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.check()?;
        let result = action();
        if let Err(error @ (Error::Lost { .. } | Error::Timeout { .. })) = &result {
            self.give_up(error.clone());
        }
        result
    }

    /// Whether somebody else opened the device.
    pub(crate) fn is_borrowed(&self) -> bool {
        matches!(self.owner, Owner::Lender(_))
    }

    /// Uses the queue while nobody else does.
    pub(crate) fn with_queue<T>(&self, work: impl FnOnce(vk::Queue) -> T) -> Option<T> {
        let queue = lock(&self.queue);
        let Owner::Lender(lender) = &self.owner else { return Some(work(*queue)) };
        let (mut work, mut done) = (Some(work), None);
        lender.locked(&mut || done = work.take().map(|work| work(*queue)));
        done
    }

    /// Bytes of each heap of the caps that this process may still take, where the driver tells it.
    pub(crate) fn free(&self) -> Option<Vec<u64>> {
        if !self.tells_budget {
            return None;
        }
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut properties = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: a plain query of the device's physical device, whose extension is there.
        unsafe { self.instance.get_physical_device_memory_properties2(self.physical, &mut properties) };
        let free = |index: usize| budget.heap_budget[index].saturating_sub(budget.heap_usage[index]);
        Some(self.caps.heaps.iter().map(|heap| free(heap.index).min(heap.size)).collect())
    }
}

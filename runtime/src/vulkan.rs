//! The Vulkan context: loader, instance, one device with one compute queue, and the messages of validation layers.

use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;
use gpu_allocator::vulkan::{Allocator, AllocatorCreateDesc};
use sha2::{Digest, Sha256};

use crate::caps::{Caps, DeviceKind, HeapInfo, Need};
use crate::device::{DeviceInfo, DeviceOptions, Selector};
use crate::error::Error;

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

const LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// An open device. Everything that holds Vulkan objects keeps it alive.
pub(crate) struct Context {
    pub(crate) caps: Caps,
    pub(crate) device: ash::Device,
    pub(crate) queue: Mutex<vk::Queue>,
    pub(crate) family: u32,
    pub(crate) allocator: Mutex<Option<Allocator>>,
    pub(crate) labels: Option<ash::ext::debug_utils::Device>,
    /// Set when the context was opened to inspect pipelines and the device offers their executables.
    pub(crate) executables: Option<ash::khr::pipeline_executable_properties::Device>,
    pub(crate) log: Log,
    messenger: Option<(ash::ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    instance: ash::Instance,
    // The callback holds a pointer into it: dropped after the instance.
    _log_pointer: Box<Log>,
    // Keeps the loader's library open.
    _entry: ash::Entry,
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing else holds objects of this device any more; the order is the reverse of creation.
        unsafe {
            let _ = self.device.device_wait_idle();
            lock(&self.allocator).take();
            self.device.destroy_device(None);
            if let Some((ext, messenger)) = self.messenger.take() {
                ext.destroy_debug_utils_messenger(messenger, None);
            }
            self.instance.destroy_instance(None);
        }
    }
}

/// Locks even if a thread panicked while it held the lock: the data are plain values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns a Vulkan result into an error that names the call.
pub(crate) fn failed(call: &'static str) -> impl FnOnce(vk::Result) -> Error {
    move |result| match result {
        vk::Result::ERROR_DEVICE_LOST => Error::Lost { doing: call.to_owned() },
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

struct Opened {
    entry: ash::Entry,
    instance: ash::Instance,
    messenger: Option<(ash::ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    log: Box<Log>,
}

impl Opened {
    fn destroy(self) {
        // SAFETY: no device was created from the instance.
        unsafe {
            if let Some((ext, messenger)) = self.messenger {
                ext.destroy_debug_utils_messenger(messenger, None);
            }
            self.instance.destroy_instance(None);
        }
    }
}

fn open_instance(validation: Validation) -> Result<Opened, Error> {
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
    let (available, portable) = unsafe {
        let layers = entry
            .enumerate_instance_layer_properties()
            .map_err(failed("vkEnumerateInstanceLayerProperties"))?;
        let extensions = entry
            .enumerate_instance_extension_properties(None)
            .map_err(failed("vkEnumerateInstanceExtensionProperties"))?;
        let portable = extensions
            .iter()
            .any(|e| e.extension_name_as_c_str() == Ok(ash::khr::portability_enumeration::NAME));
        (layers, portable)
    };
    if portable {
        extensions.push(ash::khr::portability_enumeration::NAME.as_ptr());
        flags |= vk::InstanceCreateFlags::ENUMERATE_PORTABILITY_KHR;
    }
    let mut enables = Vec::new();
    let mut disables = Vec::new();
    if validation != Validation::Off {
        if !available.iter().any(|layer| layer.layer_name_as_c_str() == Ok(LAYER)) {
            let device = "the Vulkan loader".to_owned();
            return Err(Error::Incapable { device, what: "the layer VK_LAYER_KHRONOS_validation" });
        }
        layers.push(LAYER.as_ptr());
        extensions.push(ash::ext::debug_utils::NAME.as_ptr());
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
                Opened { entry, instance, messenger, log }.destroy();
                return Err(failed("vkCreateDebugUtilsMessengerEXT")(result));
            }
        }
    }
    Ok(Opened { entry, instance, messenger, log })
}

/// A physical device that offers Vulkan 1.3 and a compute queue.
struct Candidate {
    physical: vk::PhysicalDevice,
    family: u32,
    caps: Caps,
}

/// A string of fixed size that a driver filled in.
pub(crate) fn text(chars: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Compute-only family if there is one: it does not compete with the desktop's graphics queue.
fn compute_family(families: &[vk::QueueFamilyProperties]) -> Option<u32> {
    let with = |avoid: vk::QueueFlags| {
        families.iter().position(|f| {
            f.queue_count > 0
                && f.queue_flags.contains(vk::QueueFlags::COMPUTE)
                && !f.queue_flags.intersects(avoid)
        })
    };
    with(vk::QueueFlags::GRAPHICS).or_else(|| with(vk::QueueFlags::empty())).map(|i| i as u32)
}

fn candidates(instance: &ash::Instance) -> Result<Vec<Candidate>, Error> {
    // SAFETY: plain queries of a live instance and its physical devices.
    unsafe {
        let physicals =
            instance.enumerate_physical_devices().map_err(failed("vkEnumeratePhysicalDevices"))?;
        let mut found = Vec::new();
        for physical in physicals {
            let version = instance.get_physical_device_properties(physical).api_version;
            let families = instance.get_physical_device_queue_family_properties(physical);
            let Some(family) = compute_family(&families) else { continue };
            if version < vk::API_VERSION_1_3 {
                continue;
            }
            let bits = families[family as usize].timestamp_valid_bits;
            found.push(Candidate { physical, family, caps: query_caps(instance, physical, bits) });
        }
        Ok(found)
    }
}

/// # Safety
/// `physical` belongs to `instance` and offers Vulkan 1.3.
unsafe fn query_caps(instance: &ash::Instance, physical: vk::PhysicalDevice, timestamp_bits: u32) -> Caps {
    let mut v11 = vk::PhysicalDeviceVulkan11Properties::default();
    let mut v12 = vk::PhysicalDeviceVulkan12Properties::default();
    let mut v13 = vk::PhysicalDeviceVulkan13Properties::default();
    let mut properties =
        vk::PhysicalDeviceProperties2::default().push_next(&mut v11).push_next(&mut v12).push_next(&mut v13);
    // SAFETY: the caller's promise.
    unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
    let core = properties.properties;
    let mut f11 = vk::PhysicalDeviceVulkan11Features::default();
    let mut f12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut f13 = vk::PhysicalDeviceVulkan13Features::default();
    let mut features =
        vk::PhysicalDeviceFeatures2::default().push_next(&mut f11).push_next(&mut f12).push_next(&mut f13);
    // SAFETY: the caller's promise.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    let base = features.features;
    let stage = v11.subgroup_supported_stages.contains(vk::ShaderStageFlags::COMPUTE);
    let operation = |flag| stage && v11.subgroup_supported_operations.contains(flag);
    let has: Vec<Need> = Need::ALL
        .iter()
        .copied()
        .filter(|need| match need {
            Need::Float16 => f12.shader_float16 != 0,
            Need::Int8 => f12.shader_int8 != 0,
            Need::Int16 => base.shader_int16 != 0,
            Need::Int64 => base.shader_int64 != 0,
            Need::Storage8 => f12.storage_buffer8_bit_access != 0,
            Need::Storage16 => f11.storage_buffer16_bit_access != 0,
            Need::IntegerDot => f13.shader_integer_dot_product != 0,
            Need::SubgroupBasic => operation(vk::SubgroupFeatureFlags::BASIC),
            Need::SubgroupArithmetic => operation(vk::SubgroupFeatureFlags::ARITHMETIC),
            Need::SubgroupShuffle => operation(vk::SubgroupFeatureFlags::SHUFFLE),
            Need::SubgroupBallot => operation(vk::SubgroupFeatureFlags::BALLOT),
            // Its kernels do not exist yet, so its extension is not enabled.
            Need::CooperativeMatrix => false,
            Need::MemoryModel => f12.vulkan_memory_model != 0 && f12.vulkan_memory_model_device_scope != 0,
        })
        .collect();
    let control = f13.subgroup_size_control != 0
        && f13.compute_full_subgroups != 0
        && v13.required_subgroup_size_stages.contains(vk::ShaderStageFlags::COMPUTE);
    let range = if control {
        (v13.min_subgroup_size, v13.max_subgroup_size)
    } else {
        (v11.subgroup_size, v11.subgroup_size)
    };
    // SAFETY: the caller's promise.
    let memory = unsafe { instance.get_physical_device_memory_properties(physical) };
    let types = &memory.memory_types[..memory.memory_type_count as usize];
    let heaps = memory.memory_heaps[..memory.memory_heap_count as usize]
        .iter()
        .enumerate()
        .map(|(index, heap)| HeapInfo {
            size: heap.size,
            device_local: heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL),
            host_visible: types.iter().any(|t| {
                t.heap_index as usize == index
                    && t.property_flags.contains(vk::MemoryPropertyFlags::HOST_VISIBLE)
            }),
        })
        .collect();
    let mut hash = Sha256::new();
    hash.update(v11.driver_uuid);
    hash.update(v11.device_uuid);
    hash.update(core.pipeline_cache_uuid);
    hash.update(core.driver_version.to_le_bytes());
    let limits = core.limits;
    Caps {
        name: text(&core.device_name),
        driver: format!("{} {}", text(&v12.driver_name), text(&v12.driver_info)),
        kind: match core.device_type {
            vk::PhysicalDeviceType::INTEGRATED_GPU => DeviceKind::Integrated,
            vk::PhysicalDeviceType::DISCRETE_GPU => DeviceKind::Discrete,
            vk::PhysicalDeviceType::VIRTUAL_GPU => DeviceKind::Virtual,
            vk::PhysicalDeviceType::CPU => DeviceKind::Cpu,
            _ => DeviceKind::Other,
        },
        api: (
            vk::api_version_major(core.api_version),
            vk::api_version_minor(core.api_version),
            vk::api_version_patch(core.api_version),
        ),
        vendor_id: core.vendor_id,
        device_id: core.device_id,
        has,
        subgroup: range.0.max(range.1.min(32)),
        subgroup_range: range,
        subgroup_control: control,
        max_binding: u64::from(limits.max_storage_buffer_range),
        max_buffer: v13.max_buffer_size.min(1 << 40),
        max_allocation: v11.max_memory_allocation_size,
        offset_alignment: limits.min_storage_buffer_offset_alignment.max(4),
        max_workgroup: limits.max_compute_work_group_invocations,
        max_groups: limits.max_compute_work_group_count,
        max_shared: limits.max_compute_shared_memory_size,
        max_push: limits.max_push_constants_size,
        timestamp_period: (timestamp_bits > 0 && limits.timestamp_period.is_finite())
            .then_some(limits.timestamp_period),
        heaps,
        uuid: hash.finalize().into(),
    }
}

/// Every usable Vulkan device, in the loader's order.
pub(crate) fn list() -> Result<Vec<DeviceInfo>, Error> {
    let opened = open_instance(Validation::Off)?;
    let found = candidates(&opened.instance);
    opened.destroy();
    Ok(found?.into_iter().enumerate().map(|(index, c)| DeviceInfo { index, caps: c.caps }).collect())
}

fn pick(found: Vec<Candidate>, selector: &Selector) -> Result<Candidate, Error> {
    if found.is_empty() {
        return Err(Error::NoDevice { reason: "the drivers offer none".into() });
    }
    let names: Vec<String> =
        found.iter().enumerate().map(|(i, c)| format!("{i} \"{}\"", c.caps.name)).collect();
    let position = match selector {
        Selector::Index(index) => (*index < found.len()).then_some(*index),
        Selector::Name(name) => {
            let wanted = name.to_lowercase();
            found.iter().position(|c| c.caps.name.to_lowercase().contains(&wanted))
        }
        Selector::Auto | Selector::Reference => {
            let order = |c: &Candidate| match c.caps.kind {
                DeviceKind::Discrete => 0,
                DeviceKind::Integrated => 1,
                DeviceKind::Virtual => 2,
                _ => 3,
            };
            (0..found.len()).min_by_key(|&i| order(&found[i]))
        }
    };
    let wanted = match selector {
        Selector::Index(index) => index.to_string(),
        Selector::Name(name) => name.clone(),
        Selector::Auto | Selector::Reference => "auto".into(),
    };
    position
        .and_then(|index| found.into_iter().nth(index))
        .ok_or(Error::NoSuchDevice { wanted, found: names.join(", ") })
}

impl Context {
    /// `inspect` enables what reading compiled pipelines needs, where the device has it.
    pub(crate) fn open(options: &DeviceOptions, inspect: bool) -> Result<Context, Error> {
        let opened = open_instance(options.validation)?;
        let chosen = candidates(&opened.instance).and_then(|found| pick(found, &options.selector));
        let Candidate { physical, family, mut caps } = match chosen {
            Ok(candidate) => candidate,
            Err(error) => {
                opened.destroy();
                return Err(error);
            }
        };
        caps.has.retain(|need| !options.minus.contains(need));
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
        match create_device(&opened.instance, physical, family, &caps, inspect) {
            Ok((device, inspected)) => {
                let executables = inspected.then(|| {
                    ash::khr::pipeline_executable_properties::Device::new(&opened.instance, &device)
                });
                Context::assemble(opened, physical, family, caps, device, executables)
            }
            Err(error) => {
                opened.destroy();
                Err(error)
            }
        }
    }

    fn assemble(
        opened: Opened,
        physical: vk::PhysicalDevice,
        family: u32,
        caps: Caps,
        device: ash::Device,
        executables: Option<ash::khr::pipeline_executable_properties::Device>,
    ) -> Result<Context, Error> {
        // SAFETY: the device was created with one queue of this family.
        let queue = unsafe { device.get_device_queue(family, 0) };
        let labels =
            opened.messenger.as_ref().map(|_| ash::ext::debug_utils::Device::new(&opened.instance, &device));
        let allocator = Allocator::new(&AllocatorCreateDesc {
            instance: opened.instance.clone(),
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
        let context = Context {
            caps,
            device,
            queue: Mutex::new(queue),
            family,
            allocator: Mutex::new(allocator),
            labels,
            executables,
            log: Log::clone(&opened.log),
            messenger: opened.messenger,
            instance: opened.instance,
            _log_pointer: opened.log,
            _entry: opened.entry,
        };
        match error {
            None => Ok(context),
            Some(error) => Err(error),
        }
    }

    /// Begins a label region on a command buffer, when labels are on.
    pub(crate) fn label(&self, name: &str) -> CString {
        CString::new(name.replace('\0', " ")).unwrap_or_default()
    }
}

/// The device, and whether the executables of its pipelines can be read.
fn create_device(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    family: u32,
    caps: &Caps,
    inspect: bool,
) -> Result<(ash::Device, bool), Error> {
    let on = |need| caps.has(need);
    let priorities = [1.0];
    let queues =
        [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
    let mut f11 =
        vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(on(Need::Storage16));
    let mut f12 = vk::PhysicalDeviceVulkan12Features::default()
        .timeline_semaphore(true)
        .host_query_reset(true)
        .shader_float16(on(Need::Float16))
        .shader_int8(on(Need::Int8))
        .storage_buffer8_bit_access(on(Need::Storage8))
        .vulkan_memory_model(on(Need::MemoryModel))
        .vulkan_memory_model_device_scope(on(Need::MemoryModel));
    let mut f13 = vk::PhysicalDeviceVulkan13Features::default()
        .synchronization2(true)
        .maintenance4(true)
        .subgroup_size_control(caps.subgroup_control)
        .compute_full_subgroups(caps.subgroup_control)
        .shader_integer_dot_product(on(Need::IntegerDot));
    let base =
        vk::PhysicalDeviceFeatures::default().shader_int16(on(Need::Int16)).shader_int64(on(Need::Int64));
    let mut features = vk::PhysicalDeviceFeatures2::default()
        .features(base)
        .push_next(&mut f11)
        .push_next(&mut f12)
        .push_next(&mut f13);
    // SAFETY: a plain query of a physical device of this instance.
    let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }
        .map_err(failed("vkEnumerateDeviceExtensionProperties"))?;
    let offers = |name| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
    let mut names = Vec::new();
    // The specification demands that a portability driver's subset extension is enabled.
    if offers(ash::khr::portability_subset::NAME) {
        names.push(ash::khr::portability_subset::NAME.as_ptr());
    }
    let mut executables =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let inspect = inspect && offers(ash::khr::pipeline_executable_properties::NAME);
    if inspect {
        names.push(ash::khr::pipeline_executable_properties::NAME.as_ptr());
        features = features.push_next(&mut executables);
    }
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .push_next(&mut features);
    // SAFETY: every feature asked for was reported, and the chain lives until the call returns.
    let device =
        unsafe { instance.create_device(physical, &info, None) }.map_err(failed("vkCreateDevice"))?;
    Ok((device, inspect))
}

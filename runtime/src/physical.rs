//! Physical devices: what each can do, which one is meant, and a logical device with what was found switched on.

use std::ffi::CStr;

use ash::vk;
use sha2::{Digest, Sha256};

use crate::caps::{Caps, DeviceKind, HeapInfo, MatrixShape, MemoryType, Need};
use crate::device::{DeviceInfo, Selector};
use crate::error::Error;
use crate::vulkan::{Validation, failed, open_instance};

/// Extensions that are switched on where a device has them. The specification demands the first.
const WANTED: [&CStr; 7] = [
    ash::khr::portability_subset::NAME,
    ash::ext::memory_budget::NAME,
    ash::ext::external_memory_host::NAME,
    ash::ext::calibrated_timestamps::NAME,
    ash::khr::pipeline_executable_properties::NAME,
    ash::khr::cooperative_matrix::NAME,
    ash::ext::frame_boundary::NAME,
];

/// A physical device that offers Vulkan 1.3 and a compute queue.
pub(crate) struct Candidate {
    pub(crate) physical: vk::PhysicalDevice,
    pub(crate) family: u32,
    pub(crate) caps: Caps,
    /// Those of [`WANTED`] that it has.
    pub(crate) extensions: Vec<&'static CStr>,
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

pub(crate) fn candidates(entry: &ash::Entry, instance: &ash::Instance) -> Result<Vec<Candidate>, Error> {
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
            found.push(candidate((entry, instance), physical, family, &|_| true)?);
        }
        Ok(found)
    }
}

/// What a physical device offers on a family of queues, of its extensions those that `enabled` accepts.
///
/// # Safety
/// `physical` belongs to `instance`, offers Vulkan 1.3 and has the family.
pub(crate) unsafe fn candidate(
    (entry, instance): (&ash::Entry, &ash::Instance),
    physical: vk::PhysicalDevice,
    family: u32,
    enabled: &dyn Fn(&CStr) -> bool,
) -> Result<Candidate, Error> {
    // SAFETY: the caller's promise.
    unsafe {
        let families = instance.get_physical_device_queue_family_properties(physical);
        let bits = families.get(family as usize).map_or(0, |family| family.timestamp_valid_bits);
        let offered = instance
            .enumerate_device_extension_properties(physical)
            .map_err(failed("vkEnumerateDeviceExtensionProperties"))?;
        let has =
            |name: &&CStr| enabled(name) && offered.iter().any(|e| e.extension_name_as_c_str() == Ok(*name));
        let extensions: Vec<_> = WANTED.into_iter().filter(has).collect();
        let matrix = if extensions.contains(&ash::khr::cooperative_matrix::NAME) {
            matrix_shape(&ash::khr::cooperative_matrix::Instance::new(entry, instance), physical)
        } else {
            None
        };
        let caps = query_caps(instance, physical, bits, &extensions, matrix);
        Ok(Candidate { physical, family, caps, extensions })
    }
}

/// The largest matrices of f16 that are summed in f32 and no wider than 16, which shared memory is laid out for.
///
/// # Safety
/// The device has the extension.
unsafe fn matrix_shape(
    extension: &ash::khr::cooperative_matrix::Instance,
    physical: vk::PhysicalDevice,
) -> Option<MatrixShape> {
    // SAFETY: the caller's promise.
    let shapes = unsafe { extension.get_physical_device_cooperative_matrix_properties(physical) }.ok()?;
    let (half, single) = (vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32);
    let fits = |s: &&vk::CooperativeMatrixPropertiesKHR<'_>| {
        (s.a_type, s.b_type, s.c_type, s.result_type) == (half, half, single, single)
            && s.scope == vk::ScopeKHR::SUBGROUP
            && [s.m_size, s.n_size, s.k_size].iter().all(|side| [8, 16].contains(side))
    };
    let best = shapes.iter().filter(fits).max_by_key(|s| s.m_size * s.n_size * s.k_size)?;
    Some(MatrixShape { m: best.m_size, n: best.n_size, k: best.k_size })
}

/// # Safety
/// `physical` belongs to `instance` and offers Vulkan 1.3.
unsafe fn query_caps(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    timestamp_bits: u32,
    extensions: &[&CStr],
    matrix: Option<MatrixShape>,
) -> Caps {
    let mut v11 = vk::PhysicalDeviceVulkan11Properties::default();
    let mut v12 = vk::PhysicalDeviceVulkan12Properties::default();
    let mut v13 = vk::PhysicalDeviceVulkan13Properties::default();
    let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let imports = extensions.contains(&ash::ext::external_memory_host::NAME);
    let mut properties =
        vk::PhysicalDeviceProperties2::default().push_next(&mut v11).push_next(&mut v12).push_next(&mut v13);
    if imports {
        properties = properties.push_next(&mut host);
    }
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
            Need::CooperativeMatrix => matrix.is_some(),
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
    let types = memory_types(&memory);
    let heaps = memory.memory_heaps[..memory.memory_heap_count as usize]
        .iter()
        .enumerate()
        .map(|(index, heap)| HeapInfo {
            size: heap.size,
            device_local: heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL),
            host_visible: types.iter().any(|t| t.heap == index && t.host_visible),
            index,
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
        matrix,
        timestamp_period: (timestamp_bits > 0 && limits.timestamp_period.is_finite())
            .then_some(limits.timestamp_period),
        heaps,
        memory: types,
        flush_alignment: limits.non_coherent_atom_size.max(1),
        import_alignment: imports.then_some(host.min_imported_host_pointer_alignment.max(4096)),
        avoid: Vec::new(),
        simulated: Vec::new(),
        uuid: hash.finalize().into(),
    }
}

/// Memory types that ordinary buffers may use.
fn memory_types(memory: &vk::PhysicalDeviceMemoryProperties) -> Vec<MemoryType> {
    type Flags = vk::MemoryPropertyFlags;
    let special = Flags::LAZILY_ALLOCATED
        | Flags::PROTECTED
        | Flags::DEVICE_COHERENT_AMD
        | Flags::DEVICE_UNCACHED_AMD
        | Flags::RDMA_CAPABLE_NV;
    memory.memory_types[..memory.memory_type_count as usize]
        .iter()
        .enumerate()
        .filter(|(_, kind)| !kind.property_flags.intersects(special))
        .map(|(index, kind)| MemoryType {
            index: index as u32,
            heap: kind.heap_index as usize,
            device_local: kind.property_flags.contains(Flags::DEVICE_LOCAL),
            host_visible: kind.property_flags.contains(Flags::HOST_VISIBLE),
            coherent: kind.property_flags.contains(Flags::HOST_COHERENT),
            cached: kind.property_flags.contains(Flags::HOST_CACHED),
        })
        .collect()
}

/// Every usable Vulkan device, in the loader's order.
pub(crate) fn list() -> Result<Vec<DeviceInfo>, Error> {
    let opened = open_instance(Validation::Off, false)?;
    let found = candidates(&opened.entry, &opened.instance);
    opened.destroy();
    Ok(found?.into_iter().enumerate().map(|(index, c)| DeviceInfo { index, caps: c.caps }).collect())
}

pub(crate) fn pick(found: Vec<Candidate>, selector: &Selector) -> Result<Candidate, Error> {
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
        Selector::Same(uuid) => found.iter().position(|c| c.caps.uuid == *uuid),
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
        Selector::Same(_) => "the one that was lost".into(),
        Selector::Auto | Selector::Reference => "auto".into(),
    };
    position
        .and_then(|index| found.into_iter().nth(index))
        .ok_or(Error::NoSuchDevice { wanted, found: names.join(", ") })
}

/// A logical device with one queue and what the caps say.
pub(crate) fn create_device(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    family: u32,
    caps: &Caps,
    extensions: &[&CStr],
) -> Result<ash::Device, Error> {
    let priorities = [1.0];
    let queues =
        [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    with_features(caps, extensions, |features| {
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .push_next(features);
        // SAFETY: every feature asked for was reported, and the chain lives until the call returns.
        unsafe { instance.create_device(physical, &info, None) }.map_err(failed("vkCreateDevice"))
    })
}

/// Calls `create` with the features that a device of these caps is to be created with.
fn with_features<T>(
    caps: &Caps,
    extensions: &[&CStr],
    create: impl FnOnce(&mut vk::PhysicalDeviceFeatures2<'_>) -> T,
) -> T {
    let on = |need| caps.has(need);
    let mut f11 =
        vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(on(Need::Storage16));
    let mut f12 = vk::PhysicalDeviceVulkan12Features::default()
        .timeline_semaphore(true)
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
    let mut executables =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    if extensions.contains(&ash::khr::pipeline_executable_properties::NAME) {
        features = features.push_next(&mut executables);
    }
    let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
    if on(Need::CooperativeMatrix) {
        features = features.push_next(&mut matrices);
    }
    let mut frames = vk::PhysicalDeviceFrameBoundaryFeaturesEXT::default().frame_boundary(true);
    if extensions.contains(&ash::ext::frame_boundary::NAME) {
        features = features.push_next(&mut frames);
    }
    create(&mut features)
}

/// See [`crate::Device::lendable`].
///
/// # Safety
/// `physical` belongs to `instance` and offers Vulkan 1.3.
pub(crate) unsafe fn lendable<T>(
    (entry, instance): (&ash::Entry, &ash::Instance),
    physical: vk::PhysicalDevice,
    create: impl FnOnce(u32, &mut vk::PhysicalDeviceFeatures2<'_>, &[&CStr]) -> T,
) -> Result<T, Error> {
    // SAFETY: the caller's promise.
    let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
    let family = compute_family(&families)
        .ok_or_else(|| Error::NoDevice { reason: "it has no queue that computes".into() })?;
    // Reading compiled pipelines is for those who inspect them.
    let enabled = |name: &CStr| name != ash::khr::pipeline_executable_properties::NAME;
    // SAFETY: the caller's promise.
    let Candidate { caps, extensions, .. } =
        unsafe { candidate((entry, instance), physical, family, &enabled)? };
    Ok(with_features(&caps, &extensions, |features| create(family, features, &extensions)))
}

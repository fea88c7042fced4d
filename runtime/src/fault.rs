//! Vulkan calls that fail on purpose: a dispatch table whose n-th call returns an error without reaching the driver. For
//! tests of what happens then.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ash::vk;

use crate::error::Error;
use crate::vulkan::lock;

/// Which call fails, and how. Calls of the device that can fail are counted from 1; after a lost device every call fails.
#[derive(Debug)]
pub struct Faults {
    nth: AtomicU64,
    choice: AtomicUsize,
    calls: AtomicU64,
    lost: AtomicBool,
    fired: Mutex<Option<Fault>>,
}

/// A failure that was made to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The call, for example `vkQueueSubmit2`.
    pub call: &'static str,
    /// What it returned, for example `ERROR_DEVICE_LOST`.
    pub result: String,
    /// How many different results it may return.
    pub choices: usize,
}

impl Faults {
    /// Lets call number `nth` fail with the result at place `choice` among those it may return, modulo their number.
    pub fn new(nth: u64, choice: usize) -> Arc<Self> {
        Arc::new(Faults {
            nth: AtomicU64::new(nth),
            choice: AtomicUsize::new(choice),
            calls: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            fired: Mutex::new(None),
        })
    }

    /// Counts calls and fails none.
    pub fn counting() -> Arc<Self> {
        Faults::new(0, 0)
    }

    /// Lets the call fail that is the `nth` from now.
    pub fn arm(&self, nth: u64, choice: usize) {
        self.choice.store(choice, Ordering::Relaxed);
        self.nth.store(self.calls() + nth, Ordering::Relaxed);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// The failure, once it happened.
    pub fn fired(&self) -> Option<Fault> {
        lock(&self.fired).clone()
    }

    fn result(&self, call: &'static str, results: &[vk::Result]) -> Option<vk::Result> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let lost = vk::Result::ERROR_DEVICE_LOST;
        if self.lost.load(Ordering::Acquire) && results.contains(&lost) {
            return Some(lost);
        }
        if number != self.nth.load(Ordering::Relaxed) {
            return None;
        }
        let result = results[self.choice.load(Ordering::Relaxed) % results.len()];
        let fault = Fault { call, result: format!("{result:?}"), choices: results.len() };
        *lock(&self.fired) = Some(fault);
        if result == lost {
            self.lost.store(true, Ordering::Release);
        }
        Some(result)
    }
}

/// The original functions of the one device whose calls may fail.
struct Installed {
    faults: Arc<Faults>,
    device: ash::Device,
}

static INSTALLED: Mutex<Option<Arc<Installed>>> = Mutex::new(None);

/// The device with calls that may fail, in place of `device`.
///
/// Errors: another device of this process has such calls; functions of Vulkan cannot tell them apart.
pub(crate) fn install(faults: &Arc<Faults>, device: ash::Device) -> Result<ash::Device, Error> {
    let mut installed = lock(&INSTALLED);
    if installed.is_some() {
        let label = "faults".to_owned();
        return Err(Error::Recording { label, reason: "another device of this process has faults".into() });
    }
    let faulty = wrapped(&device);
    *installed = Some(Arc::new(Installed { faults: Arc::clone(faults), device }));
    Ok(faulty)
}

/// Forgets the device, which is about to be destroyed.
pub(crate) fn uninstall() {
    lock(&INSTALLED).take();
}

/// What a call returns in place of the driver's answer. Where the device is lost, its work has ended.
fn intercept(call: &'static str, results: &[vk::Result]) -> Result<Arc<Installed>, vk::Result> {
    let installed = lock(&INSTALLED).clone().ok_or(vk::Result::ERROR_DEVICE_LOST)?;
    match installed.faults.result(call, results) {
        None => Ok(installed),
        Some(result) => {
            if result == vk::Result::ERROR_DEVICE_LOST {
                // SAFETY: the device is alive: one of its functions was called.
                let _ = unsafe { installed.device.device_wait_idle() };
            }
            Err(result)
        }
    }
}

/// Functions by the Vulkan version that brought them.
struct Tables {
    fp_v1_0: ash::DeviceFnV1_0,
    fp_v1_2: ash::DeviceFnV1_2,
    fp_v1_3: ash::DeviceFnV1_3,
}

macro_rules! calls {
    ($($name:ident of $version:ident is $vk:literal ($($arg:ident: $kind:ty),*) or [$($result:ident),*];)*) => {
        $(
            unsafe extern "system" fn $name($($arg: $kind),*) -> vk::Result {
                match intercept($vk, &[$(vk::Result::$result),*]) {
                    // SAFETY: the caller's arguments, handed on as they are.
                    Ok(installed) => unsafe { (installed.device.$version().$name)($($arg),*) },
                    Err(result) => result,
                }
            }
        )*

        fn wrapped(device: &ash::Device) -> ash::Device {
            let mut tables = Tables {
                fp_v1_0: device.fp_v1_0().clone(),
                fp_v1_2: device.fp_v1_2().clone(),
                fp_v1_3: device.fp_v1_3().clone(),
            };
            $(tables.$version.$name = $name;)*
            let (handle, fp_v1_1) = (device.handle(), device.fp_v1_1().clone());
            ash::Device::from_parts_1_3(handle, tables.fp_v1_0, fp_v1_1, tables.fp_v1_2, tables.fp_v1_3)
        }
    };
}

// Results as the Vulkan 1.3 specification lists them under each command.
calls! {
    allocate_memory of fp_v1_0 is "vkAllocateMemory" (device: vk::Device, info: *const vk::MemoryAllocateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::DeviceMemory)
        or [ERROR_OUT_OF_DEVICE_MEMORY, ERROR_OUT_OF_HOST_MEMORY, ERROR_INVALID_EXTERNAL_HANDLE];
    map_memory of fp_v1_0 is "vkMapMemory" (device: vk::Device, memory: vk::DeviceMemory, offset: u64, size: u64, flags: vk::MemoryMapFlags, at: *mut *mut std::ffi::c_void)
        or [ERROR_MEMORY_MAP_FAILED, ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    flush_mapped_memory_ranges of fp_v1_0 is "vkFlushMappedMemoryRanges" (device: vk::Device, count: u32, ranges: *const vk::MappedMemoryRange<'_>)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    invalidate_mapped_memory_ranges of fp_v1_0 is "vkInvalidateMappedMemoryRanges" (device: vk::Device, count: u32, ranges: *const vk::MappedMemoryRange<'_>)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    bind_buffer_memory of fp_v1_0 is "vkBindBufferMemory" (device: vk::Device, buffer: vk::Buffer, memory: vk::DeviceMemory, offset: u64)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    create_buffer of fp_v1_0 is "vkCreateBuffer" (device: vk::Device, info: *const vk::BufferCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::Buffer)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    create_semaphore of fp_v1_0 is "vkCreateSemaphore" (device: vk::Device, info: *const vk::SemaphoreCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::Semaphore)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    create_query_pool of fp_v1_0 is "vkCreateQueryPool" (device: vk::Device, info: *const vk::QueryPoolCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::QueryPool)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    get_query_pool_results of fp_v1_0 is "vkGetQueryPoolResults" (device: vk::Device, pool: vk::QueryPool, first: u32, count: u32, size: usize, data: *mut std::ffi::c_void, stride: u64, flags: vk::QueryResultFlags)
        or [NOT_READY, ERROR_DEVICE_LOST, ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    create_shader_module of fp_v1_0 is "vkCreateShaderModule" (device: vk::Device, info: *const vk::ShaderModuleCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::ShaderModule)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY, ERROR_INVALID_SHADER_NV];
    create_pipeline_cache of fp_v1_0 is "vkCreatePipelineCache" (device: vk::Device, info: *const vk::PipelineCacheCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::PipelineCache)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    get_pipeline_cache_data of fp_v1_0 is "vkGetPipelineCacheData" (device: vk::Device, cache: vk::PipelineCache, size: *mut usize, data: *mut std::ffi::c_void)
        or [INCOMPLETE, ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    create_compute_pipelines of fp_v1_0 is "vkCreateComputePipelines" (device: vk::Device, cache: vk::PipelineCache, count: u32, infos: *const vk::ComputePipelineCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::Pipeline)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY, ERROR_INVALID_SHADER_NV];
    create_pipeline_layout of fp_v1_0 is "vkCreatePipelineLayout" (device: vk::Device, info: *const vk::PipelineLayoutCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::PipelineLayout)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    create_descriptor_set_layout of fp_v1_0 is "vkCreateDescriptorSetLayout" (device: vk::Device, info: *const vk::DescriptorSetLayoutCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::DescriptorSetLayout)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    create_descriptor_pool of fp_v1_0 is "vkCreateDescriptorPool" (device: vk::Device, info: *const vk::DescriptorPoolCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::DescriptorPool)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY, ERROR_FRAGMENTATION];
    allocate_descriptor_sets of fp_v1_0 is "vkAllocateDescriptorSets" (device: vk::Device, info: *const vk::DescriptorSetAllocateInfo<'_>, sets: *mut vk::DescriptorSet)
        or [ERROR_OUT_OF_POOL_MEMORY, ERROR_FRAGMENTED_POOL, ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    create_command_pool of fp_v1_0 is "vkCreateCommandPool" (device: vk::Device, info: *const vk::CommandPoolCreateInfo<'_>, host: *const vk::AllocationCallbacks<'_>, made: *mut vk::CommandPool)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    allocate_command_buffers of fp_v1_0 is "vkAllocateCommandBuffers" (device: vk::Device, info: *const vk::CommandBufferAllocateInfo<'_>, made: *mut vk::CommandBuffer)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    begin_command_buffer of fp_v1_0 is "vkBeginCommandBuffer" (commands: vk::CommandBuffer, info: *const vk::CommandBufferBeginInfo<'_>)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    end_command_buffer of fp_v1_0 is "vkEndCommandBuffer" (commands: vk::CommandBuffer)
        or [ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    wait_semaphores of fp_v1_2 is "vkWaitSemaphores" (device: vk::Device, info: *const vk::SemaphoreWaitInfo<'_>, timeout: u64)
        or [ERROR_DEVICE_LOST, TIMEOUT, ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
    queue_submit2 of fp_v1_3 is "vkQueueSubmit2" (queue: vk::Queue, count: u32, infos: *const vk::SubmitInfo2<'_>, fence: vk::Fence)
        or [ERROR_DEVICE_LOST, ERROR_OUT_OF_HOST_MEMORY, ERROR_OUT_OF_DEVICE_MEMORY];
}

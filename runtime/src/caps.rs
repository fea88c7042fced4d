//! What a device can do, as values that kernels can ask for. Facts decide, names of vendors do not.

use std::fmt;

use crate::error::Error;
use crate::simulate::Simulated;

/// An optional device feature a kernel may need; derived from its SPIR-V capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// `shaderFloat16`
    Float16,
    /// `shaderInt8`
    Int8,
    /// `shaderInt16`
    Int16,
    /// `shaderInt64`
    Int64,
    /// `storageBuffer8BitAccess`
    Storage8,
    /// `storageBuffer16BitAccess`
    Storage16,
    /// `shaderIntegerDotProduct`
    IntegerDot,
    /// Basic subgroup operations and votes.
    SubgroupBasic,
    /// `VK_SUBGROUP_FEATURE_ARITHMETIC_BIT`
    SubgroupArithmetic,
    /// `VK_SUBGROUP_FEATURE_SHUFFLE_BIT`
    SubgroupShuffle,
    /// `VK_SUBGROUP_FEATURE_BALLOT_BIT`
    SubgroupBallot,
    /// `VK_KHR_cooperative_matrix`, with matrices of f16 and sums of f32 in a subgroup ([`Caps::matrix`])
    CooperativeMatrix,
    /// `vulkanMemoryModel` with `vulkanMemoryModelDeviceScope`
    MemoryModel,
}

impl Need {
    /// Every need, in order of declaration.
    pub const ALL: &[Need] = &[
        Need::Float16,
        Need::Int8,
        Need::Int16,
        Need::Int64,
        Need::Storage8,
        Need::Storage16,
        Need::IntegerDot,
        Need::SubgroupBasic,
        Need::SubgroupArithmetic,
        Need::SubgroupShuffle,
        Need::SubgroupBallot,
        Need::CooperativeMatrix,
        Need::MemoryModel,
    ];

    /// Name used by `--caps minus:…` and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Need::Float16 => "fp16",
            Need::Int8 => "int8",
            Need::Int16 => "int16",
            Need::Int64 => "int64",
            Need::Storage8 => "storage8",
            Need::Storage16 => "storage16",
            Need::IntegerDot => "intdot",
            Need::SubgroupBasic => "subgroup",
            Need::SubgroupArithmetic => "subgroup-arithmetic",
            Need::SubgroupShuffle => "subgroup-shuffle",
            Need::SubgroupBallot => "subgroup-ballot",
            Need::CooperativeMatrix => "coopmat",
            Need::MemoryModel => "memory-model",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Kind of device, as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Integrated,
    Discrete,
    Virtual,
    Cpu,
    /// The runtime's own CPU interpreter of recordings.
    Reference,
    Other,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Integrated => "integrated GPU",
            DeviceKind::Discrete => "discrete GPU",
            DeviceKind::Virtual => "virtual GPU",
            DeviceKind::Cpu => "CPU",
            DeviceKind::Reference => "reference",
            DeviceKind::Other => "other",
        })
    }
}

/// One memory heap.
#[derive(Clone, Copy, Debug)]
pub struct HeapInfo {
    /// Bytes.
    pub size: u64,
    pub device_local: bool,
    /// Some memory type of the heap can be mapped.
    pub host_visible: bool,
    /// Vulkan's number of the heap.
    pub index: usize,
}

/// One kind of memory that buffers may live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryType {
    /// Vulkan's number of the type.
    pub index: u32,
    /// Position in [`Caps::heaps`].
    pub heap: usize,
    pub device_local: bool,
    pub host_visible: bool,
    /// The host need not flush what it wrote nor invalidate what it reads.
    pub coherent: bool,
    pub cached: bool,
}

/// Sides of matrices that a subgroup multiplies: [m, k] times [k, n], of f16 with sums of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    pub m: u32,
    pub n: u32,
    pub k: u32,
}

/// Limits and features of one device.
#[derive(Clone, Debug)]
pub struct Caps {
    pub name: String,
    pub driver: String,
    pub kind: DeviceKind,
    /// Vulkan version as (major, minor, patch).
    pub api: (u32, u32, u32),
    pub vendor_id: u32,
    pub device_id: u32,
    /// Features found and not switched off, in order.
    pub has: Vec<Need>,
    /// Subgroup size pipelines run with, and the range the device offers.
    pub subgroup: u32,
    pub subgroup_range: (u32, u32),
    /// Whether a pipeline may ask for its subgroup size.
    pub subgroup_control: bool,
    /// Largest bytes of one storage buffer binding.
    pub max_binding: u64,
    /// Largest bytes of one buffer, and of one allocation.
    pub max_buffer: u64,
    pub max_allocation: u64,
    /// Storage buffer offsets are rounded down to this.
    pub offset_alignment: u64,
    pub max_workgroup: u32,
    pub max_groups: [u32; 3],
    /// Shared memory of a workgroup in bytes.
    pub max_shared: u32,
    pub max_push: u32,
    /// The matrices that a subgroup multiplies; `None` where it cannot.
    pub matrix: Option<MatrixShape>,
    /// Nanoseconds per timestamp tick; `None` when the queue has no timestamps.
    pub timestamp_period: Option<f32>,
    pub heaps: Vec<HeapInfo>,
    pub memory: Vec<MemoryType>,
    /// Ranges of memory that is not coherent are flushed in multiples of this.
    pub flush_alignment: u64,
    /// Host memory can be imported at multiples of this; `None` when the device cannot do it.
    pub import_alignment: Option<u64>,
    /// Kernels not to be used on it, by name.
    pub avoid: Vec<String>,
    /// What the device was made to look like.
    pub simulated: Vec<Simulated>,
    /// Hash of driver, version and device; keys caches.
    pub uuid: [u8; 32],
}

impl Caps {
    pub fn has(&self, need: Need) -> bool {
        self.has.contains(&need)
    }

    /// True when host and device have one memory, whatever heaps it is divided into.
    pub fn shares_memory(&self) -> bool {
        matches!(self.kind, DeviceKind::Integrated | DeviceKind::Cpu | DeviceKind::Reference)
    }

    /// Refuses a buffer that is larger than the device allows.
    pub(crate) fn check_buffer(&self, name: &str, size: u64) -> Result<(), Error> {
        let allowed = self.max_buffer.min(self.max_allocation);
        if size <= allowed {
            return Ok(());
        }
        let what = format!("the size of buffer {name}");
        Err(Error::Limit { device: self.name.clone(), what, found: size, allowed })
    }

    /// The reference device: it can do everything, slowly.
    pub(crate) fn reference() -> Self {
        Caps {
            name: "reference".into(),
            driver: "CPU interpreter".into(),
            kind: DeviceKind::Reference,
            api: (0, 0, 0),
            vendor_id: 0,
            device_id: 0,
            has: Need::ALL.to_vec(),
            subgroup: 8,
            subgroup_range: (8, 8),
            subgroup_control: true,
            max_binding: u64::from(u32::MAX),
            max_buffer: u64::MAX / 2,
            max_allocation: u64::MAX / 2,
            offset_alignment: 4,
            max_workgroup: 1024,
            max_groups: [u32::MAX; 3],
            max_shared: 32768,
            max_push: 128,
            matrix: None,
            timestamp_period: None,
            heaps: Vec::new(),
            memory: Vec::new(),
            flush_alignment: 1,
            import_alignment: None,
            avoid: Vec::new(),
            simulated: Vec::new(),
            uuid: [0; 32],
        }
    }
}

//! Devices made to look like others, so that their paths run where those devices are not: a pure change of what the
//! device says of itself. It must keep to what it then says.

use std::fmt;

use crate::caps::{Caps, DeviceKind, HeapInfo, MemoryType, Need};

/// What a device is made to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulated {
    /// Device memory the host cannot see, a small window that it can, and host memory that is not coherent.
    Discrete,
    /// The smallest limits Vulkan allows: 128 MiB bindings at multiples of 256 bytes, workgroups of 128 invocations with
    /// 16 KiB of shared memory.
    Small,
    /// None of the optional features that kernels can do without.
    Poor,
    /// Bindings at multiples of 256 bytes, the most that any device asks for.
    Aligned,
}

/// The host's window into the memory of a simulated discrete device.
const WINDOW: u64 = 256 << 20;

/// Features that a poor device lacks.
const LUXURIES: &[Need] = &[
    Need::Float16,
    Need::Int8,
    Need::Int16,
    Need::Int64,
    Need::Storage8,
    Need::Storage16,
    Need::IntegerDot,
    Need::SubgroupArithmetic,
    Need::CooperativeMatrix,
];

impl Simulated {
    /// Every kind, in order of declaration.
    pub const ALL: &[Simulated] =
        &[Simulated::Discrete, Simulated::Small, Simulated::Poor, Simulated::Aligned];

    /// Name used by `--simulate`.
    pub fn name(self) -> &'static str {
        match self {
            Simulated::Discrete => "discrete",
            Simulated::Small => "small",
            Simulated::Poor => "poor",
            Simulated::Aligned => "aligned",
        }
    }

    pub(crate) fn apply(self, caps: &mut Caps) {
        match self {
            Simulated::Discrete => discrete(caps),
            Simulated::Small => {
                caps.max_binding = caps.max_binding.min(128 << 20);
                caps.offset_alignment = caps.offset_alignment.max(256);
                caps.max_workgroup = caps.max_workgroup.min(128);
                caps.max_shared = caps.max_shared.min(16 << 10);
                caps.max_push = caps.max_push.min(128);
            }
            Simulated::Aligned => caps.offset_alignment = caps.offset_alignment.max(256),
            Simulated::Poor => caps.has.retain(|need| !LUXURIES.contains(need)),
        }
        caps.simulated.push(self);
    }
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One real memory type that can be everything becomes three: device memory, the window, host memory.
fn discrete(caps: &mut Caps) {
    let Some(real) = caps.memory.iter().find(|t| t.host_visible && t.coherent).copied() else { return };
    let Some(heap) = caps.heaps.get(real.heap).copied() else { return };
    let kind = |heap, device_local, host_visible, coherent| MemoryType {
        index: real.index,
        heap,
        device_local,
        host_visible,
        coherent,
        cached: host_visible && !coherent,
    };
    caps.memory = vec![kind(0, true, false, false), kind(1, true, true, true), kind(2, false, true, false)];
    let part = |size, device_local, host_visible| HeapInfo { size, device_local, host_visible, ..heap };
    caps.heaps = vec![part(heap.size, true, false), part(WINDOW, true, true), part(heap.size, false, true)];
    caps.kind = DeviceKind::Discrete;
    caps.import_alignment = None;
    caps.flush_alignment = caps.flush_alignment.max(64);
}

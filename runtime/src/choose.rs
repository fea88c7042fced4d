//! Which kinds of memory a buffer may live in, best first: a pure function of what the device has.

use std::cmp::Reverse;

use crate::buffer::Usage;
use crate::caps::{Caps, DeviceKind, MemoryType};

/// The memory types that do for a usage, best first.
///
/// Constant and local data want the large device-local heap; of two types on it, constants take the one that the host
/// can see, so that they are read straight into place, and local data leave it to others. Where device and host share
/// their memory any heap does, after the device-local ones. What the host writes between submissions must be coherent:
/// flushing a neighbour would overwrite what the device wrote. Results want caches, staging wants neither.
pub(crate) fn choose(caps: &Caps, usage: Usage) -> Vec<MemoryType> {
    let heap = |kind: &MemoryType| caps.heaps.get(kind.heap).map_or(0, |heap| heap.size);
    let usable = |kind: &&MemoryType| match usage {
        Usage::Constant | Usage::Local => kind.device_local || caps.shares_memory(),
        Usage::Shared => kind.host_visible && kind.coherent,
        Usage::Readback | Usage::Staging => kind.host_visible,
        Usage::Exact(index) => kind.index == index,
    };
    let mut types: Vec<MemoryType> = caps.memory.iter().filter(usable).copied().collect();
    // Sorting is stable: of equal types the driver's order decides, which puts the fastest first.
    match usage {
        Usage::Constant => {
            types.sort_by_key(|t| (!t.device_local, Reverse(heap(t)), !t.host_visible, !t.coherent, t.cached))
        }
        Usage::Local => types.sort_by_key(|t| (!t.device_local, Reverse(heap(t)), t.host_visible, t.cached)),
        Usage::Shared => types.sort_by_key(|t| (!t.device_local, t.cached)),
        Usage::Readback => types.sort_by_key(|t| (!t.cached, !t.coherent, t.device_local)),
        Usage::Staging => types.sort_by_key(|t| (t.device_local, !t.coherent, t.cached)),
        Usage::Exact(_) => {}
    }
    types
}

/// Size and alignment of a huge page.
pub(crate) const HUGE: u64 = 2 << 20;

/// Whether a buffer is put into huge pages of the host: on software drivers, which then have few pages to fault in and
/// to look up.
pub(crate) fn in_huge_pages(caps: &Caps, usage: Usage, size: u64) -> bool {
    caps.kind == DeviceKind::Cpu
        && usage == Usage::Constant
        && caps.import_alignment.is_some_and(|align| HUGE.is_multiple_of(align))
        && size >= HUGE
        && caps.check_buffer("", size.next_multiple_of(HUGE)).is_ok()
}

/// Bytes that a buffer is expected to take.
pub(crate) fn expected(caps: &Caps, usage: Usage, size: u64) -> u64 {
    size.next_multiple_of(if in_huge_pages(caps, usage, size) { HUGE } else { 256 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::HeapInfo;

    const GIB: u64 = 1 << 30;

    /// (heap, device-local, host-visible, coherent, cached) by index.
    fn device(kind: DeviceKind, heaps: &[u64], types: &[(usize, bool, bool, bool, bool)]) -> Caps {
        let memory: Vec<_> = types
            .iter()
            .enumerate()
            .map(|(index, &(heap, device_local, host_visible, coherent, cached))| MemoryType {
                index: index as u32,
                heap,
                device_local,
                host_visible,
                coherent,
                cached,
            })
            .collect();
        let heaps = heaps
            .iter()
            .enumerate()
            .map(|(index, &size)| HeapInfo {
                size,
                device_local: memory.iter().any(|t| t.heap == index && t.device_local),
                host_visible: memory.iter().any(|t| t.heap == index && t.host_visible),
                index,
            })
            .collect();
        Caps { kind, heaps, memory, ..Caps::reference() }
    }

    fn chosen(caps: &Caps, usage: Usage) -> Vec<u32> {
        choose(caps, usage).iter().map(|t| t.index).collect()
    }

    #[test]
    fn an_apu_offers_both_heaps() {
        // RADV on a Radeon 890M: a carve-out that is device-local, and the rest of the machine.
        let caps = device(
            DeviceKind::Integrated,
            &[5 * GIB, 10 * GIB],
            &[
                (1, true, false, false, false),
                (0, false, true, true, false),
                (1, true, true, true, false),
                (0, false, true, true, true),
            ],
        );
        assert_eq!(chosen(&caps, Usage::Constant), [2, 0, 1, 3]);
        assert_eq!(chosen(&caps, Usage::Local), [0, 2, 1, 3]);
        assert_eq!(chosen(&caps, Usage::Shared), [2, 1, 3]);
        assert_eq!(chosen(&caps, Usage::Readback)[0], 3);
        assert_eq!(chosen(&caps, Usage::Staging)[0], 1);
    }

    #[test]
    fn a_small_window_is_left_to_what_the_host_writes() {
        // A card without a resizable BAR: 8 GiB, of which the host sees 256 MiB.
        let caps = device(
            DeviceKind::Discrete,
            &[8 * GIB, 16 * GIB, GIB / 4],
            &[
                (0, true, false, false, false),
                (1, false, true, true, false),
                (2, true, true, true, false),
                (1, false, true, true, true),
            ],
        );
        assert_eq!(chosen(&caps, Usage::Constant), [0, 2]);
        assert_eq!(chosen(&caps, Usage::Shared)[0], 2);
        assert_eq!(chosen(&caps, Usage::Readback)[0], 3);
        assert_eq!(chosen(&caps, Usage::Staging)[0], 1);
        // With one, constants are written in place.
        let caps = device(
            DeviceKind::Discrete,
            &[8 * GIB, 16 * GIB],
            &[(0, true, false, false, false), (1, false, true, true, false), (0, true, true, true, false)],
        );
        assert_eq!(chosen(&caps, Usage::Constant), [2, 0]);
        assert_eq!(chosen(&caps, Usage::Local), [0, 2]);
    }

    #[test]
    fn what_the_host_shares_is_coherent() {
        let caps = device(
            DeviceKind::Integrated,
            &[8 * GIB],
            &[(0, true, true, false, true), (0, true, true, true, false)],
        );
        assert_eq!(chosen(&caps, Usage::Shared), [1]);
        assert_eq!(chosen(&caps, Usage::Readback), [0, 1]);
    }
}

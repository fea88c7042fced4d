//! What Linux's driver of AMD cards says of a card's memory: its type, the width of its bus, its highest clock, and the caches
//! before it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `DRM_IOCTL_AMDGPU_INFO` and its question for the device, as the kernel's amdgpu_drm.h has them.
const INFO: u32 = 0x4020_6445;
const DEVICE: u32 = 0x16;
/// Bytes of `drm_amdgpu_info_device` up to what is read of it; the kernel writes as much of it as it knows.
const RECORD: usize = 416;

/// A card's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// Bytes per second on paper.
    pub(super) nominal: Option<f64>,
    /// Bytes of the largest cache before the memory.
    pub(super) cache: Option<u64>,
}

#[repr(C)]
struct Request {
    pointer: u64,
    size: u32,
    query: u32,
    rest: [u32; 4],
}

/// Asks the driver through a card's render node, a file that everybody who may compute may read.
pub(super) fn memory(node: &Path) -> Option<[u8; RECORD]> {
    let file = File::open(node).ok()?;
    let mut record = [0u8; RECORD];
    let mut request =
        Request { pointer: record.as_mut_ptr() as u64, size: RECORD as u32, query: DEVICE, rest: [0; 4] };
    // SAFETY: the request is one of this call's, and the driver writes at most `size` bytes to a buffer that has them. A
    // file that is no card of this driver refuses the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), INFO as libc::Ioctl, &raw mut request) };
    (result == 0).then_some(record)
}

/// Reads the driver's answer; `dpm` is the highest clock in MHz of the card's list, for drivers that leave it out.
pub(super) fn read(record: &[u8; RECORD], dpm: Option<u64>) -> Memory {
    let word = |at: usize| {
        let bytes = record.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    // Transfers of a clock by the type of memory, as Mesa's ac_memory_ops_per_clock has them.
    let transfers = match word(176) {
        // DDR2, DDR3, DDR4, LPDDR4, HBM.
        2 | 6 | 7 | 8 | 11 => 2,
        // GDDR5, DDR5, LPDDR5.
        5 | 10 | 12 => 4,
        // GDDR6.
        9 => 16,
        _ => 0,
    };
    let clock = Some(long(40)).filter(|khz| *khz > 0).or(dpm.map(|mhz| mhz * 1000)).unwrap_or(0);
    let nominal = clock as f64 * 1e3 * f64::from(transfers) * f64::from(word(180)) / 8.0;
    let cache = long(408).max(u64::from(word(404)));
    Memory { nominal: (nominal > 0.0).then_some(nominal), cache: (cache > 0).then_some(cache) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u32, bits: u32, khz: u64, l2: u32, l3: u64) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
        put(40, &khz.to_ne_bytes());
        put(176, &kind.to_ne_bytes());
        put(180, &bits.to_ne_bytes());
        put(404, &l2.to_ne_bytes());
        put(408, &l3.to_ne_bytes());
        record
    }

    #[test]
    fn type_width_and_clock_are_the_bandwidth_on_paper() {
        // Radeon 890M with LPDDR5X-7500, and 8060S with LPDDR5X-8000 and 32 MiB before it.
        let point = read(&answer(12, 128, 1_875_000, 2 << 20, 0), None);
        assert_eq!(point, Memory { nominal: Some(120e9), cache: Some(2 << 20) });
        let halo = read(&answer(12, 256, 2_000_000, 2 << 20, 32 << 20), None);
        assert_eq!(halo, Memory { nominal: Some(256e9), cache: Some(32 << 20) });
        // Radeon RX 6800 XT: GDDR6 of 16 Gbit/s on 256 bits; Vega 64: HBM of 945 MHz on 2048 bits.
        assert_eq!(read(&answer(9, 256, 1_000_000, 4 << 20, 128 << 20), None).nominal, Some(512e9));
        assert_eq!(read(&answer(6, 2048, 945_000, 4 << 20, 0), None).nominal, Some(483.84e9));
        // Where the driver has no clock, that of the card's list counts; an unknown type has no bandwidth.
        assert_eq!(read(&answer(12, 128, 0, 0, 0), Some(1875)).nominal, Some(120e9));
        assert_eq!(read(&answer(12, 128, 0, 0, 0), None), Memory::default());
        assert_eq!(read(&answer(0, 128, 1_000_000, 0, 0), None), Memory::default());
    }

    #[test]
    fn other_files_are_no_cards() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(memory(file.path()), None);
        assert_eq!(memory(Path::new("/nowhere")), None);
        assert_eq!(memory(Path::new("/dev/null")), None);
    }
}

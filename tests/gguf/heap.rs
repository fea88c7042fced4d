//! How much heap reading a file takes: at most 1 MiB and four times the metadata that are really there.

use super::build::*;
use super::{corpus, open};
use allocation_counter::measure;

/// The peak of the heap while a file is opened, its own bytes not counted.
fn peak(bytes: &[u8]) -> u64 {
    // The bytes are copied by `open`.
    measure(|| drop(open(bytes))).bytes_max.saturating_sub(bytes.len() as u64)
}

fn bounded(name: &str, bytes: &[u8], metadata: usize) {
    let (found, allowed) = (peak(bytes), (1 << 20) + 4 * metadata as u64);
    assert!(found <= allowed, "{name}: a peak of {found} bytes, allowed {allowed}");
}

#[test]
fn heap_stays_within_what_the_file_justifies() {
    for case in corpus::cases() {
        bounded(&case.name, &case.bytes, case.bytes.len());
    }
    let empty = Build::new().array("r", STRING, 1 << 18, &vec![0; 8 << 18]);
    bounded("empty strings", &empty.finish(), empty.head_len());

    // Just past a power of two, where growing vectors are largest for what they hold.
    for count in [32_769, 65_536] {
        let keys = (0..count).fold(Build::new(), |build, i: u32| build.key(&format!("{i:x}"), U8, &[1]));
        bounded("short keys", &keys.finish(), keys.head_len());
    }
    for count in [43_691u64, 100_000] {
        let tensors = (0..count)
            .fold(Build::new(), |build, i| build.tensor_at(format!("{i:x}").as_bytes(), &[1], 24, i * 32));
        let tensors = tensors.data(&vec![0; count as usize * 32]);
        bounded("small tensors", &tensors.finish(), tensors.head_len());
    }
    let arrays = (0..50_000).fold(Build::new(), |build, i: u32| build.strings(&format!("{i:x}"), &[]));
    bounded("arrays without strings", &arrays.finish(), arrays.head_len());

    // A huge file that lies about its counts gets nothing for it.
    let lie = Build { tensor_count: Some(1 << 20), ..Build::new().data(&vec![0; 64 << 20]) };
    bounded("a count that is a lie", &lie.finish(), 24);
}

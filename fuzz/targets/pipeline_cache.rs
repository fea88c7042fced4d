//! A pipeline cache on disk: what is not what this program wrote for this driver never reaches the driver.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&[u8], [u8; 32])| {
    let (bytes, owner) = data;
    if let Ok(kept) = vkllm_runtime::check_cache(bytes, &owner) {
        assert!(bytes.ends_with(kept) && bytes[8..40] == owner);
    }
});

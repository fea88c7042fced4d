//! What all tests on a device share: one device per process, a seed, and skips that are counted.

mod tests;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use vkllm::selftest::{Rng, SEED};
use vkllm_runtime::{Device, DeviceOptions, Error, Selector, Simulated, Validation};

/// Name part or index of the device under test, or "reference".
pub const DEVICE: &str = "VKLLM_TEST_DEVICE";
/// "core", "sync" or "gpu": run under the validation layers, any message is a failure.
const VALIDATION: &str = "VKLLM_TEST_VALIDATION";
/// Overrides the seed of random numbers.
const SEED_NAME: &str = "VKLLM_TEST_SEED";
/// "discrete", "small", "poor" or several with commas: what the device is made to look like.
const SIMULATE: &str = "VKLLM_TEST_SIMULATE";
/// File that gets one line per skipped test.
const SKIPS: &str = "VKLLM_TEST_SKIPS";

pub fn options() -> DeviceOptions {
    let wanted = std::env::var(DEVICE).unwrap_or_default();
    let selector = match wanted.as_str() {
        "" => Selector::Auto,
        "reference" => Selector::Reference,
        text => text.parse().map_or_else(|_| Selector::Name(text.to_owned()), Selector::Index),
    };
    let validation = match std::env::var(VALIDATION).unwrap_or_default().as_str() {
        "" => Validation::Off,
        "core" => Validation::Core,
        "sync" => Validation::Sync,
        "gpu" => Validation::Gpu,
        other => panic!("{VALIDATION} is {other}; allowed are core, sync and gpu"),
    };
    let kind = |name: &str| {
        let found = Simulated::ALL.iter().find(|kind| kind.name() == name);
        *found.unwrap_or_else(|| {
            panic!("{SIMULATE} names {name}; allowed are discrete, small, poor and aligned")
        })
    };
    let names = std::env::var(SIMULATE).unwrap_or_default();
    let mut simulate: Vec<_> = names.split(',').filter(|name| !name.is_empty()).map(kind).collect();
    // So that what remains of an offset is never zero by chance.
    simulate.push(Simulated::Aligned);
    DeviceOptions { selector, validation, simulate, ..DeviceOptions::default() }
}

/// The device of a set of options. Nothing there is `None` if no device was named, else a failure.
fn open(options: &DeviceOptions) -> Option<Device> {
    match Device::open(options) {
        Ok(device) => Some(device),
        Err(Error::NoLoader { .. } | Error::NoDevice { .. }) if options.selector == Selector::Auto => None,
        Err(error) => panic!("{DEVICE}: {error}"),
    }
}

/// The one device of this process. `None`, counted as a skip, where no Vulkan device is and none was named.
pub fn device() -> Option<&'static Device> {
    static OPENED: OnceLock<Option<Device>> = OnceLock::new();
    let device = OPENED.get_or_init(|| open(&options())).as_ref();
    if device.is_none() {
        skip("no Vulkan device");
    }
    device
}

/// Options of a device that cuts nothing, however long it takes: who counts submissions must not depend on the clock.
pub fn uncut() -> DeviceOptions {
    DeviceOptions { slice: Some(Duration::ZERO), ..options() }
}

/// A device of one's own, as `device` is.
pub fn another() -> Option<Device> {
    let device = open(&options());
    if device.is_none() {
        skip("no Vulkan device");
    }
    device
}

/// Another device, made to look different.
pub fn simulated(kind: Simulated) -> Option<Device> {
    let device = open(&DeviceOptions { simulate: vec![kind], ..options() });
    if device.is_none() {
        skip("no Vulkan device");
    }
    device
}

/// Name of the running test, as the test runner takes it.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("main").to_owned()
}

/// Counts and prints a skip, once per test and reason.
pub fn skip(reason: &str) {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("skipped {}: {reason}", test_name());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !seen.insert(line.clone()) {
        return;
    }
    println!("{line} ({} so far)", seen.len());
    if let Ok(path) = std::env::var(SKIPS) {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        assert!(written.is_ok(), "{SKIPS}: {path} cannot be written");
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    match std::env::var(SEED_NAME) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_NAME} is {text}, not a number")),
        Err(_) => SEED,
    }
}

/// Random numbers for a label; the seed is shown where a test fails.
pub fn rng(label: &str) -> Rng {
    println!("{}={}", SEED_NAME, seed());
    Rng::new(seed(), label)
}

/// The settings that chose this device, as they stand before a command.
pub fn environment() -> String {
    let set = |name: &str| std::env::var(name).map_or(String::new(), |value| format!("{name}={value:?} "));
    ["VK_DRIVER_FILES", "LP_NATIVE_VECTOR_WIDTH"].map(set).concat()
}

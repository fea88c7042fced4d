//! An access outside a buffer is reported under GPU-assisted validation.

use vkllm_runtime::{CompileOptions, Device, Recording, Usage, Validation};

use super::{ROW, lookup_among, rows};
use crate::harness;

/// A row far behind the end of x.
const OUTSIDE: u32 = 1 << 16;

#[test]
fn an_access_outside_is_reported() {
    let options = harness::options();
    if options.validation != Validation::Gpu {
        return harness::skip(
            "VKLLM_TEST_VALIDATION is not gpu: accesses outside buffers are not looked for",
        );
    }
    if harness::device().is_none() {
        return;
    }
    // Its own device: messages of others are their failures.
    let device = Device::open(&options).expect("the device opens twice");
    let x = device.buffer("x", 8 * ROW * 4, Usage::Shared).expect("a buffer");
    let y = device.buffer("y", ROW * 4, Usage::Readback).expect("a buffer");
    let run = |row: u32| {
        let mut r = Recording::new("outside");
        // The kernel believes that x has rows enough.
        let order = rows(&device, [row].into_iter());
        lookup_among(&mut r, "outside", (&x.whole(), OUTSIDE + 1), &order, &y.whole(), None);
        let compiled = device.compile(&r, &CompileOptions::default()).expect("it compiles");
        device.submit(&[&compiled]).expect("submitted").wait().expect("finished");
        device.take_messages()
    };
    assert!(run(7).is_empty(), "the last row is inside");
    let messages = run(OUTSIDE);
    println!("{messages:?}");
    assert!(!messages.is_empty(), "the planted access outside was not reported");
}

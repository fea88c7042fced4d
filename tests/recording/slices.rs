//! Recordings cut into many submissions: the same words, a run that is stopped between two, and where it stood.

use std::cell::Cell;
use std::time::Duration;

use vkllm_runtime::{
    CompileOptions, Compiled, Device, DeviceOptions, Grid, Recording, Usage, Validation, View,
};
use vkllm_shaders::ops;

use super::{lookup, options, quiet, rows, validated};
use crate::harness;

/// Copies by dispatches of many workgroups, one after the other, from one half of a buffer to the other and back.
fn chain(device: &Device, length: usize) -> (Compiled, View) {
    let buffer = device.buffer("halves", 2 * 1024 * super::ROW * 4, Usage::Readback).expect("a buffer");
    let words: Vec<f32> = (0..buffer.size() / 4).map(|word| word as f32).collect();
    buffer.write(0, bytemuck::cast_slice(&words)).expect("written");
    let order = rows(device, (0..1024).map(|row| (row * 37 + 11) % 1024));
    let half = buffer.size() / 2;
    let halves = [buffer.view(0, half), buffer.view(half, half)];
    let mut r = Recording::new("chain");
    for step in 0..length {
        lookup(&mut r, &format!("link {step}"), &halves[step % 2], &order, &halves[1 - step % 2], None);
    }
    (device.compile(&r, &CompileOptions::default()).expect("it compiles"), buffer.whole())
}

fn words(view: &View) -> Vec<u32> {
    let mut words = vec![0; (view.len / 4) as usize];
    view.buffer().expect("a buffer").read(0, bytemuck::cast_slice_mut(&mut words)).expect("read");
    words
}

fn sliced(slice: Duration) -> Device {
    Device::open(&DeviceOptions { slice: Some(slice), ..options() }).expect("a device")
}

#[test]
fn shares_of_a_dispatch_are_the_whole() {
    let Some((_, _turn)) = validated() else { return };
    let device = sliced(Duration::from_nanos(100));
    let before = device.calls().submits;
    let (compiled, got) = chain(&device, 3);
    assert!(compiled.pieces() > 3 * 16, "{} pieces", compiled.pieces());
    let ran = device.run(&[&compiled], &|| true).expect("finished");
    assert!(ran.whole && ran.slices as usize > 16, "{} submissions", ran.slices);
    assert_eq!(device.calls().submits - before, u64::from(ran.slices));
    assert_eq!(device.take_slice_times().len(), ran.slices as usize);
    let whole = sliced(Duration::ZERO);
    let (once, want) = chain(&whole, 3);
    assert_eq!(once.pieces(), 1);
    assert_eq!(whole.run(&[&once], &|| true).expect("finished").slices, 1);
    assert_eq!(words(&got), words(&want));
    quiet(&device);
    quiet(&whole);
}

#[test]
fn a_run_is_stopped_between_two_submissions() {
    let Some((_, _turn)) = validated() else { return };
    let device = sliced(Duration::from_nanos(100));
    let (compiled, _halves) = chain(&device, 4);
    assert!(device.place().is_none());
    let left = Cell::new(40);
    let go_on = || {
        left.set(left.get() - 1);
        left.get() > 0
    };
    let ran = device.run(&[&compiled], &go_on).expect("stopped");
    assert!(!ran.whole);
    assert_eq!(ran.slices, 40);
    let place = device.place().expect("it is in the middle");
    assert_eq!(place.recording, "chain");
    println!("{place}");
    let number = |label: &str| label.strip_prefix("link ").and_then(|number| number.parse::<u32>().ok());
    let begun = number(&place.begun).expect("a link");
    assert_eq!(place.finished.as_deref().and_then(number), begun.checked_sub(1));
    assert!(begun < 3, "{place}");
    // It can be run again as if nothing had been.
    assert!(device.run(&[&compiled], &|| true).expect("finished").whole);
    assert!(device.place().is_none());
    quiet(&device);
}

/// The first axis of a kernel that asks for the number of its workgroups stays whole.
#[test]
fn kernels_that_count_workgroups_are_cut_along_rows() {
    if harness::device().is_none() {
        return;
    }
    let mut all = Vec::new();
    for slice in [Duration::ZERO, Duration::from_nanos(100)] {
        let device =
            Device::open(&DeviceOptions { slice: Some(slice), validation: Validation::Off, ..options() })
                .expect("a device");
        let candidate = ops::soft_cap::CANDIDATES.first().expect("a kernel");
        let x = device.buffer("x", 4 * 4096, Usage::Readback).expect("a buffer");
        let values: Vec<f32> = (0..4096).map(|i| i as f32 / 64.0).collect();
        x.write(0, bytemuck::cast_slice(&values)).expect("written");
        let mut r = Recording::new("cap");
        let push = ops::soft_cap::Push { count: 4096, cap: 30.0, ..Default::default() };
        r.dispatch(vkllm_runtime::Dispatch {
            label: "cap".into(),
            kernel: candidate.kernel,
            views: ops::soft_cap::Args { y: x.whole() }.views(),
            push: bytemuck::bytes_of(&push).to_vec(),
            specs: candidate.spec.to_vec(),
            grid: Grid::Fixed([4, 1, 1]),
        })
        .expect("it fits");
        let compiled = device.compile(&r, &CompileOptions::default()).expect("it compiles");
        assert_eq!(compiled.pieces(), 1);
        assert!(device.run(&[&compiled], &|| true).expect("finished").whole);
        all.push(words(&x.whole()));
    }
    assert_eq!(all[0], all[1]);
}

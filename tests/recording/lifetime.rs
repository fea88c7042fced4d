//! Buffers, recordings and devices dropped in every order, and work given to the wrong device.

use vkllm_runtime::{CompileOptions, Compiled, Device, DeviceOptions, Error, Recording, Usage, Validation};

use crate::harness;

use super::{lookup, options, quiet, reference, rows, unexpected, validated};

/// A recording that fills a buffer, and the buffer.
fn fill(device: &Device, bytes: u64) -> (Compiled, vkllm_runtime::Buffer) {
    let buffer = device.buffer("filled", bytes, Usage::Readback).expect("a buffer");
    let mut r = Recording::new("fill");
    for word in 0..8 {
        r.fill("fill", buffer.whole(), word).expect("it fits");
    }
    (device.compile(&r, &CompileOptions::default()).expect("it compiles"), buffer)
}

#[track_caller]
fn refused<T>(result: Result<T, Error>) {
    match result {
        Err(Error::Recording { label, reason }) => {
            assert!(!label.is_empty() && reason.contains("device"), "{label}: {reason}");
        }
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was accepted"),
    }
}

#[test]
fn what_is_dropped_while_it_runs() {
    let Some((device, _turn)) = validated() else { return };
    for _ in 0..4 {
        let (compiled, buffer) = fill(device, 4 << 20);
        let ticket = device.submit(&[&compiled]).expect("submitted");
        // The recording keeps the buffer, and its own drop waits.
        drop(buffer);
        drop(compiled);
        ticket.wait().expect("finished");
        let (compiled, buffer) = fill(device, 4 << 20);
        let ticket = device.submit(&[&compiled]).expect("submitted");
        drop(ticket);
        drop(compiled);
        let mut word = [0; 4];
        buffer.read((4 << 20) - 4, &mut word).expect("read");
        assert_eq!(u32::from_le_bytes(word), 7);
    }
    quiet(device);
}

#[test]
fn buffers_and_tickets_outlive_their_device() {
    let Some((_, _turn)) = validated() else { return };
    let device = Device::open(&options()).expect("a second device");
    let messages = device.messages();
    let (compiled, buffer) = fill(&device, 1 << 20);
    let ticket = device.submit(&[&compiled]).expect("submitted");
    drop(device);
    ticket.wait().expect("finished");
    drop(compiled);
    let mut word = [0; 4];
    buffer.read(0, &mut word).expect("read");
    assert_eq!(u32::from_le_bytes(word), 7);
    buffer.write(0, &[1, 2, 3, 4]).expect("written");
    drop(ticket);
    drop(buffer);
    let messages = unexpected(std::mem::take(&mut *messages.lock().expect("a list")));
    assert!(messages.is_empty(), "{messages:?}");
}

#[test]
fn work_for_another_device_is_refused() {
    let Some((device, _turn)) = validated() else { return };
    let reference = reference();
    let (here, _buffer) = fill(device, 256);
    let (there, _other) = fill(&reference, 256);
    refused(device.submit(&[&here, &there]));
    refused(reference.submit(&[&here]));
    quiet(device);
}

#[test]
fn work_for_another_vulkan_device_is_refused() {
    let Some((device, _turn)) = validated() else { return };
    let second = Device::open(&options()).expect("a second device");
    let (compiled, buffer) = fill(&second, 256);
    refused(device.submit(&[&compiled]));
    let mut r = Recording::new("mixed devices");
    r.fill("fill", buffer.whole(), 1).expect("it fits");
    refused(device.compile(&r, &CompileOptions::default()));
    quiet(device);
}

#[test]
fn buffers_of_another_kind_of_device_are_refused() {
    let Some((device, _turn)) = validated() else { return };
    let reference = reference();
    let here = device.buffer("here", 256, Usage::Shared).expect("a buffer");
    let there = reference.buffer("there", 256, Usage::Shared).expect("a buffer");
    let mut r = Recording::new("mixed devices");
    lookup(&mut r, "lookup", &there.whole(), &rows(device, 0..8), &here.whole(), None);
    refused(device.compile(&r, &CompileOptions::default()));
    // The reference finds out when it runs.
    let late =
        reference.compile(&r, &CompileOptions::default()).and_then(|compiled| reference.submit(&[&compiled]));
    refused(late);
    quiet(device);
}

#[test]
fn one_recording_twice_in_a_submission() {
    let Some((device, _turn)) = validated() else { return };
    let (compiled, buffer) = fill(device, 256);
    match device.submit(&[&compiled, &compiled]) {
        Ok(ticket) => {
            ticket.wait().expect("finished");
            let mut word = [0; 4];
            buffer.read(0, &mut word).expect("read");
            assert_eq!(u32::from_le_bytes(word), 7);
        }
        Err(error) => assert!(matches!(error, Error::Recording { .. }), "{error}"),
    }
    quiet(device);
}

#[test]
fn nothing_to_submit() {
    let Some((device, _turn)) = validated() else { return };
    device.submit(&[]).expect("submitted").wait().expect("finished");
    let empty = device.compile(&Recording::new("empty"), &CompileOptions::default()).expect("it compiles");
    device.submit(&[&empty]).expect("submitted").wait().expect("finished");
    assert_eq!((empty.barriers(), empty.commands(), empty.arena_bytes()), (0, 0, 0));
    quiet(device);
}

/// Without the layers: that of Vulkan 1.3.239 changes tables of command buffers without a lock, and crashes here.
#[test]
fn recordings_come_and_go_on_several_threads() {
    if harness::device().is_none() {
        return;
    }
    let device = Device::open(&DeviceOptions { validation: Validation::Off, ..options() }).expect("a device");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..400 {
                    let (compiled, buffer) = fill(&device, 256);
                    device.submit(&[&compiled]).expect("submitted").wait().expect("finished");
                    let mut word = [0; 4];
                    buffer.read(252, &mut word).expect("read");
                    assert_eq!(u32::from_le_bytes(word), 7);
                }
            });
        }
    });
}

//! Barriers are inferred where they are needed, and the layers notice each of them that is missing.

use vkllm_runtime::{CompileOptions, Device, Recording, Usage};

use super::{lookup, quiet, reference, rows, unexpected, validated};

/// A recording with every kind of dependency: shader, copy and fill, indirect grid, memory that is used again.
fn mixed(device: &Device) -> (Recording, Box<dyn Fn() -> Vec<u32>>) {
    let bytes = 64 * 4;
    let x = device.buffer("x", bytes, Usage::Shared).expect("a buffer");
    let grid = device.buffer("grid", 16, Usage::Shared).expect("a buffer");
    let args = device.buffer("arguments", 16, Usage::Shared).expect("a buffer");
    let out = device.buffer("out", bytes, Usage::Readback).expect("a buffer");
    let words: Vec<f32> = (0..64).map(|i| i as f32 + 0.5).collect();
    x.write(0, bytemuck::cast_slice(&words)).expect("written");
    grid.write(0, bytemuck::cast_slice(&[1u32, 8, 1, 0])).expect("written");
    // Eight rows in reverse order.
    let (x, order) = (x.whole(), rows(device, (0..8).rev()));
    let mut r = Recording::new("mixed");
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| r.transient(name, bytes));
    r.fill("fill a", a.clone(), 1.0f32.to_bits()).expect("it fits");
    lookup(&mut r, "a, written again", &x, &order, &a, None);
    lookup(&mut r, "a read", &a, &order, &b, None);
    r.copy("b copied", b, c.clone()).expect("it fits");
    r.copy("arguments", grid.whole(), args.whole()).expect("it fits");
    // `d` may take the place of `a` or `b`.
    lookup(&mut r, "copy read, grid read", &c, &order, &d, Some(&args.view(0, 12)));
    r.fill("grid written after it was read", args.whole(), 1).expect("it fits");
    lookup(&mut r, "x written after it was read", &d, &order, &x, None);
    lookup(&mut r, "x read", &x, &order, &out.whole(), None);
    let result = move || {
        let mut words = vec![0; 64];
        out.read(0, bytemuck::cast_slice_mut(&mut words)).expect("read");
        words
    };
    (r, Box::new(result))
}

fn run(device: &Device, omit_barrier: Option<usize>) -> (usize, Vec<u32>) {
    let (recording, result) = mixed(device);
    let options = CompileOptions { omit_barrier, ..CompileOptions::default() };
    let compiled = device.compile(&recording, &options).expect("it compiles");
    device.submit(&[&compiled]).expect("submitted").wait().expect("finished");
    (compiled.barriers(), result())
}

#[test]
fn a_missing_barrier_is_reported() {
    let Some((device, _turn)) = validated() else { return };
    let (barriers, got) = run(device, None);
    quiet(device);
    assert_eq!(got, run(&reference(), None).1);
    assert!(barriers >= 6, "only {barriers} barriers");
    let mut missed = Vec::new();
    for omitted in 0..barriers {
        let _ = run(device, Some(omitted));
        let messages = unexpected(device.take_messages());
        println!("barrier {omitted}: {:?}", messages.iter().map(|message| &message.id).collect::<Vec<_>>());
        if !messages.iter().any(|message| message.id.starts_with("SYNC-HAZARD")) {
            missed.push(omitted);
        }
    }
    assert!(
        missed.is_empty(),
        "barriers {missed:?} of {barriers} were left out unnoticed; newer layers need \
         VK_LAYER_SYNCVAL_SHADER_ACCESSES_HEURISTIC=1"
    );
    println!("each of {barriers} barriers is missed when it is left out");
}

#[test]
fn work_that_shares_nothing_needs_no_barrier() {
    let Some((device, _turn)) = validated() else { return };
    let input = device.buffer("input", 256, Usage::Shared).expect("a buffer");
    let order = rows(device, 0..8);
    let mut r = Recording::new("side by side");
    let outputs: Vec<_> = (0..4).map(|i| r.transient(format!("t{i}"), 256)).collect();
    for y in &outputs {
        lookup(&mut r, "side by side", &input.whole(), &order, y, None);
    }
    // All live to the end, so that none takes another's place.
    for y in &outputs {
        lookup(&mut r, "after all", y, &order, &input.whole(), None);
    }
    let compiled = device.compile(&r, &CompileOptions::default()).expect("it compiles");
    // One between the halves; the second half writes the same buffer four times.
    assert_eq!(compiled.barriers(), 4);
    device.submit(&[&compiled]).expect("submitted").wait().expect("finished");
    quiet(device);
}

#[test]
fn submissions_follow_one_another() {
    let Some((device, _turn)) = validated() else { return };
    let a = device.buffer("a", 256, Usage::Shared).expect("a buffer");
    let b = device.buffer("b", 256, Usage::Readback).expect("a buffer");
    let order = rows(device, 0..8);
    let compile = |r: &Recording| device.compile(r, &CompileOptions::default()).expect("it compiles");
    let parts: Vec<_> = (0..8)
        .map(|word| {
            let mut r = Recording::new(format!("part {word}"));
            r.fill("fill", a.whole(), (word as f32).to_bits()).expect("it fits");
            lookup(&mut r, "lookup", &a.whole(), &order, &b.whole(), None);
            compile(&r)
        })
        .collect();
    let submitted: Vec<_> = parts.iter().map(|part| device.submit(&[part]).expect("submitted")).collect();
    let last = submitted.last().expect("parts");
    last.wait().expect("finished");
    let mut words = [0f32; 64];
    b.read(0, bytemuck::cast_slice_mut(&mut words)).expect("read");
    assert_eq!(words, [7.0; 64]);
    quiet(device);
}

#[test]
fn parts_of_one_submission_follow_one_another() {
    let Some((device, _turn)) = validated() else { return };
    let a = device.buffer("a", 256, Usage::Shared).expect("a buffer");
    let b = device.buffer("b", 256, Usage::Readback).expect("a buffer");
    let order = rows(device, 0..8);
    let compile = |r: &Recording| device.compile(r, &CompileOptions::default()).expect("it compiles");
    let mut fill = Recording::new("fill");
    fill.fill("fill", a.whole(), 9.0f32.to_bits()).expect("it fits");
    let mut read = Recording::new("read");
    lookup(&mut read, "lookup", &a.whole(), &order, &b.whole(), None);
    let mut again = Recording::new("again");
    again.fill("fill", a.whole(), 3).expect("it fits");
    let (fill, read, again) = (compile(&fill), compile(&read), compile(&again));
    for _ in 0..20 {
        device.submit(&[&again, &fill, &read]).expect("submitted").wait().expect("finished");
        let mut words = [0f32; 64];
        b.read(0, bytemuck::cast_slice_mut(&mut words)).expect("read");
        assert_eq!(words, [9.0; 64]);
    }
    quiet(device);
}

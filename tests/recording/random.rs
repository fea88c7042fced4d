//! Random recordings: whatever is placed where and whatever barriers are inferred, the device leaves the words that
//! the reference leaves, and the layers are silent.

use vkllm_runtime::{CompileOptions, Device, Recording, Usage, View};

use vkllm::selftest::Rng;

use super::{lookup, quiet, reference, rows, validated};
use crate::harness;

const BUFFERS: usize = 3;
const WORDS: u32 = 512;
const RECORDINGS: usize = 24;
const COMMANDS: usize = 16;

/// What a command reads and writes: where it lies is its index among buffers and then transients.
struct Place {
    memory: usize,
    at: u32,
    words: u32,
}

/// One recording as plain numbers, so that it can be made for two devices.
struct Plan {
    transients: Vec<u32>,
    commands: Vec<(u32, Place, Place)>,
}

/// A random part of a memory, at offsets every device can bind as they are or only after rounding.
fn part(rng: &mut Rng, words: u32, of: u32, step: u32) -> u32 {
    rng.int(0, ((of - words) / step) as i32) as u32 * step
}

fn plan(rng: &mut Rng, step: u32) -> Plan {
    let mut plan = Plan { transients: Vec::new(), commands: Vec::new() };
    for _ in 0..COMMANDS {
        let words = 16 * rng.int(1, 8) as u32;
        // Reads what has been written: a buffer, or a transient as long as this or longer.
        let mut sources: Vec<usize> = (0..BUFFERS).collect();
        sources
            .extend((0..plan.transients.len()).filter(|&t| plan.transients[t] >= words).map(|t| BUFFERS + t));
        let source = rng.pick(&sources);
        let size = |memory: usize, plan: &Plan| {
            if memory < BUFFERS { WORDS } else { plan.transients[memory - BUFFERS] }
        };
        let from = Place { memory: source, at: part(rng, words, size(source, &plan), step), words };
        let to = if rng.int(0, 1) == 0 {
            plan.transients.push(words);
            Place { memory: BUFFERS + plan.transients.len() - 1, at: 0, words }
        } else {
            // Another buffer: a dispatch may not read what it writes.
            let other = (source + 1 + rng.int(0, 1) as usize) % BUFFERS;
            let memory = if source < BUFFERS && other == source { (source + 1) % BUFFERS } else { other };
            Place { memory, at: part(rng, words, WORDS, step), words }
        };
        plan.commands.push((rng.int(0, 3) as u32, from, to));
    }
    plan
}

fn run(device: &Device, plan: &Plan) -> Vec<u32> {
    let buffers: Vec<_> = (0..BUFFERS)
        .map(|i| {
            let buffer = device
                .buffer(format!("buffer {i}"), u64::from(WORDS) * 4, Usage::Readback)
                .expect("a buffer");
            let words: Vec<f32> = (0..WORDS).map(|word| (word + 1000 * i as u32) as f32).collect();
            buffer.write(0, bytemuck::cast_slice(&words)).expect("written");
            buffer
        })
        .collect();
    let order = rows(device, 0..16);
    let mut r = Recording::new("random");
    let transients: Vec<View> = plan
        .transients
        .iter()
        .enumerate()
        .map(|(i, &w)| r.transient(format!("t{i}"), u64::from(w) * 4))
        .collect();
    let view = |place: &Place| {
        let whole = if place.memory < BUFFERS {
            buffers[place.memory].whole()
        } else {
            transients[place.memory - BUFFERS].clone()
        };
        whole.part(u64::from(place.at) * 4, u64::from(place.words) * 4)
    };
    for (at, (kind, from, to)) in plan.commands.iter().enumerate() {
        match kind {
            0 => r.copy(format!("copy {at}"), view(from), view(to)).expect("it fits"),
            _ => lookup(&mut r, &format!("lookup {at}"), &view(from), &order, &view(to), None),
        }
    }
    let compiled = device.compile(&r, &CompileOptions::default()).expect("it compiles");
    // Twice: a recording may be submitted as often as wished.
    for _ in 0..2 {
        device.submit(&[&compiled]).expect("submitted").wait().expect("finished");
    }
    let mut all = Vec::new();
    for buffer in &buffers {
        let mut words = vec![0u32; WORDS as usize];
        buffer.read(0, bytemuck::cast_slice_mut(&mut words)).expect("read");
        all.extend(words);
    }
    all
}

fn check(step: u32) {
    let Some((device, _turn)) = validated() else { return };
    let reference = reference();
    let mut rng = harness::rng(&format!("random recordings {step}"));
    for case in 0..RECORDINGS {
        let plan = plan(&mut rng, step);
        let (got, want) = (run(device, &plan), run(&reference, &plan));
        let first = got.iter().zip(&want).position(|(a, b)| a != b);
        assert_eq!(first, None, "recording {case}: the first word that differs");
        quiet(device);
    }
}

#[test]
fn random_recordings_agree() {
    check(64);
}

#[test]
fn random_recordings_at_odd_offsets_agree() {
    check(1);
}

//! Lookups and copies (`embed`, `gather`, `step_grid`): every one exact.

use vkllm_shaders::ops::{embed, gather, step_grid};
use vkllm_shaders::records::StepRow;

use super::weights::{Scales, format_of, weights};
use crate::harness::compare::{bits, values};
use crate::harness::job::{Job, POISON, bytes_to_words};
use crate::harness::random::Rng;
use crate::harness::{Cases, device, usable};

/// Step rows as words.
pub fn step_rows(rows: &[StepRow]) -> Vec<u32> {
    bytemuck::cast_slice(rows).to_vec()
}

#[test]
fn embed_gives_every_weight_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut cases = Cases::default();
    for candidate in usable(embed::CANDIDATES, device) {
        let format = format_of(candidate);
        let mut rng = Rng::new(candidate.kernel.name);
        // Two blocks, so that blocks of an odd number of half words start at both alignments.
        let k = if format.block == 1 { 70 } else { 2 * format.block };
        let vocabulary = 7;
        for scales in [Scales::Plausible, Scales::Subnormal, Scales::Powers] {
            let bytes = weights(&mut rng, format, vocabulary, k, scales);
            // The window holds rows 3..10 of the vocabulary; tokens 2 and 10 are next to it.
            let tokens = [3, 2, 9, 5, 10, 4, 9, 6, 7, 8, u32::MAX];
            let rows: Vec<StepRow> =
                tokens.iter().map(|&token| StepRow { token, ..StepRow::default() }).collect();
            let push = embed::Push {
                k: k as u32,
                row_bytes: format.row_bytes(k).unwrap_or(0) as u32,
                first: 3,
                count: vocabulary as u32,
                rows: rows.len() as u32,
                scale: 1.0,
                ..Default::default()
            };
            let grid = [k.div_ceil(8).div_ceil(64) as u32, rows.len() as u32, 1];
            let job = Job::new(candidate, &[("WG", 64)], &push, grid)
                .words("weights", bytes_to_words(&bytes))
                .words("rows", step_rows(&rows))
                .output("y", (rows.len() + 1) * k);
            let got = job.on(device);
            // The sign of a zero is the one thing a decoder may choose.
            values(&candidate.kernel.name, got.words("y"), job.meaning(device).words("y"));
            let absent = |row: usize| got.words("y")[row * k..][..k].iter().all(|word| *word == POISON);
            assert!(absent(1) && absent(4) && absent(10) && absent(11), "{}", candidate.kernel.name);
            cases.add();
        }
    }
}

#[test]
fn embed_scales_by_powers_of_two_exactly() {
    let Some(device) = device() else { return };
    for candidate in
        usable(embed::CANDIDATES, device).into_iter().filter(|c| c.kernel.axis("FORMAT") == "q8_0")
    {
        let format = format_of(candidate);
        let bytes = weights(&mut Rng::new("embed scale"), format, 2, 64, Scales::Plausible);
        let run = |scale: f32| {
            let push = embed::Push { k: 64, row_bytes: 68, count: 2, rows: 1, scale, ..Default::default() };
            let job = Job::new(candidate, &[("WG", 64)], &push, [1, 1, 1])
                .words("weights", bytes_to_words(&bytes))
                .words("rows", step_rows(&[StepRow { token: 1, ..StepRow::default() }]))
                .output("y", 64);
            job.on(device).floats("y")
        };
        let eight: Vec<u32> = run(1.0).iter().map(|y| (y * 8.0).to_bits()).collect();
        bits(&"embed times 8", &run(8.0).iter().map(|y| y.to_bits()).collect::<Vec<_>>(), &eight);
    }
}

#[test]
fn gather_copies_bits() {
    let Some(device) = device() else { return };
    let mut rng = Rng::new("gather");
    let mut cases = Cases::default();
    for candidate in usable(gather::CANDIDATES, device) {
        let lanes = candidate.local[0].max(1);
        for k in [1, lanes - 1, lanes, lanes + 1, 3 * lanes + 5].map(|k| k.max(1) as usize) {
            for count in [1, 4, 17] {
                // Any bits, NaNs with payloads among them.
                let x: Vec<u32> = (0..9 * k).map(|_| rng.word()).collect();
                let index: Vec<u32> = (0..count).map(|_| rng.int(0, 8) as u32).collect();
                let push = gather::Push { k: k as u32, count: count as u32, ..Default::default() };
                let job = Job::new(candidate, &[], &push, [(k as u32).div_ceil(lanes), count as u32, 1])
                    .words("x", x)
                    .words("index", index)
                    .output("y", (count + 1) * k);
                let what = format!("{} k {k} count {count}", candidate.kernel.name);
                bits(&what, job.on(device).words("y"), job.meaning(device).words("y"));
                cases.add();
            }
        }
    }
}

#[test]
fn step_grid_counts_chunks() {
    let Some(device) = device() else { return };
    let mut rng = Rng::new("step_grid");
    for candidate in usable(step_grid::CANDIDATES, device) {
        for (count, last) in [(1, 0), (1, 127), (1, 128), (2, 255), (5, 256), (17, 4095), (65, 100_000)] {
            let longest = rng.int(0, count - 1);
            let row = |r| StepRow {
                position: if r == longest { last } else { rng.int(0, last as i32) as u32 },
                ..StepRow::default()
            };
            let rows: Vec<StepRow> = (0..count).map(row).collect();
            let push = step_grid::Push { row_count: count as u32, n_head: 7, ..Default::default() };
            let job =
                Job::new(candidate, &[], &push, [1, 1, 1]).words("rows", step_rows(&rows)).output("args", 4);
            let want = [last / 128 + 1, 7, count as u32, POISON];
            bits(&candidate.kernel.name, job.on(device).words("args"), &want);
            bits(&"meaning of step_grid", job.meaning(device).words("args"), &want);
        }
    }
}

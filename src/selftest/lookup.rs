//! Lookups and copies (`embed`, `gather`, `join`, `hidden_put`, `hidden_get`, `step_grid`): every one exact.

use vkllm_shaders::ops::{embed, gather, hidden_get, hidden_put, join, step_grid};
use vkllm_shaders::records::StepRow;
use vkllm_shaders::reference::hidden_get::ROW_BARE;
use vkllm_shaders::select::Candidate;

use super::compare::{bits, values};
use super::job::{Job, POISON, bytes_to_words};
use super::weights::{Scales, format_of, weights};
use super::{Bench, Check, List, ensure};

/// Step rows as words.
pub fn step_rows(rows: &[StepRow]) -> Vec<u32> {
    bytemuck::cast_slice(rows).to_vec()
}

pub fn list(list: &mut List<'_>) {
    for candidate in list.usable(embed::CANDIDATES) {
        let format = format_of(candidate);
        // Two blocks, so that blocks of an odd number of half words start at both alignments; and other lengths.
        let lengths =
            if format.block == 1 { [70, 8, 2, 130] } else { [2, 1, 3, 5].map(|b| b * format.block) };
        for (k, scales) in [
            (lengths[0], Scales::Plausible),
            (lengths[0], Scales::Subnormal),
            (lengths[0], Scales::Powers),
            (lengths[1], Scales::Plausible),
            (lengths[2], Scales::Plausible),
            (lengths[3], Scales::Subnormal),
        ] {
            let property = format!("every weight bit for bit k {k} {scales:?}");
            list.add(&[candidate.kernel], property, move |bench| embed_exact(bench, candidate, k, scales));
        }
        list.add(&[candidate.kernel], "scales by powers of two exactly", move |bench| {
            embed_scale(bench, candidate)
        });
    }
    for candidate in list.usable(gather::CANDIDATES) {
        let lanes = candidate.local[0].max(1);
        for k in [1, lanes - 1, lanes, lanes + 1, 3 * lanes + 5].map(|k| k.max(1) as usize) {
            for count in [1, 2, 4, 17] {
                let property = format!("copies bits k {k} count {count}");
                list.add(&[candidate.kernel], property, move |bench| gather_copy(bench, candidate, k, count));
            }
        }
    }
    for candidate in list.usable(join::CANDIDATES) {
        for (rows, widths, pads) in
            [(1, (1, 1), (0, 0)), (5, (32, 128), (64, 0)), (33, (7, 60), (3, 5)), (2, (64, 0), (1, 0))]
        {
            let property = format!("joins bits rows {rows} widths {}-{}", widths.0, widths.1);
            list.add(&[candidate.kernel], property, move |bench| {
                joined(bench, candidate, rows, widths, pads)
            });
        }
    }
    for candidate in list.usable(hidden_put::CANDIDATES) {
        for (rows, k) in [(1, 1), (2, 64), (7, 65), (17, 130)] {
            let property = format!("keeps bits rows {rows} k {k}");
            list.add(&[candidate.kernel], property, move |bench| hidden_kept(bench, candidate, rows, k));
        }
    }
    for candidate in list.usable(hidden_get::CANDIDATES) {
        for (rows, k) in [(1, 1), (2, 64), (7, 65), (17, 130)] {
            let property = format!("finds bits rows {rows} k {k}");
            list.add(&[candidate.kernel], property, move |bench| hidden_found(bench, candidate, rows, k));
        }
    }
    for candidate in list.usable(step_grid::CANDIDATES) {
        for (count, last) in
            [(1, 0), (1, 127), (1, 128), (2, 255), (3, 300), (5, 256), (16, 129), (17, 4095), (65, 100_000)]
        {
            let property = format!("counts chunks rows {count} last {last}");
            list.add(&[candidate.kernel], property, move |bench| chunks(bench, candidate, count, last));
        }
    }
}

fn embed_job(candidate: &'static Candidate, k: usize, bytes: &[u8], tokens: &[u32], scale: f32) -> Job {
    let format = format_of(candidate);
    let row_bytes = format.row_bytes(k).unwrap_or(0);
    let rows: Vec<StepRow> = tokens.iter().map(|&token| StepRow { token, ..StepRow::default() }).collect();
    let push = embed::Push {
        k: k as u32,
        row_bytes: row_bytes as u32,
        // The window holds this part of the vocabulary.
        first: 3,
        count: (bytes.len() / row_bytes.max(1)) as u32,
        rows: rows.len() as u32,
        scale,
        ..Default::default()
    };
    let grid = [k.div_ceil(8).div_ceil(64) as u32, rows.len() as u32, 1];
    Job::new(candidate, &[("WG", 64)], &push, grid)
        .words("weights", bytes_to_words(bytes))
        .words("rows", step_rows(&rows))
        .output("y", (rows.len() + 1) * k)
}

fn embed_exact(bench: &Bench, candidate: &'static Candidate, k: usize, scales: Scales) -> Check {
    let name = candidate.kernel.name;
    let mut rng = bench.rng(&format!("{name} {k} {scales:?}"));
    let bytes = weights(&mut rng, format_of(candidate), 7, k, scales);
    // Tokens 2 and 10 are next to the window.
    let job = embed_job(candidate, k, &bytes, &[3, 2, 9, 5, 10, 4, 9, 6, 7, 8, u32::MAX], 1.0);
    let got = job.on(bench)?;
    // The sign of a zero is the one thing a decoder may choose.
    values(&name, got.words("y"), job.meaning(bench).words("y"))?;
    let absent = |row: usize| got.words("y")[row * k..][..k].iter().all(|word| *word == POISON);
    ensure([1, 4, 10, 11].into_iter().all(absent), || format!("{name}: rows outside the window were written"))
}

fn embed_scale(bench: &Bench, candidate: &'static Candidate) -> Check {
    let format = format_of(candidate);
    let k = 2 * format.block.max(16);
    let bytes = weights(&mut bench.rng("embed scale"), format, 2, k, Scales::Plausible);
    let run = |scale| -> Check<Vec<f32>> {
        Ok(embed_job(candidate, k, &bytes, &[4, 3], scale).on(bench)?.floats("y"))
    };
    let to_bits = |values: Vec<f32>, factor: f32| -> Vec<u32> {
        values[..2 * k].iter().map(|y| (y * factor).to_bits()).collect()
    };
    bits(&"embed times 8", &to_bits(run(8.0)?, 1.0), &to_bits(run(1.0)?, 8.0))
}

fn gather_copy(bench: &Bench, candidate: &'static Candidate, k: usize, count: usize) -> Check {
    let mut rng = bench.rng(&format!("gather {k} {count}"));
    let lanes = candidate.local[0].max(1);
    // Any bits, NaNs with payloads among them.
    let x: Vec<u32> = (0..9 * k).map(|_| rng.word()).collect();
    let index: Vec<u32> = (0..count).map(|_| rng.int(0, 8) as u32).collect();
    // One workgroup and one row more than there are: they have nothing to do.
    let push = gather::Push { k: k as u32, count: count as u32, ..Default::default() };
    let job = Job::new(candidate, &[], &push, [(k as u32).div_ceil(lanes) + 1, count as u32 + 1, 1])
        .words("x", x)
        .words("index", index)
        .output("y", (count + 1) * k);
    bits(&format!("k {k} count {count}"), job.on(bench)?.words("y"), job.meaning(bench).words("y"))
}

fn joined(
    bench: &Bench,
    candidate: &'static Candidate,
    rows: usize,
    widths: (usize, usize),
    pads: (usize, usize),
) -> Check {
    let mut rng = bench.rng(&format!("join {rows} {widths:?}"));
    let mut words = |count: usize| -> Vec<u32> { (0..count.max(1)).map(|_| rng.word()).collect() };
    let strides = (widths.0 + pads.0, widths.1 + pads.1);
    let push = join::Push {
        rows: rows as u32,
        a_width: widths.0 as u32,
        b_width: widths.1 as u32,
        a_stride: strides.0 as u32,
        b_stride: strides.1 as u32,
        ..Default::default()
    };
    let job = Job::new(candidate, &[("WG", 64)], &push, [2, 1, 1])
        .words("a", words(rows * strides.0))
        .words("b", words(rows * strides.1))
        .output("y", (rows + 1) * (widths.0 + widths.1));
    bits(&"joined", job.on(bench)?.words("y"), job.meaning(bench).words("y"))
}

/// Rows of a ring, and the sessions that have one.
const RING: u32 = 19;
const SESSIONS: u32 = 3;

/// Rows of two sessions at consecutive positions that go round the ring, the first at 0 and some bare.
fn hidden_rows(rows: usize) -> Vec<StepRow> {
    let row = |i: u32| StepRow {
        position: if i == 0 { 0 } else { 2 * RING - 3 + i },
        sampler_index: 2 * (i % 2),
        flags: if i % 5 == 3 { ROW_BARE } else { 0 },
        ..StepRow::default()
    };
    (0..rows as u32).map(row).collect()
}

fn hidden_kept(bench: &Bench, candidate: &'static Candidate, rows: usize, k: usize) -> Check {
    let mut rng = bench.rng(&format!("hidden_put {rows} {k}"));
    let push = hidden_put::Push { k: k as u32, row_count: rows as u32, ring: RING, ..Default::default() };
    // One workgroup and one row more than there are: they have nothing to do.
    let job = Job::new(candidate, &[("WG", 64)], &push, [k.div_ceil(64) as u32 + 1, rows as u32 + 1, 1])
        .words("rows", step_rows(&hidden_rows(rows)))
        .words("x", (0..rows * k).map(|_| rng.word()).collect())
        .output("hidden", (RING * SESSIONS) as usize * k);
    bits(&"kept", job.on(bench)?.words("hidden"), job.meaning(bench).words("hidden"))
}

fn hidden_found(bench: &Bench, candidate: &'static Candidate, rows: usize, k: usize) -> Check {
    let mut rng = bench.rng(&format!("hidden_get {rows} {k}"));
    let push = hidden_get::Push { k: k as u32, row_count: rows as u32, ring: RING, ..Default::default() };
    let job = Job::new(candidate, &[("WG", 64)], &push, [k.div_ceil(64) as u32 + 1, rows as u32 + 1, 1])
        .words("rows", step_rows(&hidden_rows(rows)))
        .words("hidden", (0..(RING * SESSIONS) as usize * k).map(|_| rng.word()).collect())
        .output("y", (rows + 1) * k);
    let got = job.on(bench)?;
    ensure(got.words("y")[..k].iter().all(|word| *word == 0), || "a row was found before the first".into())?;
    bits(&"found", got.words("y"), job.meaning(bench).words("y"))
}

fn chunks(bench: &Bench, candidate: &'static Candidate, count: i32, last: u32) -> Check {
    let mut rng = bench.rng(&format!("step_grid {count} {last}"));
    let longest = rng.int(0, count - 1);
    let mut row = |r| StepRow {
        position: if r == longest { last } else { rng.int(0, last as i32) as u32 },
        ..StepRow::default()
    };
    let rows: Vec<StepRow> = (0..count).map(&mut row).collect();
    let push =
        step_grid::Push { row_count: count as u32, tiles: 5, n_kv: 7, chunks_max: 600, ..Default::default() };
    let job = Job::new(candidate, &[], &push, [1, 1, 1]).words("rows", step_rows(&rows)).output("args", 4);
    // A layer with a window sees fewer chunks.
    let want = [5, 7, (last / 128 + 1).min(600), POISON];
    bits(&candidate.kernel.name, job.on(bench)?.words("args"), &want)?;
    bits(&"meaning of step_grid", job.meaning(bench).words("args"), &want)
}

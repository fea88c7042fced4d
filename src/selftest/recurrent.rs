//! `conv` and `recurrence`: exact sums, and states that do not know in how many steps, or beside which rejected rows, they
//! came about.

use vkllm_shaders::ops::{conv, recurrence};
use vkllm_shaders::records::StepRow;
use vkllm_shaders::select::Candidate;

use super::compare::{bits, values, within_groups};
use super::job::{Job, Out, POISON, to_words};
use super::lookup::step_rows;
use super::{Bench, Check, List, Rng};

/// Rows of the rings: two steps of the most rows that are tried here.
const RING: usize = 24;
const MOST: usize = 12;
const SLOTS: usize = 2;

pub fn list(list: &mut List<'_>) {
    for candidate in list.usable(conv::CANDIDATES) {
        let kernel = &[candidate.kernel];
        for (taps, width, group, bias) in [(4, 48, 16, 0), (4, 70, 64, 1), (3, 33, 64, 0), (2, 8, 8, 1)] {
            for start in [0, 1, 2, 50] {
                let property = format!("integers taps {taps} width {width} bias {bias} from {start}");
                let shape = Window { taps, width, group, normed: 0, act: 0, bias };
                list.add(kernel, property, move |bench| windows(bench, candidate, shape, start));
            }
        }
        for (taps, width, group, normed) in [(4, 96, 32, 64), (4, 256, 64, 128), (3, 40, 8, 0)] {
            let shape = Window { taps, width, group, normed, act: 1, bias: 1 };
            let property = format!("bound taps {taps} width {width} normed {normed}");
            list.add(kernel, property, move |bench| windows_bound(bench, candidate, shape));
            let property = format!("in any steps taps {taps} width {width} normed {normed}");
            list.add(kernel, property, move |bench| windows_in_steps(bench, candidate, shape));
        }
    }
    for candidate in list.usable(recurrence::CANDIDATES) {
        let kernel = &[candidate.kernel];
        let lanes = list.caps.subgroup;
        // Every shape and kind of commit is compiled anew, which takes seconds on software drivers.
        for (turns, shape) in [
            (3, Shape { size: 16, columns: 8, heads: 4, keys: 2, share: 2, lanes: 2, own: 4, delta: 1 }),
            (0, Shape { size: 64, columns: 20, heads: 3, keys: 3, share: 0, lanes: 4, own: 2, delta: 1 }),
            (
                1,
                Shape {
                    size: 128,
                    columns: 32,
                    heads: 2,
                    keys: 1,
                    share: 0,
                    lanes: lanes.min(8),
                    own: 4,
                    delta: 1,
                },
            ),
            (
                1,
                Shape {
                    size: 64,
                    columns: 6,
                    heads: 4,
                    keys: 1,
                    share: 4,
                    lanes: lanes.min(8),
                    own: 2,
                    delta: 0,
                },
            ),
            (0, Shape { size: 32, columns: 3, heads: 2, keys: 2, share: 1, lanes: 1, own: 1, delta: 0 }),
        ] {
            let name = name(&shape);
            list.add(kernel, format!("integers {name}"), move |bench| {
                integers(bench, candidate, &shape, if turns > 0 { &[0, 1, 2] } else { &[1] })
            });
            for rows in [1, 5] {
                let property = format!("bound rows {rows} {name}");
                list.add(kernel, property, move |bench| bound(bench, candidate, &shape, rows));
            }
            for turn in 0..turns {
                let property = format!("in any steps {turn} {name}");
                list.add(kernel, property, move |bench| in_steps(bench, candidate, &shape, turn));
            }
        }
    }
}

/// A convolution.
#[derive(Clone, Copy)]
struct Window {
    taps: usize,
    width: usize,
    group: usize,
    normed: usize,
    act: u32,
    bias: u32,
}

struct Weights {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn row(slot: usize, position: usize) -> StepRow {
    StepRow { position: position as u32, sampler_index: slot as u32, ..StepRow::default() }
}

impl Window {
    /// Rows of `x`, which lie two words apart, with the ring from before; what is computed and kept.
    fn job(
        &self,
        bench: &Bench,
        candidate: &'static Candidate,
        w: &Weights,
        (rows, x): (&[StepRow], &[f32]),
        ring: &[u32],
        (compute, keep, first_row): (u32, u32, usize),
    ) -> Job {
        let padded: Vec<f32> =
            x.chunks(self.width).flat_map(|row| row.iter().copied().chain([f32::NAN; 2])).collect();
        let push = conv::Push {
            width: self.width as u32,
            x_stride: self.width as u32 + 2,
            row_count: rows.len() as u32,
            first_row: first_row as u32,
            group: self.group as u32,
            normed: self.normed as u32,
            scaled: self.normed as u32 / 2,
            ring: RING as u32,
            scale: 0.25,
            eps: 1e-6,
            ..Default::default()
        };
        let lanes = bench.lanes();
        let specs = [
            ("WG", lanes),
            ("SG", lanes),
            ("TAPS", self.taps as u32),
            ("ACT", self.act),
            ("BIAS", self.bias),
            ("COMPUTE", compute),
            ("KEEP", keep),
        ];
        let grid = [self.width.div_ceil(self.group) as u32 + 1, (rows.len() - first_row) as u32 + 1, 1];
        Job::new(candidate, &specs, &push, grid)
            .floats("x", &padded)
            .floats("weight", &w.weight)
            .floats("bias", &w.bias)
            .words("rows", step_rows(rows))
            .words("inputs", ring.to_vec())
            .output("y", rows.len() * self.width)
    }

    fn poison(&self) -> Vec<u32> {
        vec![POISON; SLOTS * RING * self.width]
    }

    fn weights(&self, rng: &mut Rng, integers: bool) -> Weights {
        let mut make = |count| if integers { rng.ints(count, -3, 3) } else { rng.normals(count) };
        Weights { weight: make(self.width * self.taps), bias: make(self.width) }
    }
}

/// Sums of integers, of rows whose earlier inputs came in steps of their own.
fn windows(bench: &Bench, candidate: &'static Candidate, shape: Window, start: usize) -> Check {
    let Window { taps, width, bias, .. } = shape;
    let mut rng = bench.rng(&format!("windows {taps} {width} {start}"));
    let w = shape.weights(&mut rng, true);
    let count = 7;
    let x = rng.ints((start + count) * width, -9, 9);
    let mut ring = shape.poison();
    for position in start.saturating_sub(taps - 1)..start {
        let words = to_words(&x[position * width..][..width]);
        ring[(RING + position % RING) * width..][..width].copy_from_slice(&words);
    }
    let rows: Vec<StepRow> = (start..start + count).map(|position| row(1, position)).collect();
    let job = shape.job(bench, candidate, &w, (&rows, &x[start * width..]), &ring, (1, 1, 0));
    let want: Vec<f32> = (start..start + count)
        .flat_map(|p| {
            let (x, w) = (&x, &w);
            (0..width).map(move |c| {
                let seen = (0..taps).filter(|t| p + 1 + t >= taps);
                let sum: f32 = seen.map(|t| w.weight[c * taps + t] * x[(p + 1 + t - taps) * width + c]).sum();
                sum + if bias == 1 { w.bias[c] } else { 0.0 }
            })
        })
        .collect();
    for out in [job.on(bench)?, job.meaning(bench)] {
        values(&"sums", out.words("y"), &to_words(&want))?;
        let mut kept = ring.clone();
        for position in start..start + count {
            let words = to_words(&x[position * width..][..width]);
            kept[(RING + position % RING) * width..][..width].copy_from_slice(&words);
        }
        bits(&"ring", out.words("inputs"), &kept)?;
    }
    Ok(())
}

fn windows_bound(bench: &Bench, candidate: &'static Candidate, shape: Window) -> Check {
    let mut rng = bench.rng(&format!("bound {}", shape.width));
    let w = shape.weights(&mut rng, false);
    let x = rng.normals(9 * shape.width);
    // Two conversations, the second one's rows behind the first one's.
    let rows: Vec<StepRow> = (0..4).map(|p| row(0, p)).chain((0..5).map(|p| row(1, p))).collect();
    let job = shape.job(bench, candidate, &w, (&rows, &x), &shape.poison(), (1, 1, 0));
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    bits(&"ring", got.words("inputs"), want.words("inputs"))?;
    let want: Vec<f64> = want.floats("y").iter().map(|y| f64::from(*y)).collect();
    // Products, exp up to 3 + 2·|x| units, the sum of squares and its root.
    let share = (64.0 + (shape.group as f64).sqrt()) * 2f64.powi(-23);
    within_groups(&"outputs", &got.floats("y"), &want, shape.width, share)
}

/// Steps of any size, also such whose last rows alone are kept, give the bits of one row at a time.
fn windows_in_steps(bench: &Bench, candidate: &'static Candidate, shape: Window) -> Check {
    let Window { taps, width, .. } = shape;
    let mut rng = bench.rng(&format!("steps {width}"));
    let w = shape.weights(&mut rng, false);
    let x = rng.normals(60 * width);
    let run = |sizes: &mut dyn FnMut() -> usize| -> Check<Vec<u32>> {
        let (mut ring, mut y, mut at) = (shape.poison(), Vec::new(), 0);
        while at < 60 {
            let count = sizes().min(60 - at);
            let rows: Vec<StepRow> = (at..at + count).map(|position| row(1, position)).collect();
            let input = (&rows[..], &x[at * width..(at + count) * width]);
            let out = if count <= MOST {
                shape.job(bench, candidate, &w, input, &ring, (1, 1, 0)).on(bench)?
            } else {
                let out = shape.job(bench, candidate, &w, input, &ring, (1, 0, 0)).on(bench)?;
                let last = (0, 1, count - (taps - 1));
                let kept = shape.job(bench, candidate, &w, input, &ring, last).on(bench)?;
                ring = kept.words("inputs").to_vec();
                out
            };
            if count <= MOST {
                ring = out.words("inputs").to_vec();
            }
            y.extend_from_slice(out.words("y"));
            at += count;
        }
        Ok(y)
    };
    let alone = run(&mut || 1)?;
    for most in [MOST, 40] {
        let got = run(&mut || rng.int(1, most as i32) as usize)?;
        bits(&format!("steps of up to {most}"), &got, &alone)?;
    }
    Ok(())
}

/// A recurrence.
#[derive(Clone, Copy)]
struct Shape {
    size: usize,
    columns: usize,
    heads: usize,
    keys: usize,
    share: usize,
    lanes: u32,
    own: u32,
    delta: u32,
}

fn name(shape: &Shape) -> String {
    let Shape { size, columns, heads, keys, share, delta, .. } = shape;
    format!("size {size} columns {columns} heads {heads} keys {keys} share {share} delta {delta}")
}

/// Queries, keys and values of rows, what their rates come from, and the numbers of heads.
struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    alpha: Vec<f32>,
    beta: Vec<f32>,
    decay: Vec<f32>,
    skip: Vec<f32>,
}

/// What is there from step to step.
#[derive(Clone)]
struct Memory {
    state: Vec<u32>,
    marks: Vec<u32>,
    terms: Vec<u32>,
}

impl Shape {
    fn memory(&self) -> Memory {
        let cells = SLOTS * self.heads * self.columns;
        Memory {
            state: vec![POISON; cells * self.size],
            marks: vec![POISON; cells],
            terms: vec![POISON; SLOTS * RING * (self.keys * self.size + self.heads * (self.columns + 1))],
        }
    }

    fn inputs(&self, rng: &mut Rng, rows: usize) -> Inputs {
        let keys = rows * self.keys * self.size;
        let scale = 1.0 / (self.size as f32).sqrt();
        let scaled = |values: Vec<f32>| values.into_iter().map(|value| value * scale).collect();
        Inputs {
            q: scaled(rng.normals(keys)),
            k: scaled(rng.normals(keys)),
            v: rng.normals(rows * self.heads * self.columns),
            alpha: rng.normals(rows * self.heads),
            beta: rng.normals(rows * self.heads),
            decay: (0..self.heads).map(|head| -0.1 - head as f32 / 8.0).collect(),
            skip: rng.normals(self.heads),
        }
    }

    /// One step over rows (slot, position, row of the inputs).
    fn job(
        &self,
        bench: &Bench,
        candidate: &'static Candidate,
        inputs: &Inputs,
        rows: &[(usize, usize, usize)],
        memory: &Memory,
        commit: u32,
    ) -> Job {
        let (keys, inner) = (self.keys * self.size, self.heads * self.columns);
        let cut = |values: &[f32], width: usize, at: usize| values[at * width..][..width].to_vec();
        let x: Vec<f32> = rows
            .iter()
            .flat_map(|&(.., at)| {
                let parts = [cut(&inputs.q, keys, at), cut(&inputs.k, keys, at), cut(&inputs.v, inner, at)];
                parts.concat().into_iter().chain([f32::NAN])
            })
            .collect();
        // Both numbers of a key head's heads lie together, or those of all heads.
        let gates = if self.share > 0 { self.share } else { self.heads };
        let both: Vec<f32> = rows
            .iter()
            .flat_map(|&(.., at)| {
                let (a, b) = (cut(&inputs.alpha, self.heads, at), cut(&inputs.beta, self.heads, at));
                a.chunks(gates).zip(b.chunks(gates)).flat_map(|(a, b)| [a, b].concat()).collect::<Vec<_>>()
            })
            .collect();
        let push = recurrence::Push {
            x_stride: (2 * keys + inner) as u32 + 1,
            q_from: 0,
            k_from: keys as u32,
            v_from: 2 * keys as u32,
            gate_stride: 2 * self.heads as u32,
            gates: gates as u32,
            gate_jump: 2 * gates as u32,
            heads: self.heads as u32,
            key_heads: self.keys as u32,
            share: self.share as u32,
            columns: self.columns as u32,
            row_count: rows.len() as u32,
            ring: RING as u32,
            ..Default::default()
        };
        let lanes = bench.lanes();
        let specs = [
            ("WG", lanes),
            ("SG", lanes),
            ("LANES", self.lanes),
            ("QUADS", self.size as u32 / (4 * self.lanes)),
            ("COLUMNS", self.own),
            ("DELTA", self.delta),
            ("COMMIT", commit),
        ];
        let groups = (self.columns as u32).div_ceil(lanes / self.lanes * self.own);
        let records: Vec<StepRow> = rows.iter().map(|&(slot, position, _)| row(slot, position)).collect();
        // Behind the first group's alpha come its beta.
        let beta: Vec<f32> = both[gates..].to_vec();
        Job::new(candidate, &specs, &push, [groups + 1, self.heads as u32 + 1, 1])
            .floats("x", &x)
            .floats("alpha", &both)
            .floats("beta", &beta)
            .floats("decay", &inputs.decay)
            .floats("shift", &vec![0.125; self.heads])
            .floats("skip", &inputs.skip)
            .words("rows", step_rows(&records))
            .words("state", memory.state.clone())
            .words("marks", memory.marks.clone())
            .words("terms", memory.terms.clone())
            .output("y", rows.len() * inner)
    }
}

impl Memory {
    fn after(out: &Out) -> Self {
        let words = |name| out.words(name).to_vec();
        Memory { state: words("state"), marks: words("marks"), terms: words("terms") }
    }
}

/// Keys of a single one, integers elsewhere, no decay: a row of the state is what its key was last written, or the sum.
fn integers(bench: &Bench, candidate: &'static Candidate, shape: &Shape, commits: &[u32]) -> Check {
    let Shape { size, columns, heads, keys, share, delta, .. } = *shape;
    let mut rng = bench.rng(&name(shape));
    let rows = 10;
    let mut inputs = shape.inputs(&mut rng, rows);
    let places: Vec<usize> = (0..rows * keys).map(|_| rng.int(0, 3) as usize * (size / 4)).collect();
    inputs.k.fill(0.0);
    for (key, place) in places.iter().enumerate() {
        inputs.k[key * size + place] = 1.0;
    }
    inputs.q = rng.ints(rows * keys * size, -5, 5);
    inputs.v = rng.ints(rows * heads * columns, -9, 9);
    // Beyond 20 the rate is the number itself, and the logistic function of 128 is one.
    inputs.alpha.fill(31.875);
    inputs.beta.fill(128.0);
    inputs.decay.fill(0.0);
    inputs.skip = rng.ints(heads, -4, 4);
    let mut want = Vec::new();
    for row in 0..rows {
        for head in 0..heads {
            let key_of = |row: usize| row * keys + head.checked_div(share).unwrap_or(head % keys);
            for column in 0..columns {
                let value = |row: usize| inputs.v[(row * heads + head) * columns + column];
                let mut cells = vec![0.0; size];
                for earlier in 0..=row {
                    let place = places[key_of(earlier)];
                    let old = if delta == 1 { 0.0 } else { cells[place] };
                    cells[place] = old + value(earlier) * if delta == 1 { 1.0 } else { 32.0 };
                }
                let q = &inputs.q[key_of(row) * size..][..size];
                let sum: f32 = q.iter().zip(&cells).map(|(q, cell)| q * cell).sum();
                want.push(sum + if delta == 1 { 0.0 } else { inputs.skip[head] * value(row) });
            }
        }
    }
    let steps: Vec<(usize, usize, usize)> = (0..rows).map(|row| (1, row, row)).collect();
    for &commit in commits {
        let job = shape.job(bench, candidate, &inputs, &steps, &shape.memory(), commit);
        for out in [job.on(bench)?, job.meaning(bench)] {
            values(&format!("commit {commit}"), out.words("y"), &to_words(&want))?;
        }
    }
    Ok(())
}

fn bound(bench: &Bench, candidate: &'static Candidate, shape: &Shape, rows: usize) -> Check {
    let mut rng = bench.rng(&format!("bound {rows} {}", name(shape)));
    let inputs = shape.inputs(&mut rng, rows + 4);
    let mut memory = shape.memory();
    let before: Vec<(usize, usize, usize)> = (0..4).map(|row| (1, row, row)).collect();
    memory = Memory::after(&shape.job(bench, candidate, &inputs, &before, &memory, 1).meaning(bench));
    // Three of the four rows before were accepted.
    let step: Vec<(usize, usize, usize)> = (0..rows).map(|row| (1, row + 3, row + 3)).collect();
    let job = shape.job(bench, candidate, &inputs, &step, &memory, 1);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    bits(&"marks", got.words("marks"), want.words("marks"))?;
    // exp and ln may be off by some units each, sums of `size` products by their root; errors add up over the rows.
    let share = (rows + 4) as f64 * (128.0 + (shape.size as f64).sqrt()) * 2f64.powi(-23);
    let wide: Vec<f64> = want.floats("y").iter().map(|y| f64::from(*y)).collect();
    within_groups(&"y", &got.floats("y"), &wide, shape.heads * shape.columns, share)
}

/// Steps of any size and kind, with rejected rows behind the accepted ones and those of another conversation beside them,
/// give the bits of one row at a time.
fn in_steps(bench: &Bench, candidate: &'static Candidate, shape: &Shape, turn: u32) -> Check {
    const COUNT: usize = 40;
    let mut rng = bench.rng(&format!("steps {turn} {}", name(shape)));
    // Rows beyond COUNT are drafts that are rejected, and the other conversation's.
    let inputs = shape.inputs(&mut rng, COUNT + 64);
    let inner = shape.heads * shape.columns;
    let mut memory = shape.memory();
    let mut want = Vec::new();
    for row in 0..COUNT {
        let out = shape.job(bench, candidate, &inputs, &[(1, row, row)], &memory, 1).on(bench)?;
        want.extend_from_slice(out.words("y"));
        memory = Memory::after(&out);
    }
    let (mut memory, mut at, mut other) = (shape.memory(), 0, 0);
    while at < COUNT {
        // What begins a conversation is committed, be it zeros.
        let commit = if at == 0 { 1 } else { [1, 1, 1, 0, 2][rng.int(0, 4) as usize] };
        let accepted = (rng.int(1, 6) as usize).min(COUNT - at);
        // A step that commits its last row has none that are rejected.
        let rejected = if commit == 2 { 0 } else { rng.int(0, 5) as usize };
        let mut rows: Vec<(usize, usize, usize)> = (at..at + accepted + rejected)
            .map(|p| (1, p, if p < at + accepted { p } else { COUNT + p % 64 }))
            .collect();
        let beside = rng.int(0, 2) as usize;
        rows.extend((0..beside).map(|i| (0, other + i, COUNT + (other + i) % 64)));
        let out = shape.job(bench, candidate, &inputs, &rows, &memory, commit).on(bench)?;
        let what = format!("{accepted} rows from {at}, {rejected} rejected, commit {commit}");
        bits(&what, &out.words("y")[..accepted * inner], &want[at * inner..(at + accepted) * inner])?;
        memory = Memory::after(&out);
        other += beside;
        if commit == 0 {
            // What was not committed is for a few steps: the state is brought up to date before the ring is full.
            let next = at + accepted;
            if next < COUNT {
                let rows = [(1, next, next), (0, other, COUNT)];
                memory = Memory::after(&shape.job(bench, candidate, &inputs, &rows, &memory, 1).on(bench)?);
            }
        }
        at += accepted;
    }
    Ok(())
}

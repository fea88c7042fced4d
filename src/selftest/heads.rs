//! `heads`: norm, RoPE and scale of queries in place, keys and values to their cells and nowhere else.

use half::f16;
use vkllm_shaders::ops::heads::{CANDIDATES, Push};
use vkllm_shaders::records::StepRow;
use vkllm_shaders::reference::kv::KV_FORMATS;
use vkllm_shaders::select::Candidate;

use super::compare::{bits, within_groups};
use super::job::{Job, POISON, to_words};
use super::lookup::step_rows;
use super::{Bench, Check, List, Rng, ensure};

const POSITIONS: usize = 300;

/// Sizes and switches.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub heads: usize,
    pub kv: usize,
    pub size: usize,
    pub rot: usize,
    pub pairing: u32,
    pub norm: u32,
    pub q_scale: u32,
    pub types: (u32, u32),
}

pub const PLAIN: Shape =
    Shape { heads: 4, kv: 2, size: 64, rot: 64, pairing: 2, norm: 0, q_scale: 0, types: (0, 0) };

/// Cosines and sines of every position in f64, rounded once.
fn rope_table(rot: usize) -> Vec<f32> {
    let turn = |position: usize, i: usize| position as f64 * 10_000f64.powf(-2.0 * i as f64 / rot as f64);
    (0..POSITIONS)
        .flat_map(|p| (0..rot / 2).flat_map(move |i| [turn(p, i).cos() as f32, turn(p, i).sin() as f32]))
        .collect()
}

pub struct Inputs {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub rope: Vec<f32>,
    pub positions: Vec<usize>,
}

impl Inputs {
    pub fn new(rng: &mut Rng, shape: &Shape, positions: &[usize]) -> Self {
        let rows = positions.len();
        Inputs {
            q: rng.normals(rows * shape.heads * shape.size),
            k: rng.normals(rows * shape.kv * shape.size),
            v: rng.normals(rows * shape.kv * shape.size),
            rope: rope_table(shape.rot),
            positions: positions.to_vec(),
        }
    }
}

/// Rows belong to conversations of their own, two blocks table entries apart.
pub fn job(bench: &Bench, candidate: &'static Candidate, shape: &Shape, inputs: &Inputs) -> Job {
    let Shape { heads, kv, size, rot, pairing, norm, q_scale, types } = *shape;
    let rows = inputs.positions.len();
    let chunks = POSITIONS.div_ceil(128);
    let blocks = rows * chunks;
    let table: Vec<u32> =
        bench.rng("heads blocks").order(blocks).into_iter().map(|block| block as u32).collect();
    let records: Vec<StepRow> = inputs
        .positions
        .iter()
        .enumerate()
        .map(|(row, &p)| StepRow { position: p as u32, table: (row * chunks) as u32, ..StepRow::default() })
        .collect();
    let mut rng = bench.rng("heads norms");
    let (q_norm, k_norm) = (rng.normals(size), rng.normals(size));
    let scales: Vec<f32> = (0..POSITIONS).map(|p| 1.0 + p as f32 / 64.0).collect();
    let push = Push {
        n_head: heads as u32,
        n_kv: kv as u32,
        q_stride: (heads * size) as u32,
        k_stride: (kv * size) as u32,
        v_stride: (kv * size) as u32,
        row_count: rows as u32,
        eps: 1e-6,
        stored: 2,
        ..Default::default()
    };
    let lanes = bench.lanes();
    let specs = [
        ("WG", lanes),
        ("SG", lanes),
        ("HEAD", size as u32),
        ("HEAD_V", size as u32),
        ("ROT", rot as u32),
        ("PAIRING", pairing),
        ("NORM", norm),
        ("QSCALE", q_scale),
        ("K_TYPE", types.0),
        ("V_TYPE", types.1),
    ];
    let pool = |kind: u32| blocks * kv * 128 * KV_FORMATS[kind as usize].row_words(size);
    // One row and one head more than there are: they have nothing to do.
    let grid = [(heads + 2 * kv) as u32 + 1, rows as u32 + 1, 1];
    Job::new(candidate, &specs, &push, grid)
        .floats("q", &inputs.q)
        .floats("k", &inputs.k)
        .floats("v", &inputs.v)
        .floats("q_norm", &q_norm)
        .floats("k_norm", &k_norm)
        .floats("rope", &inputs.rope)
        .floats("q_scale", &scales)
        .words("rows", step_rows(&records))
        .words("block_table", table)
        .output("k_cache", pool(types.0))
        .output("v_cache", pool(types.1))
}

/// What was written to a pool, as f64, and which words were.
fn written(words: &[u32], kind: u32) -> (Vec<f64>, Vec<usize>) {
    let places: Vec<usize> = (0..words.len()).filter(|at| words[*at] != POISON).collect();
    let values = places.iter().flat_map(|at| match kind {
        0 => vec![f64::from(f32::from_bits(words[*at]))],
        _ => {
            [words[*at] as u16, (words[*at] >> 16) as u16].map(|half| f16::from_bits(half).to_f64()).to_vec()
        }
    });
    (values.collect(), places)
}

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

pub fn list(list: &mut List<'_>) {
    let plain = PLAIN;
    for candidate in list.usable(CANDIDATES) {
        let kernel = &[candidate.kernel];
        for shape in [
            Shape { size: 8, rot: 8, heads: 4, kv: 4, ..plain },
            Shape { norm: 1, types: (1, 1), ..plain },
            Shape { pairing: 1, types: (0, 1), ..plain },
            Shape { pairing: 1, size: 80, rot: 32, kv: 1, types: (1, 0), ..plain },
            Shape { size: 96, rot: 64, norm: 1, q_scale: 1, ..plain },
            Shape { size: 128, rot: 128, heads: 8, kv: 1, norm: 1, types: (1, 1), ..plain },
            Shape { size: 256, rot: 128, heads: 2, kv: 1, ..plain },
            Shape { pairing: 0, types: (1, 1), ..plain },
            Shape { norm: 2, types: (1, 0), ..plain },
            Shape { norm: 2, pairing: 1, rot: 32, ..plain },
        ] {
            for positions in [&[0, 1, 127, 128, 299][..], &[64], &[255, 256, 2, 129, 130, 131, 299, 17, 8]] {
                let property = format!("bound {} rows {}", name(&shape), positions.len());
                list.add(kernel, property, move |bench| bound(bench, candidate, &shape, positions));
            }
        }
        for shape in [
            plain,
            Shape { pairing: 1, types: (0, 1), ..plain },
            Shape { pairing: 0, types: (1, 1), ..plain },
        ] {
            list.add(kernel, format!("quarter turns of integers are exact {}", name(&shape)), move |bench| {
                quarter_turns(bench, candidate, &shape)
            });
        }
        for pairing in [1, 2] {
            let shape = Shape { pairing, types: (0, pairing - 1), ..plain };
            for distance in [1, 37, 64] {
                let property =
                    format!("turning keeps lengths and depends on distance {distance} {}", name(&shape));
                list.add(kernel, property, move |bench| turning(bench, candidate, &shape, distance));
            }
        }
        for row in 0..7 {
            list.add(kernel, format!("row {row} alone and among seven"), move |bench| {
                company(bench, candidate, row)
            });
        }
    }
}

pub fn name(shape: &Shape) -> String {
    let Shape { heads, kv, size, rot, pairing, norm, q_scale, types } = shape;
    format!(
        "heads {heads} kv {kv} size {size} rot {rot} pairing {pairing} norm {norm} scale {q_scale} types {}-{}",
        types.0, types.1
    )
}

fn bound(bench: &Bench, candidate: &'static Candidate, shape: &Shape, positions: &[usize]) -> Check {
    let inputs = Inputs::new(&mut bench.rng(&name(shape)), shape, positions);
    let job = job(bench, candidate, shape, &inputs);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    // Sum of the squares, root, three products and two sums of pairs.
    let share = (16.0 + (shape.size as f64).sqrt()) * 2f64.powi(-23);
    let q: Vec<f64> = want.floats("q").iter().map(|q| f64::from(*q)).collect();
    within_groups(&"q", &got.floats("q"), &q, shape.size, share)?;
    for (pool, kind) in [("k_cache", shape.types.0), ("v_cache", shape.types.1)] {
        let (got, got_places) = written(got.words(pool), kind);
        let (want, want_places) = written(want.words(pool), kind);
        ensure(got_places == want_places, || format!("other cells of {pool} are written"))?;
        // Devices may round to f16 either way.
        let share = share + f64::from(kind) * 2f64.powi(-10);
        within_groups(&pool, &to_f32(&got), &want, shape.size, share)?;
    }
    Ok(())
}

fn quarter_turns(bench: &Bench, candidate: &'static Candidate, shape: &Shape) -> Check {
    let mut rng = bench.rng("turns");
    let mut inputs = Inputs::new(&mut rng, shape, &[0, 1, 2, 3]);
    for values in [&mut inputs.q, &mut inputs.k, &mut inputs.v] {
        *values = rng.ints(values.len(), -99, 99);
    }
    // Position p is turned by p quarters.
    let quarter = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];
    inputs.rope = (0..POSITIONS).flat_map(|p| vec![quarter[p % 4]; shape.rot / 2].concat()).collect();
    let job = job(bench, candidate, shape, &inputs);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    // Zeros may have either sign.
    for name in ["q", "k_cache", "v_cache"] {
        let plain = |words: &[u32]| -> Vec<u32> {
            let halves = name != "q" && (if name == "k_cache" { shape.types.0 } else { shape.types.1 }) == 1;
            let half = |word: u32| if word == 0x8000 { 0 } else { word };
            let fix = |word: &u32| match (*word, halves) {
                (word, true) => half(word & 0xffff) | half(word >> 16) << 16,
                (0x8000_0000, false) => 0,
                (word, false) => word,
            };
            words.iter().map(fix).collect()
        };
        bits(&name, &plain(got.words(name)), &plain(want.words(name)))?;
    }
    let width = shape.heads * shape.size;
    bits(&"position 0", &got.words("q")[..width], &to_words(&inputs.q[..width]))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn turning(bench: &Bench, candidate: &'static Candidate, shape: &Shape, distance: usize) -> Check {
    let positions = [10, 10 + distance, 200, 200 + distance];
    let mut inputs = Inputs::new(&mut bench.rng("rope"), shape, &positions);
    // Rows 0 and 2 are one vector, rows 1 and 3 another, equally far apart.
    let width = shape.heads * shape.size;
    let (first, second) = inputs.q.split_at_mut(2 * width);
    second.copy_from_slice(first);
    let q = job(bench, candidate, shape, &inputs).on(bench)?.floats("q");
    let head =
        |values: &[f32], row: usize, h: usize| values[row * width + h * shape.size..][..shape.size].to_vec();
    for h in 0..shape.heads {
        for row in 0..4 {
            let (before, after) = (head(&inputs.q, row, h), head(&q, row, h));
            let (before, after) = (dot(&before, &before), dot(&after, &after));
            ensure((before - after).abs() <= 1e-6 * before, || format!("length {before} became {after}"))?;
        }
        let near = dot(&head(&q, 0, h), &head(&q, 1, h));
        let far = dot(&head(&q, 2, h), &head(&q, 3, h));
        let size = dot(&head(&q, 0, h), &head(&q, 0, h));
        ensure((near - far).abs() <= 1e-5 * size, || format!("{near} and {far} at the same distance"))?;
    }
    Ok(())
}

fn company(bench: &Bench, candidate: &'static Candidate, row: usize) -> Check {
    let shape = Shape { norm: 1, types: (1, 1), ..PLAIN };
    let positions = [5, 128, 127, 299, 0, 64, 255];
    let all = Inputs::new(&mut bench.rng("heads rows"), &shape, &positions);
    let together = job(bench, candidate, &shape, &all).on(bench)?;
    let cut = |values: &[f32]| {
        let width = values.len() / positions.len();
        values[row * width..][..width].to_vec()
    };
    let one = Inputs {
        q: cut(&all.q),
        k: cut(&all.k),
        v: cut(&all.v),
        rope: all.rope.clone(),
        positions: vec![positions[row]],
    };
    let alone = job(bench, candidate, &shape, &one).on(bench)?;
    let width = shape.heads * shape.size;
    bits(&"q", alone.words("q"), &together.words("q")[row * width..][..width])?;
    // Its keys and values are somewhere in the pools of all.
    for pool in ["k_cache", "v_cache"] {
        let (cells, _) = written(alone.words(pool), 1);
        let (all, _) = written(together.words(pool), 1);
        for head in cells.chunks_exact(shape.size) {
            let found = all.chunks_exact(shape.size).any(|other| other == head);
            ensure(found, || format!("{pool} has other bits in company"))?;
        }
    }
    Ok(())
}

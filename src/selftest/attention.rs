//! `attention` and `attention_combine`: parts and results against f64, exact cases, and properties that need no
//! reference.

use half::f16;
use vkllm_runtime::{DeviceKind, Words};
use vkllm_shaders::ops::{attention, attention_combine};
use vkllm_shaders::records::StepRow;
use vkllm_shaders::reference::kv::KV_FORMATS;
use vkllm_shaders::reference::soft_cap::capped;
use vkllm_shaders::select::Candidate;

use super::compare::{bits, within, within_groups};
use super::job::{Job, POISON};
use super::lookup::step_rows;
use super::rows::check_q8;
use super::{Bench, Check, List, Rng, ensure};

const BLOCK: usize = 128;
pub const NAN: u32 = 0x7fff_7fff; // a NaN as f32 and as two f16

/// Heads, their sizes and the types of the pools, as indices of [`KV_FORMATS`].
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub heads: usize,
    pub kv: usize,
    pub size: usize,
    pub types: (u32, u32),
}

/// One row: its conversation, the position it stands at and the first it sees.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub session: usize,
    pub position: usize,
    pub begin: usize,
}

/// Keys and values of conversations, [session][kv][position][size], and the rows' queries.
#[derive(Clone)]
pub struct Scene {
    pub shape: Shape,
    pub positions: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub rows: Vec<Row>,
    pub scale: f32,
    /// Order of the blocks in the pools.
    pub shuffled: bool,
    /// What cells hold that no row may see.
    pub unseen: u32,
    /// Keys that every row sees beside its own beginning, 0 for all; a cap on scores, 0 for none; a sink per head.
    pub window: usize,
    pub cap: f32,
    pub sinks: Option<Vec<f32>>,
}

impl Scene {
    pub fn new(rng: &mut Rng, shape: Shape, positions: usize, rows: &[Row]) -> Self {
        let sessions = rows.iter().map(|row| row.session).max().unwrap_or(0) + 1;
        let cells = sessions * shape.kv * positions * shape.size;
        // Values that f16 holds, so that pools of both types hold the same.
        let mut halves =
            |count: usize| -> Vec<f32> { (0..count).map(|_| f16::from_f32(rng.normal()).to_f32()).collect() };
        let (k, v, q) = (halves(cells), halves(cells), halves(rows.len() * shape.heads * shape.size));
        let scale = 1.0 / (shape.size as f32).sqrt();
        Scene {
            shape,
            positions,
            q,
            k,
            v,
            rows: rows.to_vec(),
            scale,
            shuffled: true,
            unseen: NAN,
            window: 0,
            cap: 0.0,
            sinks: None,
        }
    }

    fn cell(&self, session: usize, kv: usize, position: usize) -> usize {
        ((session * self.shape.kv + kv) * self.positions + position) * self.shape.size
    }

    fn chunks(&self) -> usize {
        self.positions.div_ceil(BLOCK)
    }

    /// Most chunks that a row sees.
    fn seen_chunks(&self) -> usize {
        if self.window == 0 {
            self.chunks()
        } else {
            self.chunks().min((self.window - 1).div_ceil(BLOCK) + 1)
        }
    }

    /// The first position that a row sees.
    fn begin(&self, row: &Row) -> usize {
        if self.window == 0 {
            row.begin
        } else {
            row.begin.max((row.position + 1).saturating_sub(self.window))
        }
    }

    fn sees(&self, session: usize, position: usize) -> bool {
        self.rows.iter().any(|r| r.session == session && (self.begin(r)..=r.position).contains(&position))
    }

    /// The pools and the table of blocks.
    fn pools(&self, bench: &Bench) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
        let Shape { kv, size, types, .. } = self.shape;
        let sessions = self.rows.iter().map(|row| row.session).max().unwrap_or(0) + 1;
        let blocks = sessions * self.chunks();
        let mut rng = bench.rng("blocks");
        let order = if self.shuffled { rng.order(blocks) } else { (0..blocks).collect() };
        let pool = |values: &[f32], kind: u32| {
            let format = &KV_FORMATS[kind as usize];
            let tile = BLOCK * format.row_words(size);
            let mut words = vec![self.unseen; blocks * kv * tile];
            for session in 0..sessions {
                for position in (0..self.positions).filter(|&p| self.sees(session, p)) {
                    for head in 0..kv {
                        let block = order[session * self.chunks() + position / BLOCK];
                        let from = &values[self.cell(session, head, position)..][..size];
                        format.store(
                            Words::new(&mut words),
                            (block * kv + head) * tile,
                            position % BLOCK,
                            from,
                        );
                    }
                }
            }
            words
        };
        let table = order.iter().map(|block| *block as u32).collect();
        (pool(&self.k, types.0), pool(&self.v, types.1), table)
    }

    fn step_rows(&self) -> Vec<u32> {
        let row = |row: &Row| StepRow {
            position: row.position as u32,
            begin: row.begin as u32,
            table: (row.session * self.chunks()) as u32,
            ..StepRow::default()
        };
        step_rows(&self.rows.iter().map(row).collect::<Vec<_>>())
    }

    pub fn parts_job(&self, bench: &Bench, candidate: &'static Candidate) -> Job {
        let Shape { heads, kv, size, types } = self.shape;
        let lanes = bench.lanes();
        // Lanes that share a key have 16 of its elements at least, in loads of eight.
        let size_ = size as u32;
        let mut split = 1;
        while split * 2 <= lanes && size_.is_multiple_of(16 * split) && size_ >= 32 * split {
            split *= 2;
        }
        let specs = [
            ("WG", lanes),
            ("SG", lanes),
            ("HEAD", size_),
            ("HEAD_V", size_),
            ("K_TYPE", types.0),
            ("V_TYPE", types.1),
            ("D_SPLIT", split),
            ("CAP", u32::from(self.cap != 0.0)),
        ];
        let push = attention::Push {
            n_head: heads as u32,
            n_kv: kv as u32,
            q_stride: (heads * size) as u32,
            chunks_max: self.seen_chunks() as u32,
            scale: self.scale,
            window: self.window as u32,
            cap: self.cap,
            row_count: self.rows.len() as u32,
            ..Default::default()
        };
        let (k, v, table) = self.pools(bench);
        let longest = self.rows.iter().map(|row| row.position / BLOCK + 1).max().unwrap_or(1);
        let longest = longest.min(self.seen_chunks());
        let pairs = self.rows.len() * heads / kv;
        let tiles = pairs.div_ceil(candidate.fixed("PAIRS").unwrap_or(1) as usize);
        // One tile, head and chunk too many in the grid: they have nothing to do.
        let grid = [tiles as u32 + 1, kv as u32 + 1, longest as u32 + 1];
        let part = self.rows.len() * heads * self.seen_chunks() * (size + 2);
        Job::new(candidate, &specs, &push, grid)
            .floats("q", &self.q)
            .words("k_cache", k)
            .words("v_cache", v)
            .words("rows", self.step_rows())
            .words("block_table", table)
            .output("part", part)
    }

    fn combine_job(&self, bench: &Bench, candidate: &'static Candidate, part: Vec<u32>, out: u32) -> Job {
        let Shape { heads, size, .. } = self.shape;
        let (rows, width, lanes) = (self.rows.len(), heads * size, bench.lanes());
        let push = attention_combine::Push {
            n_head: heads as u32,
            chunks_max: self.seen_chunks() as u32,
            row_count: rows as u32,
            window: self.window as u32,
            ..Default::default()
        };
        let specs = [
            ("WG", 4 * lanes),
            ("SG", lanes),
            ("HEAD_V", size as u32),
            ("OUT", out),
            ("SINKS", u32::from(self.sinks.is_some())),
        ];
        Job::new(candidate, &specs, &push, [2, rows as u32, 1])
            .words("part", part)
            .floats("sinks", self.sinks.as_deref().unwrap_or(&[f32::NAN]))
            .words("rows", self.step_rows())
            .output("y", rows * width)
            .output("y_q8", rows * width.div_ceil(32) * 12)
    }

    /// The device's result, [row][head][size].
    pub fn run(&self, bench: &Bench, way: Way) -> Check<Vec<f32>> {
        let part = self.parts_job(bench, way.0).on(bench)?.words("part").to_vec();
        let out = if (self.shape.heads * self.shape.size).is_multiple_of(32) { 3 } else { 1 };
        Ok(self.combine_job(bench, way.1, part, out).on(bench)?.floats("y"))
    }

    /// Values as a pool of a type holds them.
    fn held(&self, values: &[f32], kind: u32) -> Vec<f32> {
        let (format, size) = (&KV_FORMATS[kind as usize], self.shape.size);
        let mut words = vec![0; BLOCK * format.row_words(size)];
        let pool = Words::new(&mut words);
        let held = values.chunks_exact(size).flat_map(|head| {
            format.store(pool, 0, 1, head);
            (0..size).map(|i| format.load(pool, 0, 1, size, i)).collect::<Vec<_>>()
        });
        held.collect()
    }

    /// Softmax attention in f64, and how far an element may be from it.
    pub fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let Shape { heads, kv, size, .. } = self.shape;
        let (k, v) = (self.held(&self.k, self.shape.types.0), self.held(&self.v, self.shape.types.1));
        let (mut want, mut bound) = (Vec::new(), Vec::new());
        for (r, row) in self.rows.iter().enumerate() {
            for head in 0..heads {
                let q = &self.q[(r * heads + head) * size..][..size];
                let cells: Vec<usize> = (self.begin(row)..=row.position)
                    .map(|p| self.cell(row.session, head / (heads / kv), p))
                    .collect();
                let product = |at: usize, f: fn(f64) -> f64| -> f64 {
                    let terms = q.iter().zip(&k[at..at + size]);
                    terms.map(|(q, k)| f(f64::from(*q) * f64::from(*k))).sum::<f64>() * f64::from(self.scale)
                };
                let scores: Vec<f64> = cells
                    .iter()
                    .map(|at| product(*at, |x| x))
                    .map(|score| if self.cap == 0.0 { score } else { capped(score, self.cap) })
                    .collect();
                let sizes = cells.iter().map(|at| product(*at, f64::abs)).fold(0.0, f64::max);
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let low = scores.iter().copied().fold(f64::MAX, f64::min);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let sink = self.sinks.as_ref().map_or(0.0, |sinks| (f64::from(sinks[head]) - top).exp());
                let total: f64 = weights.iter().sum::<f64>() + sink;
                // Scores off by the bound of a sum of products, exponentials by 3 + 2|x| units, twice (chunk and
                // whole), and the sums over keys.
                let unit = 2f64.powi(-23);
                let off = 8.0 * (size as f64).sqrt() * sizes * unit / 2.0 + 32.0 * f64::from(self.cap) * unit;
                let share = 2.0 * off
                    + 2.0 * (3.0 + 2.0 * (top - low)) * unit
                    + 8.0 * (cells.len() as f64).sqrt() * unit;
                for i in 0..size {
                    let values =
                        || cells.iter().zip(&weights).map(|(at, w)| w * f64::from(v[at + i]) / total);
                    want.push(values().sum());
                    bound.push(2.0 * share * values().map(f64::abs).sum::<f64>());
                }
            }
        }
        (want, bound)
    }

    pub fn check(&self, bench: &Bench, way: Way) -> Check {
        let (want, bound) = self.expected();
        within(&"attention", &self.run(bench, way)?, &want, &bound)
    }
}

/// A kernel of `attention` and one of `attention_combine`.
pub type Way = (&'static Candidate, &'static Candidate);

const F32: (u32, u32) = (0, 0);
const F16: (u32, u32) = (1, 1);

/// The shape that properties are shown with.
const SMALL: Shape = Shape { heads: 4, kv: 2, size: 64, types: F32 };

pub fn row(position: usize) -> Row {
    Row { session: 0, position, begin: 0 }
}

/// Rows around the edges of chunks, in two conversations, some with a window.
pub fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = [0, 1, 7, 126, 127, 128, 129, 255, 256, 299].into_iter().map(row).collect();
    rows.push(Row { session: 1, position: 200, begin: 0 });
    for (position, begin) in [(250, 250), (130, 127), (260, 128), (299, 129), (140, 5)] {
        rows.push(Row { session: 1, position, begin });
    }
    rows
}

pub fn as_bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub fn list(list: &mut List<'_>) {
    let combiners = list.usable(attention_combine::CANDIDATES);
    for &combiner in &combiners {
        for (size, heads) in
            [(12, 3), (20, 1), (8, 4), (64, 4), (64, 3), (80, 2), (96, 1), (128, 8), (256, 2)]
        {
            for positions in [127, 128, 300, 700] {
                let property = format!("parts together heads {heads} size {size} positions {positions}");
                list.add(&[combiner.kernel], property, move |bench| {
                    combination(bench, combiner, Shape { heads, kv: 1, size, types: F32 }, positions)
                });
            }
        }
    }
    for (candidate, extent) in subjects(list) {
        if matches!(extent, Extent::Like(_)) {
            continue;
        }
        let kernel = &[candidate.kernel];
        for types in [F32, F16] {
            list.add(kernel, format!("parts are the meaning {}", kinds(types)), move |bench| {
                parts(bench, candidate, types)
            });
            list.add(kernel, format!("uniform weights are exact {}", kinds(types)), move |bench| {
                uniform_parts(bench, candidate, types)
            });
        }
        // What stands in for others has been tested alone.
        let main = |combiner: &&&Candidate| matches!(extent, Extent::All) && combiner.rank >= 10;
        for &combiner in combiners.iter().filter(main) {
            properties(list, (candidate, combiner));
        }
    }
}

/// How much of a candidate is checked.
#[derive(Clone, Copy)]
pub enum Extent {
    All,
    /// What is exact, in one pipeline per type.
    Exact,
    /// It has the bits of another.
    Like(&'static Candidate),
}

/// Pairs of row and head that a workgroup of a candidate has.
pub fn pairs(candidate: &Candidate) -> u32 {
    candidate.fixed("PAIRS").unwrap_or(1)
}

/// The candidates that run here. One of those that differ in their pairs is checked, the others have its bits: the one
/// with the most, or with two for kernels of other subgroups, which CPUs run as well but compile for seconds.
pub fn subjects(list: &mut List<'_>) -> Vec<(&'static Candidate, Extent)> {
    let mut subjects = Vec::new();
    for candidate in attention::CANDIDATES {
        let cpu = matches!(list.caps.kind, DeviceKind::Cpu | DeviceKind::Reference);
        let meant = list.meant(candidate);
        let alike = |other: &&Candidate| other.kernel.name == candidate.kernel.name;
        let main = attention::CANDIDATES.iter().filter(alike).filter(|other| meant || pairs(other) == 2);
        let Some(main) = main.max_by_key(|other| pairs(other)) else { continue };
        if let Some(reason) = list.lacks(candidate) {
            list.skip(candidate, reason);
        } else if !meant && (!cpu || pairs(candidate) > 4) {
            let ((low, high), lanes) = (candidate.subgroup, list.caps.subgroup);
            let reason = format!("is meant for subgroups of {low} to {high}, the device has {lanes}");
            list.skip(candidate, reason);
        } else if !std::ptr::eq(candidate, main) {
            subjects.push((candidate, Extent::Like(main)));
        } else {
            // What only stands in for others is the code of one of them.
            let all = meant && candidate.rank >= 10;
            subjects.push((candidate, if all { Extent::All } else { Extent::Exact }));
        }
    }
    subjects
}

/// Attention and its combination together.
fn properties(list: &mut List<'_>, way: Way) {
    let kernels = [way.0.kernel, way.1.kernel];
    for (size, heads, kv, types) in [
        (8, 4, 4, F32),
        (64, 4, 2, F32),
        (80, 2, 1, F32),
        (96, 4, 1, F32),
        (128, 8, 1, F32),
        (256, 2, 1, F32),
        (64, 4, 2, F16),
        (80, 2, 2, F16),
        (128, 8, 2, F16),
        (64, 2, 2, (0, 1)),
        (64, 2, 1, (1, 0)),
    ] {
        let shape = Shape { heads, kv, size, types };
        let property = format!("bound heads {heads} kv {kv} size {size} {}", kinds(types));
        list.add(&kernels, property, move |bench| {
            Scene::new(&mut bench.rng(&format!("{shape:?}")), shape, 300, &rows()).check(bench, way)
        });
    }
    for types in [F32, F16] {
        let shape = Shape { types, ..SMALL };
        list.add(&kernels, format!("means of integers are exact {}", kinds(types)), move |bench| {
            uniform_means(bench, way, types)
        });
        for r in 0..rows().len() {
            list.add(&kernels, format!("row {r} alone and among others {}", kinds(types)), move |bench| {
                let scene = Scene::new(&mut bench.rng("rows"), shape, 300, &rows());
                let width = SMALL.heads * SMALL.size;
                let q = scene.q[r * width..][..width].to_vec();
                // A row of conversation 1 stays there; conversation 0 is then not seen by anybody.
                let alone = Scene { rows: vec![scene.rows[r]], q, ..scene.clone() };
                let all = scene.run(bench, way)?;
                bits(&"alone", &as_bits(&alone.run(bench, way)?), &as_bits(&all[r * width..][..width]))
            });
        }
        for unseen in [NAN, 0, 0x7c00_7c00, 0xff80_0000, 0x7149_7149] {
            let property = format!("blocks in order and unseen cells {unseen:#x} {}", kinds(types));
            list.add(&kernels, property, move |bench| {
                let shuffled = Scene::new(&mut bench.rng("blocks"), shape, 300, &rows());
                let straight = Scene { shuffled: false, unseen, ..shuffled.clone() };
                let (a, b) = (shuffled.run(bench, way)?, straight.run(bench, way)?);
                bits(&"unseen cells", &as_bits(&b), &as_bits(&a))
            });
        }
    }
    for group in [2, 4, 8] {
        list.add(&kernels, format!("shared heads are copied ones group {group}"), move |bench| {
            shared_heads(bench, way, group)
        });
    }
    for (window, cap, sinks) in [
        (1, 0.0, false),
        (16, 0.0, true),
        (100, 20.0, false),
        (129, 0.0, false),
        (500, 2.0, true),
        (0, 0.0, true),
    ] {
        let property = format!("window {window} cap {cap} sinks {sinks}");
        list.add(&kernels, property, move |bench| {
            let mut rng = bench.rng(&format!("window {window} {cap} {sinks}"));
            let mut scene = Scene::new(&mut rng, SMALL, 300, &rows());
            scene.sinks = sinks.then(|| rng.normals(SMALL.heads));
            Scene { window, cap, ..scene }.check(bench, way)
        });
    }
    list.add(&kernels, "windows forget what lies before them", move |bench| windows(bench, way));
    list.add(&kernels, "equal values come out as they went in", move |bench| equal_values(bench, way));
    list.add(&kernels, "one visible key gives its value", move |bench| {
        let one = |position| Row { session: 0, position, begin: position };
        let keys = [one(0), one(127), one(128), one(299)];
        let scene = Scene::new(&mut bench.rng("single"), SMALL, 300, &keys);
        let want: Vec<u32> = scene.expected().0.iter().map(|v| (*v as f32).to_bits()).collect();
        bits(&"single key", &as_bits(&scene.run(bench, way)?), &want)
    });
    list.add(&kernels, "results lie between the values", move |bench| {
        let scene = Scene::new(&mut bench.rng("hull"), SMALL, 300, &[row(299), row(130)]);
        let largest = scene.v.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let y = scene.run(bench, way)?;
        let inside = y.iter().all(|y| y.abs() <= largest * (1.0 + 1e-5));
        ensure(inside, || "a result is larger than every value".into())
    });
    list.add(&kernels, "keys may change places", move |bench| moved_keys(bench, way, false));
    list.add(&kernels, "keys may be doubled", move |bench| moved_keys(bench, way, true));
    list.add(&kernels, "a common shift of all keys changes rounding alone", move |bench| {
        shifted_keys(bench, way)
    });
    for power in [-20, 3, 30] {
        list.add(&kernels, format!("values times 2 power {power} exactly"), move |bench| {
            let scene = Scene::new(&mut bench.rng("value scale"), SMALL, 300, &rows());
            let factor = 2f32.powi(power);
            let scaled = Scene { v: scene.v.iter().map(|v| v * factor).collect(), ..scene.clone() };
            let want: Vec<u32> = scene.run(bench, way)?.iter().map(|y| (y * factor).to_bits()).collect();
            bits(&"scaled values", &as_bits(&scaled.run(bench, way)?), &want)
        });
    }
    for factor in [100, -100, 3000, 60_000] {
        list.add(&kernels, format!("scores of any size are finite times {factor}"), move |bench| {
            let mut scene = Scene::new(&mut bench.rng("extreme"), SMALL, 300, &rows());
            scene.q.iter_mut().for_each(|q| *q *= factor as f32);
            let largest = scene.v.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            let y = scene.run(bench, way)?;
            let fine = y.iter().all(|y| y.is_finite() && y.abs() <= largest * 1.0001);
            ensure(fine, || "a result is not finite or larger than every value".into())
        });
    }
    list.add(&kernels, "the int8 form is that of the result", move |bench| {
        let scene = Scene::new(&mut bench.rng("int8"), SMALL, 300, &rows());
        let part = scene.parts_job(bench, way.0).on(bench)?.words("part").to_vec();
        let out = scene.combine_job(bench, way.1, part, 3).on(bench)?;
        check_q8("attention", &out.floats("y"), out.words("y_q8"))
    });
}

pub fn kinds(types: (u32, u32)) -> String {
    format!("types {}-{}", types.0, types.1)
}

fn parts(bench: &Bench, candidate: &'static Candidate, types: (u32, u32)) -> Check {
    let scene = Scene::new(&mut bench.rng("parts"), Shape { types, ..SMALL }, 300, &rows());
    let job = scene.parts_job(bench, candidate);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let poison = |words: &[u32]| words.iter().map(|w| u32::from(*w == POISON)).collect::<Vec<_>>();
    bits(&"which parts are written", &poison(got.words("part")), &poison(want.words("part")))?;
    let pairs = got.floats("part").into_iter().zip(want.floats("part")).filter(|(_, want)| !want.is_nan());
    let (got, want): (Vec<f32>, Vec<f64>) = pairs.map(|(got, want)| (got, f64::from(want))).unzip();
    // Values of one part have the size of its sum of exponentials, 128 at most.
    within(&"parts", &got, &want, &vec![2e-5; want.len()])
}

/// Parts as the meaning makes them, combined on the device.
fn combination(bench: &Bench, candidate: &'static Candidate, shape: Shape, positions: usize) -> Check {
    let places = [row(positions - 1), row(0), row(positions / 2), row(positions.min(128) - 1)];
    let scene = Scene::new(&mut bench.rng(&format!("combination {shape:?}")), shape, positions, &places);
    let part = scene.parts_job(bench, &attention::CANDIDATES[0]).meaning(bench).words("part").to_vec();
    let out = if (shape.heads * shape.size).is_multiple_of(32) { 3 } else { 1 };
    let job = scene.combine_job(bench, candidate, part, out);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let want: Vec<f64> = want.floats("y").iter().map(|y| f64::from(*y)).collect();
    // Exponentials of differences of scores, which stay below 16 here, twice; few sums and a quotient.
    let share = (2.0 * (3.0 + 2.0 * 16.0) + 16.0) * 2f64.powi(-23);
    within_groups(&"combined parts", &got.floats("y"), &want, shape.size, share)?;
    if out == 3 { check_q8("combined parts", &got.floats("y"), got.words("y_q8")) } else { Ok(()) }
}

/// Zero queries, and one row of integer queries against keys that are all alike: its score is an exact integer.
fn uniform(bench: &Bench, types: (u32, u32)) -> Scene {
    let mut rng = bench.rng("uniform");
    let places = [row(127), row(63), row(0), row(127)];
    let mut scene = Scene::new(&mut rng, Shape { types, ..SMALL }, 256, &places);
    let width = SMALL.heads * SMALL.size;
    scene.scale = 0.125;
    scene.q.fill(0.0);
    scene.q[3 * width..].iter_mut().for_each(|q| *q = rng.int(-8, 8) as f32);
    let key = rng.ints(SMALL.size, -8, 8);
    scene.k = key.iter().copied().cycle().take(scene.k.len()).collect();
    scene.v = rng.ints(scene.v.len(), -64, 64);
    scene
}

fn uniform_parts(bench: &Bench, candidate: &'static Candidate, types: (u32, u32)) -> Check {
    let job = uniform(bench, types).parts_job(bench, candidate);
    bits(&"parts of integers", job.on(bench)?.words("part"), job.meaning(bench).words("part"))
}

fn uniform_means(bench: &Bench, way: Way, types: (u32, u32)) -> Check {
    // 64 and 128 keys: the means are exact.
    let scene = uniform(bench, types);
    let want: Vec<u32> = scene.expected().0.iter().map(|v| (*v as f32).to_bits()).collect();
    let zeros = |words: Vec<u32>| -> Vec<u32> {
        words.into_iter().map(|w| if w == 1 << 31 { 0 } else { w }).collect()
    };
    bits(&"means of integers", &zeros(as_bits(&scene.run(bench, way)?)), &zeros(want))
}

fn shared_heads(bench: &Bench, way: Way, group: usize) -> Check {
    let shape = Shape { heads: 8, kv: 8 / group, ..SMALL };
    let shared = Scene::new(&mut bench.rng("gqa"), shape, 140, &[row(139), row(3)]);
    let expand = |values: &[f32]| -> Vec<f32> {
        let per_head = 140 * shape.size;
        values.chunks_exact(per_head).flat_map(|head| vec![head.to_vec(); group].concat()).collect()
    };
    let copied = Scene {
        shape: Shape { kv: 8, ..shape },
        k: expand(&shared.k),
        v: expand(&shared.v),
        ..shared.clone()
    };
    bits(&"copied heads", &as_bits(&copied.run(bench, way)?), &as_bits(&shared.run(bench, way)?))
}

/// A window from the second block on is a conversation that began there.
fn windows(bench: &Bench, way: Way) -> Check {
    let late = Row { session: 0, position: 290, begin: 128 };
    let late = Scene::new(&mut bench.rng("window"), SMALL, 300, &[late]);
    let cut = |values: &[f32]| -> Vec<f32> {
        values.chunks_exact(300 * SMALL.size).flat_map(|head| head[128 * SMALL.size..].to_vec()).collect()
    };
    let fresh =
        Scene { positions: 172, k: cut(&late.k), v: cut(&late.v), rows: vec![row(162)], ..late.clone() };
    bits(&"window", &as_bits(&fresh.run(bench, way)?), &as_bits(&late.run(bench, way)?))
}

fn equal_values(bench: &Bench, way: Way) -> Check {
    let mut scene = Scene::new(&mut bench.rng("constant"), SMALL, 300, &rows());
    let value: Vec<f32> = scene.v[..SMALL.size].to_vec();
    scene.v = value.iter().copied().cycle().take(scene.v.len()).collect();
    let y = scene.run(bench, way)?;
    let want: Vec<f64> = value.iter().map(|v| f64::from(*v)).cycle().take(y.len()).collect();
    let bound: Vec<f64> = want.iter().map(|v| v.abs() * 16.0 * 2f64.powi(-23)).collect();
    within(&"constant values", &y, &want, &bound)
}

/// Keys in another order, or each of them twice.
fn moved_keys(bench: &Bench, way: Way, twice: bool) -> Check {
    let mut rng = bench.rng("permuted keys");
    let scene = Scene::new(&mut rng, SMALL, 300, &[row(299)]);
    let order = rng.order(300);
    let count = if twice { 600 } else { 300 };
    let from = |p: usize| if twice { p / 2 } else { order[p] };
    let moved = |values: &[f32]| -> Vec<f32> {
        let head = 300 * SMALL.size;
        (0..SMALL.kv * count)
            .flat_map(|i| values[i / count * head + from(i % count) * SMALL.size..][..SMALL.size].to_vec())
            .collect()
    };
    let (want, bound) = scene.expected();
    let moved = Scene {
        positions: count,
        rows: vec![row(count - 1)],
        k: moved(&scene.k),
        v: moved(&scene.v),
        ..scene.clone()
    };
    within(&"moved keys", &moved.run(bench, way)?, &want, &bound)
}

fn shifted_keys(bench: &Bench, way: Way) -> Check {
    let mut rng = bench.rng("shift");
    let scene = Scene::new(&mut rng, SMALL, 300, &[row(299), row(100)]);
    let shift: Vec<f32> = (0..SMALL.size).map(|_| rng.int(-2, 2) as f32).collect();
    let k = scene.k.iter().enumerate().map(|(i, k)| k + shift[i % SMALL.size]).collect();
    let shifted = Scene { k, ..scene.clone() };
    let (want, bound) = (scene.expected().0, shifted.expected().1);
    // Adding the shift rounds the keys once more.
    let bound: Vec<f64> = bound.iter().map(|bound| 2.0 * bound).collect();
    within(&"shifted keys", &shifted.run(bench, way)?, &want, &bound)
}

//! `attention` and `attention_combine`: parts and results against f64, exact cases, and properties that need no
//! reference.

use half::f16;
use vkllm_shaders::ops::{attention, attention_combine};
use vkllm_shaders::records::StepRow;

use super::lookup::step_rows;
use super::rows::check_q8;
use crate::harness::compare::{bits, within};
use crate::harness::job::{Job, POISON};
use crate::harness::random::Rng;
use crate::harness::{Cases, device, usable};

const BLOCK: usize = 128;
const NAN: u32 = 0x7fff_7fff; // a NaN as f32 and as two f16

/// Heads, their sizes and the types of the pools (0 f32, 1 f16).
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv: usize,
    size: usize,
    types: (u32, u32),
}

/// One row: its conversation, the position it stands at and the first it sees.
#[derive(Clone, Copy, Debug)]
struct Row {
    session: usize,
    position: usize,
    begin: usize,
}

/// Keys and values of conversations, [session][kv][position][size], and the rows' queries.
#[derive(Clone)]
struct Scene {
    shape: Shape,
    positions: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    rows: Vec<Row>,
    scale: f32,
    /// Order of the blocks in the pools.
    shuffled: bool,
    /// What cells hold that no row may see.
    unseen: u32,
}

impl Scene {
    fn new(rng: &mut Rng, shape: Shape, positions: usize, rows: &[Row]) -> Self {
        let sessions = rows.iter().map(|row| row.session).max().unwrap_or(0) + 1;
        let cells = sessions * shape.kv * positions * shape.size;
        // Values that f16 holds, so that pools of both types hold the same.
        let mut halves =
            |count: usize| -> Vec<f32> { (0..count).map(|_| f16::from_f32(rng.normal()).to_f32()).collect() };
        let (k, v, q) = (halves(cells), halves(cells), halves(rows.len() * shape.heads * shape.size));
        let scale = 1.0 / (shape.size as f32).sqrt();
        Scene { shape, positions, q, k, v, rows: rows.to_vec(), scale, shuffled: true, unseen: NAN }
    }

    fn cell(&self, session: usize, kv: usize, position: usize) -> usize {
        ((session * self.shape.kv + kv) * self.positions + position) * self.shape.size
    }

    fn chunks(&self) -> usize {
        self.positions.div_ceil(BLOCK)
    }

    fn sees(&self, session: usize, position: usize) -> bool {
        self.rows.iter().any(|r| r.session == session && (r.begin..=r.position).contains(&position))
    }

    /// The pools and the table of blocks.
    fn pools(&self) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
        let Shape { kv, size, types, .. } = self.shape;
        let sessions = self.rows.iter().map(|row| row.session).max().unwrap_or(0) + 1;
        let blocks = sessions * self.chunks();
        let mut rng = Rng::new("blocks");
        let order = if self.shuffled { rng.order(blocks) } else { (0..blocks).collect() };
        let pool = |values: &[f32], kind: u32| {
            let mut words = vec![self.unseen; blocks * kv * BLOCK * size / (1 + kind as usize)];
            for session in 0..sessions {
                for position in (0..self.positions).filter(|&p| self.sees(session, p)) {
                    for head in 0..kv {
                        let block = order[session * self.chunks() + position / BLOCK];
                        let to = ((block * kv + head) * BLOCK + position % BLOCK) * size;
                        let from = &values[self.cell(session, head, position)..][..size];
                        for (i, pair) in from.chunks_exact(2).enumerate() {
                            if kind == 0 {
                                words[to + 2 * i] = pair[0].to_bits();
                                words[to + 2 * i + 1] = pair[1].to_bits();
                            } else {
                                let half = |x: f32| u32::from(f16::from_f32(x).to_bits());
                                words[to / 2 + i] = half(pair[0]) | half(pair[1]) << 16;
                            }
                        }
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

    fn parts_job(&self, candidate: &'static vkllm_shaders::select::Candidate, unroll: u32) -> Option<Job> {
        let device = device()?;
        let Shape { heads, kv, size, types } = self.shape;
        let lanes = device.caps().subgroup;
        let mut split = 1;
        while split < 8 && split * 2 <= lanes && (size as u32 / 4).is_multiple_of(split * 2) {
            split *= 2;
        }
        let size_ = size as u32;
        let specs = [
            ("WG", lanes),
            ("SG", lanes),
            ("HEAD", size_),
            ("HEAD_V", size_),
            ("K_TYPE", types.0),
            ("V_TYPE", types.1),
            ("D_SPLIT", split),
            ("UNROLL", unroll),
        ];
        let push = attention::Push {
            n_head: heads as u32,
            n_kv: kv as u32,
            q_stride: (heads * size) as u32,
            chunks_max: self.chunks() as u32,
            scale: self.scale,
            row_count: self.rows.len() as u32,
            ..Default::default()
        };
        let (k, v, table) = self.pools();
        let longest = self.rows.iter().map(|row| row.position / BLOCK + 1).max().unwrap_or(1);
        // One row and one chunk too many in the grid: they have nothing to do.
        let grid = [longest as u32 + 1, heads as u32, self.rows.len() as u32 + 1];
        let part = self.rows.len() * heads * self.chunks() * (size + 2);
        let job = Job::new(candidate, &specs, &push, grid)
            .floats("q", &self.q)
            .words("k_cache", k)
            .words("v_cache", v)
            .words("rows", self.step_rows())
            .words("block_table", table)
            .output("part", part);
        Some(job)
    }

    fn combine(&self, part: Vec<u32>, out: u32) -> Vec<(Vec<f32>, Vec<u32>)> {
        let Some(device) = device() else { return Vec::new() };
        let Shape { heads, size, .. } = self.shape;
        let (rows, width, lanes) = (self.rows.len(), heads * size, device.caps().subgroup);
        let push = attention_combine::Push {
            n_head: heads as u32,
            chunks_max: self.chunks() as u32,
            row_count: rows as u32,
            ..Default::default()
        };
        usable(attention_combine::CANDIDATES, device)
            .into_iter()
            .map(|candidate| {
                let specs = [("WG", 4 * lanes), ("SG", lanes), ("HEAD_V", size as u32), ("OUT", out)];
                let got = Job::new(candidate, &specs, &push, [2, rows as u32, 1])
                    .words("part", part.clone())
                    .words("rows", self.step_rows())
                    .output("y", rows * width)
                    .output("y_q8", rows * width.div_ceil(32) * 12)
                    .on(device);
                (got.floats("y"), got.words("y_q8").to_vec())
            })
            .collect()
    }

    /// The device's results, [row][head][size], one per combination of candidates.
    fn run(&self) -> Vec<Vec<f32>> {
        let Some(device) = device() else { return Vec::new() };
        let parts = usable(attention::CANDIDATES, device);
        let parts =
            parts.into_iter().filter_map(|c| Some(self.parts_job(c, 1)?.on(device).words("part").to_vec()));
        let out = if (self.shape.heads * self.shape.size).is_multiple_of(32) { 3 } else { 1 };
        parts.flat_map(|part| self.combine(part, out)).map(|(y, _)| y).collect()
    }

    /// Softmax attention in f64, and how far an element may be from it.
    fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let Shape { heads, kv, size, .. } = self.shape;
        let (mut want, mut bound) = (Vec::new(), Vec::new());
        for (r, row) in self.rows.iter().enumerate() {
            for head in 0..heads {
                let q = &self.q[(r * heads + head) * size..][..size];
                let cells: Vec<usize> = (row.begin..=row.position)
                    .map(|p| self.cell(row.session, head / (heads / kv), p))
                    .collect();
                let product = |at: usize, f: fn(f64) -> f64| -> f64 {
                    let terms = q.iter().zip(&self.k[at..at + size]);
                    terms.map(|(q, k)| f(f64::from(*q) * f64::from(*k))).sum::<f64>() * f64::from(self.scale)
                };
                let scores: Vec<f64> = cells.iter().map(|at| product(*at, |x| x)).collect();
                let sizes = cells.iter().map(|at| product(*at, f64::abs)).fold(0.0, f64::max);
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let low = scores.iter().copied().fold(f64::MAX, f64::min);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                // Scores off by the bound of a sum of products, exponentials by 3 + 2|x| units, twice (chunk and
                // whole), and the sums over keys.
                let unit = 2f64.powi(-23);
                let off = 8.0 * (size as f64).sqrt() * sizes * unit / 2.0;
                let share = 2.0 * off
                    + 2.0 * (3.0 + 2.0 * (top - low)) * unit
                    + 8.0 * (cells.len() as f64).sqrt() * unit;
                for i in 0..size {
                    let values =
                        || cells.iter().zip(&weights).map(|(at, w)| w * f64::from(self.v[at + i]) / total);
                    want.push(values().sum());
                    bound.push(2.0 * share * values().map(f64::abs).sum::<f64>());
                }
            }
        }
        (want, bound)
    }

    fn check(&self, what: &str) {
        let (want, bound) = self.expected();
        for y in self.run() {
            within(&format!("{what} {:?}", self.shape), &y, &want, &bound);
        }
    }
}

const F32: (u32, u32) = (0, 0);
const F16: (u32, u32) = (1, 1);

/// The shape that properties are shown with.
const SMALL: Shape = Shape { heads: 4, kv: 2, size: 64, types: F32 };

fn row(position: usize) -> Row {
    Row { session: 0, position, begin: 0 }
}

/// Rows around the edges of chunks, in two conversations, some with a window.
fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = [0, 1, 7, 126, 127, 128, 129, 255, 256, 299].into_iter().map(row).collect();
    rows.push(Row { session: 1, position: 200, begin: 0 });
    for (position, begin) in [(250, 250), (130, 127), (260, 128), (299, 129), (140, 5)] {
        rows.push(Row { session: 1, position, begin });
    }
    rows
}

fn as_bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn heads_of_every_size_stay_within_the_bound() {
    let mut cases = Cases::default();
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
        let mut rng = Rng::new(&format!("{shape:?}"));
        Scene::new(&mut rng, shape, 300, &rows()).check("random");
        cases.add();
    }
}

#[test]
fn parts_are_the_meaning_and_others_stay() {
    let Some(device) = device() else { return };
    for (types, unroll) in [(F32, 1), (F16, 1), (F32, 0), (F16, 0)] {
        let scene = Scene::new(&mut Rng::new("parts"), Shape { types, ..SMALL }, 300, &rows());
        for candidate in usable(attention::CANDIDATES, device) {
            let Some(job) = scene.parts_job(candidate, unroll) else { return };
            let (got, want) = (job.on(device), job.meaning(device));
            let what = format!("{} {types:?} unroll {unroll}", candidate.kernel.name);
            let poison = |words: &[u32]| words.iter().map(|w| u32::from(*w == POISON)).collect::<Vec<_>>();
            bits(
                &format!("{what}: which parts are written"),
                &poison(got.words("part")),
                &poison(want.words("part")),
            );
            let written = |values: Vec<f32>| values.into_iter().filter(|v| !v.is_nan()).collect::<Vec<_>>();
            let (got, want) = (written(got.floats("part")), written(want.floats("part")));
            let want: Vec<f64> = want.iter().map(|v| f64::from(*v)).collect();
            // Values of one part have the size of its sum of exponentials, 128 at most.
            let bound = vec![2e-5; want.len()];
            within(&what, &got, &want, &bound);
        }
    }
}

#[test]
fn uniform_weights_and_integers_are_exact() {
    let Some(device) = device() else { return };
    for types in [F32, F16] {
        let mut rng = Rng::new("uniform");
        let mut scene =
            Scene::new(&mut rng, Shape { types, ..SMALL }, 256, &[row(127), row(63), row(0), row(127)]);
        // Row 3 has integer queries against keys that are all alike, so its score is an exact integer.
        let width = SMALL.heads * SMALL.size;
        scene.scale = 0.125;
        scene.q.fill(0.0);
        scene.q[3 * width..].iter_mut().for_each(|q| *q = rng.int(-8, 8) as f32);
        let key = rng.ints(SMALL.size, -8, 8);
        scene.k = key.iter().copied().cycle().take(scene.k.len()).collect();
        let count = scene.v.len();
        scene.v = rng.ints(count, -64, 64);
        for candidate in usable(attention::CANDIDATES, device) {
            let Some(job) = scene.parts_job(candidate, 1) else { return };
            let (got, want) = (job.on(device), job.meaning(device));
            bits(&format!("{} {types:?}", candidate.kernel.name), got.words("part"), want.words("part"));
        }
        // 64 and 128 keys: the means are exact too.
        let want: Vec<u32> = scene.expected().0.iter().map(|v| (*v as f32).to_bits()).collect();
        for y in scene.run() {
            let zeros = |words: Vec<u32>| {
                words.into_iter().map(|w| if w == 1 << 31 { 0 } else { w }).collect::<Vec<_>>()
            };
            bits(&"means of integers", &zeros(as_bits(&y)), &zeros(want.clone()));
        }
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_stands_beside_it() {
    for types in [F32, F16] {
        let scene = Scene::new(&mut Rng::new("rows"), Shape { types, ..SMALL }, 300, &rows());
        let width = SMALL.heads * SMALL.size;
        for (index, all) in scene.run().into_iter().enumerate() {
            for (r, row) in scene.rows.iter().enumerate() {
                // A row of conversation 1 stays there; conversation 0 is then not seen by anybody.
                let alone =
                    Scene { rows: vec![*row], q: scene.q[r * width..][..width].to_vec(), ..scene.clone() };
                let what = format!("row {r} of {:?}, {row:?}", scene.shape);
                bits(&what, &as_bits(&alone.run()[index]), &as_bits(&all[r * width..][..width]));
            }
        }
    }
}

#[test]
fn blocks_out_of_order_and_unseen_cells_change_nothing() {
    for types in [F32, F16] {
        let shuffled = Scene::new(&mut Rng::new("blocks"), Shape { types, ..SMALL }, 300, &rows());
        for unseen in [NAN, 0, 0x7c00_7c00, 0xff80_0000] {
            let straight = Scene { shuffled: false, unseen, ..shuffled.clone() };
            for (a, b) in shuffled.run().iter().zip(straight.run()) {
                bits(&format!("blocks in order, unseen cells {unseen:#x}"), &as_bits(a), &as_bits(&b));
            }
        }
    }
}

#[test]
fn shared_heads_are_the_same_as_copied_ones() {
    for group in [2, 4, 8] {
        let shape = Shape { heads: 8, kv: 8 / group, ..SMALL };
        let shared = Scene::new(&mut Rng::new("gqa"), shape, 140, &[row(139), row(3)]);
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
        for (a, b) in shared.run().iter().zip(copied.run()) {
            bits(&format!("groups of {group}"), &as_bits(a), &as_bits(&b));
        }
    }
}

#[test]
fn windows_forget_what_lies_before_them() {
    // A window from the second block on is a conversation that began there.
    let late =
        Scene::new(&mut Rng::new("window"), SMALL, 300, &[Row { session: 0, position: 290, begin: 128 }]);
    let cut = |values: &[f32]| -> Vec<f32> {
        values.chunks_exact(300 * SMALL.size).flat_map(|head| head[128 * SMALL.size..].to_vec()).collect()
    };
    let fresh =
        Scene { positions: 172, k: cut(&late.k), v: cut(&late.v), rows: vec![row(162)], ..late.clone() };
    for (a, b) in late.run().iter().zip(fresh.run()) {
        bits(&"window", &as_bits(a), &as_bits(&b));
    }
}

#[test]
fn equal_values_come_out_as_they_went_in() {
    let mut scene = Scene::new(&mut Rng::new("constant"), SMALL, 300, &rows());
    let value: Vec<f32> = scene.v[..SMALL.size].to_vec();
    scene.v = value.iter().copied().cycle().take(scene.v.len()).collect();
    for y in scene.run() {
        let want: Vec<f64> = value.iter().map(|v| f64::from(*v)).cycle().take(y.len()).collect();
        let bound: Vec<f64> = want.iter().map(|v| v.abs() * 16.0 * 2f64.powi(-23)).collect();
        within(&"constant values", &y, &want, &bound);
    }
}

#[test]
fn one_visible_key_gives_its_value() {
    let one = |position| Row { session: 0, position, begin: position };
    let scene = Scene::new(&mut Rng::new("single"), SMALL, 300, &[one(0), one(127), one(128), one(299)]);
    let want: Vec<u32> = scene.expected().0.iter().map(|v| (*v as f32).to_bits()).collect();
    for y in scene.run() {
        bits(&"single key", &as_bits(&y), &want);
    }
}

#[test]
fn results_lie_between_the_values() {
    let scene = Scene::new(&mut Rng::new("hull"), SMALL, 300, &[row(299), row(130)]);
    for y in scene.run() {
        let largest = scene.v.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        assert!(y.iter().all(|y| y.abs() <= largest * (1.0 + 1e-5)));
    }
}

#[test]
fn keys_may_change_places_and_be_doubled() {
    let mut rng = Rng::new("permuted keys");
    let scene = Scene::new(&mut rng, SMALL, 300, &[row(299)]);
    let order = rng.order(300);
    let moved = |values: &[f32], from: &dyn Fn(usize) -> usize, count: usize| -> Vec<f32> {
        let head = 300 * SMALL.size;
        (0..SMALL.kv * count)
            .flat_map(|i| values[i / count * head + from(i % count) * SMALL.size..][..SMALL.size].to_vec())
            .collect()
    };
    let (want, bound) = scene.expected();
    let permuted = |p: usize| order[p];
    let permuted =
        Scene { k: moved(&scene.k, &permuted, 300), v: moved(&scene.v, &permuted, 300), ..scene.clone() };
    let twice = |p: usize| p / 2;
    let twice = Scene {
        positions: 600,
        rows: vec![row(599)],
        k: moved(&scene.k, &twice, 600),
        v: moved(&scene.v, &twice, 600),
        ..scene.clone()
    };
    for y in permuted.run() {
        within(&"permuted keys", &y, &want, &bound);
    }
    for y in twice.run() {
        within(&"doubled keys", &y, &want, &bound);
    }
}

#[test]
fn a_common_shift_of_all_keys_changes_nothing_but_rounding() {
    let mut rng = Rng::new("shift");
    let scene = Scene::new(&mut rng, SMALL, 300, &[row(299), row(100)]);
    let shift: Vec<f32> = (0..SMALL.size).map(|_| rng.int(-2, 2) as f32).collect();
    let k = scene.k.iter().enumerate().map(|(i, k)| k + shift[i % SMALL.size]).collect();
    let shifted = Scene { k, ..scene.clone() };
    let (want, bound) = (scene.expected().0, shifted.expected().1);
    // Adding the shift rounds the keys once more.
    let bound: Vec<f64> = bound.iter().map(|bound| 2.0 * bound).collect();
    for y in shifted.run() {
        within(&"shifted keys", &y, &want, &bound);
    }
}

#[test]
fn values_scale_by_powers_of_two_exactly() {
    let scene = Scene::new(&mut Rng::new("value scale"), SMALL, 300, &rows());
    let scaled = Scene { v: scene.v.iter().map(|v| v * 8.0).collect(), ..scene.clone() };
    for (a, b) in scene.run().iter().zip(scaled.run()) {
        let want: Vec<u32> = a.iter().map(|y| (y * 8.0).to_bits()).collect();
        bits(&"values times 8", &as_bits(&b), &want);
    }
}

#[test]
fn scores_of_any_size_give_finite_results() {
    for factor in [100.0, -100.0, 3000.0] {
        let mut scene = Scene::new(&mut Rng::new("extreme"), SMALL, 300, &rows());
        scene.q.iter_mut().for_each(|q| *q *= factor);
        let largest = scene.v.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        for y in scene.run() {
            assert!(y.iter().all(|y| y.is_finite() && y.abs() <= largest * 1.0001), "scores times {factor}");
        }
    }
}

#[test]
fn the_int8_form_is_that_of_the_result() {
    let Some(device) = device() else { return };
    let scene = Scene::new(&mut Rng::new("int8"), SMALL, 300, &rows());
    for candidate in usable(attention::CANDIDATES, device) {
        let Some(job) = scene.parts_job(candidate, 1) else { return };
        for (y, y_q8) in scene.combine(job.on(device).words("part").to_vec(), 3) {
            check_q8(candidate.kernel.name, &y, &y_q8);
        }
    }
}

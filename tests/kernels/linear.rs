//! Every kernel of `linear`: exact on integers, exact on one-hot rows, within the forward-error bound on random data,
//! the same bits for a row whatever stands beside it.

use std::collections::BTreeSet;

use vkllm_runtime::Device;
use vkllm_shaders::formats::Format;
use vkllm_shaders::ops::linear::{CANDIDATES, Push};
use vkllm_shaders::select::{Candidate, Wanted, select};

use super::weights::{Activations, Scales, decode, format_of, weights};
use crate::harness::compare::{bits, values, within};
use crate::harness::job::{Job, Out, bytes_to_words};
use crate::harness::random::Rng;
use crate::harness::{Cases, device, meant};

const NAN: u32 = 0x7fc0_0001;

/// What one workgroup covers, and the specialisation for it.
struct Tile {
    specs: Vec<(&'static str, u32)>,
    outputs: usize,
    rows: usize,
}

fn tile(candidate: &'static Candidate, rows: usize, device: &Device) -> Tile {
    let subgroup = device.caps().subgroup;
    let wg = candidate.fixed("WG").unwrap_or(subgroup);
    let mut lanes = candidate.fixed("LANES").unwrap_or(1);
    let reduces = candidate.kernel.needs.contains(&vkllm_runtime::Need::SubgroupShuffle);
    if reduces {
        lanes = lanes.min(subgroup);
    }
    let outputs = (wg / lanes * candidate.fixed("OUTS").unwrap_or(1)) as usize;
    let rows = candidate.fixed("ROWS").map_or(rows.min(16), |rows| rows as usize);
    let specs = vec![("WG", wg), ("SG", subgroup), ("LANES", lanes), ("ROWS", rows as u32)];
    Tile { specs, outputs, rows }
}

/// A product to compute.
#[derive(Clone)]
struct Case<'a> {
    candidate: &'static Candidate,
    n: usize,
    k: usize,
    rows: usize,
    weights: &'a [u8],
    x: &'a [u32],
    x_stride: usize,
    /// None: switched off and bound to something else.
    bias: Option<&'a [f32]>,
    /// Rows of `n + pad`; in place with `in_place`.
    residual: Option<&'a [f32]>,
    in_place: bool,
    /// Elements between the rows of y beyond n.
    pad: usize,
    scale: f32,
}

impl Case<'_> {
    fn job(&self, device: &Device) -> Job {
        let format = format_of(self.candidate);
        let tile = tile(self.candidate, self.rows, device);
        let stride = self.n + self.pad;
        let push = Push {
            k: self.k as u32,
            n: self.n as u32,
            rows: self.rows as u32,
            row_bytes: format.row_bytes(self.k).unwrap_or(0) as u32,
            x_stride: self.x_stride as u32,
            y_stride: stride as u32,
            residual_stride: stride as u32,
            scale: self.scale,
            ..Default::default()
        };
        let mut specs = tile.specs;
        specs.push(("BIAS", u32::from(self.bias.is_some())));
        specs.push(("RESIDUAL", u32::from(self.residual.is_some())));
        let grid = [self.n.div_ceil(tile.outputs) as u32, self.rows.div_ceil(tile.rows) as u32, 1];
        // One row more than asked for, of NaN: nothing of it may be seen or written.
        let mut x = self.x[..self.rows * self.x_stride].to_vec();
        x.extend(vec![NAN; self.x_stride]);
        let job = Job::new(self.candidate, &specs, &push, grid)
            .words("weights", bytes_to_words(self.weights))
            .words("x", x);
        let job = match self.bias {
            Some(bias) => job.floats("bias", &bias[..self.n]),
            None => job.same("bias", "x"),
        };
        let size = (self.rows + 1) * stride;
        match self.residual {
            Some(residual) if self.in_place => job.floats("y", &residual[..size]).same("residual", "y"),
            Some(residual) => job.floats("residual", &residual[..size]).output("y", size),
            None => job.same("residual", "x").output("y", size),
        }
    }

    fn what(&self) -> String {
        let Case { n, k, rows, .. } = self;
        format!("{} n {n} k {k} rows {rows} {:?}", self.candidate.kernel.name, self.candidate.spec)
    }
}

/// Formats of which every kernel is run. Of the others one with int8 activations is (their other decoder is that of
/// `embed`): software drivers compile each for seconds. `VKLLM_TEST_FULL` runs all.
const MAIN_FORMATS: &[&str] = &["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k"];
/// Formats of which kernels for other subgroup sizes are run as well.
const FOREIGN_FORMATS: &[&str] = &["f16", "q8_0", "q4_k"];

fn full() -> bool {
    std::env::var_os("VKLLM_TEST_FULL").is_some()
}

/// Kernels to run. Rows of the table that differ in the class or in the range of rows alone are the same work.
fn candidates(device: &Device) -> Vec<&'static Candidate> {
    let able = |c: &Candidate| c.kernel.needs.iter().all(|need| device.caps().has(*need));
    let (mut seen, mut others, mut left_out) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut chosen = Vec::new();
    for candidate in CANDIDATES.iter().filter(|c| able(c)) {
        let (format, here) = (candidate.kernel.axis("FORMAT"), meant(candidate, device));
        let wanted = match (here, MAIN_FORMATS.contains(&format)) {
            _ if full() => true,
            (true, true) => true,
            (true, false) => is_q8(candidate) && others.insert(format),
            (false, _) => FOREIGN_FORMATS.contains(&format),
        };
        if !seen.insert((candidate.kernel.name, candidate.spec)) {
            continue;
        }
        if wanted {
            chosen.push(candidate);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        println!("{left_out} kernels of linear are like those that are run; VKLLM_TEST_FULL=1 runs them too");
    }
    chosen
}

fn is_q8(candidate: &Candidate) -> bool {
    candidate.kernel.axis("ACT") == "q8"
}

/// Row lengths of 1 to 4 blocks and more; formats without blocks end within a unit.
fn lengths(format: &Format) -> &'static [usize] {
    match format.block {
        1 => &[8, 2, 20, 34, 100, 264],
        256 => &[256, 512, 768, 1024],
        _ => &[32, 64, 96, 128, 160, 544],
    }
}

/// Largest activations for which no partial sum can lose a bit, found from the data itself.
fn exact_amplitude(w: &[f32], k: usize) -> i32 {
    let lowest = |value: &f32| {
        let bits = value.to_bits();
        let (exponent, mantissa) = ((bits >> 23 & 255) as i32, bits & 0x7f_ffff | 0x80_0000);
        exponent - 150 + mantissa.trailing_zeros() as i32
    };
    let unit = w.iter().filter(|w| **w != 0.0).map(lowest).min().unwrap_or(0);
    let largest = w.chunks_exact(k).map(|row| row.iter().map(|w| f64::from(w.abs())).sum::<f64>());
    let units = largest.fold(1.0, f64::max) / 2f64.powi(unit);
    // One bit for the scales of x, two for sums taken apart (scaled codes and minima) and the epilogue.
    let amplitude = (2f64.powi(24 - 3) / units).floor().min(127.0) as i32;
    assert!(amplitude >= 1, "no exact test of rows of {k} weights that span {units} units");
    amplitude
}

#[test]
fn integers_are_exact() {
    let Some(device) = device() else { return };
    let mut cases = Cases::default();
    for candidate in candidates(device) {
        let (format, q8) = (format_of(candidate), is_q8(candidate));
        let mut rng = Rng::new(candidate.kernel.name);
        let lengths = lengths(format);
        let rows: Vec<usize> = if meant(candidate, device) {
            let all = [1, 2, 3, 16, 4, 33, 7, 65, 5];
            all.into_iter()
                .filter(|r| *r as u32 >= candidate.rows.0 && *r as u32 <= candidate.rows.1.max(17))
                .collect()
        } else {
            vec![candidate.rows.0.max(3) as usize]
        };
        for turn in 0..lengths.len().max(5) {
            let (k, rows) = (lengths[turn % lengths.len()], rows[turn % rows.len()]);
            let outputs = tile(candidate, rows, device).outputs;
            let n = [outputs + 1, 1, outputs, outputs.max(2) - 1, 2 * outputs + 1][turn % 5];
            let bytes = weights(&mut rng, format, n, k, Scales::Powers);
            let amplitude = exact_amplitude(&decode(format, &bytes, n, k), k);
            let integers: Vec<i8> = (0..rows * k).map(|_| rng.int(-amplitude, amplitude) as i8).collect();
            let x = Activations::new(q8, k, &integers, || rng.pick(&[1.0, 0.5]));
            let pad = turn % 3;
            let bias = rng.ints(n, -9, 9);
            let residual = rng.ints((rows + 1) * (n + pad), -9, 9);
            let case = Case {
                candidate,
                n,
                k,
                rows,
                weights: &bytes,
                x: &x.words,
                x_stride: x.stride,
                bias: Some(&bias),
                residual: Some(&residual),
                in_place: turn % 2 == 1,
                pad,
                scale: 0.5,
            };
            let job = case.job(device);
            values(&case.what(), job.on(device).words("y"), job.meaning(device).words("y"));
            cases.add();
        }
    }
}

#[test]
fn one_hot_rows_give_every_weight() {
    let Some(device) = device() else { return };
    let mut cases = Cases::default();
    for candidate in candidates(device).into_iter().filter(|c| c.fixed("ROWS") != Some(2)) {
        let (format, q8) = (format_of(candidate), is_q8(candidate));
        let mut rng = Rng::new(candidate.kernel.name);
        let k = if format.block == 1 { 20 } else { 2 * format.block };
        let n = 3;
        let bytes = weights(&mut rng, format, n, k, Scales::Plausible);
        let decoded = decode(format, &bytes, n, k);
        // Kernels of one row see one block only, or there would be hundreds of dispatches.
        let rows = match candidate.rows {
            (1, 1) => 1,
            (low, _) if !meant(candidate, device) => low.max(3) as usize,
            (_, high) => high.min(64) as usize,
        };
        let positions: Vec<usize> = match rows {
            1 => (0..k).filter(|p| p / format.block.max(10) % 2 == p % 2).collect(),
            _ => (0..k).collect(),
        };
        for chunk in positions.chunks(rows) {
            let mut integers = vec![0i8; chunk.len() * k];
            chunk.iter().enumerate().for_each(|(row, position)| integers[row * k + position] = 1);
            let x = Activations::new(q8, k, &integers, || 1.0);
            let zeros = vec![0.0; (chunk.len() + 1) * n];
            let case = Case {
                candidate,
                n,
                k,
                rows: chunk.len(),
                weights: &bytes,
                x: &x.words,
                x_stride: x.stride,
                bias: Some(&zeros),
                residual: Some(&zeros),
                in_place: false,
                pad: 0,
                scale: 1.0,
            };
            let got = case.job(device).on(device);
            let want: Vec<u32> = chunk
                .iter()
                .flat_map(|position| decoded.chunks_exact(k).map(|row| row[*position].to_bits()))
                .collect();
            values(&case.what(), &got.words("y")[..chunk.len() * n], &want);
            cases.add();
        }
    }
}

/// Random rows: f32, or q8 with arbitrary scales.
fn random_rows(rng: &mut Rng, q8: bool, rows: usize, k: usize) -> Activations {
    if !q8 {
        return Activations::floats(k, rng.normals(rows * k));
    }
    let integers: Vec<i8> = (0..rows * k).map(|_| rng.int(-127, 127) as i8).collect();
    Activations::new(true, k, &integers, || 0.01 + 0.01 * rng.unit().abs())
}

#[test]
fn random_data_stays_within_the_error_bound() {
    let Some(device) = device() else { return };
    let mut cases = Cases::default();
    for candidate in candidates(device) {
        let (format, q8) = (format_of(candidate), is_q8(candidate));
        let mut rng = Rng::new(candidate.kernel.name);
        let rows = if meant(candidate, device) { candidate.rows.1.min(17) } else { candidate.rows.0.max(3) }
            as usize;
        let n = tile(candidate, rows, device).outputs + 1;
        let k = if format.block == 1 { 516 } else { 4 * format.block.max(64) };
        let bytes = weights(&mut rng, format, n, k, Scales::Plausible);
        let w = decode(format, &bytes, n, k);
        let x = random_rows(&mut rng, q8, rows, k);
        let (bias, residual) = (rng.normals(n), rng.normals((rows + 1) * n));
        let case = Case {
            candidate,
            n,
            k,
            rows,
            weights: &bytes,
            x: &x.words,
            x_stride: x.stride,
            bias: Some(&bias),
            residual: Some(&residual),
            in_place: true,
            pad: 0,
            scale: 0.7,
        };
        let got = case.job(device).on(device).floats("y");
        let (mut want, mut bound) = (Vec::new(), Vec::new());
        for (row, x) in x.values.chunks_exact(k).enumerate() {
            for (output, w) in w.chunks_exact(k).enumerate() {
                let products = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (sum, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                let (b, r) = (f64::from(bias[output]), f64::from(residual[row * n + output]));
                let scale = f64::from(case.scale);
                want.push((sum + b) * scale + r);
                let epilogue = 4.0 * ((sum.abs() + b.abs()) * scale + r.abs());
                bound.push((8.0 * (k as f64).sqrt() * size * scale + epilogue) * 2f64.powi(-24));
            }
        }
        within(&case.what(), &got[..rows * n], &want, &bound);
        cases.add();
    }
}

#[test]
fn activations_of_any_size_stay_finite() {
    // 6e4 is what the largest models reach; 1e-3 scales keep the sums representable and far above f16.
    let Some(device) = device() else { return };
    let mut rng = Rng::new("large");
    for candidate in
        candidates(device).into_iter().filter(|c| ["q8_0", "f16"].contains(&c.kernel.axis("FORMAT")))
    {
        let (format, q8) = (format_of(candidate), is_q8(candidate));
        let (n, k, rows) = (3, 2048, candidate.rows.0 as usize);
        let bytes = weights(&mut rng, format, n, k, Scales::Plausible);
        let integers: Vec<i8> = (0..rows * k).map(|e| if e % 2 == 0 { 127 } else { -127 }).collect();
        let x = Activations::new(q8, k, &integers, || 6.0e4 / 127.0);
        let zeros = vec![0.0; (rows + 1) * n];
        let case = Case {
            candidate,
            n,
            k,
            rows,
            weights: &bytes,
            x: &x.words,
            x_stride: x.stride,
            bias: Some(&zeros),
            residual: Some(&zeros),
            in_place: false,
            pad: 0,
            scale: 1.0,
        };
        let job = case.job(device);
        let want: Vec<f64> =
            job.meaning(device).floats("y")[..rows * n].iter().map(|v| f64::from(*v)).collect();
        let w = decode(format, &bytes, n, k);
        let size =
            |output: usize| w[output * k..][..k].iter().map(|w| f64::from(w.abs()) * 6.0e4).sum::<f64>();
        let bound: Vec<f64> =
            (0..rows * n).map(|i| 8.0 * (k as f64).sqrt() * 2f64.powi(-24) * size(i % n)).collect();
        within(&case.what(), &job.on(device).floats("y")[..rows * n], &want, &bound);
    }
}

#[test]
fn epilogues_switch_off_and_on() {
    let Some(device) = device() else { return };
    let mut rng = Rng::new("epilogue");
    // Every combination is a pipeline of its own, and the epilogue is one function: one tile size shows it.
    let here =
        candidates(device).into_iter().filter(|c| meant(c, device) && c.kernel.axis("FORMAT") == "q8_0");
    for candidate in here.filter(|c| c.rows.0 == 1 && c.rows.1 < 17) {
        let (format, rows, k) = (format_of(candidate), candidate.rows.1.min(5) as usize, 64);
        let n = tile(candidate, rows, device).outputs + 3;
        let bytes = weights(&mut rng, format, n, k, Scales::Powers);
        let integers: Vec<i8> = (0..rows * k).map(|_| rng.int(-20, 20) as i8).collect();
        let x = Activations::new(is_q8(candidate), k, &integers, || 1.0);
        let (bias, residual) = (rng.ints(n, -9, 9), rng.ints((rows + 1) * n, -9, 9));
        for (with_bias, with_residual) in [(false, false), (true, false), (false, true)] {
            let case = Case {
                candidate,
                n,
                k,
                rows,
                weights: &bytes,
                x: &x.words,
                x_stride: x.stride,
                bias: with_bias.then_some(&bias),
                residual: with_residual.then_some(&residual),
                in_place: true,
                pad: 0,
                scale: 2.0,
            };
            let job = case.job(device);
            let what = format!("{} bias {with_bias} residual {with_residual}", case.what());
            values(&what, job.on(device).words("y"), job.meaning(device).words("y"));
        }
    }
}

/// The kernel that a step of `rows` rows takes from an order class.
fn chosen(device: &Device, format: &str, act: &str, class: &str, rows: usize) -> Option<&'static Candidate> {
    let axes = [("FORMAT", format), ("ACT", act)];
    let has = |need| device.caps().has(need);
    let rows = if class.starts_with("prefill") { rows } else { rows.min(16) } as u32;
    let wanted =
        Wanted { axes: &axes, rows, subgroup: device.caps().subgroup, class: Some(class), has: &has };
    select(CANDIDATES, &wanted).ok()
}

#[test]
fn a_row_has_the_same_bits_whatever_stands_beside_it() {
    let Some(device) = device() else { return };
    let mut cases = Cases::default();
    let families: BTreeSet<_> = CANDIDATES
        .iter()
        .filter(|c| meant(c, device) && (full() || MAIN_FORMATS.contains(&c.kernel.axis("FORMAT"))))
        .map(|c| (c.kernel.axis("FORMAT"), c.kernel.axis("ACT"), c.class))
        .collect();
    for (name, act, class) in families {
        let Some(candidate) = chosen(device, name, act, class, 65) else { continue };
        let format = format_of(candidate);
        let mut rng = Rng::new(&format!("{name} {act} {class}"));
        let (n, k) = (67, if format.block == 1 { 76 } else { 2 * format.block.max(64) });
        let bytes = weights(&mut rng, format, n, k, Scales::Plausible);
        let x = random_rows(&mut rng, act == "q8", 65, k);
        let bias = rng.normals(n);
        let residual = rng.normals(66 * n);
        let run = |first: usize, rows: usize| -> Option<Out> {
            let candidate = chosen(device, name, act, class, rows)?;
            let case = Case {
                candidate,
                n,
                k,
                rows,
                weights: &bytes,
                x: &x.words[first * x.stride..],
                x_stride: x.stride,
                bias: Some(&bias),
                residual: Some(&residual[first * n..]),
                in_place: false,
                pad: 0,
                scale: 1.0,
            };
            Some(case.job(device).on(device))
        };
        let Some(all) = run(0, 65) else { continue };
        // Wide devices make a pipeline per row count of the matvec; narrow ones have one for all.
        let tiles = [(64, 1), (63, 2), (60, 5), (49, 16), (0, 17), (32, 33), (0, 48), (1, 64)];
        for (first, rows) in (1..=16).map(|rows| (3 * rows % 49, rows)).chain(tiles) {
            let Some(some) = run(first, rows) else { panic!("no kernel for {rows} rows of {name} {class}") };
            let what = format!("{name} {act} {class}: rows {first}..+{rows} alone and among 65");
            bits(&what, &some.words("y")[..rows * n], &all.words("y")[first * n..][..rows * n]);
            cases.add();
        }
    }
}

#[test]
fn powers_of_two_scale_the_bits() {
    let Some(device) = device() else { return };
    properties(device, "scale", |_, case, x, run| {
        let plain = run(case, &x.words);
        let q8 = is_q8(case.candidate);
        let scaled: Vec<u32> = x
            .words
            .iter()
            .enumerate()
            .map(|(i, word)| {
                let float = !q8 || (8..11).contains(&(i % 12));
                if float { (f32::from_bits(*word) * 16.0).to_bits() } else { *word }
            })
            .collect();
        let want: Vec<u32> = plain.iter().map(|y| (y * 16.0).to_bits()).collect();
        let got: Vec<u32> = run(case, &scaled).iter().map(|y| y.to_bits()).collect();
        values(&format!("{} times 16", case.what()), &got, &want);
    });
}

#[test]
fn permuted_outputs_keep_their_bits() {
    let Some(device) = device() else { return };
    properties(device, "permuted", |rng, case, x, run| {
        let plain = run(case, &x.words);
        let order = rng.order(case.n);
        let row = case.weights.len() / case.n;
        let moved: Vec<u8> =
            order.iter().flat_map(|&from| case.weights[from * row..][..row].to_vec()).collect();
        let got = run(&Case { weights: &moved, ..case.clone() }, &x.words);
        let want: Vec<f32> = (0..case.rows)
            .flat_map(|r| order.iter().map(|from| plain[r * case.n + from]).collect::<Vec<_>>())
            .collect();
        let to_bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        bits(&format!("{} permuted", case.what()), &to_bits(&got), &to_bits(&want));
    });
}

#[test]
fn zero_activations_behind_a_row_change_nothing() {
    let Some(device) = device() else { return };
    properties(device, "padded", |rng, case, x, run| {
        let plain = run(case, &x.words);
        let format = format_of(case.candidate);
        let more = format.block.max(64);
        let row = case.weights.len() / case.n;
        let tail = weights(rng, format, case.n, more, Scales::Plausible);
        let tail_row = tail.len() / case.n;
        let longer: Vec<u8> = (0..case.n)
            .flat_map(|o| [&case.weights[o * row..][..row], &tail[o * tail_row..][..tail_row]].concat())
            .collect();
        let zeros = Activations::new(is_q8(case.candidate), more, &vec![0; more], || 1.0);
        let words: Vec<u32> =
            x.words.chunks_exact(x.stride).flat_map(|row| [row, &zeros.words[..]].concat()).collect();
        let case =
            Case { weights: &longer, k: case.k + more, x_stride: x.stride + zeros.stride, ..case.clone() };
        let got = run(&case, &words);
        let to_bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        values(&format!("{} with zeros behind", case.what()), &to_bits(&got), &to_bits(&plain));
    });
}

/// Calls `body` with a random product per kernel of a few formats, and with a way to compute others like it.
fn properties(
    device: &Device,
    label: &str,
    body: impl Fn(&mut Rng, &Case<'_>, &Activations, &dyn Fn(&Case<'_>, &[u32]) -> Vec<f32>),
) {
    let formats = ["f16", "q8_0", "q4_0", "q4_k", "q6_k"];
    for candidate in candidates(device).into_iter().filter(|c| formats.contains(&c.kernel.axis("FORMAT"))) {
        let format = format_of(candidate);
        let mut rng = Rng::new(&format!("{} {label}", candidate.kernel.name));
        // The row counts of the other tests, so that their pipelines serve here.
        let rows =
            if meant(candidate, device) { candidate.rows.0.max(1) } else { candidate.rows.0.max(3) } as usize;
        let (n, k) = (9, 2 * format.block.max(64));
        let bytes = weights(&mut rng, format, n, k, Scales::Plausible);
        let x = random_rows(&mut rng, is_q8(candidate), rows, k);
        let zeros = vec![0.0; (rows + 1) * n];
        let case = Case {
            candidate,
            n,
            k,
            rows,
            weights: &bytes,
            x: &[],
            x_stride: x.stride,
            bias: Some(&zeros),
            residual: Some(&zeros),
            in_place: false,
            pad: 0,
            scale: 1.0,
        };
        let run = |case: &Case<'_>, x: &[u32]| {
            let y = Case { x, ..case.clone() }.job(device).on(device).floats("y");
            y[..case.rows * case.n].to_vec()
        };
        body(&mut rng, &case, &x, &run);
    }
}

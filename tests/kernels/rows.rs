//! Operations on whole rows: `rms_norm`, `glu` and `quantize`, and the q8 form they share.

use vkllm_shaders::ops::{glu, quantize, rms_norm};

use crate::harness::compare::{bits, values, within};
use crate::harness::job::{Job, Out};
use crate::harness::random::Rng;
use crate::harness::{Cases, device, usable};

const EPS: f64 = 1.0 / (1u64 << 23) as f64;

/// Checks q8 blocks against the values they stand for: scale, codes and sums.
pub fn check_q8(what: &str, y: &[f32], words: &[u32]) {
    for (index, (y, block)) in y.chunks_exact(32).zip(words.chunks_exact(12)).enumerate() {
        let what = format!("{what}: q8 block {index}");
        let amax = y.iter().fold(0.0f32, |max, y| max.max(y.abs()));
        let d = f32::from_bits(block[8]);
        let want = if amax >= 1e-30 { f64::from(amax) / 127.0 } else { 0.0 };
        assert!((f64::from(d) - want).abs() <= 2.0 * EPS * want, "{what}: scale {d:e}, expected {want:e}");
        let codes: &[i8] = bytemuck::cast_slice(&block[..8]);
        for (code, y) in codes.iter().zip(y) {
            let error = (f64::from(*code) * f64::from(d) - f64::from(*y)).abs();
            assert!(error <= 0.5001 * f64::from(d), "{what}: {y} became {code} times {d}");
            assert!(*code != -128, "{what}: -128 is no code");
        }
        for (half, codes) in codes.chunks_exact(16).enumerate() {
            let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
            assert_eq!(f32::from_bits(block[9 + half]), d * sum as f32, "{what}: sum {half}");
        }
        assert_eq!(block[11], 0, "{what}: the last word");
    }
}

fn quantised(x: &[f32], k: usize) -> Vec<(String, Out)> {
    let Some(device) = device() else { return Vec::new() };
    let rows = x.len() / k;
    let push = quantize::Push { k: k as u32, rows: rows as u32, ..Default::default() };
    let lanes = device.caps().subgroup;
    usable(quantize::CANDIDATES, device)
        .into_iter()
        .flat_map(|candidate| {
            // Few workgroups loop, many end early.
            [1, 9].map(|groups| {
                let specs = [("WG", 4 * lanes), ("SG", lanes)];
                let job = Job::new(candidate, &specs, &push, [groups, 1, 1]).floats("x", x);
                let what = format!("{} k {k} rows {rows} grid {groups}", candidate.kernel.name);
                (what, job.output("y_q8", (rows + 1) * k / 32 * 12).on(device))
            })
        })
        .collect()
}

#[test]
fn quantize_of_codes_gives_the_codes() {
    let mut rng = Rng::new("quantize codes");
    for (k, rows) in [(32, 1), (32, 17), (96, 3), (512, 5)] {
        let mut codes: Vec<i8> = (0..rows * k).map(|_| rng.int(-126, 126) as i8).collect();
        // The largest of each block is 127, at a random place and of a random sign.
        codes.chunks_exact_mut(32).for_each(|block| block[rng.int(0, 31) as usize] = rng.pick(&[127, -127]));
        let scale: Vec<f32> = (0..rows * k / 32).map(|_| rng.pick(&[0.5, 1.0, 4.0])).collect();
        let x: Vec<f32> = codes.iter().enumerate().map(|(i, q)| f32::from(*q) * scale[i / 32]).collect();
        for (what, out) in quantised(&x, k) {
            let words = &out.words("y_q8")[..rows * k / 32 * 12];
            check_q8(&what, &x, words);
            let got: Vec<i8> = words
                .chunks_exact(12)
                .flat_map(|b| bytemuck::cast_slice::<u32, i8>(&b[..8]).to_vec())
                .collect();
            assert_eq!(got, codes, "{what}");
        }
    }
}

#[test]
fn quantize_of_any_values_is_the_nearest_code() {
    let mut rng = Rng::new("quantize");
    let k = 96;
    let mut x = rng.normals(7 * k);
    x[..32].fill(0.0);
    x[32..64].iter_mut().for_each(|x| *x *= 1e-33);
    x[64..96].iter_mut().for_each(|x| *x *= 6e4);
    x[96..128].fill(-3.0);
    for (what, out) in quantised(&x, k) {
        let words = &out.words("y_q8")[..x.len() / 32 * 12];
        let mut expected = x.clone();
        expected[32..64].fill(0.0);
        check_q8(&what, &expected, words);
        // Negated values have negated codes and sums.
        let minus: Vec<f32> = x.iter().map(|x| -x).collect();
        for (_, negated) in quantised(&minus, k) {
            let codes = |words: &[u32]| -> Vec<i8> {
                words
                    .chunks_exact(12)
                    .flat_map(|b| bytemuck::cast_slice::<u32, i8>(&b[..8]).to_vec())
                    .collect()
            };
            let flipped: Vec<i8> = codes(&negated.words("y_q8")[..words.len()]).iter().map(|q| -q).collect();
            assert_eq!(flipped, codes(words), "{what} negated");
        }
    }
}

fn norm(x: &[f32], weight: &[f32], eps: f32, out: u32) -> Vec<(String, Out, Out)> {
    let Some(device) = device() else { return Vec::new() };
    let k = weight.len();
    let rows = x.len() / k;
    let push = rms_norm::Push { k: k as u32, rows: rows as u32, eps, ..Default::default() };
    let lanes = device.caps().subgroup;
    usable(rms_norm::CANDIDATES, device)
        .into_iter()
        .map(|candidate| {
            let specs = [("WG", lanes), ("SG", lanes), ("OUT", out)];
            let job = Job::new(candidate, &specs, &push, [rows as u32, 1, 1])
                .floats("x", x)
                .floats("weight", weight)
                .output("y", (rows + 1) * k)
                .output("y_q8", (rows + 1) * (k / 32) * 12);
            let what = format!("{} k {k} rows {rows} out {out}", candidate.kernel.name);
            (what, job.on(device), job.meaning(device))
        })
        .collect()
}

#[test]
fn rms_norm_stays_within_its_bound() {
    let mut rng = Rng::new("rms_norm");
    let mut cases = Cases::default();
    for (k, rows, out) in
        [(1, 2, 1), (5, 3, 1), (32, 1, 3), (33, 2, 1), (64, 17, 3), (96, 4, 3), (510, 2, 1), (1024, 3, 3)]
    {
        let (x, weight) = (rng.normals(rows * k), rng.normals(k));
        for (what, got, want) in norm(&x, &weight, 1e-5, out) {
            let want: Vec<f64> = want.floats("y")[..rows * k].iter().map(|y| f64::from(*y)).collect();
            // Sum of k squares, root, two products.
            let bound: Vec<f64> = want.iter().map(|y| y.abs() * (8.0 + (k as f64).sqrt()) * EPS).collect();
            let y = got.floats("y");
            within(&what, &y[..rows * k], &want, &bound);
            if out == 3 {
                check_q8(&what, &y[..rows * k], got.words("y_q8"));
                for (other, alone) in quantised(&y[..rows * k], k) {
                    let len = rows * k / 32 * 12;
                    bits(
                        &format!("{what} and {other}"),
                        &got.words("y_q8")[..len],
                        &alone.words("y_q8")[..len],
                    );
                }
            }
            cases.add();
        }
    }
}

#[test]
fn rms_norm_does_not_depend_on_scale_or_company() {
    let mut rng = Rng::new("rms_norm scale");
    let (k, rows) = (96, 5);
    let (x, weight) = (rng.normals(rows * k), rng.normals(k));
    let scaled: Vec<f32> = x.iter().map(|x| x * 64.0).collect();
    for ((what, plain, _), (_, scaled, _)) in
        norm(&x, &weight, 0.0, 3).iter().zip(norm(&scaled, &weight, 0.0, 3))
    {
        // The root may differ in its last bits on devices that approximate it.
        let plain: Vec<f64> = plain.floats("y")[..rows * k].iter().map(|y| f64::from(*y)).collect();
        let bound: Vec<f64> = plain.iter().map(|y| y.abs() * 4.0 * EPS).collect();
        within(&format!("{what} of 64 x"), &scaled.floats("y")[..rows * k], &plain, &bound);
    }
    let all = norm(&x, &weight, 1e-6, 3);
    for row in 0..rows {
        for ((what, all, _), (_, one, _)) in all.iter().zip(norm(&x[row * k..][..k], &weight, 1e-6, 3)) {
            bits(&format!("{what} row {row}"), &one.words("y")[..k], &all.words("y")[row * k..][..k]);
            let q8 = k / 32 * 12;
            bits(
                &format!("{what} row {row} q8"),
                &one.words("y_q8")[..q8],
                &all.words("y_q8")[row * q8..][..q8],
            );
        }
    }
    // Zero rows stay zero, whatever eps is.
    for (what, got, _) in norm(&vec![0.0; k], &weight, 1e-6, 3) {
        values(&what, &got.words("y")[..k], &vec![0; k]);
    }
}

fn gate(
    gates: &[f32],
    ups: &[f32],
    k: usize,
    pads: (usize, usize),
    specs: (u32, u32),
) -> Vec<(String, Out, Out)> {
    let Some(device) = device() else { return Vec::new() };
    let rows = gates.len() / k;
    let padded = |values: &[f32], pad: usize| -> Vec<f32> {
        values.chunks_exact(k).flat_map(|row| [row, &vec![f32::NAN; pad][..]].concat()).collect()
    };
    let push = glu::Push {
        k: k as u32,
        rows: rows as u32,
        gate_stride: (k + pads.0) as u32,
        up_stride: (k + pads.1) as u32,
        ..Default::default()
    };
    let lanes = device.caps().subgroup;
    usable(glu::CANDIDATES, device)
        .into_iter()
        .map(|candidate| {
            let specs = [("WG", 4 * lanes), ("SG", lanes), ("ACTIVATION", specs.0), ("OUT", specs.1)];
            let job = Job::new(candidate, &specs, &push, [2, 1, 1])
                .floats("gate", &padded(gates, pads.0))
                .floats("up", &padded(ups, pads.1))
                .output("y", (rows + 1) * k)
                .output("y_q8", (rows + 1) * (k / 32) * 12);
            let what = format!("{} k {k} rows {rows} {specs:?}", candidate.kernel.name);
            (what, job.on(device), job.meaning(device))
        })
        .collect()
}

#[test]
fn glu_stays_within_its_bound() {
    let mut rng = Rng::new("glu");
    let mut cases = Cases::default();
    for (activation, k, rows) in
        [(0, 32, 1), (0, 96, 5), (0, 33, 3), (0, 5, 2), (0, 512, 2), (1, 64, 2), (1, 31, 2)]
    {
        let out = if k % 32 == 0 { 3 } else { 1 };
        let gates: Vec<f32> = (0..rows * k).map(|i| rng.normal() * [1.0, 10.0, 0.01][i % 3]).collect();
        let ups = rng.normals(rows * k);
        for (what, got, want) in gate(&gates, &ups, k, (k % 3, 7), (activation, out)) {
            let want: Vec<f64> = want.floats("y")[..rows * k].iter().map(|y| f64::from(*y)).collect();
            // The exponential may be off by 3 + 2|x| units; gelu's argument reaches 2 · 0.8 (|x| + 0.045 |x|³).
            let units = |g: f64| if activation == 0 { 2.0 * g } else { 10.0 * g * (1.0 + 0.05 * g * g) };
            let bound: Vec<f64> = (0..rows * k)
                .map(|i| {
                    let g = f64::from(gates[i].abs());
                    want[i].abs() * (16.0 + units(g)) * EPS + f64::from(f32::MIN_POSITIVE)
                })
                .collect();
            let y = got.floats("y");
            within(&what, &y[..rows * k], &want, &bound);
            if out == 3 {
                check_q8(&what, &y[..rows * k], got.words("y_q8"));
            }
            cases.add();
        }
    }
}

#[test]
fn glu_of_extremes_is_finite() {
    let gates = [0.0, -0.0, 1e4, -1e4, 88.0, -88.0, 104.0, -104.0, 3e38, -3e38, 1e-30, -1e-30];
    let gates: Vec<f32> = gates.iter().copied().cycle().take(96).collect();
    let ups = vec![2.0f32.powi(-3); 96];
    for (what, got, _) in gate(&gates, &ups, 96, (0, 0), (0, 3)) {
        for (y, g) in got.floats("y")[..96].iter().zip(&gates) {
            let right = if *g > 80.0 { *y == g / 8.0 } else { y.is_finite() && y.abs() <= g.abs() / 8.0 };
            assert!(right, "{what}: gate {g} gives {y}");
            assert!(*g >= -80.0 || y.abs() < 1e-30, "{what}: gate {g} gives {y}");
        }
    }
}

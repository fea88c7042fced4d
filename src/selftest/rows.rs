//! Operations on whole rows: `norm`, `glu` and `quantize`, and the q8 form they share.

use vkllm_runtime::Kernel;
use vkllm_shaders::ops::{glu, norm, quantize, soft_cap};
use vkllm_shaders::select::Candidate;

use super::compare::{bits, values, within};
use super::job::{Job, Out};
use super::{Bench, Check, List, ensure};

const EPS: f64 = 1.0 / (1u64 << 23) as f64;

pub fn list(list: &mut List<'_>) {
    let quantizers = list.usable(quantize::CANDIDATES);
    let norms = list.usable(norm::CANDIDATES);
    let gates = list.usable(glu::CANDIDATES);
    for &candidate in &quantizers {
        // Few workgroups loop, many end early.
        for groups in [1, 9] {
            for (k, rows) in [(32, 1), (32, 17), (64, 2), (96, 3), (512, 5)] {
                let property = format!("codes give the codes k {k} rows {rows} groups {groups}");
                list.add(&[candidate.kernel], property, move |bench| {
                    codes_again(bench, candidate, k, rows, groups)
                });
            }
            list.add(&[candidate.kernel], format!("nearest codes groups {groups}"), move |bench| {
                nearest_codes(bench, candidate, groups)
            });
        }
    }
    for &candidate in &norms {
        let kernels: Vec<&Kernel> = [candidate].iter().chain(&quantizers).map(|c| c.kernel).collect();
        let quantizer = quantizers.first().copied();
        for (k, rows, out) in [
            (1, 2, 1),
            (5, 3, 1),
            (7, 1, 1),
            (8, 2, 1),
            (9, 1, 1),
            (31, 2, 1),
            (32, 1, 3),
            (33, 2, 1),
            (64, 17, 3),
            (96, 4, 3),
            (128, 1, 3),
            (510, 2, 1),
            (1024, 3, 3),
        ] {
            list.add(&kernels, format!("bound k {k} rows {rows} out {out}"), move |bench| {
                norm_bound(bench, candidate, quantizer, k, rows, out)
            });
        }
        for power in [-60, -3, 6, 40] {
            list.add(&[candidate.kernel], format!("scale invariance 2 power {power}"), move |bench| {
                norm_scale(bench, candidate, power)
            });
        }
        for row in 0..5 {
            list.add(&[candidate.kernel], format!("row {row} alone and among five"), move |bench| {
                norm_rows(bench, candidate, row)
            });
        }
        for k in [32, 96, 256] {
            list.add(&[candidate.kernel], format!("zeros stay zeros k {k}"), move |bench| {
                // Whatever eps is.
                let got = norm_job(bench, candidate, &vec![0.0; k], &vec![1.5; k], 1e-6, 3).on(bench)?;
                values(&"zeros", &got.words("y")[..k], &vec![0; k])
            });
        }
        for (k, value) in [(32, 4.0f32), (64, 0.5), (256, -2.0), (1024, 16.0)] {
            list.add(&[candidate.kernel], format!("equal values give signs k {k}"), move |bench| {
                norm_equal(bench, candidate, k, value)
            });
        }
    }
    for &candidate in &norms {
        for (k, rows, centre, bias, residual) in [
            (96, 3, 1, 0, 0),
            (33, 2, 1, 1, 0),
            (64, 5, 1, 1, 1),
            (128, 2, 0, 1, 0),
            (512, 2, 0, 0, 1),
            (7, 1, 1, 1, 1),
            (64, 6, 0, 0, 2),
            (33, 1, 0, 0, 2),
        ] {
            let property = format!("bound k {k} rows {rows} centre {centre} bias {bias} residual {residual}");
            list.add(&[candidate.kernel], property, move |bench| {
                norm_kinds(bench, candidate, (k, rows), [centre, bias, residual])
            });
        }
        list.add(&[candidate.kernel], "a common shift is taken off", move |bench| {
            norm_shift(bench, candidate)
        });
    }
    for candidate in list.usable(soft_cap::CANDIDATES) {
        for (count, cap) in [(1, 30.0), (63, 50.0), (64, 30.0), (1000, 5.0), (4097, 30.0)] {
            list.add(&[candidate.kernel], format!("bound count {count} cap {cap}"), move |bench| {
                capped_bound(bench, candidate, count, cap)
            });
        }
    }
    for &candidate in &gates {
        for (activation, k, rows) in [
            (0, 32, 1),
            (0, 96, 5),
            (0, 33, 3),
            (0, 5, 2),
            (0, 512, 2),
            (0, 1, 1),
            (0, 64, 17),
            (1, 64, 2),
            (1, 31, 2),
            (1, 96, 3),
            (1, 256, 1),
            (2, 96, 3),
            (2, 33, 2),
            (3, 64, 3),
            (4, 96, 3),
            (5, 33, 2),
        ] {
            let property = format!("bound activation {activation} k {k} rows {rows}");
            list.add(&[candidate.kernel], property, move |bench| {
                gate_bound(bench, candidate, activation, k, rows)
            });
        }
        for (activation, k) in [(0, 64), (1, 96), (3, 33)] {
            let property = format!("without a gate activation {activation} k {k}");
            list.add(&[candidate.kernel], property, move |bench| ungated(bench, candidate, activation, k));
        }
        list.add(&[candidate.kernel], "extremes are finite", move |bench| gate_extremes(bench, candidate));
        for activation in [0, 1] {
            list.add(&[candidate.kernel], format!("linear in up activation {activation}"), move |bench| {
                gate_linear(bench, candidate, activation)
            });
            list.add(
                &[candidate.kernel],
                format!("zero gates close activation {activation}"),
                move |bench| {
                    let ups = bench.rng("closed").normals(96);
                    let got = gate_job(bench, candidate, &[0.0; 96], &ups, 96, (0, 0), (activation, 3))
                        .on(bench)?;
                    values(&"closed", &got.words("y")[..96], &[0; 96])
                },
            );
            list.add(&[candidate.kernel], format!("rows are alone activation {activation}"), move |bench| {
                gate_rows(bench, candidate, activation)
            });
        }
    }
}

/// Checks q8 blocks against the values they stand for: scale, codes and sums.
pub fn check_q8(what: &str, y: &[f32], words: &[u32]) -> Check {
    for (index, (y, block)) in y.chunks_exact(32).zip(words.chunks_exact(12)).enumerate() {
        let what = format!("{what}: q8 block {index}");
        let amax = y.iter().fold(0.0f32, |max, y| max.max(y.abs()));
        let d = f32::from_bits(block[8]);
        let want = if amax >= 1e-30 { f64::from(amax) / 127.0 } else { 0.0 };
        ensure((f64::from(d) - want).abs() <= 2.0 * EPS * want, || {
            format!("{what}: scale {d:e}, expected {want:e}")
        })?;
        let codes: &[i8] = bytemuck::cast_slice(&block[..8]);
        for (code, y) in codes.iter().zip(y) {
            let error = (f64::from(*code) * f64::from(d) - f64::from(*y)).abs();
            ensure(error <= 0.5001 * f64::from(d), || format!("{what}: {y} became {code} times {d}"))?;
            ensure(*code != -128, || format!("{what}: -128 is no code"))?;
        }
        for (half, codes) in codes.chunks_exact(16).enumerate() {
            let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
            let (got, want) = (f32::from_bits(block[9 + half]), d * sum as f32);
            ensure(got == want, || format!("{what}: sum {half} is {got}, expected {want}"))?;
        }
        ensure(block[11] == 0, || format!("{what}: the last word is {:#x}", block[11]))?;
    }
    Ok(())
}

/// The codes of q8 blocks.
fn codes(words: &[u32]) -> Vec<i8> {
    words.chunks_exact(12).flat_map(|b| bytemuck::cast_slice::<u32, i8>(&b[..8]).to_vec()).collect()
}

/// The blocks of rows of x.
fn quantised(
    bench: &Bench,
    candidate: &'static Candidate,
    x: &[f32],
    k: usize,
    groups: u32,
) -> Check<Vec<u32>> {
    let rows = x.len() / k;
    let push = quantize::Push { k: k as u32, rows: rows as u32, ..Default::default() };
    let specs = [("WG", 4 * bench.lanes()), ("SG", bench.lanes())];
    let job = Job::new(candidate, &specs, &push, [groups, 1, 1]).floats("x", x);
    let out = job.output("y_q8", (rows + 1) * k / 32 * 12).on(bench)?;
    Ok(out.words("y_q8")[..rows * k / 32 * 12].to_vec())
}

fn codes_again(bench: &Bench, candidate: &'static Candidate, k: usize, rows: usize, groups: u32) -> Check {
    let mut rng = bench.rng(&format!("quantize codes {k} {rows}"));
    let mut wanted: Vec<i8> = (0..rows * k).map(|_| rng.int(-126, 126) as i8).collect();
    // The largest of each block is 127, at a random place and of a random sign.
    wanted.chunks_exact_mut(32).for_each(|block| block[rng.int(0, 31) as usize] = rng.pick(&[127, -127]));
    let scale: Vec<f32> = (0..rows * k / 32).map(|_| rng.pick(&[0.5, 1.0, 4.0])).collect();
    let x: Vec<f32> = wanted.iter().enumerate().map(|(i, q)| f32::from(*q) * scale[i / 32]).collect();
    let words = quantised(bench, candidate, &x, k, groups)?;
    check_q8("codes", &x, &words)?;
    let got = codes(&words);
    let differs = got.iter().zip(&wanted).position(|(got, want)| got != want);
    ensure(differs.is_none(), || format!("codes differ at {differs:?}"))
}

fn nearest_codes(bench: &Bench, candidate: &'static Candidate, groups: u32) -> Check {
    let mut rng = bench.rng("quantize");
    let k = 96;
    let mut x = rng.normals(7 * k);
    x[..32].fill(0.0);
    x[32..64].iter_mut().for_each(|x| *x *= 1e-33);
    x[64..96].iter_mut().for_each(|x| *x *= 6e4);
    x[96..128].fill(-3.0);
    let words = quantised(bench, candidate, &x, k, groups)?;
    let mut expected = x.clone();
    expected[32..64].fill(0.0);
    check_q8("random", &expected, &words)?;
    // Negated values have negated codes and sums.
    let minus: Vec<f32> = x.iter().map(|x| -x).collect();
    let negated: Vec<i8> =
        codes(&quantised(bench, candidate, &minus, k, groups)?).iter().map(|q| q.wrapping_neg()).collect();
    ensure(negated == codes(&words), || "negated values have other codes".into())
}

fn norm_job(
    bench: &Bench,
    candidate: &'static Candidate,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: u32,
) -> Job {
    let k = weight.len();
    let rows = x.len() / k;
    let push = norm::Push { k: k as u32, rows: rows as u32, x_stride: k as u32, eps, ..Default::default() };
    let specs = [("WG", bench.lanes()), ("SG", bench.lanes()), ("OUT", out)];
    Job::new(candidate, &specs, &push, [rows as u32, 1, 1])
        .floats("x", x)
        .floats("weight", weight)
        .floats("bias", &[f32::NAN])
        .floats("residual", &[f32::NAN])
        .output("y", (rows + 1) * k)
        .output("y_q8", (rows + 1) * (k / 32) * 12)
}

fn norm_bound(
    bench: &Bench,
    candidate: &'static Candidate,
    quantizer: Option<&'static Candidate>,
    k: usize,
    rows: usize,
    out: u32,
) -> Check {
    let mut rng = bench.rng(&format!("norm {k} {rows}"));
    let (x, weight) = (rng.normals(rows * k), rng.normals(k));
    let job = norm_job(bench, candidate, &x, &weight, 1e-5, out);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let want: Vec<f64> = want.floats("y")[..rows * k].iter().map(|y| f64::from(*y)).collect();
    // Sum of k squares, root, two products.
    let bound: Vec<f64> = want.iter().map(|y| y.abs() * (8.0 + (k as f64).sqrt()) * EPS).collect();
    let y = got.floats("y");
    within(&"norm", &y[..rows * k], &want, &bound)?;
    if out == 3 {
        let words = &got.words("y_q8")[..rows * k / 32 * 12];
        check_q8("norm", &y[..rows * k], words)?;
        if let Some(quantizer) = quantizer {
            let alone = quantised(bench, quantizer, &y[..rows * k], k, 9)?;
            bits(&"the norm's q8 form and that of quantize", words, &alone)?;
        }
    }
    Ok(())
}

fn norm_scale(bench: &Bench, candidate: &'static Candidate, power: i32) -> Check {
    let mut rng = bench.rng("norm scale");
    let (k, rows) = (96, 5);
    let (x, weight) = (rng.normals(rows * k), rng.normals(k));
    let factor = 2f32.powi(power);
    let scaled: Vec<f32> = x.iter().map(|x| x * factor).collect();
    let run = |x: &[f32]| -> Check<Vec<f32>> {
        Ok(norm_job(bench, candidate, x, &weight, 0.0, 3).on(bench)?.floats("y"))
    };
    // The root may differ in its last bits on devices that approximate it.
    let plain: Vec<f64> = run(&x)?[..rows * k].iter().map(|y| f64::from(*y)).collect();
    let bound: Vec<f64> = plain.iter().map(|y| y.abs() * 4.0 * EPS).collect();
    within(&"scaled", &run(&scaled)?[..rows * k], &plain, &bound)
}

fn norm_rows(bench: &Bench, candidate: &'static Candidate, row: usize) -> Check {
    let mut rng = bench.rng("norm rows");
    let (k, rows) = (96, 5);
    let (x, weight) = (rng.normals(rows * k), rng.normals(k));
    let all = norm_job(bench, candidate, &x, &weight, 1e-6, 3).on(bench)?;
    let one = norm_job(bench, candidate, &x[row * k..][..k], &weight, 1e-6, 3).on(bench)?;
    bits(&"y", &one.words("y")[..k], &all.words("y")[row * k..][..k])?;
    let q8 = k / 32 * 12;
    bits(&"q8", &one.words("y_q8")[..q8], &all.words("y_q8")[row * q8..][..q8])
}

/// Norms with a mean, a bias and a residual, in place over it.
fn norm_kinds(
    bench: &Bench,
    candidate: &'static Candidate,
    (k, rows): (usize, usize),
    [centre, bias, residual]: [u32; 3],
) -> Check {
    let mut rng = bench.rng(&format!("norm kinds {k} {centre} {bias} {residual}"));
    let (x, old) = (rng.normals(rows * (k + 3)), rng.normals(rows * k));
    // Rows that are gated use three rows of weights in turn.
    let weights = if residual == 2 { 3 } else { 1 };
    let (weight, offset) = (rng.normals(weights * k), rng.normals(k));
    let push = norm::Push {
        k: k as u32,
        rows: rows as u32,
        x_stride: k as u32 + 3,
        weights: weights as u32,
        eps: 1e-5,
        ..Default::default()
    };
    let specs = [
        ("WG", bench.lanes()),
        ("SG", bench.lanes()),
        ("OUT", 1),
        ("CENTRE", centre),
        ("BIAS", bias),
        ("RESIDUAL", residual),
        ("GROUPED", u32::from(weights > 1)),
    ];
    let job = Job::new(candidate, &specs, &push, [rows as u32, 1, 1])
        .floats("x", &x)
        .floats("weight", &weight)
        .floats("bias", &offset)
        .floats("y", &old)
        .same("residual", "y")
        .output("y_q8", 1);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let want: Vec<f64> = want.floats("y").iter().map(|y| f64::from(*y)).collect();
    // As without them, of the sizes before bias and residual are added; the mean is as exact as the sum of squares.
    let largest = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let bound: Vec<f64> = (0..rows * k)
        .map(|i| {
            let gate = f64::from(old[i].abs());
            let normed = 4.0 * f64::from(largest * weight[i / k % weights * k + i % k].abs());
            if residual == 2 {
                return normed * gate * (16.0 + 4.0 * gate + (k as f64).sqrt()) * EPS;
            }
            (normed + f64::from(offset[i % k].abs()) + gate) * (8.0 + (k as f64).sqrt()) * EPS
        })
        .collect();
    within(&"norm", &got.floats("y"), &want, &bound)
}

/// LayerNorm of integers does not see what is added to all of them, as long as their mean is exact.
fn norm_shift(bench: &Bench, candidate: &'static Candidate) -> Check {
    let mut x = bench.rng("norm shift").ints(64, -99, 99);
    let sum: f32 = x.iter().sum();
    x[0] -= sum;
    let run = |shift: f32| -> Check<Vec<u32>> {
        let moved: Vec<f32> = x.iter().map(|x| x + shift).collect();
        let push = norm::Push { k: 64, rows: 1, x_stride: 64, eps: 1e-5, ..Default::default() };
        let specs = [("WG", bench.lanes()), ("SG", bench.lanes()), ("OUT", 1), ("CENTRE", 1)];
        let job = Job::new(candidate, &specs, &push, [1, 1, 1])
            .floats("x", &moved)
            .floats("weight", &[1.0; 64])
            .floats("bias", &[f32::NAN])
            .floats("residual", &[f32::NAN])
            .output("y", 64)
            .output("y_q8", 1);
        Ok(job.on(bench)?.words("y").to_vec())
    };
    bits(&"shifted", &run(512.0)?, &run(0.0)?)
}

fn capped_bound(bench: &Bench, candidate: &'static Candidate, count: usize, cap: f32) -> Check {
    let mut x: Vec<f32> = bench.rng("soft cap").normals(count).iter().map(|x| x * cap).collect();
    x.iter_mut().zip([3e38, -3e38, 0.0]).for_each(|(x, extreme)| *x = extreme);
    let push = soft_cap::Push { count: count as u32, cap, ..Default::default() };
    let job = Job::new(candidate, &[("WG", 64)], &push, [2, 1, 1]).floats("y", &x);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let want: Vec<f64> = want.floats("y").iter().map(|y| f64::from(*y)).collect();
    // The exponential's argument is off by few units of itself where it matters, and so is the quotient.
    within(&"capped", &got.floats("y"), &want, &vec![16.0 * EPS * f64::from(cap); count])
}

/// The activation alone is the one that is multiplied by one.
fn ungated(bench: &Bench, candidate: &'static Candidate, activation: u32, k: usize) -> Check {
    let gates = bench.rng("ungated").normals(2 * k);
    let gated =
        gate_job(bench, candidate, &gates, &vec![1.0; 2 * k], k, (0, 0), (activation, 1)).on(bench)?;
    let push = glu::Push { k: k as u32, rows: 2, gate_stride: k as u32, ..Default::default() };
    let lanes = bench.lanes();
    let specs = [("WG", 4 * lanes), ("SG", lanes), ("ACTIVATION", activation), ("OUT", 1), ("GATED", 0)];
    let job = Job::new(candidate, &specs, &push, [2, 1, 1])
        .floats("gate", &gates)
        .same("up", "gate")
        .output("y", 3 * k)
        .output("y_q8", 1);
    bits(&"ungated", &job.on(bench)?.words("y")[..2 * k], &gated.words("y")[..2 * k])
}

/// Squares, their mean and its root are powers of two: only the root may be approximated.
fn norm_equal(bench: &Bench, candidate: &'static Candidate, k: usize, value: f32) -> Check {
    let mut rng = bench.rng("norm equal");
    let x: Vec<f32> = (0..k).map(|_| rng.pick(&[value, -value])).collect();
    let got = norm_job(bench, candidate, &x, &vec![1.0; k], 0.0, 1).on(bench)?.floats("y");
    let want: Vec<f64> = x.iter().map(|x| f64::from(x.signum())).collect();
    within(&"signs", &got[..k], &want, &vec![4.0 * EPS; k])
}

fn gate_job(
    bench: &Bench,
    candidate: &'static Candidate,
    gates: &[f32],
    ups: &[f32],
    k: usize,
    pads: (usize, usize),
    specs: (u32, u32),
) -> Job {
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
    let lanes = bench.lanes();
    let specs = [("WG", 4 * lanes), ("SG", lanes), ("ACTIVATION", specs.0), ("OUT", specs.1)];
    Job::new(candidate, &specs, &push, [2, 1, 1])
        .floats("gate", &padded(gates, pads.0))
        .floats("up", &padded(ups, pads.1))
        .output("y", (rows + 1) * k)
        .output("y_q8", (rows + 1) * (k / 32) * 12)
}

fn gate_bound(bench: &Bench, candidate: &'static Candidate, activation: u32, k: usize, rows: usize) -> Check {
    let mut rng = bench.rng(&format!("glu {activation} {k} {rows}"));
    let out = if k.is_multiple_of(32) { 3 } else { 1 };
    let gates: Vec<f32> = (0..rows * k).map(|i| rng.normal() * [1.0, 10.0, 0.01][i % 3]).collect();
    let ups = rng.normals(rows * k);
    let job = gate_job(bench, candidate, &gates, &ups, k, (k % 3, 7), (activation, out));
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let want: Vec<f64> = want.floats("y")[..rows * k].iter().map(|y| f64::from(*y)).collect();
    // The exponential may be off by 3 + 2|x| units; gelu's argument reaches 2 · 0.8 (|x| + 0.045 |x|³).
    let units = |g: f64| if activation == 1 { 10.0 * g * (1.0 + 0.05 * g * g) } else { 4.0 * g };
    let bound: Vec<f64> = (0..rows * k)
        .map(|i| {
            let g = f64::from(gates[i].abs());
            // A factor below the smallest normal number may be flushed.
            let flushed = f64::from(f32::MIN_POSITIVE) * (1.0 + g) * (1.0 + f64::from(ups[i].abs()));
            want[i].abs() * (16.0 + units(g)) * EPS + flushed
        })
        .collect();
    let y = got.floats("y");
    within(&"glu", &y[..rows * k], &want, &bound)?;
    if out == 3 {
        check_q8("glu", &y[..rows * k], got.words("y_q8"))?;
    }
    Ok(())
}

fn gate_extremes(bench: &Bench, candidate: &'static Candidate) -> Check {
    let gates = [0.0, -0.0, 1e4, -1e4, 88.0, -88.0, 104.0, -104.0, 3e38, -3e38, 1e-30, -1e-30, 6e4, -6e4];
    let gates: Vec<f32> = gates.iter().copied().cycle().take(96).collect();
    let ups = vec![2.0f32.powi(-3); 96];
    let got = gate_job(bench, candidate, &gates, &ups, 96, (0, 0), (0, 3)).on(bench)?;
    for (y, g) in got.floats("y")[..96].iter().zip(&gates) {
        let right = if *g > 80.0 { *y == g / 8.0 } else { y.is_finite() && y.abs() <= g.abs() / 8.0 };
        ensure(right && (*g >= -80.0 || y.abs() < 1e-30), || format!("gate {g} gives {y}"))?;
    }
    Ok(())
}

fn gate_linear(bench: &Bench, candidate: &'static Candidate, activation: u32) -> Check {
    let mut rng = bench.rng("glu linear");
    let (k, rows) = (96, 2);
    let (gates, ups) = (rng.normals(rows * k), rng.normals(rows * k));
    let run = |ups: &[f32]| -> Check<Vec<f32>> {
        let job = gate_job(bench, candidate, &gates, ups, k, (0, 3), (activation, 3));
        Ok(job.on(bench)?.floats("y")[..rows * k].to_vec())
    };
    let scaled: Vec<f32> = ups.iter().map(|up| up * -32.0).collect();
    let want: Vec<u32> = run(&ups)?.iter().map(|y| (y * -32.0).to_bits()).collect();
    let got: Vec<u32> = run(&scaled)?.iter().map(|y| y.to_bits()).collect();
    values(&"up times -32", &got, &want)
}

fn gate_rows(bench: &Bench, candidate: &'static Candidate, activation: u32) -> Check {
    let mut rng = bench.rng("glu rows");
    let (k, rows) = (64, 7);
    let (gates, ups) = (rng.normals(rows * k), rng.normals(rows * k));
    let run = |first: usize, rows: usize| {
        let part = first * k..(first + rows) * k;
        gate_job(bench, candidate, &gates[part.clone()], &ups[part], k, (1, 2), (activation, 3)).on(bench)
    };
    let all = run(0, rows)?;
    for row in 0..rows {
        let one = run(row, 1)?;
        let same = |name: &str, width: usize, one: &Out| {
            bits(
                &format!("{name} of row {row}"),
                &one.words(name)[..width],
                &all.words(name)[row * width..][..width],
            )
        };
        same("y", k, &one)?;
        same("y_q8", k / 32 * 12, &one)?;
    }
    Ok(())
}

//! Operations of models with several residual streams: `altup`, `rescale`, `sparsify` and `add`.

use vkllm_shaders::ops::{add, altup, rescale, sparsify};
use vkllm_shaders::select::Candidate;

use super::compare::{bits, within};
use super::job::{Job, to_words};
use super::{Bench, Check, List};

const EPS: f64 = 1.0 / (1u64 << 23) as f64;

pub fn list(list: &mut List<'_>) {
    for candidate in list.usable(altup::CANDIDATES) {
        for (streams, active, k, rows) in [(4, 0, 64, 3), (2, 1, 33, 2), (3, 2, 300, 17)] {
            for (correct, kind) in [(0, 0), (1, 0), (0, 1), (1, 2)] {
                let property = format!(
                    "bound streams {streams} active {active} k {k} rows {rows} correct {correct} type {kind}"
                );
                list.add(&[candidate.kernel], property, move |bench| {
                    mixed(bench, candidate, (streams, active), (k, rows), (correct, kind))
                });
            }
        }
    }
    for candidate in list.usable(rescale::CANDIDATES) {
        for (k, rows, repeat) in [(1, 2, 1), (64, 3, 2), (100, 1, 3), (1024, 2, 1)] {
            for add in [0, 1] {
                let property = format!("bound k {k} rows {rows} repeat {repeat} add {add}");
                list.add(&[candidate.kernel], property, move |bench| {
                    resized(bench, candidate, (k, rows, repeat), add)
                });
            }
        }
    }
    for candidate in list.usable(sparsify::CANDIDATES) {
        for (k, stride, rows) in [(64, 64, 3), (33, 70, 2), (5, 5, 1), (1000, 2000, 2)] {
            list.add(&[candidate.kernel], format!("bound k {k} stride {stride} rows {rows}"), move |bench| {
                sparse(bench, candidate, (k, stride, rows))
            });
        }
    }
    for candidate in list.usable(add::CANDIDATES) {
        for (count, from) in [(1, 1), (64, 64), (300, 100), (1001, 7)] {
            list.add(&[candidate.kernel], format!("exact count {count} from {from}"), move |bench| {
                added(bench, candidate, count, from)
            });
        }
    }
}

/// Sums of up to four products, coefficients that are such sums of exponentials.
fn mixed(
    bench: &Bench,
    candidate: &'static Candidate,
    (streams, active): (usize, u32),
    (k, rows): (usize, usize),
    (correct, kind): (u32, u32),
) -> Check {
    let mut rng = bench.rng(&format!("altup {streams} {k} {rows}"));
    let count = if correct == 1 { streams } else { streams * streams };
    let coefficients = rng.normals(count * streams);
    let words = match kind {
        0 => to_words(&coefficients),
        _ => coefficients
            .chunks(2)
            .map(|pair| {
                let half = |value: &f32| match kind {
                    1 => u32::from(half::f16::from_f32(*value).to_bits()),
                    _ => u32::from(half::bf16::from_f32(*value).to_bits()),
                };
                half(&pair[0]) | pair.get(1).map_or(0, half) << 16
            })
            .collect(),
    };
    let push = altup::Push { k: k as u32, rows: rows as u32, active_stream: active, ..Default::default() };
    let lanes = bench.lanes();
    let specs = [("WG", lanes), ("STREAMS", streams as u32), ("CORRECT", correct), ("TYPE", kind)];
    let job = Job::new(candidate, &specs, &push, [3, rows as u32, 1])
        .floats("x", &rng.normals(streams * rows * k))
        .floats("logits", &rng.normals(rows * streams))
        .words("coefficients", words)
        .floats("computed", &rng.normals(rows * k))
        .floats("factor", &rng.normals(k))
        .output("y", rows * k);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    for name in ["x", "y"] {
        let want: Vec<f64> = want.floats(name).iter().map(|value| f64::from(*value)).collect();
        let largest = want.iter().fold(1.0f64, |max, value| max.max(value.abs()));
        within(&name, &got.floats(name), &want, &vec![512.0 * EPS * largest; want.len()])?;
    }
    Ok(())
}

/// Two means and two roots.
fn resized(
    bench: &Bench,
    candidate: &'static Candidate,
    (k, rows, repeat): (usize, usize, usize),
    add: u32,
) -> Check {
    let mut rng = bench.rng(&format!("rescale {k} {rows}"));
    let count = rows * repeat;
    let push = rescale::Push {
        k: k as u32,
        rows: count as u32,
        size_rows: rows as u32,
        least: 1e-5,
        ..Default::default()
    };
    let lanes = bench.lanes();
    // One row is too small for its size to count.
    let mut x = rng.normals(count * k);
    x[..k].iter_mut().for_each(|x| *x *= 1e-6);
    let job =
        Job::new(candidate, &[("WG", lanes), ("SG", lanes), ("ADD", add)], &push, [count as u32 + 1, 1, 1])
            .floats("x", &x)
            .floats("size", &rng.normals(rows * k))
            .floats("y", &rng.normals(count * k));
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let want: Vec<f64> = want.floats("y").iter().map(|value| f64::from(*value)).collect();
    let largest = want.iter().fold(1.0f64, |max, value| max.max(value.abs()));
    let bound = (32.0 + (k as f64).sqrt()) * EPS * largest;
    within(&"rescaled", &got.floats("y"), &want, &vec![bound; want.len()])
}

/// The mean and the deviation of a row are off by few units, what lies between rows stays.
fn sparse(bench: &Bench, candidate: &'static Candidate, (k, stride, rows): (usize, usize, usize)) -> Check {
    let push = sparsify::Push {
        k: k as u32,
        rows: rows as u32,
        stride: stride as u32,
        deviations: 0.5,
        ..Default::default()
    };
    let lanes = bench.lanes();
    let x = bench.rng(&format!("sparsify {k} {rows}")).normals(stride * rows);
    let job =
        Job::new(candidate, &[("WG", lanes), ("SG", lanes)], &push, [rows as u32 + 1, 1, 1]).floats("y", &x);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let want: Vec<f64> = want.floats("y").iter().map(|value| f64::from(*value)).collect();
    let bound = (32.0 + (k as f64).sqrt()) * EPS * 2.0;
    within(&"sparse", &got.floats("y"), &want, &vec![bound; want.len()])
}

/// Small integers.
fn added(bench: &Bench, candidate: &'static Candidate, count: usize, from: usize) -> Check {
    let mut rng = bench.rng(&format!("add {count} {from}"));
    let push = add::Push { count: count as u32, x_count: from as u32, scale: 0.5, ..Default::default() };
    let job = Job::new(candidate, &[("WG", 64)], &push, [2, 1, 1])
        .floats("x", &rng.ints(from, -100, 100))
        .floats("y", &rng.ints(count, -100, 100));
    bits(&"sums", job.on(bench)?.words("y"), job.meaning(bench).words("y"))
}

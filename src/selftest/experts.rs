//! Mixtures of experts: `route`, `group` and `experts_sum`. Who is chosen and who is sorted where is exact.

use vkllm_shaders::ops::{experts_sum, group, route};
use vkllm_shaders::select::Candidate;

use super::compare::{bits, within};
use super::job::Job;
use super::{Bench, Check, List, ensure};

/// A router and its rows.
#[derive(Clone, Copy, Debug)]
struct Shape {
    experts: usize,
    used: usize,
    gating: u32,
    bias: bool,
    groups: (u32, u32),
    normalise: u32,
    rows: usize,
}

const PLAIN: Shape =
    Shape { experts: 64, used: 8, gating: 0, bias: false, groups: (1, 1), normalise: 1, rows: 3 };

pub fn list(list: &mut List<'_>) {
    for candidate in list.usable(route::CANDIDATES) {
        let kernel = &[candidate.kernel];
        for shape in [
            PLAIN,
            Shape { rows: 1, ..PLAIN },
            Shape { experts: 5, used: 5, rows: 2, ..PLAIN },
            Shape { experts: 1, used: 1, ..PLAIN },
            Shape { normalise: 0, ..PLAIN },
            Shape { gating: 2, used: 4, ..PLAIN },
            Shape { gating: 1, bias: true, ..PLAIN },
            Shape { gating: 1, bias: true, groups: (8, 3), rows: 7, ..PLAIN },
            Shape { gating: 1, bias: true, groups: (32, 16), experts: 96, used: 32, ..PLAIN },
            Shape { experts: 512, used: 10, rows: 2, ..PLAIN },
            Shape { experts: 130, used: 3, ..PLAIN },
        ] {
            let Shape { experts, used, gating, groups, normalise, rows, .. } = shape;
            let property = format!(
                "experts {experts} used {used} gating {gating} groups {}-{} normalise {normalise} rows {rows}",
                groups.0, groups.1
            );
            list.add(kernel, property, move |bench| chosen(bench, candidate, shape));
        }
        list.add(kernel, "ties go to the lowest", move |bench| {
            let logits = vec![0.5; PLAIN.rows * PLAIN.experts];
            let out = job(bench, candidate, PLAIN, &logits, &[]).on(bench)?;
            let want: Vec<u32> = (0..PLAIN.rows).flat_map(|_| 0..PLAIN.used as u32).collect();
            bits(&"ids", out.words("ids"), &want)
        });
        for (gating, name, bad) in [
            (0, "not a number", f32::NAN),
            (1, "not a number", f32::NAN),
            (2, "not a number", f32::NAN),
            (0, "plus infinity", f32::INFINITY),
            (1, "minus infinity", f32::NEG_INFINITY),
        ] {
            list.add(kernel, format!("{name} gating {gating} chooses experts that exist"), move |bench| {
                let mut logits = bench.rng("bad logits").normals(PLAIN.rows * PLAIN.experts);
                logits[..PLAIN.experts].fill(bad);
                logits[PLAIN.experts + 7] = bad;
                let shape = Shape { gating, ..PLAIN };
                let out = job(bench, candidate, shape, &logits, &[]).on(bench)?;
                for row in out.words("ids").chunks(PLAIN.used) {
                    let mut ids = row.to_vec();
                    ids.sort_unstable();
                    ids.dedup();
                    let fine = ids.len() == PLAIN.used && ids.iter().all(|id| *id < PLAIN.experts as u32);
                    ensure(fine, || format!("experts {row:?}"))?;
                }
                Ok(())
            });
        }
        for row in 0..3 {
            list.add(kernel, format!("row {row} alone and among three"), move |bench| {
                let logits = bench.rng("router rows").normals(3 * PLAIN.experts);
                let all = job(bench, candidate, PLAIN, &logits, &[]).on(bench)?;
                let own = &logits[row * PLAIN.experts..][..PLAIN.experts];
                let one = job(bench, candidate, Shape { rows: 1, ..PLAIN }, own, &[]).on(bench)?;
                let part = row * PLAIN.used..(row + 1) * PLAIN.used;
                bits(&"ids", one.words("ids"), &all.words("ids")[part.clone()])?;
                bits(&"weights", one.words("weights"), &all.words("weights")[part])
            });
        }
    }
    for candidate in list.usable(group::CANDIDATES) {
        for (experts, count, tile_rows) in
            [(8, 1, 1), (8, 12, 4), (64, 128, 4), (5, 40, 16), (128, 520, 64), (300, 64, 3), (1, 33, 16)]
        {
            let property = format!("sorts exactly experts {experts} count {count} tiles of {tile_rows}");
            list.add(&[candidate.kernel], property, move |bench| {
                sorted(bench, candidate, (experts, count, tile_rows))
            });
        }
    }
    for candidate in list.usable(experts_sum::CANDIDATES) {
        for (k, used, rows, shared) in
            [(64, 8, 1, 0), (100, 2, 5, 1), (33, 4, 3, 2), (1, 1, 2, 0), (300, 10, 2, 2)]
        {
            let property = format!("bound k {k} used {used} rows {rows} shared {shared}");
            list.add(&[candidate.kernel], property, move |bench| {
                summed(bench, candidate, (k, used, rows), shared)
            });
        }
    }
}

fn job(bench: &Bench, candidate: &'static Candidate, shape: Shape, logits: &[f32], bias: &[f32]) -> Job {
    let Shape { experts, used, gating, groups, normalise, rows, .. } = shape;
    let push = route::Push {
        rows: rows as u32,
        used: used as u32,
        groups: groups.0,
        groups_used: groups.1,
        normalise,
        scale: 2.5,
        ..Default::default()
    };
    let specs = [
        ("WG", bench.lanes()),
        ("SG", bench.lanes()),
        ("GATING", gating),
        ("BIAS", u32::from(!bias.is_empty())),
        ("EXPERTS", experts as u32),
    ];
    let bias = if bias.is_empty() { &[f32::NAN] } else { bias };
    // One row more than there are: it has nothing to do.
    Job::new(candidate, &specs, &push, [rows as u32 + 1, 1, 1])
        .floats("logits", logits)
        .floats("bias", bias)
        .output("ids", rows * used)
        .output("weights", rows * used)
        .output("tiles", used * 4)
        .output("order", used)
}

fn chosen(bench: &Bench, candidate: &'static Candidate, shape: Shape) -> Check {
    let mut rng = bench.rng(&format!("{shape:?}"));
    // Scores lie far enough apart that rounding chooses nobody else.
    let mut spread = |step: f32| -> Vec<f32> {
        rng.order(shape.experts).into_iter().map(|place| place as f32 * step - 4.0).collect()
    };
    let step = 8.0 / shape.experts as f32;
    let logits: Vec<f32> =
        (0..shape.rows).flat_map(|_| spread(if shape.bias { step / 4.0 } else { step })).collect();
    let bias = if shape.bias { spread(1.0) } else { Vec::new() };
    let job = job(bench, candidate, shape, &logits, &bias);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    for name in ["ids", "tiles", "order"] {
        bits(&name, got.words(name), want.words(name))?;
    }
    let want: Vec<f64> = want.floats("weights").iter().map(|weight| f64::from(*weight)).collect();
    // Exponentials of differences up to 8, a sum of as many as there are experts, quotients.
    let share = (2.0 * (3.0 + 2.0 * 8.0) + 2.0 * (shape.experts as f64).sqrt() + 16.0) * 2f64.powi(-23);
    let bound: Vec<f64> = want.iter().map(|weight| weight.abs() * share).collect();
    within(&"weights", &got.floats("weights"), &want, &bound)
}

fn sorted(
    bench: &Bench,
    candidate: &'static Candidate,
    (experts, count, tile_rows): (usize, usize, u32),
) -> Check {
    let mut rng = bench.rng(&format!("group {experts} {count}"));
    // Some experts have nothing to do.
    let ids: Vec<u32> = (0..count).map(|_| rng.int(0, experts as i32 * 2 / 3) as u32).collect();
    let tile_count = count.min(experts + count / tile_rows as usize);
    let push =
        group::Push { count: count as u32, tile_rows, tile_count: tile_count as u32, ..Default::default() };
    let specs = [("WG", bench.lanes()), ("SG", bench.lanes()), ("EXPERTS", experts as u32)];
    let job = Job::new(candidate, &specs, &push, [1, 1, 1])
        .words("ids", ids)
        .output("tiles", tile_count * 4)
        .output("order", count);
    let mut even = job.clone();
    even.specs.push(("ROUND", 1));
    for job in [job, even] {
        let (got, want) = (job.on(bench)?, job.meaning(bench));
        bits(&"tiles", got.words("tiles"), want.words("tiles"))?;
        bits(&"order", got.words("order"), want.words("order"))?;
    }
    Ok(())
}

fn summed(
    bench: &Bench,
    candidate: &'static Candidate,
    (k, used, rows): (usize, usize, usize),
    shared: u32,
) -> Check {
    let mut rng = bench.rng(&format!("experts sum {k} {used}"));
    let (parts, weights) = (rng.normals(rows * used * k), rng.normals(rows * used));
    let (common, share, old) = (rng.normals(rows * k), rng.normals(rows), rng.normals(rows * k));
    let push = experts_sum::Push { k: k as u32, used: used as u32, scale: 0.75, ..Default::default() };
    let job = Job::new(candidate, &[("WG", 64), ("SHARED", shared)], &push, [1, rows as u32, 1])
        .floats("part", &parts)
        .floats("weights", &weights)
        .floats("common_part", &common)
        .floats("share", &share)
        .floats("y", &old)
        .same("residual", "y");
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    let want: Vec<f64> = want.floats("y").iter().map(|y| f64::from(*y)).collect();
    let bound: Vec<f64> = (0..rows * k)
        .map(|at| {
            let (row, i) = (at / k, at % k);
            let terms = (0..used).map(|slot| weights[row * used + slot] * parts[(row * used + slot) * k + i]);
            let size = terms.map(f32::abs).sum::<f32>() + common[at].abs() + old[at].abs();
            f64::from(size) * (used as f64 + 8.0) * 2f64.powi(-23)
        })
        .collect();
    within(&"sum", &got.floats("y"), &want, &bound)
}

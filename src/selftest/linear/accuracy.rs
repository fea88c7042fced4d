//! Products of random and of extreme data, every element within its own forward-error bound.

use super::super::compare::{values, within};
use super::super::weights::{Act, Activations, Scales, act_of, factors, format_of, weights};
use super::super::{Bench, Check, List};
use super::{Product, Subject, tile};

pub(super) fn list(list: &mut List<'_>, subject: Subject) {
    let candidate = subject.candidate;
    let kernel = &[candidate.kernel];
    let block = format_of(candidate).block;
    let n = tile(candidate, subject.most(), list.caps).outputs + 1;
    for (k, rows) in [(4 * block.max(64), subject.most()), (8 * block.max(32), subject.few())] {
        // Float formats end within a unit.
        let k = if block == 1 && act_of(candidate) != Act::F16 { k + 4 } else { k };
        list.add(kernel, format!("error bound n {n} k {k} rows {rows}"), move |bench| {
            let mut rng = bench.rng(&format!("{} random {k}", candidate.kernel.name));
            let product = Product {
                bias: Some(rng.normals(n)),
                residual: Some(rng.normals((rows + 1) * n)),
                in_place: true,
                scale: 0.7,
                ..Product::random(&mut rng, candidate, (n, k, rows))
            };
            bounded(bench, &product)
        });
    }
    list.add(kernel, format!("activations of 60000 rows {}", subject.few()), move |bench| {
        large(bench, subject)
    });
    list.add(kernel, format!("subnormal scales rows {}", subject.few()), move |bench| {
        let mut rng = bench.rng(&format!("{} subnormal", candidate.kernel.name));
        let (n, k, rows) = (5, 2 * block.max(64), subject.few());
        let bytes = weights(&mut rng, format_of(candidate), n, k, Scales::Subnormal);
        let x = super::random_rows(&mut rng, act_of(candidate), rows, k);
        bounded(bench, &Product::plain(candidate, (n, k, rows), bytes, x))
    });
    // Every combination is a pipeline of its own, and the epilogue is one function: one format shows it.
    if candidate.kernel.axis("FORMAT") == "q8_0" {
        for (bias, residual) in [(false, false), (true, false), (false, true)] {
            for pad in [0, 3] {
                let property = format!("epilogue bias {bias} residual {residual} pad {pad}");
                list.add(kernel, property, move |bench| epilogue(bench, subject, (bias, residual), pad));
            }
        }
    }
}

/// 8 √k 2^-24 Σ|w x| for the sum, four roundings for the epilogue.
fn bounded(bench: &Bench, product: &Product) -> Check {
    let Product { candidate, n, k, rows, .. } = *product;
    let got = product.run(bench)?;
    let w = factors(candidate, &product.weights, n, k);
    let (mut want, mut bound) = (Vec::new(), Vec::new());
    let part = |of: &Option<Vec<f32>>, at: usize| of.as_ref().map_or(0.0, |of| f64::from(of[at]));
    for (row, x) in product.x.values.chunks_exact(k).take(rows).enumerate() {
        for (output, w) in w.chunks_exact(k).enumerate() {
            let products = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let (b, r) = (part(&product.bias, output), part(&product.residual, row * n + output));
            let scale = f64::from(product.scale);
            want.push((sum + b) * scale + r);
            let epilogue = 4.0 * ((sum.abs() + b.abs()) * scale + r.abs());
            bound.push((8.0 * (k as f64).sqrt() * size * scale + epilogue) * 2f64.powi(-24));
        }
    }
    within(&product.what(), &got, &want, &bound)
}

/// 6e4 is what the largest models reach.
fn large(bench: &Bench, subject: Subject) -> Check {
    let candidate = subject.candidate;
    let format = format_of(candidate);
    let mut rng = bench.rng(&format!("{} large", candidate.kernel.name));
    let (n, k, rows) = (3, 8 * format.block.max(32), subject.few());
    let bytes = weights(&mut rng, format, n, k, Scales::Plausible);
    let integers: Vec<i8> = (0..rows * k).map(|e| if e % 2 == 0 { 127 } else { -127 }).collect();
    let x = Activations::new(act_of(candidate), k, &integers, || 6.0e4 / 127.0);
    bounded(bench, &Product::plain(candidate, (n, k, rows), bytes, x))
}

fn epilogue(bench: &Bench, subject: Subject, (bias, residual): (bool, bool), pad: usize) -> Check {
    let candidate = subject.candidate;
    let mut rng = bench.rng(&format!("{} epilogue {pad}", candidate.kernel.name));
    let (rows, k) = (subject.few(), 64);
    let n = tile(candidate, rows, bench.device.caps()).outputs + 3;
    let bytes = weights(&mut rng, format_of(candidate), n, k, Scales::Powers);
    let integers: Vec<i8> = (0..rows * k).map(|_| rng.int(-20, 20) as i8).collect();
    let x = Activations::new(act_of(candidate), k, &integers, || 1.0);
    let product = Product {
        bias: bias.then(|| rng.ints(n, -9, 9)),
        residual: residual.then(|| rng.ints((rows + 1) * (n + pad), -9, 9)),
        in_place: pad == 0,
        pad,
        scale: 2.0,
        ..Product::plain(candidate, (n, k, rows), bytes, x)
    };
    let job = product.job(bench);
    values(&product.what(), job.on(bench)?.words("y"), job.meaning(bench).words("y"))
}

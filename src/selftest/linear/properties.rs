//! Properties of products that need no reference.

use super::super::compare::{bits, values};
use super::super::weights::{Act, Activations, Scales, act_of, format_of, weights};
use vkllm_shaders::reference::halve::HALF_TAIL;

use super::super::{Bench, Check, List};
use super::{Product, Subject, to_bits};

type Property = fn(&Bench, &mut super::Rng, &Product) -> Check;

const PROPERTIES: &[(&str, Property)] = &[
    ("powers of two scale the bits", scaled),
    ("negated rows give negated bits", negated),
    ("permuted outputs keep their bits", permuted_outputs),
    ("permuted rows keep their bits", permuted_rows),
    ("zero activations behind a row change nothing", padded),
    ("an output does not depend on those beside it", alone),
    ("zero rows give the residual", zeros),
    ("again with other poison", again),
];

pub(super) fn list(list: &mut List<'_>, subject: Subject) {
    let candidate = subject.candidate;
    for &(name, property) in PROPERTIES {
        list.add(&[candidate.kernel], format!("{name} rows {}", subject.few()), move |bench| {
            let mut rng = bench.rng(&format!("{} {name}", candidate.kernel.name));
            let shape = (9, 2 * format_of(candidate).block.max(64), subject.few());
            let product = Product::random(&mut rng, candidate, shape);
            property(bench, &mut rng, &product)
        });
    }
}

/// The words of x with every value and every scale times a factor.
fn times(product: &Product, factor: f32) -> Activations {
    let act = act_of(product.candidate);
    let stride = product.x.stride;
    let scale = |(i, word): (usize, &u32)| {
        let float = match act {
            Act::F32 => true,
            Act::Q8 => (8..11).contains(&(i % 12)),
            Act::F16 => i % stride == stride - HALF_TAIL,
        };
        if float { (f32::from_bits(*word) * factor).to_bits() } else { *word }
    };
    let words = product.x.words.iter().enumerate().map(scale).collect();
    Activations { words, ..product.x.clone() }
}

fn times_factor(bench: &Bench, product: &Product, factor: f32) -> Check {
    let want: Vec<u32> = product.run(bench)?.iter().map(|y| (y * factor).to_bits()).collect();
    let scaled = Product { x: times(product, factor), ..product.clone() };
    values(&format!("{} times {factor}", product.what()), &to_bits(&scaled.run(bench)?), &want)
}

fn scaled(bench: &Bench, _: &mut super::Rng, product: &Product) -> Check {
    times_factor(bench, product, 16.0)
}

fn negated(bench: &Bench, _: &mut super::Rng, product: &Product) -> Check {
    times_factor(bench, product, -1.0)
}

fn permuted_outputs(bench: &Bench, rng: &mut super::Rng, product: &Product) -> Check {
    let plain = product.run(bench)?;
    let order = rng.order(product.n);
    let row = product.weights.len() / product.n;
    let moved = order.iter().flat_map(|&from| product.weights[from * row..][..row].to_vec()).collect();
    let got = Product { weights: moved, ..product.clone() }.run(bench)?;
    let want: Vec<f32> = plain
        .chunks_exact(product.n)
        .flat_map(|y| order.iter().map(|from| y[*from]).collect::<Vec<_>>())
        .collect();
    bits(&product.what(), &to_bits(&got), &to_bits(&want))
}

fn permuted_rows(bench: &Bench, rng: &mut super::Rng, product: &Product) -> Check {
    let plain = product.run(bench)?;
    let order = rng.order(product.rows);
    let stride = product.x.stride;
    let words = order.iter().flat_map(|&from| product.x.words[from * stride..][..stride].to_vec()).collect();
    let x = Activations { words, ..product.x.clone() };
    let got = Product { x, ..product.clone() }.run(bench)?;
    let want: Vec<f32> =
        order.iter().flat_map(|&from| plain[from * product.n..][..product.n].to_vec()).collect();
    bits(&product.what(), &to_bits(&got), &to_bits(&want))
}

fn padded(bench: &Bench, rng: &mut super::Rng, product: &Product) -> Check {
    let plain = product.run(bench)?;
    let format = format_of(product.candidate);
    let more = format.block.max(64);
    let row = product.weights.len() / product.n;
    let behind = weights(rng, format, product.n, more, Scales::Plausible);
    let behind_row = behind.len() / product.n;
    let longer = (0..product.n)
        .flat_map(|o| [&product.weights[o * row..][..row], &behind[o * behind_row..][..behind_row]].concat())
        .collect();
    let zeros = Activations::new(act_of(product.candidate), more, &vec![0; more], || 1.0);
    let rows = product.x.words.chunks_exact(product.x.stride);
    // What stands behind the values of a row of f16 stays there.
    let tail = if act_of(product.candidate) == Act::F16 { HALF_TAIL } else { 0 };
    let zeros = &zeros.words[..zeros.stride - tail];
    let longer_row = |row: &[u32]| {
        let (values, tail) = row.split_at(row.len() - tail);
        [values, zeros, tail].concat()
    };
    let words = rows.flat_map(longer_row).collect();
    let x = Activations { words, values: Vec::new(), stride: product.x.stride + zeros.len() };
    let got = Product { weights: longer, k: product.k + more, x, ..product.clone() }.run(bench)?;
    values(&product.what(), &to_bits(&got), &to_bits(&plain))
}

fn alone(bench: &Bench, rng: &mut super::Rng, product: &Product) -> Check {
    let plain = product.run(bench)?;
    let one = rng.int(0, product.n as i32 - 1) as usize;
    let row = product.weights.len() / product.n;
    let weights = product.weights[one * row..][..row].to_vec();
    let got = Product { weights, n: 1, ..product.clone() }.run(bench)?;
    let want: Vec<f32> = plain.chunks_exact(product.n).map(|y| y[one]).collect();
    bits(&format!("output {one} of {}", product.what()), &to_bits(&got), &to_bits(&want))
}

fn zeros(bench: &Bench, rng: &mut super::Rng, product: &Product) -> Check {
    let integers = vec![0; product.rows * product.k];
    let x = Activations::new(act_of(product.candidate), product.k, &integers, || 1.0);
    let residual = rng.normals((product.rows + 1) * product.n);
    let got = Product { x, residual: Some(residual.clone()), ..product.clone() }.run(bench)?;
    values(&product.what(), &to_bits(&got), &to_bits(&residual[..got.len()]))
}

fn again(bench: &Bench, _: &mut super::Rng, product: &Product) -> Check {
    let job = product.job(bench);
    let first = job.on(bench)?;
    let second = job.on_poison(bench, 0x4242_4242)?;
    let len = product.rows * product.n;
    bits(&product.what(), &second.words("y")[..len], &first.words("y")[..len])
}

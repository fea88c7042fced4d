//! Products without rounding: integers, and single weights.

use vkllm_shaders::formats::Format;

use super::super::compare::values;
use super::super::weights::{Act, Activations, Scales, act_of, decode, factors, format_of, weights};
use super::super::{Bench, Check, List, ensure};
use super::{Product, Subject, tile};

/// Row lengths of a block and more, short enough for exact sums; formats without blocks end within a unit.
fn lengths(format: &Format, act: Act) -> &'static [usize] {
    match format.block {
        1 if act == Act::F16 => &[32, 64, 96, 128, 160, 544],
        1 if format.name == "f32" => &[8, 3, 20, 35, 100, 263],
        1 => &[8, 2, 20, 34, 100, 264],
        256 => &[256, 512, 768],
        _ => &[32, 64, 96, 128, 160, 544],
    }
}

pub(super) fn list(list: &mut List<'_>, subject: Subject) {
    let candidate = subject.candidate;
    let lengths = lengths(format_of(candidate), act_of(candidate));
    for turn in 0..8 {
        let (k, rows) = (lengths[turn % lengths.len()], subject.rows[turn % subject.rows.len()]);
        let outputs = tile(candidate, rows, list.caps).outputs;
        let n = [outputs + 1, 1, outputs, outputs.max(2) - 1, 2 * outputs + 1, 7, 2, outputs + 3][turn];
        list.add(&[candidate.kernel], format!("integers n {n} k {k} rows {rows}"), move |bench| {
            integers(bench, subject, (n, k, rows), turn)
        });
    }
    list.add(&[candidate.kernel], format!("every weight by one-hot rows {}", subject.most()), move |bench| {
        one_hot(bench, subject)
    });
}

/// Largest activations for which no partial sum can lose a bit, found from the data itself; 0 where there is none.
pub(super) fn exact_amplitude(w: &[f32], k: usize) -> i32 {
    let lowest = |value: &f32| {
        let bits = value.to_bits();
        let (exponent, mantissa) = ((bits >> 23 & 255) as i32, bits & 0x7f_ffff | 0x80_0000);
        exponent - 150 + mantissa.trailing_zeros() as i32
    };
    let unit = w.iter().filter(|w| **w != 0.0).map(lowest).min().unwrap_or(0);
    let largest = w.chunks_exact(k).map(|row| row.iter().map(|w| f64::from(w.abs())).sum::<f64>());
    let units = largest.fold(1.0, f64::max) / 2f64.powi(unit);
    // One bit for the scales of x, two for sums taken apart (scaled codes and minima) and the epilogue.
    (2f64.powi(24 - 3) / units).floor().min(127.0) as i32
}

fn integers(bench: &Bench, subject: Subject, (n, k, rows): (usize, usize, usize), turn: usize) -> Check {
    let candidate = subject.candidate;
    let format = format_of(candidate);
    let mut rng = bench.rng(&format!("{} integers {turn}", candidate.kernel.name));
    let bytes = weights(&mut rng, format, n, k, Scales::Powers);
    let amplitude = exact_amplitude(&decode(format, &bytes, n, k), k);
    ensure(amplitude >= 1, || format!("rows of {k} weights of {} have no exact sums", format.name))?;
    let integers: Vec<i8> = (0..rows * k).map(|_| rng.int(-amplitude, amplitude) as i8).collect();
    let x = Activations::new(act_of(candidate), k, &integers, || rng.pick(&[1.0, 0.5]));
    let pad = turn % 3;
    let product = Product {
        bias: Some(rng.ints(n, -9, 9)),
        residual: Some(rng.ints((rows + 1) * (n + pad), -9, 9)),
        in_place: turn % 2 == 1,
        pad,
        scale: 0.5,
        ..Product::plain(candidate, (n, k, rows), bytes, x)
    };
    let job = product.job(bench);
    values(&product.what(), job.on(bench)?.words("y"), job.meaning(bench).words("y"))
}

fn one_hot(bench: &Bench, subject: Subject) -> Check {
    let candidate = subject.candidate;
    let format = format_of(candidate);
    let mut rng = bench.rng(&format!("{} one-hot", candidate.kernel.name));
    let act = act_of(candidate);
    let k = match format.block {
        1 if act == Act::F16 => 96,
        1 => 20,
        block => 2 * block,
    };
    let n = 3;
    let bytes = weights(&mut rng, format, n, k, Scales::Plausible);
    let decoded = factors(candidate, &bytes, n, k);
    let rows = subject.rows.iter().copied().max().unwrap_or(1).min(64);
    // Kernels of few rows see half of the positions of two blocks, or there would be hundreds of dispatches.
    let positions: Vec<usize> = match rows {
        1 | 2 => (0..k).filter(|p| p / format.block.max(10) % 2 == p % 2).collect(),
        _ => (0..k).collect(),
    };
    for chunk in positions.chunks(rows) {
        let mut integers = vec![0i8; rows * k];
        chunk.iter().enumerate().for_each(|(row, position)| integers[row * k + position] = 1);
        let x = Activations::new(act_of(candidate), k, &integers, || 1.0);
        let product = Product::plain(candidate, (n, k, rows), bytes.clone(), x);
        let want: Vec<u32> = chunk
            .iter()
            .flat_map(|position| decoded.chunks_exact(k).map(|row| row[*position].to_bits()))
            .collect();
        let got: Vec<u32> = product.run(bench)?[..want.len()].iter().map(|y| y.to_bits()).collect();
        values(&format!("{} positions from {}", product.what(), chunk[0]), &got, &want)?;
    }
    Ok(())
}

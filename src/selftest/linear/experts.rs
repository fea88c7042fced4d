//! Products of rows with the matrices of their experts: exact on integers, whatever the tiles are.

use vkllm_shaders::ops::linear::Push;

use super::exact::exact_amplitude;
use super::{FOREIGN_EVERY_WAY, FOREIGN_FORMATS, NAN, Subject, tile};
use crate::selftest::compare::values;
use crate::selftest::job::{Job, bytes_to_words};
use crate::selftest::weights::{Activations, Scales, act_of, decode, format_of, weights};
use crate::selftest::{Bench, Check, List, ensure};

/// Experts of the stack, and the first that is not in the view.
const EXPERTS: usize = 5;
const ABSENT: u32 = 4;
const SLOTS: usize = 2;

pub(super) fn list(list: &mut List<'_>, subject: Subject) {
    let candidate = subject.candidate;
    // The decoders are those of all products: one format of each way to unpack.
    let formats = if subject.foreign { FOREIGN_EVERY_WAY } else { FOREIGN_FORMATS };
    if formats.contains(&format_of(candidate).name) {
        let rows = subject.rows.iter().copied().filter(|rows| *rows <= 16).max().unwrap_or(1);
        list.add(&[candidate.kernel], format!("experts rows {rows}"), move |bench| {
            experts(bench, subject, rows)
        });
    }
}

fn experts(bench: &Bench, subject: Subject, rows: usize) -> Check {
    let candidate = subject.candidate;
    let format = format_of(candidate);
    let mut rng = bench.rng(&format!("{} experts {rows}", candidate.kernel.name));
    let tile = tile(candidate, rows, bench.device.caps());
    let (n, k) = (tile.outputs + 3, if format.block == 1 { 96 } else { 2 * format.block });
    // Two stacks, one behind the other.
    let bytes = weights(&mut rng, format, 2 * EXPERTS * n, k, Scales::Powers);
    let amplitude = exact_amplitude(&decode(format, &bytes, 2 * EXPERTS * n, k), k);
    ensure(amplitude >= 1, || format!("rows of {k} weights of {} have no exact sums", format.name))?;
    // A full tile, a tile of one, none, one of a few, and one of an expert that is elsewhere.
    let counts = [(1, tile.rows), (0, 1), (2, 0), (3, tile.rows.div_ceil(2)), (ABSENT, 1)];
    let assignments: usize = counts.iter().map(|(_, count)| count).sum();
    let order: Vec<u32> = rng.order(assignments).into_iter().map(|place| place as u32).collect();
    let mut first = 0;
    let tiles: Vec<u32> = counts
        .iter()
        .flat_map(|&(expert, count)| {
            first += count;
            [expert, (first - count) as u32, count as u32, 0]
        })
        .collect();
    let x_rows = assignments.div_ceil(SLOTS);
    let integers: Vec<i8> = (0..x_rows * k).map(|_| rng.int(-amplitude, amplitude) as i8).collect();
    let x = Activations::new(act_of(candidate), k, &integers, || rng.pick(&[1.0, 0.5]));
    let row_bytes = format.row_bytes(k).unwrap_or(0);
    let push = Push {
        k: k as u32,
        n: n as u32,
        row_bytes: row_bytes as u32,
        x_stride: x.stride as u32,
        y_stride: 2 * n as u32,
        scale: 1.0,
        slots: SLOTS as u32,
        expert_count: ABSENT,
        expert_bytes: (n * row_bytes) as u32,
        second_bytes: (EXPERTS * n * row_bytes) as u32,
        ..Default::default()
    };
    let mut specs = tile.specs;
    specs.extend([("BIAS", 1), ("RESIDUAL", 0), ("EXPERTS", 1)]);
    let mut words = x.words[..x_rows * x.stride].to_vec();
    words.extend(vec![NAN; x.stride]);
    let grid = [n.div_ceil(tile.outputs) as u32, counts.len() as u32, 2];
    let job = Job::new(candidate, &specs, &push, grid)
        .words("weights", bytes_to_words(&bytes))
        .words("x", words)
        .floats("bias", &rng.ints(EXPERTS * n, -9, 9))
        .floats("bias2", &rng.ints(EXPERTS * n, -9, 9))
        .same("residual", "x")
        .words("tiles", tiles)
        .words("order", order)
        .output("y", assignments * 2 * n);
    values(&format!("experts n {n} k {k}"), job.on(bench)?.words("y"), job.meaning(bench).words("y"))
}

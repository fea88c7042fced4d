//! Every kernel of `linear`: exact on integers, exact on one-hot rows, within the forward-error bound on random data,
//! the same bits for a row whatever stands beside it.

mod accuracy;
mod exact;
mod experts;
mod properties;
mod rows;

use std::collections::BTreeSet;

use vkllm_runtime::{Caps, DeviceKind, Need};
use vkllm_shaders::matrix::division;
use vkllm_shaders::ops::linear::{CANDIDATES, Push};
use vkllm_shaders::select::Candidate;

use super::job::{Job, bytes_to_words};
use super::weights::{Act, Activations, Scales, act_of, format_of, weights};
use super::{Bench, Check, List, Rng};

const NAN: u32 = 0x7fc0_0001;

pub(super) fn list(list: &mut List<'_>) {
    for subject in subjects(list) {
        exact::list(list, subject);
        experts::list(list, subject);
        accuracy::list(list, subject);
        properties::list(list, subject);
    }
    rows::list(list);
}

/// A kernel under test with the numbers of rows it is tested with.
#[derive(Clone, Copy)]
struct Subject {
    candidate: &'static Candidate,
    /// Meant for other subgroups than the device's.
    foreign: bool,
    rows: &'static [usize],
}

impl Subject {
    fn few(&self) -> usize {
        self.rows[0]
    }

    fn most(&self) -> usize {
        self.rows.iter().copied().filter(|rows| *rows <= 17).max().unwrap_or(self.rows[0])
    }
}

/// Formats whose kernels for other subgroup sizes are run in software: one of each way to unpack.
const FOREIGN_FORMATS: &[&str] = &["f32", "f16", "q8_0", "q4_0", "q4_k", "q6_k", "iq2_xs"];

/// Of those, the formats that software runs in every way a GPU would: small tiles, and experts.
const FOREIGN_EVERY_WAY: &[&str] = &["q8_0", "q4_k"];

/// Kernels to run. Rows of the table that differ in the class or in the range of rows alone are the same work.
fn subjects(list: &mut List<'_>) -> Vec<Subject> {
    let mut seen = BTreeSet::new();
    let mut subjects = Vec::new();
    for candidate in CANDIDATES {
        if !seen.insert((candidate.kernel.name, candidate.spec)) {
            continue;
        }
        let lacking = list.lacks(candidate);
        // Software drivers run kernels of GPUs too, which nobody else tests without one; each takes seconds to compile.
        let foreign = !list.meant(candidate);
        let is_software = matches!(list.caps.kind, DeviceKind::Cpu | DeviceKind::Reference);
        let format = candidate.kernel.axis("FORMAT");
        // A second choice is the first with other sizes.
        let formats = if candidate.rank < 10 { FOREIGN_EVERY_WAY } else { FOREIGN_FORMATS };
        let divides = candidate.fixed("TILE_OUTS").is_none() || division(candidate, list.caps).is_some();
        if let Some(reason) = lacking {
            list.skip(candidate, reason);
        } else if !divides {
            list.skip(candidate, "has no tile for the device's matrices".into());
        } else if foreign && !(is_software && formats.contains(&format)) {
            let (low, high) = candidate.subgroup;
            let lanes = list.caps.subgroup;
            list.skip(
                candidate,
                format!("is meant for subgroups of {low} to {high}, the device has {lanes}"),
            );
        } else {
            subjects.push(Subject { candidate, foreign, rows: row_counts(candidate, foreign) });
        }
    }
    subjects
}

/// A number of rows that the candidate does not fix is a pipeline of its own.
fn row_counts(candidate: &Candidate, foreign: bool) -> &'static [usize] {
    match (candidate.fixed("ROWS"), candidate.rows) {
        (Some(1), _) => &[1],
        (Some(2), _) => &[2],
        (Some(_), (low, 16)) if low > 1 => &[3, 16, 4, 7, 5, 13],
        (Some(_), _) => &[3, 1, 16, 4, 33, 7, 65, 5],
        (None, _) if foreign => &[3],
        (None, _) => &[1, 2, 3, 16, 4, 7, 5],
    }
}

/// What one workgroup covers, and the specialisation for it.
struct Tile {
    specs: Vec<(&'static str, u32)>,
    outputs: usize,
    rows: usize,
}

fn tile(candidate: &'static Candidate, rows: usize, caps: &Caps) -> Tile {
    let subgroup = caps.subgroup;
    if let Some((sides, outputs, rows)) = division(candidate, caps) {
        let specs = [("SG", subgroup)].into_iter().chain(sides).collect();
        return Tile { specs, outputs: outputs as usize, rows: rows as usize };
    }
    let wg = candidate.fixed("WG").unwrap_or(subgroup);
    let mut lanes = candidate.fixed("LANES").unwrap_or(1);
    if candidate.kernel.needs.contains(&Need::SubgroupShuffle) {
        lanes = lanes.min(subgroup);
    }
    let outputs = (wg / lanes * candidate.fixed("OUTS").unwrap_or(1)) as usize;
    let rows = candidate.fixed("ROWS").map_or(rows.min(16), |rows| rows as usize);
    let specs = vec![("WG", wg), ("SG", subgroup), ("LANES", lanes), ("ROWS", rows as u32)];
    Tile { specs, outputs, rows }
}

/// A product to compute: weights [n, k] times `rows` rows of k.
#[derive(Clone)]
struct Product {
    candidate: &'static Candidate,
    n: usize,
    k: usize,
    rows: usize,
    weights: Vec<u8>,
    x: Activations,
    /// None: switched off and bound to something else.
    bias: Option<Vec<f32>>,
    /// Rows of `n + pad`, one more than there are; in place with `in_place`.
    residual: Option<Vec<f32>>,
    in_place: bool,
    /// Elements between the rows of y beyond n.
    pad: usize,
    scale: f32,
}

impl Product {
    /// With bias and residual of zeros, so that it runs in the pipeline of the other cases.
    fn plain(
        candidate: &'static Candidate,
        (n, k, rows): (usize, usize, usize),
        weights: Vec<u8>,
        x: Activations,
    ) -> Self {
        let (bias, residual) = (Some(vec![0.0; n]), Some(vec![0.0; (rows + 1) * n]));
        Product { candidate, n, k, rows, weights, x, bias, residual, in_place: false, pad: 0, scale: 1.0 }
    }

    /// Random weights and rows.
    fn random(rng: &mut Rng, candidate: &'static Candidate, (n, k, rows): (usize, usize, usize)) -> Self {
        let weights = weights(rng, format_of(candidate), n, k, Scales::Plausible);
        let x = random_rows(rng, act_of(candidate), rows, k);
        Self::plain(candidate, (n, k, rows), weights, x)
    }

    fn job(&self, bench: &Bench) -> Job {
        let format = format_of(self.candidate);
        let tile = tile(self.candidate, self.rows, bench.device.caps());
        let stride = self.n + self.pad;
        let push = Push {
            k: self.k as u32,
            n: self.n as u32,
            rows: self.rows as u32,
            row_bytes: format.row_bytes(self.k).unwrap_or(0) as u32,
            x_stride: self.x.stride as u32,
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
        let mut x = self.x.words[..self.rows * self.x.stride].to_vec();
        x.extend(vec![NAN; self.x.stride]);
        let job = Job::new(self.candidate, &specs, &push, grid)
            .words("weights", bytes_to_words(&self.weights))
            .words("x", x);
        let job = match &self.bias {
            Some(bias) => job.floats("bias", &bias[..self.n]),
            None => job.same("bias", "x"),
        };
        let job = job.same("bias2", "x").same("tiles", "x").same("order", "x");
        let size = (self.rows + 1) * stride;
        match &self.residual {
            Some(residual) if self.in_place => job.floats("y", &residual[..size]).same("residual", "y"),
            Some(residual) => job.floats("residual", &residual[..size]).output("y", size),
            None => job.same("residual", "x").output("y", size),
        }
    }

    /// y of the device, [rows, n]; without padding alone.
    fn run(&self, bench: &Bench) -> Check<Vec<f32>> {
        Ok(self.job(bench).on(bench)?.floats("y")[..self.rows * self.n].to_vec())
    }

    fn what(&self) -> String {
        let Product { n, k, rows, .. } = self;
        format!("n {n} k {k} rows {rows} {:?}", self.candidate.spec)
    }
}

/// Random rows: floats, or q8 with arbitrary scales.
fn random_rows(rng: &mut Rng, act: Act, rows: usize, k: usize) -> Activations {
    if act != Act::Q8 {
        return Activations::floats(act, k, rng.normals(rows * k));
    }
    let integers: Vec<i8> = (0..rows * k).map(|_| rng.int(-127, 127) as i8).collect();
    Activations::new(act, k, &integers, || 0.01 + 0.01 * rng.unit().abs())
}

fn to_bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

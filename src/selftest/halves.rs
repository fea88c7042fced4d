//! `halve`: rows of f16 and the power of two of each, bit for bit.

use vkllm_shaders::ops::halve::{self, Push};
use vkllm_shaders::select::Candidate;

use super::compare::{bits, values};
use super::job::Job;
use super::{Bench, List, Rng};

pub fn list(list: &mut List<'_>) {
    for candidate in list.usable(halve::CANDIDATES) {
        for (k, rows, groups) in [(32, 1, 1), (32, 17, 5), (64, 3, 9), (96, 5, 1), (544, 4, 4)] {
            let property = format!("rows as meant k {k} rows {rows} groups {groups}");
            list.add(&[candidate.kernel], property, move |bench| {
                let mut rng = bench.rng(&format!("halve {k} {rows}"));
                let x = (0..rows).flat_map(|row| row_of(&mut rng, k, row)).collect::<Vec<f32>>();
                let job = job(bench, candidate, &x, (k, rows), groups);
                values(&"halve", job.on(bench)?.words("y_half"), job.meaning(bench).words("y_half"))
            });
        }
        list.add(&[candidate.kernel], "powers of two change the power alone", move |bench| {
            let mut rng = bench.rng("halve powers");
            let (k, power) = (96, rng.int(-60, 60));
            let x = rng.normals(k);
            let moved: Vec<f32> = x.iter().map(|x| x * 2f32.powi(power)).collect();
            let [plain, moved] = [&x, &moved].map(|x| job(bench, candidate, x, (k, 1), 1).on(bench));
            let (plain, moved) = (plain?, moved?);
            let (plain, moved) = (plain.words("y_half"), moved.words("y_half"));
            let scale = |words: &[u32]| f32::from_bits(words[k / 2]);
            bits(&"codes", &moved[..k / 2], &plain[..k / 2])?;
            values(&"power", &[scale(moved).to_bits()], &[(scale(plain) * 2f32.powi(power)).to_bits()])
        });
    }
}

/// Ordinary rows of all sizes, and those at which powers end.
fn row_of(rng: &mut Rng, k: usize, row: usize) -> Vec<f32> {
    let power = match row % 6 {
        1 => return vec![0.0; k],
        2 => 126,
        3 => -100,
        4 => 16,
        _ => rng.int(-20, 20),
    };
    (0..k).map(|_| (rng.unit() * 2f32.powi(power)).clamp(f32::MIN, f32::MAX)).collect()
}

fn job(
    bench: &Bench,
    candidate: &'static Candidate,
    x: &[f32],
    (k, rows): (usize, usize),
    groups: u32,
) -> Job {
    let push = Push { k: k as u32, rows: rows as u32, ..Default::default() };
    let specs = [("WG", bench.lanes()), ("SG", bench.lanes())];
    let job = Job::new(candidate, &specs, &push, [groups, 1, 1]).floats("x", x);
    job.output("y_half", rows * (k / 2 + 4))
}

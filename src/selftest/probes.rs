//! Probes of memory and arithmetic (`probe_*`): what they compute is exact, whatever it is good for.

use vkllm_shaders::ops::{probe_copy, probe_dot, probe_fma, probe_read, probe_write};
use vkllm_shaders::select::Candidate;

use super::compare::bits;
use super::job::Job;
use super::{Bench, Check, List};

/// (quads, workgroups): shares that are even, that are not, and workgroups that have none.
const SHAPES: [(u32, u32); 5] = [(1, 1), (7, 2), (512, 4), (1000, 7), (9, 8)];

pub fn list(list: &mut List<'_>) {
    let lanes = list.caps.subgroup;
    for (quads, groups) in SHAPES {
        let size = format!("quads {quads} groups {groups}");
        for candidate in list.usable(probe_read::CANDIDATES) {
            list.add(&[candidate.kernel], format!("all words once {size}"), move |bench| {
                let push = probe_read::Push { quads, ..Default::default() };
                let job = job(candidate, lanes, &push, groups).words("x", words(bench, quads));
                same(bench, &job.output("y", (groups * lanes) as usize))
            });
        }
        for candidate in list.usable(probe_write::CANDIDATES) {
            list.add(&[candidate.kernel], format!("every word {size}"), move |bench| {
                let push = probe_write::Push { quads, seed: 0x9e37_79b9, ..Default::default() };
                same(bench, &job(candidate, lanes, &push, groups).output("y", 4 * quads as usize))
            });
        }
        for candidate in list.usable(probe_copy::CANDIDATES) {
            list.add(&[candidate.kernel], format!("every word {size}"), move |bench| {
                let push = probe_copy::Push { quads, ..Default::default() };
                let job = job(candidate, lanes, &push, groups).words("x", words(bench, quads));
                same(bench, &job.output("y", 4 * quads as usize))
            });
        }
    }
    for (rounds, groups) in [(0, 1), (1, 2), (8, 3)] {
        for candidate in list.usable(probe_fma::CANDIDATES) {
            // Whole numbers below 2048, which all types hold.
            for (factor, term) in [(1.0, 3.0), (-1.0, 5.0), (0.0, 7.0), (2.0, -1.0)] {
                let property = format!("whole numbers rounds {rounds} factor {factor} term {term}");
                list.add(&[candidate.kernel], property, move |bench| {
                    let push = probe_fma::Push { rounds, factor, term, ..Default::default() };
                    let job = job(candidate, lanes, &push, groups);
                    same(bench, &job.output("y", (groups * lanes) as usize))
                });
            }
        }
        for candidate in list.usable(probe_dot::CANDIDATES) {
            for factor in [0x0102_0304, 0x80ff_7f01u32] {
                let property = format!("wraps rounds {rounds} factor {factor:x}");
                list.add(&[candidate.kernel], property, move |bench| {
                    let push = probe_dot::Push { rounds, factor, ..Default::default() };
                    let job = job(candidate, lanes, &push, groups);
                    same(bench, &job.output("y", (groups * lanes) as usize))
                });
            }
        }
    }
}

fn words(bench: &Bench, quads: u32) -> Vec<u32> {
    let mut rng = bench.rng(&format!("probe {quads}"));
    (0..4 * quads).map(|_| rng.word()).collect()
}

fn job<P: bytemuck::Pod>(candidate: &'static Candidate, lanes: u32, push: &P, groups: u32) -> Job {
    Job::new(candidate, &[("WG", lanes)], push, [groups, 1, 1])
}

fn same(bench: &Bench, job: &Job) -> Check {
    bits(&job.kernel.name, job.on(bench)?.words("y"), job.meaning(bench).words("y"))
}

//! From logits to tokens: every stage on the device chooses what the definition chooses, ties and NaN included, the
//! same in any company and every time.

use vkllm_runtime::Device;
use vkllm_shaders::ops::{argmax, sample, sample_collect, sample_histogram, sample_history, sample_penalize};
use vkllm_shaders::records::{Sampler, StepRow};
use vkllm_shaders::reference::sample::choose;
use vkllm_shaders::reference::sampler::{
    BIN_WORDS, BINS, HEAD_WORDS, Layout, NO_TOKEN, PARTIAL_WORDS, ROW_ADVANCE,
};
use vkllm_shaders::select::Candidate;

use super::lookup::step_rows;
use crate::harness::compare::{bits, values, within};
use crate::harness::job::Job;
use crate::harness::random::Rng;
use crate::harness::{Cases, device, skip, usable};

/// Elements between the rows of logits beyond the vocabulary; NaN there must not matter.
const PAD: usize = 3;

fn first(candidates: &'static [Candidate], device: &Device) -> &'static Candidate {
    usable(candidates, device)[0]
}

/// Rows of logits with a sampler and a position each.
#[derive(Clone)]
struct Draws {
    n: usize,
    logits: Vec<Vec<f32>>,
    samplers: Vec<Sampler>,
    positions: Vec<u32>,
}

/// A row's result: token, ln p, position, segment; and the step row afterwards.
type Drawn = ([u32; 4], StepRow);

fn greedy() -> Sampler {
    Sampler { min_p_distance: 3.0e38, repeat_penalty: 1.0, repeat_inverse: 1.0, ..Sampler::default() }
}

fn sampled(temperature: f32, top_k: u32, top_p: f32, min_p: f32, seed: u32) -> Sampler {
    Sampler {
        inverse_temperature: 1.0 / temperature,
        top_k,
        top_p: if top_p >= 1.0 { 0 } else { (f64::from(top_p) * 4_294_967_296.0) as u32 },
        min_p_distance: if min_p > 0.0 { -min_p.ln() } else { 3.0e38 },
        seed_low: seed,
        seed_high: !seed,
        ..greedy()
    }
}

impl Draws {
    fn len(&self) -> usize {
        self.logits.len()
    }

    fn rows(&self) -> Vec<StepRow> {
        // Results go to places in falling order; every second row advances.
        (0..self.len())
            .map(|r| StepRow {
                token: 77,
                position: self.positions[r],
                sampler_index: r as u32,
                segment: 100 + r as u32,
                out_index: (self.len() - 1 - r) as u32,
                flags: if r % 2 == 0 { ROW_ADVANCE } else { 0 },
                ..StepRow::default()
            })
            .collect()
    }

    fn words(&self) -> Vec<u32> {
        let pad = [f32::NAN.to_bits(); PAD];
        self.logits
            .iter()
            .flat_map(|row| row.iter().map(|l| l.to_bits()).chain(pad).collect::<Vec<_>>())
            .collect()
    }

    /// Runs the stages on the device.
    fn run(&self, device: &Device, is_sampled: bool) -> Vec<Drawn> {
        let layout = Layout::new(self.n);
        let (n, rows) = (self.n as u32, self.len() as u32);
        let list = (self.n / 16).max(1024);
        let part_stride = if is_sampled { layout.list + 2 * list } else { layout.head } as u32;
        let clear = if is_sampled { (HEAD_WORDS + BINS * BIN_WORDS) as u32 } else { 0 };
        let stride = (self.n + PAD) as u32;
        let list = list as u32;
        let lanes = device.caps().subgroup;
        let specs = [("WG", lanes), ("SG", lanes), ("SAMPLED", u32::from(is_sampled))];
        let samplers: Vec<u32> = bytemuck::cast_slice(&self.samplers).to_vec();

        let push = argmax::Push { n, stride, part_stride, clear, ..Default::default() };
        let grid = [layout.slices as u32, rows, 1];
        let job = Job::new(first(argmax::CANDIDATES, device), &specs, &push, grid)
            .words("logits", self.words())
            .output("part", (part_stride * rows) as usize);
        let mut part = job.on(device).words("part").to_vec();
        let want = job.meaning(device);
        bits(&format!("argmax of {n}"), &part, want.words("part"));
        if is_sampled {
            let grid = [layout.groups as u32, rows, 1];
            let push = sample_histogram::Push { n, stride, part_stride, ..Default::default() };
            let stage = Job::new(first(sample_histogram::CANDIDATES, device), &specs, &push, grid)
                .words("logits", self.words())
                .words("samplers", samplers.clone())
                .words("rows", step_rows(&self.rows()))
                .words("part", part);
            part = stage.on(device).words("part").to_vec();
            let push = sample_collect::Push { n, stride, part_stride, list, ..Default::default() };
            let stage = Job::new(first(sample_collect::CANDIDATES, device), &specs, &push, grid)
                .words("logits", self.words())
                .words("samplers", samplers.clone())
                .words("rows", step_rows(&self.rows()))
                .words("part", part);
            part = stage.on(device).words("part").to_vec();
        }
        let push = sample::Push { n, stride, part_stride, list, ..Default::default() };
        let out = Job::new(first(sample::CANDIDATES, device), &specs, &push, [1, rows, 1])
            .words("logits", self.words())
            .words("part", part)
            .words("samplers", samplers)
            .words("rows", step_rows(&self.rows()))
            .output("results", 4 * rows as usize)
            .on(device);
        let after: &[StepRow] = bytemuck::cast_slice(out.words("rows"));
        let result = |r: usize| {
            let at = 4 * (self.len() - 1 - r);
            let record: [u32; 4] = std::array::from_fn(|word| out.words("results")[at + word]);
            (record, after[r])
        };
        (0..self.len()).map(result).collect()
    }

    /// Runs and compares every row with the definition.
    fn check(&self, what: &str, device: &Device, is_sampled: bool) {
        for (r, (record, after)) in self.run(device, is_sampled).into_iter().enumerate() {
            let words: Vec<u32> = self.logits[r].iter().map(|l| l.to_bits()).collect();
            let position = self.positions[r];
            let want = choose(&words, &self.samplers[r], position + 1);
            let what = format!("{what}: row {r} of {} logits, {:?}", self.n, self.samplers[r]);
            let token = want.map_or(NO_TOKEN, |(token, _)| token);
            assert_eq!([record[0], record[2], record[3]], [token, position + 1, 100 + r as u32], "{what}");
            if let Some((_, ln_p)) = want.filter(|(_, ln_p)| ln_p.is_finite()) {
                // Masses are counted in units of 2^-21 per slice.
                let error = (f32::from_bits(record[1]) - ln_p).abs();
                assert!(
                    error <= 1e-4 * ln_p.abs().max(1.0),
                    "{what}: ln p {}, not {ln_p}",
                    f32::from_bits(record[1])
                );
            }
            let moves = r % 2 == 0 && token != NO_TOKEN;
            let expected = if moves { (token, position + 1) } else { (77, position) };
            assert_eq!((after.token, after.position), expected, "{what}: the step row");
        }
    }
}

fn with(sampler: Sampler, logits: Vec<Vec<f32>>) -> Draws {
    let count = logits.len();
    Draws {
        n: logits[0].len(),
        logits,
        samplers: vec![sampler; count],
        positions: (0..count as u32).map(|r| 10 + r).collect(),
    }
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let Some(device) = device() else { return };
    let mut rng = Rng::new("greedy");
    let mut cases = Cases::default();
    for n in [1, 2, 31, 511, 512, 513, 1024, 4103, 9000] {
        let normal = rng.normals(n);
        let mut ties = rng.ints(n, -3, 3);
        let last = n - 1;
        ties[last] = 3.0;
        let mut zeros = vec![0.0; n];
        zeros[last] = -0.0;
        let mut holes = rng.normals(n);
        holes.iter_mut().step_by(3).for_each(|l| *l = f32::NAN);
        holes.iter_mut().step_by(5).for_each(|l| *l = f32::NEG_INFINITY);
        let mut infinite = rng.normals(n);
        infinite[n / 2] = f32::INFINITY;
        let nothing = vec![f32::NAN; n];
        let lowest = vec![f32::NEG_INFINITY; n];
        let negative: Vec<f32> = normal.iter().map(|l| l - 1e4).collect();
        let mut end = normal.clone();
        end[last] = 50.0;
        let rows = vec![normal, ties, zeros, holes, infinite, nothing, lowest, negative, end];
        with(greedy(), rows).check("greedy", device, false);
        cases.add();
    }
}

/// How often the last stage looks at a token of a row that it has to scan, about.
const LANE_ITERATIONS: usize = 56;

/// Whether the driver limits loops without saying so.
fn ends_loops(device: &Device) -> bool {
    let driver = &device.caps().driver;
    driver.contains("llvmpipe")
        && ["Mesa 20.", "Mesa 21.", "Mesa 22."].iter().any(|mesa| driver.contains(mesa))
}

#[test]
fn sampled_tokens_are_those_of_the_definition() {
    let Some(device) = device() else { return };
    let mut rng = Rng::new("sampled");
    let mut cases = Cases::default();
    for n in [1, 40, 513, 3000, 9000] {
        let mut draws = with(greedy(), (0..11).map(|_| rng.normals(n)).collect());
        draws.samplers = vec![
            greedy(),
            sampled(1.0, 0, 1.0, 0.0, 1),
            sampled(0.8, 40, 0.95, 0.05, 2),
            sampled(0.8, 1, 1.0, 0.0, 3),
            sampled(2.0, 0, 0.5, 0.0, 4),
            sampled(1.5, 0, 1.0, 0.2, 5),
            sampled(0.7, 3, 0.9, 0.0, 6),
            sampled(1.0, 40, 1.0, 0.0, 7),
            sampled(5.0, 200, 0.99, 0.001, 8),
            sampled(1.0, 0, 0.95, 0.0, 9),
            sampled(0.01, 0, 1.0, 0.0, 10),
        ];
        for spread in [1.0, 4.0, 0.0] {
            // The last turn has ties alone: all logits alike but for a few.
            let mut draws = draws.clone();
            for row in &mut draws.logits {
                row.iter_mut()
                    .for_each(|l| *l = if spread == 0.0 { (*l * 0.7).round() } else { *l * spread });
            }
            if spread == 0.0
                && n * LANE_ITERATIONS > 65535 * device.caps().subgroup as usize
                && ends_loops(device)
            {
                skip("llvmpipe before Mesa 23 ends the loops of an invocation after 65535 iterations");
                continue;
            }
            draws.check(&format!("spread {spread}"), device, true);
            cases.add();
        }
    }
}

#[test]
fn holes_in_logits_are_never_drawn() {
    let Some(device) = device() else { return };
    let mut rng = Rng::new("holes");
    let n = 1500;
    let rows = (0..6).map(|r| {
        let mut row = rng.normals(n);
        row.iter_mut().skip(r).step_by(2).for_each(|l| *l = [f32::NAN, f32::NEG_INFINITY][r % 2]);
        if r == 5 { vec![f32::NAN; n] } else { row }
    });
    let mut draws = with(sampled(1.0, 50, 0.9, 0.0, 77), rows.collect());
    draws.samplers[1] = sampled(1.0, 0, 1.0, 0.0, 78);
    draws.check("holes", device, true);
}

#[test]
fn draws_repeat_and_do_not_depend_on_company() {
    let Some(device) = device() else { return };
    let mut rng = Rng::new("draws");
    let draws = with(sampled(1.2, 40, 0.95, 0.01, 5), (0..7).map(|_| rng.normals(2000)).collect());
    let all = draws.run(device, true);
    assert_eq!(
        draws.run(device, true).iter().map(|d| d.0).collect::<Vec<_>>(),
        all.iter().map(|d| d.0).collect::<Vec<_>>()
    );
    for (r, (record, _)) in all.iter().enumerate() {
        let one = Draws {
            n: draws.n,
            logits: vec![draws.logits[r].clone()],
            samplers: vec![draws.samplers[r]],
            positions: vec![draws.positions[r]],
        };
        assert_eq!(one.run(device, true)[0].0[..3], record[..3], "row {r}");
    }
    // The same logits at other positions are other draws.
    let same = Draws { logits: vec![draws.logits[0].clone(); 7], ..draws };
    let tokens: std::collections::BTreeSet<u32> = same.run(device, true).iter().map(|d| d.0[0]).collect();
    assert!(tokens.len() > 1, "seven positions draw one token");
}

#[test]
fn argmax_parts_name_each_slice() {
    let Some(device) = device() else { return };
    for candidate in usable(argmax::CANDIDATES, device) {
        let lanes = device.caps().subgroup;
        let push = argmax::Push { n: 1537, stride: 1540, part_stride: 20, clear: 4, ..Default::default() };
        let mut logits = vec![f32::NAN; 2 * 1540];
        for (id, value) in [(5, 1.0), (700, 2.0), (701, 2.0), (1536, -4.0), (1540 + 1024, 9.0)] {
            logits[id] = value;
        }
        let out = Job::new(candidate, &[("WG", lanes), ("SG", lanes)], &push, [4, 2, 1])
            .floats("logits", &logits)
            .output("part", 40)
            .on(device);
        let ids: Vec<u32> =
            (0..2 * 4).map(|i| out.words("part")[i / 4 * 20 + i % 4 * PARTIAL_WORDS + 1]).collect();
        assert_eq!(
            ids,
            [5, 700, NO_TOKEN, 1536, NO_TOKEN, NO_TOKEN, 1024, NO_TOKEN],
            "{}",
            candidate.kernel.name
        );
        assert_eq!(out.words("part")[12..16], [0; 4]);
    }
}

#[test]
fn history_and_penalties_follow_the_ring() {
    let Some(device) = device() else { return };
    let mut rng = Rng::new("penalties");
    let ring = 32;
    let (n, rows) = (50, 4);
    let penalised = |window: u32, history: u32| Sampler {
        // Powers of two: no driver rounds differently.
        repeat_penalty: 2.0,
        repeat_inverse: 0.5,
        frequency_penalty: 0.25,
        presence_penalty: 0.5,
        penalty_window: window,
        history,
        ..greedy()
    };
    let samplers = [penalised(8, 0), penalised(31, 32), penalised(0, 64), penalised(16, 96)];
    let record: Vec<u32> = bytemuck::cast_slice(&samplers).to_vec();
    let positions = [3, 40, 20, 70];
    let step: Vec<StepRow> = (0..rows)
        .map(|r| StepRow {
            token: 30 + r,
            position: positions[r as usize],
            sampler_index: r,
            ..StepRow::default()
        })
        .collect();
    let old: Vec<u32> = (0..4 * ring).map(|_| rng.int(0, 59) as u32).collect();
    let push = sample_history::Push { row_count: rows, ring, ..Default::default() };
    let job = Job::new(first(sample_history::CANDIDATES, device), &[("WG", 32)], &push, [2, 1, 1])
        .words("rows", step_rows(&step))
        .words("samplers", record.clone())
        .words("history", old);
    let history = job.on(device).words("history").to_vec();
    bits(&"history", &history, job.meaning(device).words("history"));
    let lanes = device.caps().subgroup;
    let push = sample_penalize::Push { n, stride: n + 3, ring, ..Default::default() };
    let mut logits = rng.ints((rows * (n + 3)) as usize, -20, 20);
    logits[7] = f32::NAN;
    logits[8] = f32::NEG_INFINITY;
    let job = Job::new(first(sample_penalize::CANDIDATES, device), &[("WG", lanes)], &push, [1, rows, 1])
        .floats("logits", &logits)
        .words("samplers", record)
        .words("rows", step_rows(&step))
        .words("history", history);
    values(&"penalties", job.on(device).words("logits"), job.meaning(device).words("logits"));
}

#[test]
fn frequencies_are_those_of_the_softmax() {
    let Some(device) = device() else { return };
    // One row of four logits drawn at 4096 positions; expected counts within five deviations.
    let logits = [0.0f32, 1.0, 2.0, -1.0];
    let count = 4096;
    let mut draws = with(sampled(1.0, 0, 1.0, 0.0, 123), vec![logits.to_vec(); count]);
    draws.positions = (0..count as u32).collect();
    let mut seen = [0.0f32; 4];
    for (record, _) in draws.run(device, true) {
        seen[record[0] as usize] += 1.0;
    }
    let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    for (got, logit) in seen.iter().zip(logits) {
        let p = f64::from(logit).exp() / total;
        let deviation = (count as f64 * p * (1.0 - p)).sqrt();
        let off = (f64::from(*got) - p * count as f64).abs();
        assert!(off <= 5.0 * deviation, "{got} of {count} draws, expected {}", p * count as f64);
    }
    within(&"all draws", &[seen.iter().sum()], &[count as f64], &[0.0]);
}

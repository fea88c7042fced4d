//! From logits to tokens: every stage on the device chooses what the definition chooses, ties and NaN included, the
//! same in any company and every time.

use vkllm_shaders::ops::{argmax, sample, sample_collect, sample_histogram, sample_history, sample_penalize};
use vkllm_shaders::records::{Sampler, StepRow};
use vkllm_shaders::reference::sample::choose;
use vkllm_shaders::reference::sampler::{
    BIN_WORDS, BINS, HEAD_WORDS, Layout, NO_TOKEN, PARTIAL_WORDS, ROW_ADVANCE,
};
use vkllm_shaders::select::Candidate;

use super::compare::{bits, values};
use super::job::Job;
use super::lookup::step_rows;
use super::{Bench, Check, Fault, List, ensure};

/// Elements between the rows of logits beyond the vocabulary; NaN there must not matter.
const PAD: usize = 3;

/// The kernels that draw a token.
#[derive(Clone, Copy)]
struct Stages {
    argmax: &'static Candidate,
    histogram: &'static Candidate,
    collect: &'static Candidate,
    sample: &'static Candidate,
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
    fn run(&self, bench: &Bench, stages: Stages, is_sampled: bool) -> Check<Vec<Drawn>> {
        let layout = Layout::new(self.n);
        let (n, rows) = (self.n as u32, self.len() as u32);
        let list = (self.n / 16).max(1024);
        let part_stride = if is_sampled { layout.list + 2 * list } else { layout.head } as u32;
        let clear = if is_sampled { (HEAD_WORDS + BINS * BIN_WORDS) as u32 } else { 0 };
        let stride = (self.n + PAD) as u32;
        let list = list as u32;
        let lanes = bench.lanes();
        let specs = [("WG", lanes), ("SG", lanes), ("SAMPLED", u32::from(is_sampled))];
        let samplers: Vec<u32> = bytemuck::cast_slice(&self.samplers).to_vec();

        let push = argmax::Push { n, stride, part_stride, clear, ..Default::default() };
        let grid = [layout.slices as u32, rows, 1];
        let job = Job::new(stages.argmax, &specs, &push, grid)
            .words("logits", self.words())
            .output("part", (part_stride * rows) as usize);
        let mut part = job.on(bench)?.words("part").to_vec();
        bits(&format!("argmax of {n}"), &part, job.meaning(bench).words("part"))?;
        if is_sampled {
            let grid = [layout.groups as u32, rows, 1];
            let push = sample_histogram::Push { n, stride, part_stride, ..Default::default() };
            let stage = Job::new(stages.histogram, &specs, &push, grid)
                .words("logits", self.words())
                .words("samplers", samplers.clone())
                .words("rows", step_rows(&self.rows()))
                .words("part", part);
            part = stage.on(bench)?.words("part").to_vec();
            bits(&format!("histogram of {n}"), &part, stage.meaning(bench).words("part"))?;
            let push = sample_collect::Push { n, stride, part_stride, list, ..Default::default() };
            let stage = Job::new(stages.collect, &specs, &push, grid)
                .words("logits", self.words())
                .words("samplers", samplers.clone())
                .words("rows", step_rows(&self.rows()))
                .words("part", part);
            part = stage.on(bench)?.words("part").to_vec();
            let want = stage.meaning(bench);
            for row in 0..self.len() {
                let words =
                    |part: &[u32]| part[row * part_stride as usize..][..part_stride as usize].to_vec();
                collected(&layout, &words(&part), &words(want.words("part")))?;
            }
        }
        let push = sample::Push { n, stride, part_stride, list, ..Default::default() };
        let out = Job::new(stages.sample, &specs, &push, [1, rows, 1])
            .words("logits", self.words())
            .words("part", part)
            .words("samplers", samplers)
            .words("rows", step_rows(&self.rows()))
            .output("results", 4 * rows as usize)
            .on(bench)?;
        let after: &[StepRow] = bytemuck::cast_slice(out.words("rows"));
        let result = |r: usize| {
            let at = 4 * (self.len() - 1 - r);
            let record: [u32; 4] = std::array::from_fn(|word| out.words("results")[at + word]);
            (record, after[r])
        };
        Ok((0..self.len()).map(result).collect())
    }

    /// Runs and compares every row with the definition.
    fn check(&self, bench: &Bench, stages: Stages, is_sampled: bool) -> Check {
        for (r, (record, after)) in self.run(bench, stages, is_sampled)?.into_iter().enumerate() {
            let words: Vec<u32> = self.logits[r].iter().map(|l| l.to_bits()).collect();
            let position = self.positions[r];
            let want = choose(&words, &self.samplers[r], position + 1);
            let what = format!("row {r} of {} logits, {:?}", self.n, self.samplers[r]);
            let token = want.map_or(NO_TOKEN, |(token, _)| token);
            bits(&what, &[record[0], record[2], record[3]], &[token, position + 1, 100 + r as u32])?;
            if let Some((_, ln_p)) = want.filter(|(_, ln_p)| ln_p.is_finite()) {
                // Masses are counted in units of 2^-21 per slice.
                let got = f32::from_bits(record[1]);
                let close = (got - ln_p).abs() <= 1e-4 * ln_p.abs().max(1.0);
                ensure(close, || format!("{what}: ln p is {got}, expected {ln_p}"))?;
            }
            let moves = r % 2 == 0 && token != NO_TOKEN;
            let (token, position) = if moves { (token, position + 1) } else { (77, position) };
            bits(&format!("{what}: the step row"), &[after.token, after.position], &[token, position])?;
        }
        Ok(())
    }
}

/// Compares what a row keeps: all words, and the list in any order.
fn collected(layout: &Layout, got: &[u32], want: &[u32]) -> Check {
    bits(&"what is kept for certain", &got[..layout.list], &want[..layout.list])?;
    let listed = want[layout.head + 1] as usize;
    let sorted = |part: &[u32]| -> Option<Vec<u32>> {
        let mut pairs: Vec<_> = part[layout.list..].get(..2 * listed)?.chunks_exact(2).collect();
        pairs.sort_unstable();
        Some(pairs.concat())
    };
    match (sorted(got), sorted(want)) {
        (Some(got), Some(want)) => bits(&"what remains to be decided", &got, &want),
        // More than the list holds: it holds some of them.
        _ => Ok(()),
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

pub fn list(list: &mut List<'_>) {
    let penalizers = list.usable(sample_penalize::CANDIDATES);
    for history in list.usable(sample_history::CANDIDATES) {
        for &penalize in &penalizers {
            for seed in 0..6 {
                let kernels = [history.kernel, penalize.kernel];
                list.add(&kernels, format!("follows the ring draw {seed}"), move |bench| {
                    ring(bench, history, penalize, seed, false)
                });
                let kernels = [penalize.kernel, history.kernel];
                list.add(&kernels, format!("follows the ring draw {seed}"), move |bench| {
                    ring(bench, history, penalize, seed, true)
                });
            }
        }
    }
    let argmaxes = list.usable(argmax::CANDIDATES);
    let histograms = list.usable(sample_histogram::CANDIDATES);
    let collectors = list.usable(sample_collect::CANDIDATES);
    let samplers = list.usable(sample::CANDIDATES);
    for &argmax in &argmaxes {
        list.add(&[argmax.kernel], "parts name each slice", move |bench| slices(bench, argmax));
        // Stages of a device all sum in the same way.
        let alike = |other: &&&'static Candidate| other.kernel.axis("SUMS") == argmax.kernel.axis("SUMS");
        for &histogram in histograms.iter().filter(alike) {
            for &collect in collectors.iter().filter(alike) {
                for &sample in samplers.iter().filter(alike) {
                    draws(list, Stages { argmax, histogram, collect, sample });
                }
            }
        }
    }
}

/// Greedy and sampled tokens, listed under each of the kernels that draw them.
fn draws(list: &mut List<'_>, stages: Stages) {
    let Stages { argmax, histogram, collect, sample } = stages;
    let short = [argmax.kernel, sample.kernel];
    for n in [1, 2, 31, 100, 511, 512, 513, 1024, 4103, 9000] {
        list.add(&short, format!("first of the largest of {n}"), move |bench| {
            greedy_rows(bench, n).check(bench, stages, false)
        });
    }
    let long = [sample.kernel, argmax.kernel, histogram.kernel, collect.kernel];
    let rotated = |by: usize| {
        let mut kernels = long;
        kernels.rotate_left(by);
        kernels
    };
    for n in [1, 40, 513, 3000, 9000] {
        for (turn, spread) in ["1", "4", "ties"].into_iter().enumerate() {
            list.add(
                &rotated(2 * turn % 4),
                format!("the definition's tokens of {n} spread {spread}"),
                move |bench| {
                    if turn == 2 && n * LANE_ITERATIONS > 65535 * bench.lanes() as usize && ends_loops(bench)
                    {
                        let reason =
                            "llvmpipe before Mesa 23 ends the loops of an invocation after 65535 iterations";
                        return Err(Fault::Skipped(reason.into()));
                    }
                    sampled_rows(bench, n, turn).check(bench, stages, true)
                },
            );
        }
    }
    for seed in 0..3 {
        list.add(&rotated(seed + 1), format!("holes are never drawn {seed}"), move |bench| {
            holes(bench, seed).check(bench, stages, true)
        });
    }
    list.add(&long, "draws repeat", move |bench| {
        let draws = company(bench);
        let words = |rows: Vec<Drawn>| rows.into_iter().flat_map(|row| row.0).collect::<Vec<_>>();
        bits(&"again", &words(draws.run(bench, stages, true)?), &words(draws.run(bench, stages, true)?))
    });
    for row in 0..7 {
        list.add(&rotated(row % 4), format!("draw {row} alone and among seven"), move |bench| {
            let draws = company(bench);
            let all = draws.run(bench, stages, true)?;
            let one = Draws {
                n: draws.n,
                logits: vec![draws.logits[row].clone()],
                samplers: vec![draws.samplers[row]],
                positions: vec![draws.positions[row]],
            };
            bits(&"alone", &one.run(bench, stages, true)?[0].0[..3], &all[row].0[..3])
        });
    }
    list.add(&long, "other positions are other draws", move |bench| {
        let draws = company(bench);
        let same = Draws { logits: vec![draws.logits[0].clone(); 7], ..draws };
        let rows = same.run(bench, stages, true)?;
        let tokens: std::collections::BTreeSet<u32> = rows.iter().map(|row| row.0[0]).collect();
        ensure(tokens.len() > 1, || "seven positions draw one token".into())
    });
    list.add(&long, "frequencies are those of the softmax", move |bench| frequencies(bench, stages));
    for shift in [-64, 8, 96] {
        list.add(&rotated(1), format!("a shift of all logits by {shift} changes no draw"), move |bench| {
            // Multiples of 1/8 below 128: the shifted ones are exact.
            let mut rng = bench.rng("shifted logits");
            let rows = (0..5).map(|_| rng.ints(700, -40, 40).iter().map(|l| l / 8.0).collect());
            let plain = with(sampled(0.9, 40, 0.95, 0.0, 11), rows.collect());
            let moved = plain.logits.iter().map(|row| row.iter().map(|l| l + shift as f32).collect());
            let moved = Draws { logits: moved.collect(), ..plain.clone() };
            let tokens = |rows: Vec<Drawn>| rows.iter().map(|row| row.0[0]).collect::<Vec<_>>();
            let (a, b) = (plain.run(bench, stages, true)?, moved.run(bench, stages, true)?);
            bits(&"shifted logits", &tokens(b), &tokens(a))
        });
    }
}

/// How often the last stage looks at a token of a row that it has to scan, about.
const LANE_ITERATIONS: usize = 56;

/// Whether the driver limits loops without saying so.
fn ends_loops(bench: &Bench) -> bool {
    let driver = &bench.device().caps().driver;
    driver.contains("llvmpipe")
        && ["Mesa 20.", "Mesa 21.", "Mesa 22."].iter().any(|mesa| driver.contains(mesa))
}

fn greedy_rows(bench: &Bench, n: usize) -> Draws {
    let mut rng = bench.rng(&format!("greedy {n}"));
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
    with(greedy(), vec![normal, ties, zeros, holes, infinite, nothing, lowest, negative, end])
}

fn sampled_rows(bench: &Bench, n: usize, turn: usize) -> Draws {
    let mut rng = bench.rng(&format!("sampled {n}"));
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
    // The last turn has ties alone: all logits alike but for a few.
    for logit in draws.logits.iter_mut().flatten() {
        *logit = [*logit, *logit * 4.0, (*logit * 0.7).round()][turn];
    }
    draws
}

fn holes(bench: &Bench, seed: usize) -> Draws {
    let mut rng = bench.rng(&format!("holes {seed}"));
    let n = 1500;
    let rows = (0..6).map(|r| {
        let mut row = rng.normals(n);
        row.iter_mut().skip(r).step_by(2).for_each(|l| *l = [f32::NAN, f32::NEG_INFINITY][r % 2]);
        if r == 5 { vec![f32::NAN; n] } else { row }
    });
    let mut draws = with(sampled(1.0, 50, 0.9, 0.0, 77), rows.collect());
    draws.samplers[1] = sampled(1.0, 0, 1.0, 0.0, 78);
    draws
}

fn company(bench: &Bench) -> Draws {
    let mut rng = bench.rng("draws");
    with(sampled(1.2, 40, 0.95, 0.01, 5), (0..7).map(|_| rng.normals(2000)).collect())
}

fn slices(bench: &Bench, candidate: &'static Candidate) -> Check {
    let lanes = bench.lanes();
    let push = argmax::Push { n: 1537, stride: 1540, part_stride: 20, clear: 4, ..Default::default() };
    let mut logits = vec![f32::NAN; 2 * 1540];
    for (id, value) in [(5, 1.0), (700, 2.0), (701, 2.0), (1536, -4.0), (1540 + 1024, 9.0)] {
        logits[id] = value;
    }
    let out = Job::new(candidate, &[("WG", lanes), ("SG", lanes)], &push, [4, 2, 1])
        .floats("logits", &logits)
        .output("part", 40)
        .on(bench)?;
    let id = |i: usize| out.words("part")[i / 4 * 20 + i % 4 * PARTIAL_WORDS + 1];
    let ids: Vec<u32> = (0..2 * 4).map(id).collect();
    bits(&"ids", &ids, &[5, 700, NO_TOKEN, 1536, NO_TOKEN, NO_TOKEN, 1024, NO_TOKEN])?;
    bits(&"cleared words", &out.words("part")[12..16], &[0; 4])
}

fn ring(
    bench: &Bench,
    history: &'static Candidate,
    penalize: &'static Candidate,
    seed: usize,
    with_logits: bool,
) -> Check {
    let mut rng = bench.rng(&format!("penalties {seed}"));
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
    let positions = if seed == 0 { [3, 40, 20, 70] } else { std::array::from_fn(|_| rng.int(0, 99) as u32) };
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
    let job = Job::new(history, &[("WG", 32)], &push, [2, 1, 1])
        .words("rows", step_rows(&step))
        .words("samplers", record.clone())
        .words("history", old);
    let kept = job.meaning(bench).words("history").to_vec();
    bits(&"history", job.on(bench)?.words("history"), &kept)?;
    if !with_logits {
        return Ok(());
    }
    let lanes = bench.lanes();
    let push = sample_penalize::Push { n, stride: n + 3, ring, ..Default::default() };
    let mut logits = rng.ints((rows * (n + 3)) as usize, -20, 20);
    logits[7] = f32::NAN;
    logits[8] = f32::NEG_INFINITY;
    let job = Job::new(penalize, &[("WG", lanes), ("SG", lanes)], &push, [1, rows, 1])
        .floats("logits", &logits)
        .words("samplers", record)
        .words("rows", step_rows(&step))
        .words("history", kept);
    values(&"penalties", job.on(bench)?.words("logits"), job.meaning(bench).words("logits"))
}

/// One row of four logits drawn at 4096 positions; expected counts within five deviations.
fn frequencies(bench: &Bench, stages: Stages) -> Check {
    let logits = [0.0f32, 1.0, 2.0, -1.0];
    let count = 4096;
    let mut draws = with(sampled(1.0, 0, 1.0, 0.0, 123), vec![logits.to_vec(); count]);
    draws.positions = (0..count as u32).collect();
    let mut seen = [0.0f64; 4];
    for (record, _) in draws.run(bench, stages, true)? {
        let token = record[0] as usize;
        ensure(token < seen.len(), || format!("token {token} of four was drawn"))?;
        seen[token] += 1.0;
    }
    let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    for (got, logit) in seen.iter().zip(logits) {
        let p = f64::from(logit).exp() / total;
        let (want, deviation) = (p * count as f64, (count as f64 * p * (1.0 - p)).sqrt());
        ensure((got - want).abs() <= 5.0 * deviation, || format!("{got} of {count} draws, expected {want}"))?;
    }
    Ok(())
}

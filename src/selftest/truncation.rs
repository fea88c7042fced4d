//! Tokens drawn from what truncation leaves, drafts judged by what they were drawn from, biases, and logits of few tokens:
//! every device leaves and chooses what the definitions do.

use vkllm_shaders::ops::{argmax, sample_bias, sample_draw, sample_truncate, spread};
use vkllm_shaders::records::{Sampler, StepRow};
use vkllm_shaders::reference::sampler::{
    Layout, PARTIAL_WORDS, PURPOSE_DRAFT, PURPOSE_DRAW, ROW_ADVANCE, ROW_IDLE,
};
use vkllm_shaders::select::Candidate;

use super::compare::{bits, values};
use super::job::{Job, to_words};
use super::lookup::step_rows;
use super::random::Rng;
use super::{Bench, Check, List, ensure};

const WG: (&str, u32) = ("WG", 64);

fn sampler(temperature: f32, top_k: u32, typical_p: f32, top_p: f32, min_p: f32, seed: u32) -> Sampler {
    let share = |of_one: f32| if of_one >= 1.0 { 0 } else { (f64::from(of_one) * 4_294_967_296.0) as u32 };
    Sampler {
        inverse_temperature: if temperature > 0.0 { 1.0 / temperature } else { 0.0 },
        top_k,
        typical_p: share(typical_p),
        top_p: share(top_p),
        min_p_distance: if min_p > 0.0 { -min_p.ln() } else { 3.0e38 },
        seed_low: seed,
        seed_high: !seed,
        ..Sampler::default()
    }
}

fn samplers() -> Vec<Sampler> {
    vec![
        sampler(0.0, 3, 0.5, 0.5, 0.1, 0),
        sampler(1.0, 0, 1.0, 1.0, 0.0, 1),
        sampler(1.0, 0, 0.5, 1.0, 0.0, 2),
        sampler(0.8, 0, 0.2, 0.9, 0.0, 3),
        sampler(0.8, 40, 0.95, 0.9, 0.05, 4),
        sampler(1.5, 7, 0.7, 1.0, 0.3, 5),
        sampler(1.0, 1, 0.3, 0.3, 0.0, 6),
        sampler(2.0, 0, 1.0, 0.6, 0.01, 7),
        sampler(0.7, 100, 0.000_01, 1.0, 0.0, 8),
    ]
}

pub fn list(list: &mut List<'_>) {
    for candidate in list.usable(sample_bias::CANDIDATES) {
        for seed in 0..2 {
            list.add(&[candidate.kernel], format!("single tokens alone {seed}"), move |bench| {
                biased(bench, candidate, seed)
            });
        }
    }
    for candidate in list.usable(spread::CANDIDATES) {
        for (few, n) in [(1, 5), (7, 200), (513, 3000)] {
            list.add(&[candidate.kernel], format!("{few} of {n} tokens in their places"), move |bench| {
                placed(bench, candidate, few, n)
            });
        }
    }
    let Some(&parts) = list.usable(argmax::CANDIDATES).first() else { return };
    for candidate in list.usable(sample_truncate::CANDIDATES) {
        for n in [1, 2, 40, 513, 2100] {
            for (turn, spread) in ["1", "4", "ties", "holes"].into_iter().enumerate() {
                list.add(&[candidate.kernel], format!("what is left of {n} spread {spread}"), move |bench| {
                    left(bench, parts, candidate, n, turn)
                });
            }
        }
    }
    for candidate in list.usable(sample_draw::CANDIDATES) {
        for n in [1, 40, 700] {
            for (name, purpose) in [("text", PURPOSE_DRAW), ("draft", PURPOSE_DRAFT)] {
                list.add(&[candidate.kernel], format!("a {name}'s tokens of {n}"), move |bench| {
                    drawn(bench, parts, candidate, n, Some(purpose))
                });
            }
            list.add(&[candidate.kernel], format!("judges drafts of {n}"), move |bench| {
                drawn(bench, parts, candidate, n, None)
            });
        }
    }
}

fn biased(bench: &Bench, candidate: &'static Candidate, seed: usize) -> Check {
    let mut rng = bench.rng(&format!("biases {seed}"));
    let (n, rows) = (200u32, 3u32);
    let mut logits = rng.ints((n + 3) as usize * rows as usize, -40, 40);
    logits[5] = f32::NAN;
    logits[6] = f32::NEG_INFINITY;
    // The second has none, the third a token that does not exist.
    let lists =
        [vec![(3, 2.5), (5, 1.0), (6, 1.0), (199, f32::NEG_INFINITY)], vec![], vec![(0, -4.0), (n, 9.0)]];
    let mut words = Vec::new();
    let samplers: Vec<Sampler> = lists
        .iter()
        .map(|list| {
            let biases = words.len() as u32;
            words.extend(list.iter().flat_map(|&(token, bias): &(u32, f32)| [token, bias.to_bits()]));
            Sampler { biases, bias_count: list.len() as u32, ..Sampler::default() }
        })
        .collect();
    let step: Vec<StepRow> =
        (0..rows).map(|r| StepRow { sampler_index: (r + seed as u32) % 3, ..StepRow::default() }).collect();
    let push = sample_bias::Push { n, stride: n + 3, ..Default::default() };
    let job = Job::new(candidate, &[WG], &push, [1, rows, 1])
        .floats("logits", &logits)
        .words("samplers", bytemuck::cast_slice(&samplers).to_vec())
        .words("rows", step_rows(&step))
        .words("biases", words);
    let want = job.meaning(bench);
    ensure(want.words("logits") != to_words(&logits).as_slice(), || "no logit was changed".into())?;
    values(&"biases", job.on(bench)?.words("logits"), want.words("logits"))
}

fn placed(bench: &Bench, candidate: &'static Candidate, few: usize, n: usize) -> Check {
    let mut rng = bench.rng(&format!("places {few}"));
    let x = to_words(&rng.normals(2 * few));
    let mut places = vec![u32::MAX; n];
    for (place, &token) in rng.order(n)[..few].iter().enumerate() {
        places[token] = place as u32;
    }
    let push = spread::Push { count: few as u32, n: n as u32, ..Default::default() };
    let job = Job::new(candidate, &[WG], &push, [2, 2, 1])
        .words("x", x.clone())
        .words("places", places.clone())
        .output("y", 2 * n);
    let row = |row: usize| places.iter().map(move |&place| (row, place));
    let want: Vec<u32> = row(0)
        .chain(row(1))
        .map(|(row, place)| if place == u32::MAX { 0xff80_0000 } else { x[row * few + place as usize] })
        .collect();
    bits(&"spread", job.on(bench)?.words("y"), &want)
}

/// One row of logits for each sampler.
fn rows_of(rng: &mut Rng, n: usize, count: usize, turn: usize) -> Vec<Vec<f32>> {
    let mut rows: Vec<Vec<f32>> = (0..count).map(|_| rng.normals(n)).collect();
    for (index, logit) in rows.iter_mut().flatten().enumerate() {
        *logit = match turn {
            0 => *logit,
            1 => *logit * 4.0,
            2 => (*logit * 0.7).round(),
            _ if index % 3 == 0 => [f32::NAN, f32::NEG_INFINITY][index % 2],
            _ => *logit * 30.0,
        };
    }
    rows
}

/// Logits with what `argmax` says of them.
struct Rows {
    n: usize,
    words: Vec<u32>,
    part: Vec<u32>,
    stride: u32,
}

impl Rows {
    fn new(bench: &Bench, parts: &'static Candidate, rows: &[Vec<f32>]) -> Self {
        let n = rows[0].len();
        let stride = Layout::new(n).slices * PARTIAL_WORDS;
        let words: Vec<u32> = rows.iter().flat_map(|row| to_words(row)).collect();
        let push =
            argmax::Push { n: n as u32, stride: n as u32, part_stride: stride as u32, ..Default::default() };
        let lanes = bench.lanes();
        let grid = [Layout::new(n).slices as u32, rows.len() as u32, 1];
        let job = Job::new(parts, &[("WG", lanes), ("SG", lanes)], &push, grid)
            .words("logits", words.clone())
            .output("part", stride * rows.len());
        Rows { n, words, part: job.meaning(bench).words("part").to_vec(), stride: stride as u32 }
    }
}

fn left(
    bench: &Bench,
    parts: &'static Candidate,
    candidate: &'static Candidate,
    n: usize,
    turn: usize,
) -> Check {
    let samplers = samplers();
    let mut rng = bench.rng(&format!("left {n} {turn}"));
    let rows = Rows::new(bench, parts, &rows_of(&mut rng, n, samplers.len(), turn));
    let step: Vec<StepRow> =
        (0..samplers.len() as u32).map(|r| StepRow { sampler_index: r, ..StepRow::default() }).collect();
    let push = sample_truncate::Push {
        n: n as u32,
        stride: n as u32,
        part_stride: rows.stride,
        ..Default::default()
    };
    let lanes = bench.lanes();
    let job = Job::new(candidate, &[("WG", lanes), ("SG", lanes)], &push, [1, samplers.len() as u32, 1])
        .words("logits", rows.words.clone())
        .words("samplers", bytemuck::cast_slice(&samplers).to_vec())
        .words("rows", step_rows(&step))
        .words("part", rows.part);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    for (r, sampler) in samplers.iter().enumerate() {
        let row = r * n..(r + 1) * n;
        // What cannot be chosen is removed or stays what it is.
        let known = |words: &[u32]| -> Vec<u32> {
            let is_number = |&word: &u32| !f32::from_bits(word).is_nan();
            words.iter().map(|word| if is_number(word) { *word } else { 0xff80_0000 }).collect()
        };
        let (got, want) = (&got.words("logits")[row.clone()], &want.words("logits")[row]);
        bits(&format!("row {r}, {sampler:?}"), &known(got), &known(want))?;
    }
    Ok(())
}

/// Tokens drawn for a purpose, or drafts judged.
fn drawn(
    bench: &Bench,
    parts: &'static Candidate,
    candidate: &'static Candidate,
    n: usize,
    purpose: Option<u32>,
) -> Check {
    let mut rng = bench.rng(&format!("drawn {n}"));
    let count = 24usize;
    // A row without any number, and greedy rows among the others.
    let mut logits = rows_of(&mut rng, n, count, 0);
    logits[3] = vec![f32::NAN; n];
    let rows = Rows::new(bench, parts, &logits);
    let samplers = [
        sampler(0.8, 0, 1.0, 1.0, 0.0, 9),
        sampler(0.0, 0, 1.0, 1.0, 0.0, 9),
        sampler(1.3, 0, 1.0, 1.0, 0.0, 10),
    ];
    let step: Vec<StepRow> = (0..count as u32)
        .map(|r| StepRow {
            token: rng.int(0, n as i32) as u32,
            position: 20 + r,
            sampler_index: [0, 2, 0, 2, 1][r as usize % 5],
            segment: r / 9,
            out_index: count as u32 - 1 - r,
            flags: if r % 7 == 6 { ROW_IDLE } else { ROW_ADVANCE * (r % 2) },
            ..StepRow::default()
        })
        .collect();
    // The drafter knows a little less, and is right now and then.
    let offer_n = n.div_ceil(2);
    let mut offers = rows_of(&mut rng, offer_n, count, 0);
    for (offer, row) in offers.iter_mut().zip(&logits).step_by(2) {
        offer.copy_from_slice(&row[..offer_n]);
    }
    offers[5] = vec![f32::NEG_INFINITY; offer_n];
    let push = sample_draw::Push {
        n: n as u32,
        stride: n as u32,
        part_stride: rows.stride,
        row_count: count as u32,
        offer_n: offer_n as u32,
        offer_stride: offer_n as u32,
        purpose: purpose.unwrap_or(PURPOSE_DRAW),
        ..Default::default()
    };
    let lanes = bench.lanes();
    let specs = [("WG", lanes), ("SG", lanes), ("OFFERS", u32::from(purpose.is_none()))];
    let job = Job::new(candidate, &specs, &push, [1, count as u32, 1])
        .words("logits", rows.words)
        .words("part", rows.part)
        .words("samplers", bytemuck::cast_slice(&samplers).to_vec())
        .words("rows", step_rows(&step))
        .words("offers", offers.iter().flat_map(|row| to_words(row)).collect())
        .output("results", 4 * count);
    let (got, want) = (job.on(bench)?, job.meaning(bench));
    for r in 0..count {
        let (got, want) = (&got.words("results")[4 * r..4 * r + 4], &want.words("results")[4 * r..4 * r + 4]);
        let what = format!("result {r} of {}", rows.n);
        bits(&what, &[got[0], got[2], got[3]], &[want[0], want[2], want[3]])?;
        let (got, want) = (f32::from_bits(got[1]), f32::from_bits(want[1]));
        let close = (got - want).abs() <= 1e-4 * want.abs().max(1.0);
        ensure(close, || format!("{what}: ln p is {got}, expected {want}"))?;
    }
    bits(&"step rows", got.words("rows"), want.words("rows"))
}

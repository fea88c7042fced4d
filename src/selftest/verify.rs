//! `verify_rows` and `accept`: what they mean, on every length of draft and every place where it can end; and what
//! penalties see in rounds that reject drafts.

use vkllm_shaders::ops::{accept, gate, sample_history, sample_penalize, verify_rows};
use vkllm_shaders::records::{Sampler, StepRow};
use vkllm_shaders::reference::sampler::{NO_TOKEN, ROW_IDLE};
use vkllm_shaders::select::Candidate;

use super::compare::{bits, values};
use super::job::{Job, Out, POISON, to_words};
use super::lookup::step_rows;
use super::{Bench, Check, List};

const WG: (&str, u32) = ("WG", 64);
const VOCAB: u32 = 100;

pub fn list(list: &mut List<'_>) {
    for candidate in list.usable(verify_rows::CANDIDATES) {
        for rows in [1, 2, 5, 17, 64, 65] {
            let property = format!("rows follow the cursor {rows}");
            list.add(&[candidate.kernel], property, move |bench| follow(bench, candidate, rows));
        }
    }
    for candidate in list.usable(gate::CANDIDATES) {
        for words in [3, 64, 1000] {
            let property = format!("{words} words or zeros");
            list.add(&[candidate.kernel], property, move |bench| decided(bench, candidate, words));
        }
    }
    for candidate in list.usable(accept::CANDIDATES) {
        for drafts in [0, 1, 2, 4, 7, 16, 64] {
            let property = format!("the longest agreeing prefix of {drafts}");
            list.add(&[candidate.kernel], property, move |bench| prefix(bench, candidate, drafts));
        }
        list.add(&[candidate.kernel], "a row without numbers ends the prefix", move |bench| {
            without_numbers(bench, candidate)
        });
        for turn in 0..8 {
            let property = format!("segments do not know each other {turn}");
            list.add(&[candidate.kernel], property, move |bench| segments(bench, candidate, turn));
        }
    }
    let both = (list.usable(sample_penalize::CANDIDATES), list.usable(sample_history::CANDIDATES));
    if let ([penalize, ..], [note, ..]) = (both.0.as_slice(), both.1.as_slice()) {
        let (penalize, note) = (*penalize, *note);
        let property = "never see a rejected draft";
        list.add(&[penalize.kernel, note.kernel], property, move |bench| rejected(bench, penalize, note));
    }
}

fn cursor() -> StepRow {
    StepRow {
        token: 7,
        position: 40,
        table: 3,
        begin: 2,
        sampler_index: 5,
        segment: 9,
        out_index: 8,
        flags: 1,
    }
}

/// Words of drafts: their number, then token and ln p of each.
fn drafts(count: u32, each: &[(u32, f32)]) -> Vec<u32> {
    let records = each.iter().flat_map(|&(token, ln_p)| [token, ln_p.to_bits(), POISON, POISON]);
    [count, POISON, POISON, POISON].into_iter().chain(records).collect()
}

fn follow(bench: &Bench, candidate: &'static Candidate, rows: usize) -> Check {
    let mut rng = bench.rng(&format!("rows {rows}"));
    for count in [0, 1, 3, rows as u32 - 1, 100] {
        for unsure in [None, Some(0), Some(2), Some(rows.saturating_sub(2))] {
            let each: Vec<(u32, f32)> = (0..rows - 1)
                .map(|i| (rng.int(0, 120) as u32, if Some(i) == unsure { -3.0 } else { -1.0 }))
                .collect();
            let push = verify_rows::Push {
                row_count: rows as u32,
                vocab: VOCAB,
                segment: 4,
                ln_p_min: -2.0,
                ..Default::default()
            };
            let job = Job::new(candidate, &[WG], &push, [rows.div_ceil(64) as u32, 1, 1])
                .words("cursor", step_rows(&[cursor()]))
                .words("drafts", drafts(count, &each))
                .output("rows", rows * 8);
            let good = (count as usize).min(rows - 1).min(unsure.unwrap_or(rows));
            let want: Vec<StepRow> = (0..rows)
                .map(|i| StepRow {
                    token: match i {
                        0 => 7,
                        _ if i <= good && each[i - 1].0 < VOCAB => each[i - 1].0,
                        _ => 0,
                    },
                    position: 40 + i as u32,
                    segment: 4,
                    out_index: i as u32,
                    flags: if i > good { ROW_IDLE } else { 0 },
                    ..cursor()
                })
                .collect();
            let what = format!("{rows} rows, {count} drafts, unsure {unsure:?}");
            bits(&what, job.on(bench)?.words("rows"), &step_rows(&want))?;
            bits(&what, job.meaning(bench).words("rows"), &step_rows(&want))?;
        }
    }
    Ok(())
}

/// The counts as they are, or zeros after a draft that is unsure; what follows the step does not matter.
fn decided(bench: &Bench, candidate: &'static Candidate, words: usize) -> Check {
    let mut rng = bench.rng(&format!("gate {words}"));
    let counts: Vec<u32> = (0..words).map(|_| rng.int(0, 65535) as u32).collect();
    for drafted in [0, 1, 2, 15] {
        for unsure in [None, Some(0), Some(1), Some(14), Some(15)] {
            let each: Vec<(u32, f32)> = (0..16)
                .map(|i| (i, if Some(i) == unsure { -2.5 } else { [-2.0, 0.0, f32::NAN][i as usize % 3] }))
                .collect();
            let push = gate::Push { words: words as u32, drafted, ln_p_min: -2.0, ..Default::default() };
            let job = Job::new(candidate, &[WG], &push, [words.div_ceil(64) as u32, 1, 1])
                .words("drafts", drafts(16, &each))
                .words("counts", counts.clone())
                .output("args", words);
            let open = unsure.is_none_or(|at| at >= drafted);
            let want = if open { counts.clone() } else { vec![0; words] };
            let what = format!("{drafted} drafts, unsure {unsure:?}");
            bits(&what, job.on(bench)?.words("args"), &want)?;
            bits(&what, job.meaning(bench).words("args"), &want)?;
        }
    }
    Ok(())
}

/// Rows of segments: (segment, token, draw of the row, flags), at positions from 10 on, results in falling order.
struct Scene {
    rows: Vec<(u32, u32, u32, u32)>,
    segments: u32,
}

impl Scene {
    fn run(&self, bench: &Bench, candidate: &'static Candidate) -> Check<Out> {
        let count = self.rows.len();
        let mut positions = vec![10; self.segments as usize + 1];
        let rows: Vec<StepRow> = self
            .rows
            .iter()
            .enumerate()
            .map(|(i, &(segment, token, _, flags))| {
                let position = &mut positions[segment as usize];
                *position += 1;
                let out_index = (count - 1 - i) as u32;
                StepRow { token, position: *position - 1, segment, out_index, flags, ..cursor() }
            })
            .collect();
        let drawn: Vec<u32> =
            self.rows.iter().rev().flat_map(|&(_, _, draw, _)| [draw, POISON, POISON, POISON]).collect();
        let push = accept::Push {
            row_count: count as u32,
            segments: self.segments,
            draft_vocab: VOCAB,
            ..Default::default()
        };
        let others = |count: u32| step_rows(&vec![cursor(); count as usize]);
        let job = Job::new(candidate, &[WG], &push, [self.segments.div_ceil(64), 1, 1])
            .words("rows", step_rows(&rows))
            .words("drawn", drawn)
            .words("cursors", others(self.segments))
            .words("pairs", others(2 * self.segments))
            .output("outcomes", 4 * self.segments as usize);
        let (out, want) = (job.on(bench)?, job.meaning(bench));
        for name in ["cursors", "pairs", "outcomes"] {
            bits(&name, out.words(name), want.words(name))?;
        }
        Ok(out)
    }
}

fn prefix(bench: &Bench, candidate: &'static Candidate, drafts: u32) -> Check {
    // Where the draft is first wrong; at its end it never is.
    for wrong in 0..=drafts {
        // Row i holds token 20 + i and draws 21 + i, or something else where the next draft is wrong.
        let rows = (0..=drafts)
            .map(|i| (0, 20 + i, if i == wrong { 150 + i } else { 21 + i }, 0))
            .chain([(0, 21 + drafts, 22 + drafts, ROW_IDLE); 2])
            .collect();
        let out = Scene { rows, segments: 1 }.run(bench, candidate)?;
        let what = format!("{wrong} of {drafts}");
        bits(&what, out.words("outcomes"), &[drafts, wrong, 150 + wrong, 11 + wrong])?;
        let moved = |token, position| StepRow { token, position, ..cursor() };
        bits(&what, out.words("cursors"), &step_rows(&[moved(150 + wrong, 11 + wrong)]))?;
        // The drafter does not know tokens from 100 on.
        let pair = [moved(20 + wrong, 10 + wrong), moved(0, 11 + wrong)];
        bits(&what, out.words("pairs"), &step_rows(&pair))?;
    }
    Ok(())
}

fn without_numbers(bench: &Bench, candidate: &'static Candidate) -> Check {
    for wrong in 0..3u32 {
        let draw = |i: u32| if i == wrong { NO_TOKEN } else { 21 + i };
        let rows = (0..4).map(|i| (0, 20 + i, draw(i), 0)).collect();
        let out = Scene { rows, segments: 1 }.run(bench, candidate)?;
        bits(&"outcome", out.words("outcomes"), &[3, wrong, NO_TOKEN, 11 + wrong])?;
        bits(&"the cursor stays", out.words("cursors"), &step_rows(&[cursor()]))?;
    }
    Ok(())
}

fn segments(bench: &Bench, candidate: &'static Candidate, turn: u32) -> Check {
    let mut rng = bench.rng(&format!("segments {turn}"));
    for _ in 0..25 {
        let segments = rng.int(1, 70) as u32;
        let rows = (0..rng.int(1, 100))
            .map(|_| {
                let flags = if rng.int(0, 7) == 0 { ROW_IDLE } else { 0 };
                let draw = if rng.int(0, 9) == 0 { NO_TOKEN } else { rng.int(0, 2) as u32 };
                (rng.int(0, segments as i32) as u32, rng.int(0, 2) as u32, draw, flags)
            })
            .collect();
        Scene { rows, segments }.run(bench, candidate)?;
    }
    Ok(())
}

/// Rounds of random length with random acceptance, in a ring that wraps many times: what the penalties see of a row is
/// the committed tokens and the drafts before it.
fn rejected(bench: &Bench, penalize: &'static Candidate, note: &'static Candidate) -> Check {
    const RING: usize = 48;
    const WINDOW: u32 = 24;
    const MOST: usize = RING - WINDOW as usize;
    let sampler = Sampler {
        penalty_window: WINDOW,
        frequency_penalty: 1.0,
        repeat_penalty: 1.0,
        repeat_inverse: 1.0,
        ..Sampler::default()
    };
    let samplers: Vec<u32> = bytemuck::cast_slice(&[sampler]).to_vec();
    let mut rng = bench.rng("rounds");
    let mut ring = vec![0u32; RING];
    let mut committed: Vec<u32> = vec![3];
    for _ in 0..60 {
        let count = rng.int(1, MOST as i32) as usize;
        let base = committed.len() - 1;
        let drafts: Vec<u32> = (1..count).map(|_| rng.int(0, 15) as u32).collect();
        let seen: Vec<u32> = committed.iter().chain(&drafts).copied().collect();
        let rows: Vec<StepRow> = (base..base + count)
            .map(|at| StepRow { token: seen[at], position: at as u32, ..StepRow::default() })
            .collect();
        let push = sample_history::Push { row_count: count as u32, ring: RING as u32, ..Default::default() };
        let job = Job::new(note, &[WG], &push, [1, 1, 1])
            .words("rows", step_rows(&rows))
            .words("samplers", samplers.clone())
            .words("history", ring);
        ring = job.on(bench)?.words("history").to_vec();
        let push = sample_penalize::Push { n: 16, stride: 16, ring: RING as u32, ..Default::default() };
        let lanes = bench.lanes();
        let job = Job::new(penalize, &[("WG", lanes), ("SG", lanes)], &push, [1, count as u32, 1])
            .words("logits", vec![0; 16 * count])
            .words("samplers", samplers.clone())
            .words("rows", step_rows(&rows))
            .words("history", ring.clone());
        let want: Vec<f32> = (base..base + count)
            .flat_map(|position| {
                let window = &seen[(position + 1).saturating_sub(WINDOW as usize)..=position];
                (0..16).map(|token| 0.0 - window.iter().filter(|&&t| t == token).count() as f32)
            })
            .collect();
        let what = format!("{count} rows from {base}");
        values(&what, job.on(bench)?.words("logits"), &to_words(&want))?;
        let accepted = rng.int(0, count as i32 - 1) as usize;
        committed.extend_from_slice(&drafts[..accepted]);
        committed.push(rng.int(0, 15) as u32);
    }
    Ok(())
}

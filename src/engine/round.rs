//! Speculative rounds of one conversation: draft steps, verification of all drafts beside the cursor, and acceptance,
//! recorded once and submitted together. Between the first draft step and the end the host does nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::time::{Duration, Instant};

use vkllm_runtime::{Buffer, Compiled, Times, Usage, View};
use vkllm_shaders::records::StepRow;

use super::Head;
use super::recordings::Made;
use super::step::{Drawn, Engine, MOST_ROWS, ROW};
use super::work::{CommandWork, Seen};
use crate::error::Result;
use crate::models::Outputs;
use crate::ops::{self, AcceptViews, Choice, Draw, Gate, Path, Purpose, RECORD, Recorder};

/// Most tokens a round can draft.
pub(crate) const MOST_DRAFTS: u32 = MOST_ROWS - 1;
/// Most tokens a draft model can draft in a round.
pub(crate) const MOST_MODEL_DRAFTS: u32 = 16;
/// Rows of larger verifications; between these sizes rows stand idle, so that few recordings serve all.
const LARGE: [u32; 4] = [24, 32, 48, MOST_ROWS];
/// A drafter that lags by fewer rows than this catches up in steps of powers of two, in the round's own submission.
const CATCH_UP: u32 = 128;

/// Who drafts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Drafts<'a> {
    /// The draft model, that many tokens.
    Model(u32),
    /// These tokens.
    Given(&'a [u32]),
}

impl Drafts<'_> {
    fn len(&self) -> u32 {
        match self {
            Drafts::Model(count) => *count,
            Drafts::Given(tokens) => tokens.len() as u32,
        }
    }
}

/// Where the time of a round went; device times by timestamps, `None` where there are none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTimes {
    /// Wall time of the whole round.
    pub wall: Duration,
    /// Host time: writing, submitting and reading, not waiting.
    pub host: Duration,
    /// The draft model computing what it had missed.
    pub catch_up: Option<Duration>,
    pub draft: Option<Duration>,
    pub verify: Option<Duration>,
    pub accept: Option<Duration>,
    /// Between the parts.
    pub idle: Option<Duration>,
}

/// What came of a round.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Tokens that were verified: those before the first the drafter was unsure of.
    pub(crate) drafted: u32,
    /// How many of them the target drew itself.
    pub(crate) accepted: u32,
    /// The accepted tokens and the one after them.
    pub(crate) drawn: Vec<Result<Drawn>>,
    pub(crate) times: RoundTimes,
}

/// How rounds draft and judge.
#[derive(Default)]
pub(crate) struct RoundOptions {
    /// Least probability at which a draft is worth a row.
    pub p_min: f32,
    /// Drafts are judged by rejection sampling instead of drawn with the target's noise.
    pub rejection: bool,
    /// In place of the draft model's output matrix.
    pub head: Option<Head>,
}

/// A draft model's part in the rounds of a conversation.
struct DraftSide {
    slot: u32,
    vocab: u32,
    /// Positions whose keys and values are in the draft's cache.
    computed: u32,
    /// It is the target's own predictor: rows that it fed itself are computed again from the target's hidden rows.
    predicts: bool,
    /// Its pair of rows stands at the cursor.
    paired: bool,
    /// The host wrote the pair, all of it; acceptance moves its tokens and positions on.
    written: bool,
    /// By draft position.
    steps: Vec<Made>,
    head: Option<Head>,
    /// What each draft was drawn from, if it is judged by that: rows of so many logits.
    offers: Option<(Buffer, u32)>,
    /// Workgroup counts of the steps after the first, and what the device makes of them.
    gate: Option<Buffer>,
    /// By number of rows.
    catch_up: BTreeMap<u32, Made>,
}

impl DraftSide {
    /// Rows from the cursor on that stay of a round's draft steps.
    fn kept(&self, count: u32, accepted: u32) -> u32 {
        count.min(if self.predicts { 1 } else { accepted + 1 })
    }

    /// Records a step that catches up by so many rows, whose records are the host's; whether there was none yet.
    fn record_catch_up(&mut self, engine: &Engine, missed: &View, size: u32) -> Result<bool> {
        let Entry::Vacant(entry) = self.catch_up.entry(size) else { return Ok(false) };
        let at = u64::from(size) * ROW;
        let rows = missed.part(at, at);
        let mut r = engine.recorder(format!("draft catches up by {size}"), size, Path::Rows);
        engine.forward(&mut r, &rows, true, Outputs::None, None)?;
        entry.insert(engine.compile(&r)?);
        Ok(true)
    }
}

/// The rounds of one conversation.
pub(crate) struct Rounds {
    slot: u32,
    draw: Draw,
    /// Natural logarithm of the least probability at which a draft is worth a row.
    ln_p_min: f32,
    /// Rows of the verification.
    rows: View,
    /// The number of drafts, then each as a result.
    drafts: View,
    /// The drafter's last two rows.
    pair: View,
    /// Rows of the drafter's steps that catch up.
    missed: View,
    /// What the host reads: the outcome, then the draws.
    results: Buffer,
    /// Verification and acceptance by number of rows, and whether drafts are judged by what they were drawn from.
    verify: BTreeMap<(u32, bool), [Made; 2]>,
    draft: Option<DraftSide>,
    made: u64,
    /// Number of drafts that `drafts` says.
    count: u32,
}

/// Rows of the verification of so many drafts, at most `most`.
fn rows_for(drafts: u32, most: u32) -> u32 {
    let rows = drafts + 1;
    let size = if rows <= MOST_MODEL_DRAFTS + 1 {
        rows
    } else {
        LARGE.into_iter().find(|&size| size >= rows).unwrap_or(MOST_ROWS)
    };
    // Idle rows have positions too: near the end of the context there is no room for them.
    if size <= most { size } else { rows }
}

/// Powers of two whose sum is `rows`, largest first.
fn powers(rows: u32) -> impl Iterator<Item = u32> {
    (0..CATCH_UP.ilog2()).rev().map(|bit| 1 << bit).filter(move |power| rows & power != 0)
}

/// Positions that the draft model must have computed before a round at `base`: its first step covers the row before the
/// cursor too.
fn want(base: u32) -> u32 {
    base.saturating_sub(1)
}

fn sum(parts: &[Times]) -> Option<Duration> {
    parts.iter().map(|times| times.total_nanoseconds.map(Duration::from_nanos)).sum()
}

/// Time between the parts of a submission.
fn idle(parts: &[Times]) -> Option<Duration> {
    let spans: Option<Vec<(u64, u64)>> =
        parts.iter().map(|times| Some((times.began_nanoseconds?, times.total_nanoseconds?))).collect();
    let spans = spans?;
    let (first, last) = (spans.first()?, spans.last()?);
    let busy: u64 = spans.iter().map(|(_, total)| total).sum();
    Some(Duration::from_nanos((last.0 + last.1).saturating_sub(first.0).saturating_sub(busy)))
}

impl Rounds {
    /// Rounds of the conversation in `slot` of the target, with a draft model in which the conversation has a slot too.
    pub(crate) fn new(
        target: &Engine,
        slot: u32,
        draw: Draw,
        draft: Option<(&Engine, u32)>,
        options: RoundOptions,
    ) -> Result<Self> {
        let device = target.device();
        let RoundOptions { p_min, rejection, head } = options;
        let drafts = RECORD * u64::from(1 + MOST_DRAFTS);
        let sizes = [u64::from(MOST_ROWS) * ROW, drafts, 2 * ROW, u64::from(CATCH_UP) * ROW];
        let mut end = 0;
        let places = sizes.map(|size| {
            let at = end;
            end = (at + size).next_multiple_of(256);
            (at, size)
        });
        let buffer = device.buffer("round", end, Usage::Shared)?;
        let [rows, drafts, pair, missed] = places.map(|(at, size)| buffer.view(at, size));
        let results = device.buffer("round results", RECORD * u64::from(1 + MOST_ROWS), Usage::Readback)?;
        let draft = draft.map(|(engine, slot)| {
            let tokens = engine.vocab().min(target.vocab());
            let bytes = u64::from(MOST_MODEL_DRAFTS) * u64::from(tokens) * 4;
            let judged = rejection && draw.choice == Choice::Sampled;
            let offers = judged.then(|| device.buffer("offers", bytes, Usage::Local)).transpose()?;
            Ok::<_, crate::Error>(DraftSide {
                slot,
                vocab: engine.vocab(),
                computed: 0,
                predicts: engine.is_predictor(),
                paired: false,
                written: false,
                steps: Vec::new(),
                head,
                offers: offers.map(|buffer| (buffer, tokens)),
                gate: None,
                catch_up: BTreeMap::new(),
            })
        });
        let draft = draft.transpose()?;
        Ok(Rounds {
            slot,
            draw,
            ln_p_min: if p_min > 0.0 { p_min.ln() } else { f32::MIN },
            rows,
            drafts,
            pair,
            missed,
            results,
            verify: BTreeMap::new(),
            draft,
            made: 0,
            count: u32::MAX,
        })
    }

    /// Recordings made so far.
    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// The draft model's slot.
    pub(crate) fn draft_slot(&self) -> Option<u32> {
        self.draft.as_ref().map(|draft| draft.slot)
    }

    /// Positions the draft model has not computed below `position`.
    pub(crate) fn lag(&self, position: u32) -> u32 {
        self.draft.as_ref().map_or(0, |draft| position.saturating_sub(draft.computed))
    }

    /// Positions the draft model computed.
    pub(crate) fn computed(&self) -> u32 {
        self.draft.as_ref().map_or(0, |draft| draft.computed)
    }

    /// The draft model's cache holds the first `computed` positions again.
    pub(crate) fn restored(&mut self, computed: u32) {
        if let Some(draft) = &mut self.draft {
            draft.computed = computed;
            draft.paired = false;
        }
    }

    /// What the draft model computed from `length` on stands for other tokens now; its pair stands elsewhere.
    pub(crate) fn moved(&mut self, length: u32) {
        if let Some(draft) = &mut self.draft {
            draft.computed = draft.computed.min(length);
            draft.paired = false;
        }
    }

    /// One round. The target's cursor stands on the last of `tokens`, the conversation so far; all before it is
    /// computed. The drafts must leave the context room: `tokens` and they together are at most its length.
    pub(crate) fn run(
        &mut self,
        target: &mut Engine,
        mut draft: Option<&mut Engine>,
        tokens: &[u32],
        drafts: Drafts<'_>,
    ) -> Result<Outcome> {
        let began = Instant::now();
        let base = tokens.len() as u32 - 1;
        let count = drafts.len();
        let rows = rows_for(count, target.context() - base);
        target.reserve(self.slot, base + rows)?;
        let offered = self.draft.as_ref().is_some_and(|side| side.offers.is_some());
        let judged = offered && matches!(drafts, Drafts::Model(_));
        self.record_verify(target, rows, judged)?;
        let mut missed = Vec::new();
        let computed = self.draft.as_ref().map_or(0, |side| side.computed);
        match (drafts, draft.as_deref_mut()) {
            (Drafts::Model(_), Some(engine)) => {
                let known = target.hidden_of(self.slot, base);
                let stop = target.stopped_by().unwrap_or_default();
                let prepared = engine.until(&stop, |engine| self.prepare(engine, tokens, count, known));
                missed = prepared.inspect_err(|_| self.moved(computed))?;
            }
            (Drafts::Given(given), _) => {
                let records: Vec<[u32; 4]> = given.iter().map(|&token| [token, 0, 0, 0]).collect();
                target.write(&self.drafts, RECORD, bytemuck::cast_slice(&records))?;
            }
            (Drafts::Model(_), None) => {}
        }
        if self.count != count {
            target.write(&self.drafts, 0, &count.to_le_bytes())?;
            self.count = count;
        }
        let mut parts: Vec<&Made> = Vec::with_capacity(missed.len() + count as usize + 2);
        let mut steps = 0;
        if let (Drafts::Model(_), Some(side)) = (drafts, &self.draft) {
            parts.extend(missed.iter().filter_map(|size| side.catch_up.get(size)));
            parts.extend(&side.steps[..count as usize]);
            steps = count as usize;
        }
        parts.extend(self.verify.get(&(rows, judged)).into_iter().flatten());
        let submitted: Vec<&Compiled> = parts.iter().map(|part| &part.compiled).collect();
        target.committed(self.slot, base);
        target.leaves_hidden(self.slot, base, rows);
        if let (Drafts::Model(_), Some(side), Some(engine)) = (drafts, &self.draft, draft.as_deref_mut()) {
            engine.committed(side.slot, want(base));
        }
        let waited = match target.submit(&submitted) {
            Ok(waited) => waited,
            Err(error) => {
                // What the draft model computed before it ended is not known.
                self.moved(computed);
                return Err(error);
            }
        };
        let measured: Vec<Times> = parts.iter().map(|part| part.compiled.times()).collect();
        let (drafting, verifying) = measured.split_at(missed.len() + steps);
        let (early, late) = drafting.split_at(missed.len());
        let mut times = RoundTimes {
            catch_up: sum(early),
            draft: sum(late),
            verify: sum(&verifying[..1]),
            accept: sum(&verifying[1..]),
            idle: idle(&measured),
            ..RoundTimes::default()
        };
        let profiled = |engine: &mut Engine, draft, part: usize, seen| {
            let made = parts[part];
            engine.profile.add(made.compiled.name(), draft, &measured[part], &made.work, seen);
        };
        for part in missed.len() + steps..parts.len() {
            profiled(target, false, part, Seen { first: base, rows });
        }
        if let Some(engine) = draft {
            let mut first = want(base) - missed.iter().sum::<u32>().min(want(base));
            for (part, &rows) in missed.iter().enumerate() {
                profiled(engine, true, part, Seen { first, rows });
                first += rows;
            }
            for step in 0..steps as u32 {
                // The first step is of two rows: the one before the cursor too.
                let seen = if step == 0 {
                    Seen { first: want(base), rows: 2 }
                } else {
                    Seen { first: base + step, rows: 1 }
                };
                profiled(engine, true, missed.len() + step as usize, seen);
            }
        }
        let (drafted, accepted, drawn) = self.read(target, count)?;
        if let Some(side) = &mut self.draft {
            if let Drafts::Model(_) = drafts {
                side.computed = base + side.kept(count, accepted);
            }
            side.paired = side.written;
        }
        times.wall = began.elapsed();
        times.host = times.wall.saturating_sub(waited);
        target.times.steps += 1;
        target.times.host += times.host;
        target.times.wait += waited;
        Ok(Outcome { drafted, accepted, drawn, times })
    }

    /// What the draft model would say after `tokens`, at most `count` tokens, for a round whose tokens the host chooses.
    pub(crate) fn propose(
        &mut self,
        target: &mut Engine,
        draft: &mut Engine,
        tokens: &[u32],
        count: u32,
    ) -> Result<(Vec<u32>, RoundTimes)> {
        let began = Instant::now();
        let computed = self.draft.as_ref().map_or(0, |side| side.computed);
        let stop = target.stopped_by().unwrap_or_default();
        let known = target.hidden_of(self.slot, tokens.len() as u32 - 1);
        let prepared = draft.until(&stop, |draft| self.prepare(draft, tokens, count, known));
        let missed = prepared.inspect_err(|_| self.moved(computed))?;
        let Some(side) = &self.draft else { return Ok(Default::default()) };
        let mut parts: Vec<&Compiled> = Vec::with_capacity(missed.len() + count as usize);
        parts.extend(missed.iter().filter_map(|size| side.catch_up.get(size)).map(|made| &made.compiled));
        parts.extend(side.steps[..count as usize].iter().map(|made| &made.compiled));
        draft.committed(side.slot, want(tokens.len() as u32 - 1));
        if let Err(error) = target.submit(&parts) {
            // What the draft model computed before it ended is not known.
            self.moved(computed);
            return Err(error);
        }
        let measured: Vec<Times> = parts.iter().map(|part| part.times()).collect();
        let (early, late) = measured.split_at(missed.len());
        let mut times = RoundTimes { catch_up: sum(early), draft: sum(late), ..RoundTimes::default() };
        times.wall = began.elapsed();
        let mut records = vec![[0u32; 4]; count as usize];
        target.read(&self.drafts, RECORD, bytemuck::cast_slice_mut(&mut records))?;
        let sure =
            |record: &&[u32; 4]| record[0] < target.vocab() && f32::from_bits(record[1]) >= self.ln_p_min;
        Ok((records.iter().take_while(sure).map(|record| record[0]).collect(), times))
    }

    /// A predictor computes what it lacks of `tokens`, which the target computed, while the target's hidden rows are there.
    pub(crate) fn follow(
        &mut self,
        target: &Engine,
        predictor: &mut Engine,
        tokens: &[u32],
        path: Path,
    ) -> Result<()> {
        let Some(side) = &mut self.draft else { return Ok(()) };
        let end = tokens.len() as u32;
        predictor.reads(target, side.slot);
        while side.computed < end {
            let size = predictor.batch().min(end - side.computed);
            let rows = &tokens[side.computed as usize..(side.computed + size) as usize];
            predictor.tokens(side.slot, rows, side.computed, path, super::Tail::None)?;
            side.computed += size;
        }
        Ok(())
    }

    /// A round at `base` for which the draft model proposed `count` tokens accepted some of them.
    pub(crate) fn settled(&mut self, base: u32, count: u32, accepted: u32) {
        if let Some(side) = &mut self.draft {
            side.computed = base + side.kept(count, accepted);
            side.paired = false;
        }
    }

    /// Number of drafts, how many were accepted, they and the draw after them.
    fn read(&self, target: &Engine, count: u32) -> Result<(u32, u32, Vec<Result<Drawn>>)> {
        let mut records = vec![[0u32; 4]; count as usize + 2];
        self.results.read(0, bytemuck::cast_slice_mut(&mut records))?;
        let drafted = records[0][0].min(count);
        let accepted = records[0][1].min(drafted);
        let draws = &records[1..=accepted as usize + 1];
        let drawn = draws.iter().map(|&record| Drawn::new(record, target.vocab())).collect();
        Ok((drafted, accepted, drawn))
    }

    /// Makes the draft model ready for `count` steps: rows it missed, its pair, its recordings. Returns the sizes of the
    /// steps that catch up in the round's submission. A predictor finds hidden rows at the positions `known`.
    fn prepare(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        count: u32,
        known: Range<u32>,
    ) -> Result<Vec<u32>> {
        let base = tokens.len() as u32 - 1;
        let Some(side) = &mut self.draft else { return Ok(Vec::new()) };
        if engine.is_predictor() {
            engine.set_hidden(side.slot, known);
        }
        engine.reserve(side.slot, base + count)?;
        let want = want(base);
        if !engine.keeps(side.slot, side.computed.min(want), 0) {
            side.computed = 0;
        }
        while want.saturating_sub(side.computed) >= CATCH_UP {
            let size = engine.batch().min(want - side.computed);
            let rows = &tokens[side.computed as usize..(side.computed + size) as usize];
            engine.tokens(side.slot, rows, side.computed, Path::Prefill, super::Tail::None)?;
            side.computed += size;
        }
        let sizes: Vec<u32> = powers(want.saturating_sub(side.computed)).collect();
        for &size in &sizes {
            let rows: Vec<StepRow> = (side.computed..side.computed + size)
                .map(|position| engine.row(side.slot, tokens[position as usize], position, false))
                .collect();
            let at = u64::from(size) * ROW;
            engine.write(&self.missed, at, bytemuck::cast_slice(&rows))?;
            side.computed += size;
            self.made += u64::from(side.record_catch_up(engine, &self.missed, size)?);
        }
        // What a predictor will lack after rounds of this length.
        let most = if side.predicts { count } else { 0 };
        for size in (0..CATCH_UP.ilog2()).map(|bit| 1 << bit).take_while(|size| *size < most) {
            self.made += u64::from(side.record_catch_up(engine, &self.missed, size)?);
        }
        if !side.paired {
            let row = |back: u32, advance| StepRow {
                out_index: 0,
                ..engine.row(side.slot, tokens[(base - back) as usize], base - back, advance)
            };
            // A conversation's first token has none before it.
            let pair = [row(base.min(1), false), row(0, true)];
            engine.write(&self.pair, 0, bytemuck::cast_slice(&pair))?;
            side.written = true;
        }
        while side.steps.len() < count as usize {
            let index = side.steps.len() as u64;
            let cursor = self.pair.part(ROW, ROW);
            let (rows, number) = if index == 0 { (&self.pair, 2) } else { (&cursor, 1) };
            let result = self.drafts.part((1 + index) * RECORD, RECORD);
            let mut r = engine.recorder(format!("draft {index}"), number, Path::Rows);
            // The next round begins at the first step's rows or later.
            r.provisional = index > 0;
            let head = side.head.as_ref();
            let logits = engine.forward(&mut r, rows, self.draw.penalties, Outputs::Last, head)?;
            if let (Some(logits), Some((offers, tokens))) = (&logits, &side.offers) {
                let bytes = u64::from(*tokens) * 4;
                let offer = offers.view(index * bytes, bytes);
                r.recording.copy("offer", logits.part(0, bytes), offer.clone())?;
                engine.sample(&mut r, &offer, &cursor, &result, (self.draw, Purpose::Draft))?;
            } else if let Some(logits) = &logits {
                engine.sample(&mut r, logits, &cursor, &result, (self.draw, Purpose::Text))?;
            }
            let made = if index == 0 || self.ln_p_min == f32::MIN {
                engine.compile(&r)?
            } else {
                gated(engine, &mut r, &mut side.gate, (&self.drafts, index as u32, self.ln_p_min))?
            };
            side.steps.push(made);
            self.made += 1;
        }
        Ok(sizes)
    }

    fn record_verify(&mut self, target: &Engine, count: u32, judged: bool) -> Result<()> {
        if self.verify.contains_key(&(count, judged)) {
            return Ok(());
        }
        let rows = self.rows.part(0, u64::from(count) * ROW);
        let cursor = target.cursor(self.slot);
        let outcome = self.results.view(0, RECORD);
        let drawn = self.results.view(RECORD, u64::from(count) * RECORD);
        let mut r = target.recorder(format!("verification of {count} rows"), count, Path::Rows);
        ops::verify_rows(&mut r, &cursor, &self.drafts, &rows, (target.vocab(), self.ln_p_min))?;
        let offers = self.draft.as_ref().and_then(|side| side.offers.as_ref()).filter(|_| judged);
        let offers = offers.map(|(buffer, tokens)| (buffer.whole(), *tokens));
        if let Some(logits) = target.forward(&mut r, &rows, self.draw.penalties, Outputs::All, None)? {
            let purpose =
                offers.as_ref().map_or(Purpose::Text, |(view, tokens)| Purpose::Judge(view, *tokens));
            target.sample(&mut r, &logits, &rows, &drawn, (self.draw, purpose))?;
        }
        let verify = target.compile(&r)?;
        let mut r = target.recorder(format!("acceptance of {count} rows"), count, Path::Rows);
        let views = AcceptViews {
            rows: &rows,
            drawn: &drawn,
            cursors: &cursor,
            pairs: &self.pair,
            outcomes: &outcome,
        };
        let vocab = self.draft.as_ref().map_or(0, |draft| draft.vocab);
        ops::accept(&mut r, 1, vocab, views)?;
        let accept = target.compile(&r)?;
        self.verify.insert((count, judged), [verify, accept]);
        self.made += 2;
        Ok(())
    }
}

/// Compiles a draft step that runs while the `drafted` tokens before it are all likely enough. All of them are alike but for
/// what they are asked after, so they share the memory of their workgroup counts.
fn gated(
    engine: &Engine,
    r: &mut Recorder<'_>,
    memory: &mut Option<Buffer>,
    (drafts, drafted, ln_p_min): (&View, u32, f32),
) -> Result<Made> {
    let grids = r.recording.grids();
    let (bytes, half) = (grids.bytes(), grids.bytes().next_multiple_of(256));
    let buffer = match memory {
        Some(buffer) => buffer,
        None => memory.insert(engine.device().buffer("draft grids", half + bytes, Usage::Shared)?),
    };
    buffer.write(grids.fixed_at(), bytemuck::cast_slice(&grids.fixed))?;
    let (counts, args) = (buffer.view(0, bytes), buffer.view(half, bytes));
    let mut work = engine.work(r);
    ops::gate(r, &grids, &Gate { drafts, drafted, ln_p_min, counts: &counts, args: &args })?;
    let made = engine.compile(r)?;
    if !work.is_empty() {
        work.insert(grids.first, CommandWork::default());
    }
    Ok(Made { work, ..made })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifications_have_few_sizes() {
        assert_eq!((0..=16).map(|k| rows_for(k, 1000)).collect::<Vec<_>>(), (1..=17).collect::<Vec<_>>());
        assert_eq!([17, 23, 24, 31, 40, 48, 64].map(|k| rows_for(k, 1000)), [24, 24, 32, 32, 48, 65, 65]);
        assert_eq!(rows_for(20, 22), 21);
        assert_eq!(rows_for(20, 24), 24);
    }

    #[test]
    fn a_lag_is_caught_up_in_different_steps() {
        assert_eq!(powers(13).collect::<Vec<_>>(), [8, 4, 1]);
        assert_eq!(powers(0).count(), 0);
        assert_eq!(powers(127).sum::<u32>(), 127);
    }
}

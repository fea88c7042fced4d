//! Runs steps: writes rows, finds or makes the recording of their shape, submits it and reads what came out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vkllm_runtime::{Arena, Buffer, CompileOptions, Compiled, Device, Recording, Usage, View};
use vkllm_shaders::records::{Sampler, StepRow};

use super::recordings::{Key, Made, Profile, Recordings, Tail};
use super::slot::Slot;
use super::work::{self, CommandWork, Seen};
use super::{Caches, Head, ModelOptions, Parts};
use crate::batch::Row;
use crate::cache::{BLOCK, HiddenPool, KvPool, STATE_RING, StatePool};
use crate::error::{Error, Result};
use crate::models::{self, Config, Outputs, StepViews};
use crate::ops::{
    self, Activations, Choice, Draw, HISTORY_RING, MOST_BIASES, Path, Purpose, RECORD, Recorder, SampleViews,
};
use crate::tensor::Tensor;

pub(super) const ROW: u64 = size_of::<StepRow>() as u64;
const SAMPLER: u64 = size_of::<Sampler>() as u64;
const BIAS: u64 = 8;
/// Prompts of at most this many tokens are computed by the decode kernels, longer ones by the prefill kernels.
/// A prompt's class depends on its length alone.
pub(crate) const SHORT_PROMPT: u32 = 16;
/// Rows that a verification can have.
pub(crate) const MOST_ROWS: u32 = 65;
const _: () = assert!(STATE_RING >= 2 * MOST_ROWS, "rows under way and rows that may be taken back");
/// The mark of a row whose logits hold no number.
const NO_TOKEN: u32 = u32::MAX;

/// A sampled token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    pub token: u32,
    /// Natural logarithm of its probability at temperature 1, before truncation.
    pub logprob: f32,
    pub position: u32,
}

impl Drawn {
    /// From a result: token, log probability, position, segment.
    ///
    /// Errors: [`Error::NotFinite`] when the logits held no number, a token beyond the vocabulary.
    pub(super) fn new([token, logprob, position, _]: [u32; 4], vocab: u32) -> Result<Self> {
        if token == NO_TOKEN {
            return Err(Error::NotFinite { position: position.saturating_sub(1) });
        }
        // A simulated device executes nothing and leaves zeros, which is a valid token.
        if token >= vocab {
            return Err(Error::NoSuchToken { found: token, allowed: vocab });
        }
        Ok(Drawn { token, logprob: f32::from_bits(logprob), position })
    }
}

/// Where the time of steps went.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepTimes {
    pub steps: u64,
    /// Host time: writing rows, submitting, reading results; not waiting.
    pub host: Duration,
    /// Time waited for the device.
    pub wait: Duration,
    /// Device time by timestamps; `None` until a step had them.
    pub device: Option<Duration>,
}

/// Memory that steps read and write.
pub(super) struct Buffers {
    /// One cursor per slot.
    cursors: View,
    /// Rows of a batch.
    rows: View,
    /// Indices of the rows whose logits are wanted.
    outputs: View,
    /// Blocks of each slot.
    pub(super) table: View,
    /// As many entries for layers with a window: the blocks of each slot's ring again and again.
    pub(super) ring_table: View,
    samplers: View,
    /// Biases of single tokens of each slot: token, bias.
    biases: View,
    /// Ring of recent tokens of each slot.
    pub(super) history: View,
    results: Buffer,
    logits: Option<Buffer>,
    /// Logits of one row.
    last_logits: Option<Buffer>,
    /// Logits of the most rows of a verification.
    row_logits: Option<Buffer>,
}

/// Who sees every step as data before it runs, with what it reads in place. No other submission is under way.
pub(crate) type Observer = Box<dyn FnMut(&Device, &Recording) -> Result<()> + Send>;

/// A model ready to step.
pub struct Engine {
    device: Device,
    pub(super) config: Config,
    parts: Parts,
    pub(super) kv: KvPool,
    pub(super) states: StatePool,
    /// Of a model with a predictor, and of the predictor.
    pub(super) hidden: Option<HiddenPool>,
    rope: Buffer,
    query_scale: Option<Buffer>,
    pub(super) buffers: Buffers,
    pub(super) slots: Vec<Slot>,
    recordings: Recordings,
    arena: Arena,
    context: u32,
    batch: u32,
    /// Rows that fit in the step buffer.
    capacity: u32,
    activations: Activations,
    profiling: bool,
    observer: Option<Observer>,
    /// Stops the work under way between two submissions.
    stop: Option<Arc<AtomicBool>>,
    /// How often the model was loaded before: places taken in another engine are not places in this one.
    epoch: u64,
    pub(crate) times: StepTimes,
    pub(crate) profile: Profile,
}

impl Engine {
    pub(super) fn new(
        device: &Device,
        config: Config,
        parts: Parts,
        (kv, states, hidden): Caches,
        rope: Buffer,
        query_scale: Option<Buffer>,
        arena: Arena,
        context: u32,
        options: &ModelOptions,
    ) -> Result<Self> {
        let slots = u64::from(options.sessions);
        let batch = options.batch.min(context);
        let capacity = batch.max(MOST_ROWS);
        let rows = u64::from(capacity);
        let table = u64::from(context.div_ceil(BLOCK)) * 4;
        let history = slots * u64::from(HISTORY_RING) * 4;
        let biases = slots * u64::from(MOST_BIASES) * BIAS;
        let sizes = [
            slots * ROW,
            rows * ROW,
            rows * 4,
            slots * table,
            slots * table,
            slots * SAMPLER,
            biases,
            history,
        ];
        let mut offset = 0;
        let offsets = sizes.map(|size| {
            let at = offset;
            offset = (offset + size).next_multiple_of(256);
            at
        });
        let step = device.buffer("step", offset, Usage::Shared)?;
        let [cursors, rows, outputs, table, ring_table, samplers, biases, history] =
            std::array::from_fn(|i| step.view(offsets[i], sizes[i]));
        let results = device.buffer("results", slots * RECORD, Usage::Readback)?;
        let mut engine = Engine {
            device: device.clone(),
            config,
            parts,
            kv,
            states,
            hidden,
            rope,
            query_scale,
            buffers: Buffers {
                cursors,
                rows,
                outputs,
                table,
                ring_table,
                samplers,
                biases,
                history,
                results,
                logits: None,
                last_logits: None,
                row_logits: None,
            },
            slots: (0..slots).map(|_| Slot::default()).collect(),
            recordings: Recordings::default(),
            arena,
            context,
            batch,
            capacity,
            activations: options.activations,
            profiling: options.profile,
            observer: None,
            stop: None,
            epoch: 0,
            times: StepTimes::default(),
            profile: Profile::default(),
        };
        if options.logits {
            engine.buffers.logits = Some(engine.logits_buffer()?);
        }
        Ok(engine)
    }

    /// An engine for a layer that predicts further tokens. Only rounds ask for its logits.
    ///
    /// Errors: as [`Engine::new`].
    pub(super) fn predictor(
        device: &Device,
        config: Config,
        parts: Parts,
        cache: Caches,
        (rope, query_scale): (Buffer, Option<Buffer>),
        arena: Arena,
        context: u32,
        options: &ModelOptions,
    ) -> Result<Self> {
        let options = &ModelOptions { logits: false, ..*options };
        Engine::new(device, config, parts, cache, rope, query_scale, arena, context, options)
    }

    /// This engine, which only counts, in place of one whose device was lost: whoever uses it is told of the loss.
    pub(super) fn standing_for(mut self, lost: &Engine) -> Self {
        self.device = lost.device.clone();
        self.epoch = lost.epoch;
        self
    }

    /// This engine as the one after another.
    pub(super) fn after(mut self, epoch: u64) -> Self {
        self.epoch = epoch + 1;
        self
    }

    /// See [`Engine::after`].
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Errors: the device was lost.
    pub(super) fn check(&self) -> Result<()> {
        self.device.lost().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Bytes of weights that one decoded token reads.
    pub(super) fn bytes_per_token(&self) -> u64 {
        self.parts.bytes_per_token()
    }

    /// Memory for the logits of the largest step, because recordings keep the buffer they were made with.
    fn logits_buffer(&self) -> Result<Buffer> {
        let bytes = u64::from(self.most_logits()) * u64::from(self.config.vocab) * 4;
        Ok(self.device.buffer("logits", bytes, Usage::Readback)?)
    }

    /// Bytes taken for logits so far.
    pub(super) fn logits_bytes(&self) -> u64 {
        self.buffers.logits.as_ref().map_or(0, Buffer::size)
    }

    /// The steps every conversation begins with, among them the one whose transients are largest.
    pub(super) fn usual_steps(&self) -> Result<Vec<Recording>> {
        let mut keys = Vec::new();
        for choice in [Choice::Sampled, Choice::Greedy] {
            let penalties = choice == Choice::Sampled;
            let tail = Tail::Sample(Draw { choice, penalties, ..Draw::default() });
            let key =
                Key { rows: 1, path: Path::Rows, outputs: Outputs::All, tail, cursor: Some(0), target: 0 };
            keys.push(key);
            let few = self.batch.min(SHORT_PROMPT);
            keys.push(Key { rows: few, outputs: Outputs::Chosen(1), cursor: None, ..key });
            if self.batch > SHORT_PROMPT {
                let (rows, path) = (self.batch, Path::Prefill);
                keys.push(Key { rows, path, outputs: Outputs::Chosen(1), cursor: None, ..key });
            }
        }
        if self.buffers.logits.is_some() {
            let rows = self.most_logits().min(self.batch);
            let path = if self.batch > SHORT_PROMPT { Path::Prefill } else { Path::Rows };
            let (outputs, tail) = (Outputs::All, Tail::Logits);
            keys.push(Key { rows, path, outputs, tail, cursor: None, target: 0 });
        }
        keys.iter().map(|key| Ok(self.step(key)?.recording)).collect()
    }

    /// Most rows of one step.
    pub(crate) fn batch(&self) -> u32 {
        self.batch
    }

    /// Rows of logits that can be bound at once.
    pub(crate) fn most_logits(&self) -> u32 {
        let row = u64::from(self.config.vocab) * 4;
        (self.device.caps().max_binding.min(256 << 20) / row).clamp(1, u64::from(self.capacity)) as u32
    }

    /// Recordings made so far; constant while steps are replayed.
    pub(crate) fn recordings_made(&self) -> u64 {
        self.recordings.made
    }

    pub(super) fn table_entry(&self, slot: u32) -> u32 {
        slot * self.context.div_ceil(BLOCK)
    }

    pub(super) fn write(&self, view: &View, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(buffer) = view.buffer() {
            buffer.write(view.offset + offset, bytes)?;
        }
        Ok(())
    }

    pub(super) fn read(&self, view: &View, offset: u64, bytes: &mut [u8]) -> Result<()> {
        if let Some(buffer) = view.buffer() {
            buffer.read(view.offset + offset, bytes)?;
        }
        Ok(())
    }

    /// Positions a slot can hold.
    pub(crate) fn context(&self) -> u32 {
        self.context
    }

    /// Tokens the model knows.
    pub(crate) fn vocab(&self) -> u32 {
        self.config.vocab
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The row from which the next decode step of a slot goes on.
    pub(super) fn cursor(&self, slot: u32) -> View {
        self.buffers.cursors.part(u64::from(slot) * ROW, ROW)
    }

    /// Where the ring of recent tokens of a slot begins, in words.
    pub(crate) fn history_of(&self, slot: u32) -> u32 {
        slot * HISTORY_RING
    }

    /// Sets the sampler of a slot, and its biases of single tokens, at most [`MOST_BIASES`].
    pub(crate) fn set_sampler(&mut self, slot: u32, sampler: &Sampler, biases: &[(u32, f32)]) -> Result<()> {
        let first = slot * MOST_BIASES * (BIAS / 4) as u32;
        let sampler = Sampler { biases: first, bias_count: biases.len() as u32, ..*sampler };
        let words: Vec<[u32; 2]> = biases.iter().map(|&(token, bias)| [token, bias.to_bits()]).collect();
        self.write(&self.buffers.biases, u64::from(first) * 4, bytemuck::cast_slice(&words))?;
        self.write(&self.buffers.samplers, u64::from(slot) * SAMPLER, bytemuck::bytes_of(&sampler))
    }

    pub(super) fn row(&self, slot: u32, token: u32, position: u32, advance: bool) -> StepRow {
        let (table, bare) = (self.table_entry(slot), self.is_bare(slot, position));
        Row { token, position, table, sampler: slot, out_index: slot, advance, bare }.record()
    }

    /// Whether it predicts from another engine's hidden rows.
    pub(super) fn is_predictor(&self) -> bool {
        self.parts.entry.is_some()
    }

    /// Puts the cursor of a slot on a token, so that the next decode step continues from it.
    pub(crate) fn set_cursor(&mut self, slot: u32, token: u32, position: u32) -> Result<()> {
        let row = self.row(slot, token, position, true);
        self.write(&self.cursor(slot), 0, bytemuck::bytes_of(&row))
    }

    /// One step over tokens of one conversation at consecutive positions. With `Tail::Sample` the last row's token is
    /// drawn and the slot's cursor moves on to it.
    pub(crate) fn tokens(
        &mut self,
        slot: u32,
        tokens: &[u32],
        start: u32,
        path: Path,
        tail: Tail,
    ) -> Result<()> {
        let began = Instant::now();
        let count = tokens.len() as u32;
        self.reserve(slot, start + count)?;
        let rows: Vec<StepRow> = tokens
            .iter()
            .zip(start..)
            .map(|(&token, position)| self.row(slot, token, position, false))
            .collect();
        self.write(&self.buffers.rows, 0, bytemuck::cast_slice(&rows))?;
        let outputs = match tail {
            Tail::None => Outputs::None,
            Tail::Logits | Tail::RowLogits | Tail::SampleRows(_) => Outputs::All,
            Tail::Sample(_) | Tail::LastLogits => Outputs::Chosen(1),
        };
        if outputs == Outputs::Chosen(1) {
            self.write(&self.buffers.outputs, 0, &count.saturating_sub(1).to_le_bytes())?;
        }
        if let (Tail::Sample(_), Some(&last)) = (tail, tokens.last()) {
            self.set_cursor(slot, last, start + count - 1)?;
        }
        let target = if matches!(tail, Tail::Sample(_)) { slot } else { 0 };
        let seen = Seen { first: start, rows: count };
        self.committed(slot, if path == Path::Rows { start } else { start + count });
        self.leaves_hidden(slot, start, count);
        self.run(Key { rows: count, path, outputs, tail, cursor: None, target }, seen, began)
    }

    /// Decodes one token of a slot from where its cursor stands; nothing is written but a new block's table entry.
    pub(crate) fn decode(&mut self, slot: u32, position: u32, draw: Draw) -> Result<Drawn> {
        let began = Instant::now();
        self.reserve(slot, position + 1)?;
        let key = Key {
            rows: 1,
            path: Path::Rows,
            outputs: Outputs::All,
            tail: Tail::Sample(draw),
            cursor: Some(slot),
            target: slot,
        };
        self.committed(slot, position);
        self.leaves_hidden(slot, position, 1);
        self.run(key, Seen { first: position, rows: 1 }, began)?;
        self.drawn(slot)
    }

    /// Decodes one token of each of several slots in one step, from a token at a position. Their cursors stay where they are.
    ///
    /// Errors: the step's; each slot's own, [`Error::NotFinite`] when its logits held no number.
    pub(crate) fn decode_rows(&mut self, from: &[(u32, u32, u32)], draw: Draw) -> Result<Vec<Result<Drawn>>> {
        let began = Instant::now();
        let mut rows = Vec::with_capacity(from.len());
        for &(slot, token, position) in from {
            self.reserve(slot, position + 1)?;
            rows.push(self.row(slot, token, position, true));
        }
        self.write(&self.buffers.rows, 0, bytemuck::cast_slice(&rows))?;
        let count = from.len() as u32;
        let (path, outputs, tail) = (Path::Rows, Outputs::All, Tail::SampleRows(draw));
        let first = from.iter().map(|&(.., position)| position).max().unwrap_or(0);
        let key = Key { rows: count, path, outputs, tail, cursor: None, target: 0 };
        for &(slot, _, position) in from {
            self.committed(slot, position);
            self.leaves_hidden(slot, position, 1);
        }
        self.run(key, Seen { first, rows: count }, began)?;
        Ok(from.iter().map(|&(slot, ..)| self.drawn(slot)).collect())
    }

    /// The token drawn last for a slot.
    ///
    /// Errors: [`Error::NotFinite`] when its logits held no number.
    pub(crate) fn drawn(&mut self, slot: u32) -> Result<Drawn> {
        let began = Instant::now();
        let mut words = [0u32; 4];
        self.buffers.results.read(u64::from(slot) * RECORD, bytemuck::cast_slice_mut(&mut words))?;
        self.times.host += began.elapsed();
        Drawn::new(words, self.config.vocab)
    }

    /// Logits of the last step, `[rows, vocab]`.
    pub(crate) fn logits(&self, rows: u32) -> Result<Vec<f32>> {
        let mut values = vec![0f32; rows as usize * self.config.vocab as usize];
        if let Some(buffer) = &self.buffers.logits {
            buffer.read(0, bytemuck::cast_slice_mut(&mut values))?;
        }
        Ok(values)
    }

    /// Logits of the last step's last row, after a step with [`Tail::LastLogits`].
    pub(crate) fn last_logits(&self) -> Result<Vec<f32>> {
        let mut values = vec![0f32; self.config.vocab as usize];
        if let Some(buffer) = &self.buffers.last_logits {
            buffer.read(0, bytemuck::cast_slice_mut(&mut values))?;
        }
        Ok(values)
    }

    /// Computes tokens at consecutive positions of a conversation, at most [`MOST_ROWS`], as decoding would one by one;
    /// their logits, `[tokens, vocab]`.
    pub(crate) fn verified(&mut self, slot: u32, tokens: &[u32], start: u32) -> Result<Vec<f32>> {
        self.tokens(slot, tokens, start, Path::Rows, Tail::RowLogits)?;
        let mut values = vec![0f32; tokens.len() * self.config.vocab as usize];
        if let Some(buffer) = &self.buffers.row_logits {
            buffer.read(0, bytemuck::cast_slice_mut(&mut values))?;
        }
        Ok(values)
    }

    /// Shows every step to somebody; rounds of speculation are not shown.
    #[cfg(feature = "repro")]
    pub(crate) fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }

    /// Does some work that ends with [`Error::Cancelled`] between two of its submissions when `stop` is set.
    pub(crate) fn until<T>(
        &mut self,
        stop: &Arc<AtomicBool>,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.stop = Some(Arc::clone(stop));
        let done = work(self);
        self.stop = None;
        done
    }

    /// What stops the work under way.
    pub(super) fn stopped_by(&self) -> Option<Arc<AtomicBool>> {
        self.stop.clone()
    }

    /// Runs compiled recordings; returns for how long the host waited.
    ///
    /// Errors: [`Error::Cancelled`] where that was asked for; the device's.
    pub(super) fn submit(&self, parts: &[&Compiled]) -> Result<Duration> {
        let stopped = || self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
        let ran = self.device.run(parts, &|| !stopped())?;
        if ran.whole { Ok(ran.waited) } else { Err(Error::Cancelled) }
    }

    fn run(&mut self, key: Key, seen: Seen, began: Instant) -> Result<()> {
        if let Some(mut observer) = self.observer.take() {
            let shown = self.step(&key).and_then(|r| observer(&self.device, &r.recording));
            self.observer = Some(observer);
            shown?;
        }
        let index = match self.recordings.position(&key) {
            Some(index) => index,
            None => {
                let made = self.record(&key)?;
                self.recordings.insert(key, made)
            }
        };
        self.recordings.used(index);
        let made = self.recordings.at(index);
        let waited = self.submit(&[&made.compiled])?;
        self.times.wait += waited;
        self.times.host += began.elapsed().saturating_sub(waited);
        self.times.steps += 1;
        let times = made.compiled.times();
        if let Some(total) = times.total_nanoseconds {
            *self.times.device.get_or_insert_default() += Duration::from_nanos(total);
        }
        self.profile.add(made.compiled.name(), false, &times, &made.work, seen);
        if made.compiled.should_recut() {
            self.recordings.forget(index);
        }
        Ok(())
    }

    fn record(&mut self, key: &Key) -> Result<Made> {
        if key.tail == Tail::Logits && self.buffers.logits.is_none() {
            self.buffers.logits = Some(self.logits_buffer()?);
        }
        if key.tail == Tail::LastLogits && self.buffers.last_logits.is_none() {
            let bytes = u64::from(self.config.vocab) * 4;
            self.buffers.last_logits = Some(self.device.buffer("last logits", bytes, Usage::Readback)?);
        }
        if key.tail == Tail::RowLogits && self.buffers.row_logits.is_none() {
            let bytes = u64::from(MOST_ROWS) * u64::from(self.config.vocab) * 4;
            self.buffers.row_logits = Some(self.device.buffer("row logits", bytes, Usage::Readback)?);
        }
        let r = self.step(key)?;
        self.compile(&r)
    }

    /// Records a step as data.
    pub(super) fn step(&self, key: &Key) -> Result<Recorder<'_>> {
        let rows = match key.cursor {
            Some(slot) => self.cursor(slot),
            None => self.buffers.rows.part(0, u64::from(key.rows) * ROW),
        };
        let mut r = self.recorder(format!("{} rows, {:?}", key.rows, key.tail), key.rows, key.path);
        // A prompt's tokens are noted whatever the sampler, so that penalties know them.
        let note = key.cursor.is_none() || matches!(key.tail, Tail::Sample(draw) if draw.penalties);
        let logits = self.forward(&mut r, &rows, note, key.outputs, None)?;
        match (key.tail, logits) {
            (Tail::Logits, Some(logits)) => {
                if let Some(buffer) = &self.buffers.logits {
                    let target = buffer.view(0, logits.len);
                    r.recording.copy("logits", logits, target)?;
                }
            }
            (Tail::RowLogits, Some(logits)) => {
                if let Some(buffer) = &self.buffers.row_logits {
                    let target = buffer.view(0, logits.len);
                    r.recording.copy("row logits", logits, target)?;
                }
            }
            (Tail::LastLogits, Some(logits)) => {
                if let Some(buffer) = &self.buffers.last_logits {
                    r.recording.copy("last logits", logits, buffer.whole())?;
                }
            }
            (Tail::SampleRows(draw), Some(logits)) => {
                let results = self.buffers.results.whole();
                self.sample(&mut r, &logits, &rows, &results, (draw, Purpose::Text))?;
            }
            (Tail::Sample(draw), Some(logits)) => {
                let results = self.buffers.results.whole();
                self.sample(&mut r, &logits, &self.cursor(key.target), &results, (draw, Purpose::Text))?;
            }
            _ => {}
        }
        Ok(r)
    }

    /// A recording of a step to fill.
    pub(super) fn recorder(&self, name: String, rows: u32, path: Path) -> Recorder<'_> {
        Recorder::new(name, self.device.caps(), rows, path, self.activations)
    }

    /// Records the model over `rows`; `note` also puts their tokens where penalties look.
    pub(super) fn forward(
        &self,
        r: &mut Recorder<'_>,
        rows: &View,
        note: bool,
        outputs: Outputs,
        head: Option<&Head>,
    ) -> Result<Option<View>> {
        let buffers = &self.buffers;
        let rope = self.rope.whole();
        let query_scale = self.query_scale.as_ref().map(Buffer::whole);
        let hidden = self.hidden.as_ref().map(HiddenPool::view);
        let step = StepViews {
            rows,
            block_table: &buffers.table,
            ring_table: &buffers.ring_table,
            rope: &rope,
            query_scale: query_scale.as_ref(),
            outputs: &buffers.outputs,
            hidden: hidden.as_ref(),
            head: head.map(Head::view),
        };
        if note {
            ops::note_history(r, rows, &buffers.samplers, &buffers.history)?;
        }
        let cache = (&self.kv, &self.states);
        models::record(r, &self.config, &self.parts, cache, self.context, &step, outputs)
    }

    /// Records the draw of a token for each of `rows`. Logits of fewer tokens than the model knows are those of the first.
    pub(super) fn sample(
        &self,
        r: &mut Recorder<'_>,
        logits: &View,
        rows: &View,
        results: &View,
        (draw, purpose): (Draw, Purpose<'_>),
    ) -> Result<()> {
        let Buffers { samplers, history, biases, .. } = &self.buffers;
        let views = SampleViews { rows, samplers, history, biases, results };
        let count = (rows.len / ROW) as u32;
        let tokens = (logits.len / 4) as u32 / count;
        ops::sample(r, logits, count, tokens.min(self.config.vocab), draw, purpose, views)
    }

    /// The output matrix and its bias.
    pub(super) fn output(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.parts.output, self.parts.output_bias.as_ref())
    }

    /// Whether every command is measured from now on. Recordings are made anew, rounds that were begun keep theirs.
    #[cfg(feature = "bench")]
    pub(crate) fn set_profiling(&mut self, profiling: bool) {
        if self.profiling != profiling {
            self.profiling = profiling;
            self.recordings.clear();
        }
    }

    pub(super) fn compile(&self, r: &Recorder<'_>) -> Result<Made> {
        let options = CompileOptions {
            label_times: self.profiling,
            arena: Some(&self.arena),
            ..CompileOptions::default()
        };
        let compiled = self.device.compile(&r.recording, &options)?;
        self.device.save_pipelines();
        Ok(Made { compiled, work: self.work(r) })
    }

    /// What each command of a recording does, while times are measured.
    pub(super) fn work(&self, r: &Recorder<'_>) -> Vec<CommandWork> {
        if self.profiling { work::count(&r.recording, self.kv.layout()) } else { Vec::new() }
    }
}

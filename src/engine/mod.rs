//! One loaded model on one device: weights, cache, step buffers and the recordings that are replayed.

mod head;
mod plan;
mod recordings;
mod round;
mod slot;
mod state;
mod step;
mod survey;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use vkllm_runtime::{Arena, Buffer, Caps, Command, Device, Recording, Usage};

pub(crate) use head::Head;
use plan::Draft;
pub use plan::Plan;
pub use recordings::{LabelTotal, Profile, Span, Tail};
pub(crate) use round::{Drafts, MOST_DRAFTS, MOST_MODEL_DRAFTS, RoundOptions, Rounds};
pub use step::{Drawn, Engine};
pub(crate) use step::{MOST_ROWS, SHORT_PROMPT};
pub use survey::{PipelineUse, pipelines};
pub use work::Work;
#[cfg(feature = "bench")]
pub(crate) use work::work_of;

use crate::cache::{HiddenPool, KvLayout, KvPool, KvType, StatePool};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, SharedBytes};
use crate::models::{self, Config, Parts};
use crate::ops::Activations;
use crate::text::Vocabulary;
use crate::weights::{LoadMode, LoadReport, Placed, Progress, Weights};

/// Context when neither the user nor the model asks for a smaller one.
const DEFAULT_CONTEXT: u32 = 4096;
/// Losses without anything new in between after which a device is not opened again.
const MOST_LOSSES: u32 = 4;
/// Rows of one prefill step.
const DEFAULT_BATCH: u32 = 512;

/// How a model is opened.
#[derive(Clone, Copy, Debug)]
pub struct ModelOptions {
    /// Positions a session can hold; by default the model's, at most 4096.
    pub context: Option<u32>,
    /// Most rows of one step.
    pub batch: u32,
    /// Sessions that can exist at once; each has the whole context.
    pub sessions: u32,
    pub activations: Activations,
    /// Types of cached keys and values; by default f32 with float activations, else f16.
    pub k_type: Option<KvType>,
    pub v_type: Option<KvType>,
    /// How weights are loaded.
    pub weights: LoadMode,
    /// Take memory for the logits of whole steps when opening; else the first [`crate::Session::forward`] does.
    pub logits: bool,
    /// Measure every command of a step.
    pub profile: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            context: None,
            batch: DEFAULT_BATCH,
            sessions: 1,
            activations: Activations::Auto,
            k_type: None,
            v_type: None,
            weights: LoadMode::Auto,
            logits: false,
            profile: false,
        }
    }
}

/// Who is told how far a load is.
pub struct Watch<'a> {
    pub weights: Progress<'a>,
    /// Called with (pipelines ready, pipelines in all), from any thread.
    pub pipelines: &'a (dyn Fn(usize, usize) + Sync),
}

/// A loaded model. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    /// What the model was loaded from, and how: to load it again.
    file: SharedBytes,
    options: ModelOptions,
    config: Config,
    vocabulary: Option<Arc<Vocabulary>>,
    plan: Plan,
    report: LoadReport,
    context: u32,
    bytes_per_token: u64,
    /// Told when somebody asks: it reads all metadata and a page of every tensor.
    fingerprint: OnceLock<u64>,
    /// Losses since somebody last came further.
    losses: AtomicU32,
    engine: Mutex<Engine>,
    /// The file's own layer that predicts further tokens, as a model that drafts.
    predictor: Option<Model>,
}

/// What a model file says, checked, before anything of it is loaded.
pub struct ModelFile {
    pub gguf: Gguf,
    pub config: Config,
}

impl ModelFile {
    /// Reads and checks the metadata and the shape of every tensor.
    ///
    /// Errors: what is wrong with the file, by key or tensor.
    pub fn new(gguf: Gguf) -> Result<Self> {
        let config = Config::read(&gguf)?;
        models::required_tensors(&gguf, &config)?;
        Ok(ModelFile { gguf, config })
    }

    /// Without the layers that predict further tokens, for whom nothing is loaded then: nobody drafts with them.
    #[must_use]
    pub fn without_predictor(mut self) -> Self {
        self.config.predictors = 0;
        self
    }

    /// The vocabulary, or `None` when the file has none.
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>> {
        let vocabulary = Vocabulary::from_gguf(&self.gguf)?;
        if let Some(vocabulary) = &vocabulary
            && vocabulary.len() > self.config.vocab as usize
        {
            return Err(Error::Model {
                path: self.gguf.path().to_owned(),
                reason: format!(
                    "tokenizer.ggml.tokens has {} entries, but token_embd.weight only {} rows",
                    vocabulary.len(),
                    self.config.vocab
                ),
            });
        }
        Ok(vocabulary)
    }

    /// What of the file this version would not honour, and why: a vocabulary it cannot read, tensors it does not know.
    pub fn unsupported(&self) -> Vec<String> {
        let vocabulary = self
            .vocabulary()
            .err()
            .map(|error| format!("the vocabulary, without which the model does not open: {error}"));
        let strangers = models::strangers(&self.gguf, &self.config);
        let named = |info: &&crate::gguf::TensorInfo| crate::gguf::escaped(info.name.as_bytes());
        let first: Vec<String> = strangers.iter().take(8).map(named).collect();
        let more = if strangers.len() > first.len() { ", …" } else { "" };
        let tensors = (!strangers.is_empty()).then(|| {
            let (count, names) = (strangers.len(), first.join(", "));
            format!(
                "tensors that this version has no use for ({count}), so that the output may be wrong: {names}{more}"
            )
        });
        vocabulary.into_iter().chain(tensors).collect()
    }

    /// Positions of a session of a model opened so.
    pub fn context(&self, options: &ModelOptions) -> u32 {
        options.context.unwrap_or(self.config.context.min(DEFAULT_CONTEXT))
    }

    /// The cache of the layers of `config`, which are some of the file's, of sessions of `context` positions: of those among
    /// them that attend.
    fn layout(&self, options: &ModelOptions, config: &Config, context: u32) -> KvLayout {
        let attending = config.attention_layers();
        let rows = options.batch.max(MOST_ROWS);
        let v_in_k = config.latent.is_some();
        let default = if options.activations == Activations::Float { KvType::F32 } else { KvType::F16 };
        KvLayout {
            layers: attending.len() as u32,
            near: attending.iter().filter(|layer| config.has_window(**layer)).count() as u32,
            ring: config.window.as_ref().map_or(0, |window| KvLayout::ring_of(window.keys, rows, context)),
            kv_heads: self.config.kv_heads,
            head: self.config.head,
            head_v: self.config.head_v,
            v_in_k,
            k_type: options.k_type.unwrap_or(default),
            v_type: options.v_type.or(options.k_type.filter(|_| v_in_k)).unwrap_or(default),
        }
    }

    /// What the model will take on a device like this.
    ///
    /// Errors: sizes beyond what the device can bind, a cache type that does not fit the heads, no kernel for the model.
    pub fn plan(&self, caps: &Caps, options: &ModelOptions) -> Result<Plan> {
        Ok(Draft::new(self, caps, options, self.context(options))?.plan)
    }

    /// Names of the kernels that conversations with the model use on a device like this, without those of speculation.
    ///
    /// Errors: as [`ModelFile::plan`].
    pub fn kernels(&self, caps: &Caps, options: &ModelOptions) -> Result<BTreeSet<&'static str>> {
        let draft = Draft::new(self, caps, options, self.context(options))?;
        let commands = draft.steps.iter().flat_map(Recording::commands);
        let mut names: BTreeSet<&'static str> = BTreeSet::new();
        names.extend(commands.filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch.kernel.name),
            _ => None,
        }));
        Ok(names)
    }

    /// The largest context for which a device has room, at most what the model was trained for.
    ///
    /// Errors: [`Error::DoesNotFit`] when there is none.
    pub fn largest_context(&self, device: &Device, options: &ModelOptions) -> Result<u32> {
        let trained = ModelOptions { context: Some(self.config.context), ..*options };
        match plan::largest(self, device, options)? {
            0 => Draft::fitting(self, device, &ModelOptions { context: Some(1), ..*options }).map(|_| 1),
            fits if fits < self.config.context => Ok(fits),
            _ => Ok(self.context(&trained)),
        }
    }
}

impl Model {
    /// Opens a model file on a device.
    ///
    /// Errors: the file's, the plan's when it does not fit, the device's.
    pub fn open(
        device: &Device,
        path: &FilePath,
        options: &ModelOptions,
        progress: Progress<'_>,
    ) -> Result<Self> {
        Model::load(device, &ModelFile::new(Gguf::open(path)?)?, options, progress)
    }

    /// Loads a model whose file was read.
    pub fn load(
        device: &Device,
        file: &ModelFile,
        options: &ModelOptions,
        progress: Progress<'_>,
    ) -> Result<Self> {
        Model::load_watched(device, file, options, &Watch { weights: progress, pipelines: &|_, _| {} })
    }

    /// Loads a model and tells how far weights and pipelines are.
    pub fn load_watched(
        device: &Device,
        file: &ModelFile,
        options: &ModelOptions,
        watch: &Watch<'_>,
    ) -> Result<Self> {
        let config = file.config.clone();
        if options.batch == 0 || options.sessions == 0 {
            return Err(Error::Argument {
                what: "the number of rows or sessions".into(),
                found: "0".into(),
                allowed: "1 or more".into(),
            });
        }
        if options.context == Some(0) {
            return Err(Error::Argument {
                what: "the context".into(),
                found: "0 tokens".into(),
                allowed: "1 or more".into(),
            });
        }
        let context = file.context(options);
        if context > config.context {
            tracing::warn!(
                context,
                trained = config.context,
                "the context is longer than the model was trained for"
            );
        }
        let vocabulary = file.vocabulary()?.map(Arc::new);
        let Loaded { engine, predictor, plan, report } = Loaded::new(device, file, options, watch)?;
        let model = |engine: Engine, plan: Plan, report: LoadReport, predictor: Option<Model>| Model {
            inner: Arc::new(Inner {
                file: file.gguf.shared_bytes(),
                options: *options,
                config: engine.config.clone(),
                vocabulary: vocabulary.clone(),
                plan,
                report,
                context,
                bytes_per_token: engine.bytes_per_token(),
                fingerprint: OnceLock::new(),
                losses: AtomicU32::new(0),
                engine: Mutex::new(engine),
                predictor,
            }),
        };
        let predictor = predictor.map(|engine| model(engine, plan.clone(), report.clone(), None));
        Ok(model(engine, plan, report, predictor))
    }

    /// The device that the model is on; another after [`Model::recover`].
    pub fn device(&self) -> Device {
        self.engine().device().clone()
    }

    /// Why the model's device can do no more, after it was lost.
    pub fn lost(&self) -> Option<vkllm_runtime::Error> {
        self.device().lost()
    }

    /// Opens a lost device again and loads the model there. Sessions go on where they stood: each computes its tokens again,
    /// every span the way it was computed first, when it is used next. Does nothing while the device is well.
    ///
    /// Errors: the device does not come back or was borrowed, the file changed; [`Error::DeviceUnusable`] when it was lost
    /// again and again. The model is lost until this succeeds.
    pub fn recover(&self) -> Result<()> {
        let device = self.device();
        let Some(last) = device.lost() else { return Ok(()) };
        let losses = self.inner.losses.fetch_add(1, Ordering::Relaxed) + 1;
        if losses > MOST_LOSSES {
            return Err(Error::DeviceUnusable { losses, last });
        }
        self.recover_on(&device.reopen()?)
    }

    /// Somebody computed something new: the device is of use.
    pub(crate) fn came_further(&self) {
        self.inner.losses.store(0, Ordering::Relaxed);
    }

    /// As [`Model::recover`], on a device that was opened again already, as two models that share one need it.
    ///
    /// Errors: as [`Model::recover`].
    pub fn recover_on(&self, device: &Device) -> Result<()> {
        let inner = &*self.inner;
        let mut file = ModelFile::new(inner.file.read()?)?;
        if inner.predictor.is_none() {
            file = file.without_predictor();
        }
        let draft = Draft::new(&file, device.caps(), &inner.options, inner.context)?;
        if file.config != inner.config || draft.plan.weights != inner.plan.weights {
            let reason = "it is not the model that was loaded from there".into();
            return Err(Error::Model { path: file.gguf.path().to_owned(), reason });
        }
        // First what the lost device held is given back: two copies of the weights may not fit.
        let gives = |model: &Model, engine: Engine| {
            let mut lost = model.engine();
            *lost = engine.standing_for(&lost);
            lost.epoch()
        };
        let predictor = inner.predictor.as_ref();
        let epochs = (
            gives(self, draft.engine),
            predictor.zip(draft.predictor).map(|(model, engine)| gives(model, engine)),
        );
        let watch = Watch { weights: &|_, _| true, pipelines: &|_, _| {} };
        let loaded = Loaded::new(device, &file, &inner.options, &watch)?;
        if let ((Some(model), Some(engine)), Some(epoch)) = ((predictor, loaded.predictor), epochs.1) {
            *model.engine() = engine.after(epoch);
        }
        *self.engine() = loaded.engine.after(epochs.0);
        Ok(())
    }

    /// The layers of the file that predict further tokens, as a model that drafts.
    pub(crate) fn predictor(&self) -> Option<&Model> {
        self.inner.predictor.as_ref()
    }

    /// Whether the file has layers that predict further tokens, and they were loaded.
    pub fn predicts(&self) -> bool {
        self.inner.predictor.is_some()
    }

    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The vocabulary, or `None` for a file without one: such a model works by ids.
    pub fn vocabulary(&self) -> Option<&Vocabulary> {
        self.inner.vocabulary.as_deref()
    }

    /// Positions a session can hold.
    pub fn context(&self) -> u32 {
        self.inner.context
    }

    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    pub fn load_report(&self) -> &LoadReport {
        &self.inner.report
    }

    /// Bytes of weights that one decoded token reads.
    pub fn bytes_per_token(&self) -> u64 {
        self.inner.bytes_per_token
    }

    /// Time per kind of work, when the model was opened with `profile`.
    pub fn profile(&self) -> Profile {
        self.engine().profile.clone()
    }

    /// A number that tells model files apart: of their metadata, their tensors' names and shapes, and samples of their
    /// weights. No protection against somebody who wants two files to look the same.
    ///
    /// Errors: the file became shorter.
    pub fn fingerprint(&self) -> Result<u64> {
        if let Some(known) = self.inner.fingerprint.get() {
            return Ok(*known);
        }
        let counted = fingerprint(&self.inner.file.read()?);
        Ok(*self.inner.fingerprint.get_or_init(|| counted))
    }

    /// True for handles to one loaded model.
    pub(crate) fn is(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The engines of two different models, always locked in the same order.
    pub(crate) fn engines<'a>(
        &'a self,
        other: Option<&'a Model>,
    ) -> (MutexGuard<'a, Engine>, Option<MutexGuard<'a, Engine>>) {
        match other {
            Some(other) if Arc::as_ptr(&other.inner) < Arc::as_ptr(&self.inner) => {
                let second = other.engine();
                (self.engine(), Some(second))
            }
            _ => {
                let first = self.engine();
                (first, other.map(Model::engine))
            }
        }
    }

    /// The engine, for one step at a time.
    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.inner.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(bytes: &[u8], seed: u64) -> u64 {
    bytes.iter().fold(seed, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Where [`hash`] begins.
pub(crate) const HASH_SEED: u64 = 0xcbf2_9ce4_8422_2325;

fn fingerprint(gguf: &Gguf) -> u64 {
    let head = gguf.bytes().len().min(gguf.data_offset() as usize);
    let seed = hash(&gguf.bytes()[..head], hash(&gguf.file_len().to_le_bytes(), HASH_SEED));
    gguf.tensors().iter().fold(seed, |seed, tensor| {
        let bytes = gguf.tensor_bytes(tensor);
        hash(&bytes[..bytes.len().min(64)], seed)
    })
}

/// Keys and values, recurrent states, and hidden rows for a predictor.
type Caches = (KvPool, StatePool, Option<HiddenPool>);

/// The caches of so many sessions of so many positions. A predictor reads the hidden rows that its model keeps.
fn caches(
    device: &Device,
    layout: KvLayout,
    config: &Config,
    (context, options): (u32, &ModelOptions),
    hidden: Option<&HiddenPool>,
) -> Result<Caches> {
    let sessions = options.sessions;
    let attending = config.attention_layers();
    let near = |index: u32| attending.get(index as usize).is_some_and(|layer| config.has_window(*layer));
    let kv = KvPool::new(device, layout, &near, (context, sessions))?;
    let rows = options.batch.min(context).max(MOST_ROWS);
    let own = || HiddenPool::new(device, (rows, config.width, sessions));
    let hidden = match hidden {
        Some(pool) => Some(pool.clone()),
        None => (config.predictors > 0).then(own).transpose()?,
    };
    Ok((kv, StatePool::new(device, config.states(), sessions)?, hidden))
}

/// A model on a device.
struct Loaded {
    engine: Engine,
    predictor: Option<Engine>,
    plan: Plan,
    report: LoadReport,
}

impl Loaded {
    fn new(device: &Device, file: &ModelFile, options: &ModelOptions, watch: &Watch<'_>) -> Result<Self> {
        let config = file.config.clone();
        let context = file.context(options);
        let Draft { plan, steps, arena, .. } = Draft::fitting(file, device, options)?;
        let layout = file.layout(options, &config, context);
        let wanted = models::required_tensors(&file.gguf, &config)?;
        let cache = caches(device, layout, &config, (context, options), None)?;
        let predicts = config.predictor();
        let beside = predicts.as_ref().map(|predictor| {
            let layout = file.layout(options, predictor, context);
            caches(device, layout, predictor, (context, options), cache.2.as_ref())
        });
        let beside = beside.transpose()?;
        let placed = Placed::new(device, &file.gguf, &wanted, options.weights)?;
        let arena = if plan.taken > 0 && !device.caps().heaps.is_empty() {
            Arena::new(device, arena)?
        } else {
            Arena::default()
        };
        let (weights, report) = filled(device, file, placed, &steps, watch)?;
        let factors = models::rope_factors(&file.gguf, &config, context)?;
        let rope = constant(device, "rope", &models::rope_table(&config, factors.as_deref(), context))?;
        let query_scale = models::query_scale(&config, context)
            .map(|scales| constant(device, "query scale", &scales))
            .transpose()?;
        let get = |name: &str| weights.get(name).cloned();
        let tables = (rope, query_scale);
        let predictor = predicts.zip(beside).map(|(own, cache)| {
            let parts = Parts::predictor(&own, &config, &get)?;
            Engine::predictor(device, own, parts, cache, tables.clone(), arena.clone(), context, options)
        });
        let predictor = predictor.transpose()?;
        let parts = Parts::new(&config, &get)?;
        let (rope, query_scale) = tables;
        let engine = Engine::new(device, config, parts, cache, rope, query_scale, arena, context, options)?;
        Ok(Loaded { engine, predictor, plan, report })
    }
}

/// Fills the weights while other threads compile the pipelines of the steps.
fn filled(
    device: &Device,
    file: &ModelFile,
    placed: Placed<'_>,
    steps: &[Recording],
    watch: &Watch<'_>,
) -> Result<(Weights, LoadReport)> {
    let before = device.pipelines().len();
    let steps: Vec<&Recording> = steps.iter().collect();
    let (filled, compiled) = std::thread::scope(|scope| {
        let compiling = scope.spawn(|| {
            let start = Instant::now();
            device.prepare(&steps, watch.pipelines).map(|()| start.elapsed())
        });
        let filled = placed.fill(device, &file.gguf, watch.weights);
        (filled, compiling.join())
    });
    let (weights, mut report) = filled?;
    let crashed = || Error::Model {
        path: file.gguf.path().to_owned(),
        reason: "the thread that compiles pipelines panicked".into(),
    };
    report.pipeline_time = compiled.map_err(|_| crashed())??;
    report.pipelines = device.pipelines().split_off(before);
    device.save_pipelines();
    Ok((weights, report))
}

fn constant(device: &Device, name: &str, values: &[f32]) -> Result<Buffer> {
    constant_bytes(device, name, bytemuck::cast_slice(values))
}

fn constant_bytes(device: &Device, name: &str, bytes: &[u8]) -> Result<Buffer> {
    let buffer = device.buffer(name, bytes.len() as u64, Usage::Constant)?;
    device.write(&buffer, 0, bytes)?;
    Ok(buffer)
}

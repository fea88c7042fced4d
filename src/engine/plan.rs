//! What a model takes in memory, counted before anything is allocated: the engine is built on a device that only
//! counts, and its largest steps are recorded as data.

use vkllm_runtime::{Arena, Caps, Device, Recording, Usage};

use super::{Engine, ModelFile, ModelOptions};
use crate::cache::{BLOCK, HiddenPool, KvLayout, KvType};
use crate::error::{Error, Result};
use crate::models::{self, Config, Parts};
use crate::weights::{LoadMode, Placed};

/// Bytes by purpose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Positions of one session.
    pub context: u32,
    /// Tensors, whether they are read or left in the mapped file.
    pub weights: u64,
    /// How they will be loaded, and why so.
    pub mode: LoadMode,
    pub why: String,
    /// Bytes of weights that one decoded token reads: of mixtures, the experts of one row.
    pub active: u64,
    /// Keys and values, and their types.
    pub kv: u64,
    pub k_type: KvType,
    pub v_type: KvType,
    /// States of recurrent layers with what is needed to take rows back; of them, what one step of a session reads and
    /// writes.
    pub states: u64,
    pub state: u64,
    /// Angles and scales per position.
    pub tables: u64,
    /// Transient activations of the largest step, and the records that steps read.
    pub scratch: u64,
    /// Logits for the host; 0 unless the model is opened for them.
    pub output: u64,
    /// What is taken from the device's memory, or from the machine's where the two are one.
    pub taken: u64,
}

impl Plan {
    /// What two models take together; types and context are the first one's.
    pub fn and(&self, other: &Plan) -> Plan {
        Plan {
            weights: self.weights.saturating_add(other.weights),
            active: self.active.saturating_add(other.active),
            kv: self.kv.saturating_add(other.kv),
            states: self.states.saturating_add(other.states),
            state: self.state.saturating_add(other.state),
            tables: self.tables.saturating_add(other.tables),
            scratch: self.scratch.saturating_add(other.scratch),
            output: self.output.saturating_add(other.output),
            taken: self.taken.saturating_add(other.taken),
            ..self.clone()
        }
    }

    /// Everything together.
    pub fn total(&self) -> u64 {
        [self.weights, self.kv, self.states, self.tables, self.scratch, self.output]
            .iter()
            .fold(0, |sum, &part| sum.saturating_add(part))
    }

    /// Bytes that a device, or a machine that shares its memory with it, can still give; `None` where nobody knows.
    pub fn room(device: &Device) -> Option<u64> {
        room(device)
    }

    /// Refuses what the device has no room for.
    pub fn check(&self, device: &Device) -> Result<()> {
        match room(device) {
            Some(have) if self.taken > have => Err(Error::DoesNotFit {
                what: format!(
                    "{} of weights, {} of cache for {} tokens and {} of tables, scratch and output on {}",
                    self.weights,
                    self.kv.saturating_add(self.states),
                    self.context,
                    self.tables.saturating_add(self.scratch).saturating_add(self.output),
                    device.caps().name
                ),
                need: self.taken,
                have,
                advice: String::new(),
            }),
            _ => Ok(()),
        }
    }
}

/// A model's plan with what it was made from.
pub(super) struct Draft {
    pub(super) plan: Plan,
    /// The steps every conversation begins with.
    pub(super) steps: Vec<Recording>,
    /// Bytes of the arena that holds the transients of any of them.
    pub(super) arena: u64,
    /// The engine, and the predictor's, on a device that only counts.
    pub(super) engine: Engine,
    pub(super) predictor: Option<Engine>,
}

impl Draft {
    /// Builds the engine on a planner.
    ///
    /// Errors: sizes beyond what the device can bind, operations it has no kernel for.
    pub(super) fn new(file: &ModelFile, caps: &Caps, options: &ModelOptions, context: u32) -> Result<Self> {
        Draft::of_layers(file, caps, options, context, file.config.layers)
    }

    /// As `new`, with a cache and steps of the first layers alone.
    fn of_layers(
        file: &ModelFile,
        caps: &Caps,
        options: &ModelOptions,
        context: u32,
        layers: u32,
    ) -> Result<Self> {
        let planner = Device::planner(caps.clone());
        let counted = || planner.taken().iter().sum::<u64>();
        let config = &Config { layers, ..file.config.clone() };
        let layout = file.layout(options, config, context);
        layout.check()?;
        let cache = super::caches(&planner, layout, config, (context, options), None)?;
        let predicts = config.predictor();
        let hidden = cache.2.as_ref();
        let beside = predicts.as_ref().map(|own| {
            let layout = file.layout(options, own, context);
            Ok::<_, Error>((layout, super::caches(&planner, layout, own, (context, options), hidden)?))
        });
        let beside = beside.transpose()?;
        let states = config.states();
        let blocks = KvLayout::blocks_of(context, options.sessions).max(1);
        let bytes_of = |layout: &KvLayout| layout.bytes(blocks, options.sessions).unwrap_or(u64::MAX);
        let kv = bytes_of(&layout).saturating_add(beside.as_ref().map_or(0, |(layout, _)| bytes_of(layout)));
        let rows = hidden.map_or(0, HiddenPool::bytes);
        let after_kv = counted();
        let wanted = models::required_tensors(&file.gguf, &file.config)?;
        let placed = Placed::new(&planner, &file.gguf, &wanted, options.weights)?;
        let after_weights = counted();
        let (angles, scales) = models::table_bytes(config, context);
        let rope = planner.buffer("rope", angles, Usage::Constant)?;
        let scale = scales.map(|bytes| planner.buffer("query scale", bytes, Usage::Constant)).transpose()?;
        let after_tables = counted();
        let get = |name: &str| placed.weights.get(name).cloned();
        let parts = Parts::new(config, &get)?;
        let active = parts.bytes_per_token();
        let tables = (rope.clone(), scale.clone());
        let predictor = predicts.zip(beside).map(|(own, (_, cache))| {
            let parts = Parts::predictor(&own, &file.config, &get)?;
            Engine::predictor(&planner, own, parts, cache, tables, Arena::default(), context, options)
        });
        let predictor = predictor.transpose()?;
        let engine = Engine::new(
            &planner,
            config.clone(),
            parts,
            cache,
            rope,
            scale,
            Arena::default(),
            context,
            options,
        )?;
        let output = engine.logits_bytes();
        let mut steps = engine.usual_steps()?;
        if let Some(predictor) = &predictor {
            steps.extend(predictor.usual_steps()?);
        }
        let arena = steps.iter().map(|step| step.arena_bytes(caps)).max().unwrap_or(0);
        planner.buffer("arena", arena, Usage::Local)?;
        let plan = Plan {
            context,
            weights: wanted.iter().map(|info| info.bytes).sum(),
            active,
            mode: placed.mode,
            why: placed.why,
            kv,
            states: after_kv.saturating_sub(kv).saturating_sub(rows),
            state: 2 * u64::from(states.layers) * states.state_bytes(),
            k_type: layout.k_type,
            v_type: layout.v_type,
            tables: after_tables - after_weights,
            scratch: counted() - after_tables - output + rows,
            output,
            taken: taken(&planner),
        };
        Ok(Draft { plan, steps, arena, engine, predictor })
    }

    /// As `new`, for a device with room for it.
    ///
    /// Errors: [`Error::DoesNotFit`] with what is needed, what is there and the largest context that fits.
    pub(super) fn fitting(file: &ModelFile, device: &Device, options: &ModelOptions) -> Result<Self> {
        let context = file.context(options);
        let have = room(device).unwrap_or(u64::MAX);
        // A context far beyond everything is refused before its steps are recorded.
        let least = least(file, options, context).unwrap_or(u64::MAX);
        if least > have {
            let what = format!("weights and the cache of {context} tokens alone");
            return Err(unfit(file, device, options, what, least, have));
        }
        let draft = Draft::new(file, device.caps(), options, context)?;
        match draft.plan.check(device) {
            Err(Error::DoesNotFit { what, need, have, .. }) => {
                Err(unfit(file, device, options, what, need, have))
            }
            other => other.map(|()| draft),
        }
    }
}

fn unfit(
    file: &ModelFile,
    device: &Device,
    options: &ModelOptions,
    what: String,
    need: u64,
    have: u64,
) -> Error {
    let advice = match largest(file, device, options) {
        Ok(0) | Err(_) => "; no context fits".to_owned(),
        Ok(fits) => format!("; the largest context that fits has {fits} tokens (-c {fits})"),
    };
    Error::DoesNotFit { what, need, have, advice }
}

/// Bytes of weights, cache and tables; `None` when they cannot be counted.
fn least(file: &ModelFile, options: &ModelOptions, context: u32) -> Option<u64> {
    let wanted = models::required_tensors(&file.gguf, &file.config).ok()?;
    // Imported weights stay in the file.
    let imported = options.weights == LoadMode::Import;
    let weights = wanted.iter().filter(|_| !imported).map(|info| info.bytes).sum::<u64>();
    let states = file.config.states().bytes(options.sessions)?;
    growing(file, options, context, &file.config)?.checked_add(weights)?.checked_add(states)
}

/// Bytes that grow with the context, beside steps.
fn growing(file: &ModelFile, options: &ModelOptions, context: u32, config: &Config) -> Option<u64> {
    let blocks = KvLayout::blocks_of(context, options.sessions);
    let of = |config: &Config| file.layout(options, config, context).bytes(blocks, options.sessions);
    let beside = config.predictor().map_or(Some(0), |predictor| of(&predictor));
    let kv = of(config)?.checked_add(beside?)?;
    let (angles, scales) = models::table_bytes(&file.config, context);
    kv.checked_add(angles)?.checked_add(scales.unwrap_or(0))
}

/// The largest context that a device has room for, a multiple of a block; 0 when there is none. What steps take is
/// counted on the first few layers, because all layers use the same memory in turn.
///
/// Errors: a model that does not run there at all.
pub(super) fn largest(file: &ModelFile, device: &Device, options: &ModelOptions) -> Result<u32> {
    let caps = device.caps();
    let have = room(device).unwrap_or(u64::MAX);
    let layout = file.layout(options, &file.config, BLOCK);
    let layers = file.config.typical_layers();
    let few = &Config { layers, ..file.config.clone() };
    // Bytes that do not grow with cache and tables: weights, records and transients.
    let rest = |context: u32| -> Result<u64> {
        let taken = Draft::of_layers(file, caps, options, context, layers)?.plan.taken;
        Ok(taken.saturating_sub(growing(file, options, context, few).unwrap_or(0)))
    };
    let needs = |context: u32, rest: u64| {
        let blocks = KvLayout::blocks_of(context, options.sessions);
        let bound = layout.largest_binding(blocks).is_some_and(|bytes| bytes <= caps.max_binding);
        let bytes = growing(file, options, context, &file.config)?.checked_add(rest)?;
        bound.then_some(bytes)
    };
    // Transients grow with the context too, but little: a few rounds settle it.
    let mut fixed = rest(BLOCK)?;
    for _ in 0..8 {
        let (mut low, mut high) = (0, u32::MAX / BLOCK);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let fits = needs(middle * BLOCK, fixed).is_some_and(|bytes| bytes <= have);
            if fits { low = middle } else { high = middle - 1 }
        }
        let context = low * BLOCK;
        if context == 0 {
            return Ok(0);
        }
        let now = rest(context)?;
        if needs(context, now).is_some_and(|bytes| bytes <= have) {
            return Ok(context);
        }
        fixed = now;
    }
    Ok(0)
}

/// Bytes taken from the memory that matters.
fn taken(device: &Device) -> u64 {
    let caps = device.caps();
    let counts = |heap: usize| caps.shares_memory() || caps.heaps.get(heap).is_none_or(|h| h.device_local);
    device.taken().iter().enumerate().filter(|(heap, _)| counts(*heap)).map(|(_, bytes)| bytes).sum()
}

fn room(device: &Device) -> Option<u64> {
    let caps = device.caps();
    let shared = caps.shares_memory();
    let free = device.free().unwrap_or_else(|| caps.heaps.iter().map(|heap| heap.size).collect());
    let useful = caps.heaps.iter().zip(&free).filter(|(heap, _)| shared || heap.device_local);
    let heaps = (!caps.heaps.is_empty()).then(|| useful.map(|(_, bytes)| bytes).sum::<u64>());
    let host = if shared { available_memory() } else { None };
    [heaps, host].into_iter().flatten().min()
}

/// Bytes the machine can still give, as Linux counts them; `None` elsewhere.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    available_in(&text)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   12345678 kB\n";
        assert_eq!(available_in(text), Some(12_345_678 * 1024));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
    }
}

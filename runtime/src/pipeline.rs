//! Pipelines by kernel and specialisation values, and the driver's pipeline cache on disk under a checksum of our own.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ash::vk;
use sha2::{Digest, Sha256};

use crate::caps::Need;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::recording::{Command, Recording};
use crate::slice::Pace;
use crate::vulkan::{Context, failed, lock};

/// First bytes of a cache file: name and version of its layout.
const MAGIC: &[u8; 8] = b"VKLLMPC1";

/// A compiled kernel with its layouts.
pub(crate) struct Pipeline {
    pub(crate) handle: vk::Pipeline,
    pub(crate) layout: vk::PipelineLayout,
    pub(crate) set_layout: vk::DescriptorSetLayout,
    context: Arc<Context>,
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if self.context.is_stuck() {
            return;
        }
        // SAFETY: compiled recordings hold their pipelines until their submissions are over.
        unsafe {
            self.context.device.destroy_pipeline(self.handle, None);
            self.context.device.destroy_pipeline_layout(self.layout, None);
            self.context.device.destroy_descriptor_set_layout(self.set_layout, None);
        }
    }
}

/// How long a pipeline took to make.
#[derive(Clone, Debug)]
pub struct PipelineTime {
    pub kernel: &'static str,
    /// Specialisation values by name.
    pub specs: Vec<(&'static str, u32)>,
    pub time: Duration,
    /// Whether the driver found it in the cache; `None` where it does not tell.
    pub cached: Option<bool>,
}

/// A pipeline that takes longer is named in a warning.
const SLOW: Duration = Duration::from_secs(5);

/// Kernel, hash of its code, specialisation values, whether its grid may begin elsewhere than at zero.
type Key = (&'static str, u64, Vec<u32>, bool);

/// All pipelines of a device.
pub(crate) struct Pipelines {
    context: Arc<Context>,
    cache: vk::PipelineCache,
    file: Option<PathBuf>,
    /// Hash of driver, device and what else the file belongs to.
    owner: [u8; 32],
    map: Mutex<HashMap<Key, Arc<Pipeline>>>,
    times: Mutex<Vec<PipelineTime>>,
    // Number of pipelines when the file was read or written last.
    saved: Mutex<usize>,
}

impl Pipelines {
    /// Reads the cache file of this driver under `folder`; a damaged or foreign one is ignored with a warning. `key` is
    /// what it belongs to besides: another one starts anew.
    pub(crate) fn new(context: &Arc<Context>, folder: Option<&Path>, key: &str) -> Result<Self, Error> {
        let caps = &context.caps;
        let name: String = caps.uuid[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let file = folder.map(|folder| folder.join(format!("pipelines-{name}.bin")));
        let mut hash = Sha256::new();
        hash.update(caps.uuid);
        hash.update(caps.subgroup.to_le_bytes());
        hash.update(key);
        let owner = hash.finalize().into();
        let data = file.as_deref().and_then(|path| read_cache(path, &owner)).unwrap_or_default();
        let info = vk::PipelineCacheCreateInfo::default().initial_data(&data);
        // SAFETY: the device lives as long as the context; the data passed our checksum and are the driver's own.
        let cache = unsafe { context.device.create_pipeline_cache(&info, None) }
            .map_err(failed("vkCreatePipelineCache"))?;
        Ok(Pipelines {
            context: Arc::clone(context),
            cache,
            file,
            owner,
            map: Mutex::default(),
            times: Mutex::default(),
            saved: Mutex::new(0),
        })
    }

    /// The pipeline of a kernel with the values of its specialisation constants, in the kernel's order; with `shares` for
    /// grids that begin anywhere.
    pub(crate) fn get(
        &self,
        kernel: &'static Kernel,
        specs: &[u32],
        shares: bool,
    ) -> Result<Arc<Pipeline>, Error> {
        let key: Key = (kernel.name, kernel.hash, specs.to_vec(), shares);
        if let Some(found) = lock(&self.map).get(&key) {
            return Ok(Arc::clone(found));
        }
        let base = vk::PipelineCreateFlags::DISPATCH_BASE;
        let flags = if shares { base } else { vk::PipelineCreateFlags::empty() };
        let pipeline = Arc::new(self.create(kernel, specs, flags)?);
        lock(&self.map).insert(key, Arc::clone(&pipeline));
        Ok(pipeline)
    }

    /// Makes what recordings need and is not there yet, several at once.
    pub(crate) fn prepare(
        &self,
        recordings: &[&Recording],
        pace: &Pace,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(), Error> {
        let mut wanted: Vec<(&'static Kernel, Vec<u32>, bool)> = Vec::new();
        let mut seen = HashSet::new();
        for recording in recordings {
            for cut in pace.cut(recording) {
                for command in &recording.commands[cut.commands] {
                    let Command::Dispatch(dispatch) = command else { continue };
                    let specs = dispatch.kernel.spec_values(&dispatch.specs, self.context.caps.subgroup);
                    let shares = cut.share.is_some();
                    if seen.insert((dispatch.kernel.name, specs.clone(), shares)) {
                        wanted.push((dispatch.kernel, specs, shares));
                    }
                }
            }
        }
        // The longest first, so that none is left over at the end; long code takes long.
        wanted.sort_by_key(|(kernel, ..)| std::cmp::Reverse(kernel.spirv.len()));
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || -> Result<(), Error> {
            while let Some((kernel, specs, shares)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.get(kernel, specs, *shares) {
                    next.store(wanted.len(), Ordering::Relaxed);
                    return Err(error);
                }
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, wanted.len());
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(wanted.len());
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let first = work();
            others.into_iter().fold(first, |result, other| {
                let crashed = || Error::Recording {
                    label: "pipelines".into(),
                    reason: "a compiling thread panicked".into(),
                };
                result.and(other.join().unwrap_or_else(|_| Err(crashed())))
            })
        })
    }

    /// What was made so far.
    pub(crate) fn times(&self) -> Vec<PipelineTime> {
        lock(&self.times).clone()
    }

    fn note(&self, kernel: &'static Kernel, specs: &[u32], time: Duration, cached: Option<bool>) {
        if time > SLOW {
            let seconds = time.as_secs();
            tracing::warn!(
                kernel = kernel.name,
                ?specs,
                seconds,
                "the driver took long to compile a pipeline"
            );
        }
        let specs = kernel.specs.iter().zip(specs).map(|(spec, value)| (spec.name, *value)).collect();
        lock(&self.times).push(PipelineTime { kernel: kernel.name, specs, time, cached });
    }

    /// A pipeline of its own, as `get` makes them, with creation flags.
    pub(crate) fn create(
        &self,
        kernel: &'static Kernel,
        specs: &[u32],
        flags: vk::PipelineCreateFlags,
    ) -> Result<Pipeline, Error> {
        let start = Instant::now();
        let context = &self.context;
        let device = &context.device;
        if let Some(&need) = kernel.needs.iter().find(|&&need| !context.caps.has(need)) {
            let device = context.caps.name.clone();
            return Err(Error::Unsupported { device, need, user: format!("kernel {}", kernel.name) });
        }
        let words: Vec<u32> =
            kernel.spirv.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let bindings: Vec<_> = (0..kernel.bindings.len() as u32)
            .map(|binding| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let set_info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: the device is alive; every handle made here is destroyed by `pipeline`'s drop or below.
        let set_layout = unsafe { device.create_descriptor_set_layout(&set_info, None) }
            .map_err(failed("vkCreateDescriptorSetLayout"))?;
        let mut pipeline = Pipeline {
            handle: vk::Pipeline::null(),
            layout: vk::PipelineLayout::null(),
            set_layout,
            context: Arc::clone(context),
        };
        let push = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(kernel.push_size.max(4))];
        let set_layouts = [set_layout];
        let layout_info =
            vk::PipelineLayoutCreateInfo::default().set_layouts(&set_layouts).push_constant_ranges(&push);
        // SAFETY: as above.
        pipeline.layout = unsafe { device.create_pipeline_layout(&layout_info, None) }
            .map_err(failed("vkCreatePipelineLayout"))?;
        let entries: Vec<_> = kernel
            .specs
            .iter()
            .enumerate()
            .map(|(index, spec)| {
                vk::SpecializationMapEntry::default().constant_id(spec.id).offset(4 * index as u32).size(4)
            })
            .collect();
        let specialization =
            vk::SpecializationInfo::default().map_entries(&entries).data(bytemuck::cast_slice(specs));
        let value = |name| kernel.specs.iter().position(|spec| spec.name == name).map(|index| specs[index]);
        if let Some(found) = value("WG").filter(|&wg| wg > context.caps.max_workgroup) {
            return Err(Error::Limit {
                device: context.caps.name.clone(),
                what: format!("the workgroup of kernel {}", kernel.name),
                found: u64::from(found),
                allowed: u64::from(context.caps.max_workgroup),
            });
        }
        let subgroups = kernel.needs.contains(&Need::SubgroupBasic) || value("SG").is_some();
        let size = value("SG").unwrap_or(context.caps.subgroup);
        let mut required =
            vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default().required_subgroup_size(size);
        // SAFETY: the words are a whole module that the shader compiler's checks accepted.
        let module =
            unsafe { device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&words), None) }
                .map_err(failed("vkCreateShaderModule"))?;
        let mut stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main")
            .specialization_info(&specialization);
        if subgroups && context.caps.subgroup_control {
            if value("WG").is_some_and(|wg| wg % size == 0) {
                stage = stage.flags(vk::PipelineShaderStageCreateFlags::REQUIRE_FULL_SUBGROUPS);
            }
            stage = stage.push_next(&mut required);
        }
        let mut feedback = vk::PipelineCreationFeedback::default();
        let mut told =
            vk::PipelineCreationFeedbackCreateInfo::default().pipeline_creation_feedback(&mut feedback);
        let info = [vk::ComputePipelineCreateInfo::default()
            .flags(flags)
            .stage(stage)
            .layout(pipeline.layout)
            .push_next(&mut told)];
        // SAFETY: everything `info` points to lives until the calls return; the module is not used afterwards.
        let created = unsafe {
            let created = device.create_compute_pipelines(self.cache, &info, None);
            device.destroy_shader_module(module, None);
            created
        };
        match created {
            Ok(handles) => {
                pipeline.handle = handles[0];
                let hit = vk::PipelineCreationFeedbackFlags::APPLICATION_PIPELINE_CACHE_HIT;
                let cached = feedback
                    .flags
                    .contains(vk::PipelineCreationFeedbackFlags::VALID)
                    .then(|| feedback.flags.contains(hit));
                self.note(kernel, specs, start.elapsed(), cached);
                Ok(pipeline)
            }
            Err((_, result)) => match failed("vkCreateComputePipelines")(result) {
                Error::Vulkan { call, result } => {
                    Err(Error::Vulkan { call, result: format!("{result}, for kernel {}", kernel.name) })
                }
                other => Err(other),
            },
        }
    }

    /// Writes the cache to disk when pipelines were added since it was last written. Failure is only a warning:
    /// the cache saves time, nothing else.
    pub(crate) fn save(&self) {
        let Some(path) = &self.file else { return };
        let count = lock(&self.map).len();
        let mut saved = lock(&self.saved);
        if *saved == count {
            return;
        }
        *saved = count;
        // SAFETY: the cache is alive.
        let data = match unsafe { self.context.device.get_pipeline_cache_data(self.cache) } {
            Ok(data) => data,
            Err(result) => {
                tracing::warn!(%result, "the driver did not give its pipeline cache");
                return;
            }
        };
        if let Err(error) = write_cache(path, &self.owner, &data) {
            tracing::warn!(%error, path = %path.display(), "the pipeline cache could not be written");
        }
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        self.save();
        lock(&self.map).clear();
        // SAFETY: the cache is not used by anything else.
        unsafe { self.context.device.destroy_pipeline_cache(self.cache, None) };
    }
}

/// File layout: magic (8), hash of what it belongs to (32), SHA-256 of the data (32), data.
fn read_cache(path: &Path, uuid: &[u8; 32]) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    match check_cache(&bytes, uuid) {
        Ok(data) => Some(data.to_vec()),
        Err(reason) => {
            tracing::warn!(path = %path.display(), reason, "the pipeline cache is ignored");
            None
        }
    }
}

/// What the driver may be given of a cache file, or why nothing.
pub fn check_cache<'a>(bytes: &'a [u8], uuid: &[u8; 32]) -> Result<&'a [u8], &'static str> {
    let (head, data) = bytes.split_at_checked(72).ok_or("it is shorter than its header")?;
    if &head[..8] != MAGIC {
        return Err("it does not begin like a pipeline cache of this version");
    }
    if head[8..40] != uuid[..] {
        return Err("it belongs to another driver, device or version of the shaders");
    }
    if head[40..] != Sha256::digest(data)[..] {
        return Err("its checksum does not match");
    }
    Ok(data)
}

fn write_cache(path: &Path, uuid: &[u8; 32], data: &[u8]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(data.len() + 72);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(uuid);
    bytes.extend_from_slice(&Sha256::digest(data));
    bytes.extend_from_slice(data);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // A process killed in the middle leaves the old file or none.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_cache_is_refused() {
        let folder = std::env::temp_dir().join(format!("vkllm-cache-test-{}", std::process::id()));
        let path = folder.join("pipelines.bin");
        let uuid = [7; 32];
        write_cache(&path, &uuid, b"driver data").unwrap();
        let good = std::fs::read(&path).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(check_cache(&good, &uuid), Ok(&b"driver data"[..]));
        assert!(check_cache(&good, &[8; 32]).is_err());
        for cut in 0..good.len() {
            assert!(check_cache(&good[..cut], &uuid).is_err(), "cut at {cut}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check_cache(&bad, &uuid).is_err(), "bit {bit}");
        }
    }
}

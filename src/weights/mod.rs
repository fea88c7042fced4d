//! From tensors of a file to tensors on a device: read once, straight into their final memory, or not read at all.

mod layout;
mod read;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vkllm_runtime::{Buffer, Caps, Device, HostMemory, PipelineTime, Usage};
use vkllm_shaders::formats;

use crate::error::{Error, Result};
use crate::gguf::{Gguf, SharedBytes, TensorInfo};
use crate::tensor::Tensor;
use layout::{Placement, in_place, packed};

/// Called while loading with (bytes read, bytes in all); returning false stops the load.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);

/// How weights get to where kernels read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// Straight into the device's memory where the host can see it, else through staging buffers.
    #[default]
    Auto,
    /// Read into the device's memory, which the host must see.
    Direct,
    /// The device reads the mapped file itself, where its driver can; else as `Auto`. Whoever shortens the file while
    /// the model lives may end the process with a signal.
    Import,
    /// Read into staging buffers and copied from there by the device.
    Staging,
}

impl LoadMode {
    /// Every mode, in order of declaration.
    pub const ALL: &[LoadMode] = &[LoadMode::Auto, LoadMode::Direct, LoadMode::Import, LoadMode::Staging];

    /// Name as users type it.
    pub fn name(self) -> &'static str {
        match self {
            LoadMode::Auto => "auto",
            LoadMode::Direct => "direct",
            LoadMode::Import => "import",
            LoadMode::Staging => "staging",
        }
    }

    /// Parses a name as users type it.
    pub fn parse(name: &str) -> Option<Self> {
        LoadMode::ALL.iter().copied().find(|mode| mode.name() == name)
    }
}

/// How the weights came into memory.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// What was done, never `Auto`.
    pub mode: LoadMode,
    /// Why it was done.
    pub why: String,
    /// Bytes of tensors.
    pub bytes: u64,
    pub time: Duration,
    pub buffers: usize,
    /// Threads that read; 0 when nothing was read.
    pub threads: usize,
    /// Pipelines that were made while loading, in the order in which they became ready. A software driver puts most of the
    /// work off until a pipeline is first used.
    pub pipelines: Vec<PipelineTime>,
    /// From the first pipeline's start to the last one's end.
    pub pipeline_time: Duration,
    /// The largest resident size of the process until the weights were there; `None` where nobody tells.
    pub peak_resident: Option<u64>,
}

/// All tensors of a model, by name.
pub struct Weights {
    tensors: HashMap<String, Tensor>,
}

/// Memory for all tensors, not filled yet.
pub struct Placed<'a> {
    pub weights: Weights,
    placements: Vec<Placement<'a>>,
    buffers: Vec<Buffer>,
    /// How they will be filled, and why so.
    pub mode: LoadMode,
    pub why: String,
}

/// The mapped file, kept while a device reads it.
struct Pages(SharedBytes);

impl HostMemory for Pages {
    fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// Checks that a tensor's type can be run and its shape be indexed; returns the tensor without memory.
fn describe(gguf: &Gguf, info: &TensorInfo, buffer: &Buffer, offset: u64) -> Result<Tensor> {
    let refuse = |reason: String| Error::Model { path: gguf.path().to_owned(), reason };
    let format = formats::by_ggml_type(info.ggml_type).ok_or_else(|| {
        let known: Vec<_> = formats::FORMATS.iter().map(|f| f.label).collect();
        refuse(format!(
            "tensor {} has type {}; supported are {}",
            info.name,
            crate::gguf::type_name(info.ggml_type),
            known.join(", ")
        ))
    })?;
    let size = |dim: u64| {
        u32::try_from(dim)
            .map_err(|_| refuse(format!("tensor {} has a dimension of {dim}; allowed is 2^32-1", info.name)))
    };
    let rows: u64 = info.dims[1..].iter().product();
    Ok(Tensor {
        name: info.name.clone(),
        format,
        k: size(info.dims[0])?,
        n: size(rows)?,
        view: buffer.view(offset, info.bytes),
    })
}

/// Largest buffer a device allows.
fn limit(caps: &Caps) -> u64 {
    caps.max_buffer.min(caps.max_allocation)
}

/// Buffers over pieces of the mapped file, or why there are none.
fn import<'a>(
    device: &Device,
    gguf: &Gguf,
    wanted: &[&'a TensorInfo],
) -> Result<std::result::Result<(Vec<Placement<'a>>, Vec<Buffer>), String>> {
    let caps = device.caps();
    if gguf.files() > 1 {
        return Ok(Err(format!("the model is in {} files", gguf.files())));
    }
    let Some(align) = caps.import_alignment else {
        return Ok(Err(format!("{} cannot import memory", caps.name)));
    };
    let mut wanted = wanted.to_vec();
    wanted.sort_by_key(|info| info.offset);
    let (placed, pieces) = match in_place(&wanted, align, limit(caps) / align * align) {
        Ok(found) => found,
        Err(reason) => return Ok(Err(reason)),
    };
    // Touching a page behind the end of a file is a signal, so a file that is too short already is refused.
    gguf.check_length()?;
    let pages: Arc<dyn HostMemory> = Arc::new(Pages(gguf.shared_bytes()));
    let mut buffers = Vec::with_capacity(pieces.len());
    for (index, &(offset, bytes)) in pieces.iter().enumerate() {
        match device.import(format!("weights {index}"), &pages, offset, bytes) {
            Ok(buffer) => buffers.push(buffer),
            Err(vkllm_runtime::Error::Import { reason, .. }) => return Ok(Err(reason)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Ok((placed, buffers)))
}

impl<'a> Placed<'a> {
    /// Takes memory for `wanted` tensors of the file; on a planner only counts it.
    ///
    /// Errors: an unsupported type, memory that does not suffice, a mode the device cannot do.
    pub fn new(device: &Device, gguf: &Gguf, wanted: &[&'a TensorInfo], asked: LoadMode) -> Result<Self> {
        let caps = device.caps();
        let mut refused = String::new();
        if asked == LoadMode::Import {
            match import(device, gguf, wanted)? {
                Ok((placements, buffers)) => {
                    let why = "the device reads the mapped file".to_owned();
                    return Placed::describe(gguf, placements, buffers, LoadMode::Import, why);
                }
                Err(reason) => refused = format!("the file cannot be imported ({reason}); "),
            }
        }
        let (placements, sizes) = packed(wanted, limit(caps));
        let buffers = sizes
            .iter()
            .enumerate()
            .map(|(index, &size)| device.buffer(format!("weights {index}"), size, Usage::Constant))
            .collect::<Result<Vec<_>, _>>()?;
        let seen = buffers.iter().filter(|buffer| buffer.is_host_visible()).count();
        let (mode, why) = match asked {
            LoadMode::Staging => (LoadMode::Staging, "it was asked for".to_owned()),
            LoadMode::Direct if seen < buffers.len() => {
                return Err(Error::Argument {
                    what: "the way weights are loaded".into(),
                    found: "direct".into(),
                    allowed: format!("auto or staging on {}, whose memory the host cannot see", caps.name),
                });
            }
            LoadMode::Direct => (LoadMode::Direct, "it was asked for".to_owned()),
            _ if seen == buffers.len() && caps.shares_memory() => {
                (LoadMode::Direct, "host and device share their memory".to_owned())
            }
            _ if seen == buffers.len() => {
                (LoadMode::Direct, "the host sees all of the device's memory".to_owned())
            }
            _ => (LoadMode::Staging, "the host cannot see the device's memory".to_owned()),
        };
        Placed::describe(gguf, placements, buffers, mode, refused + &why)
    }

    fn describe(
        gguf: &Gguf,
        placements: Vec<Placement<'a>>,
        buffers: Vec<Buffer>,
        mode: LoadMode,
        why: String,
    ) -> Result<Self> {
        let mut tensors = HashMap::with_capacity(placements.len());
        for place in &placements {
            let tensor = describe(gguf, place.info, &buffers[place.buffer], place.offset)?;
            tensors.insert(tensor.name.clone(), tensor);
        }
        Ok(Placed { weights: Weights { tensors }, placements, buffers, mode, why })
    }

    /// Fills the memory from the file, several reads in flight.
    ///
    /// Errors: a file that ends early, a device that fails, progress that stops.
    pub fn fill(self, device: &Device, gguf: &Gguf, progress: Progress<'_>) -> Result<(Weights, LoadReport)> {
        let start = Instant::now();
        let bytes = self.placements.iter().map(|place| place.info.bytes).sum();
        let threads = match self.mode {
            LoadMode::Import => {
                progress(bytes, bytes);
                0
            }
            mode => {
                let staged = mode == LoadMode::Staging;
                read::all(device, gguf, &self.placements, &self.buffers, staged, progress)?
            }
        };
        let report = LoadReport {
            mode: self.mode,
            why: self.why,
            bytes,
            time: start.elapsed(),
            buffers: self.buffers.len(),
            threads,
            peak_resident: read::peak_resident(),
            ..LoadReport::default()
        };
        Ok((self.weights, report))
    }
}

impl Weights {
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
}

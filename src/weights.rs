//! From tensors of a file to tensors on a device: every byte is read once, straight into its final memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vkllm_runtime::{Buffer, Device, Usage};
use vkllm_shaders::formats;

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::tensor::Tensor;

/// Bytes read by one positioned read.
const CHUNK: u64 = 4 << 20;
/// Most bytes of one buffer; tensors larger than this get a buffer of their own.
const BUFFER: u64 = 1 << 30;
/// Tensors start at multiples of this in their buffer, as vector loads need.
const ALIGN: u64 = 256;

/// Called while loading with (bytes read, bytes in all); returning false stops the load.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);

/// How the weights came into memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadReport {
    /// Bytes of tensors.
    pub bytes: u64,
    pub time: Duration,
    pub buffers: usize,
    pub threads: usize,
}

/// All tensors of a model, by name.
pub struct Weights {
    tensors: HashMap<String, Tensor>,
    pub report: LoadReport,
}

/// Which tensor lies where: buffer and offset.
struct Placement<'a> {
    info: &'a TensorInfo,
    buffer: usize,
    offset: u64,
}

/// Packs tensors into buffers of at most `limit` bytes, in file order; none straddles two.
fn place<'a>(tensors: &[&'a TensorInfo], limit: u64) -> (Vec<Placement<'a>>, Vec<u64>) {
    let mut sizes: Vec<u64> = Vec::new();
    let mut placed = Vec::with_capacity(tensors.len());
    for &info in tensors {
        let start = sizes.last().map_or(0, |size| size.next_multiple_of(ALIGN));
        if sizes.is_empty() || start + info.bytes > limit {
            sizes.push(info.bytes);
            placed.push(Placement { info, buffer: sizes.len() - 1, offset: 0 });
        } else if let Some(size) = sizes.last_mut() {
            *size = start + info.bytes;
            placed.push(Placement { info, buffer: sizes.len() - 1, offset: start });
        }
    }
    (placed, sizes)
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

impl Weights {
    /// Reads `wanted` tensors of the file to the device, several reads in flight.
    ///
    /// Errors: an unsupported type, memory that does not suffice, a file that ends early.
    pub fn load(
        device: &Device,
        gguf: &Gguf,
        wanted: &[&TensorInfo],
        progress: Progress<'_>,
    ) -> Result<Self> {
        let start = Instant::now();
        let caps = device.caps();
        let limit = BUFFER.min(caps.max_buffer).min(caps.max_allocation);
        let (placed, sizes) = place(wanted, limit);
        let buffers = sizes
            .iter()
            .enumerate()
            .map(|(index, &size)| device.buffer(format!("weights {index}"), size, Usage::Constant))
            .collect::<Result<Vec<_>, _>>()?;
        let mut tensors = HashMap::with_capacity(placed.len());
        for place in &placed {
            let tensor = describe(gguf, place.info, &buffers[place.buffer], place.offset)?;
            tensors.insert(tensor.name.clone(), tensor);
        }
        let threads = read_all(gguf, &placed, &buffers, progress)?;
        let bytes = wanted.iter().map(|info| info.bytes).sum();
        let report = LoadReport { bytes, time: start.elapsed(), buffers: buffers.len(), threads };
        Ok(Weights { tensors, report })
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
}

fn read_all(
    gguf: &Gguf,
    placed: &[Placement<'_>],
    buffers: &[Buffer],
    progress: Progress<'_>,
) -> Result<usize> {
    let mut chunks = Vec::new();
    for place in placed {
        let mut done = 0;
        while done < place.info.bytes {
            let len = CHUNK.min(place.info.bytes - done);
            chunks.push((place.info.offset + done, place.buffer, place.offset + done, len));
            done += len;
        }
    }
    let total: u64 = chunks.iter().map(|c| c.3).sum();
    let (next, read, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let work = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let Some(&(from, buffer, to, len)) = chunks.get(next.fetch_add(1, Ordering::Relaxed) as usize)
            else {
                return Ok(());
            };
            let result = buffers[buffer].write_with(to, len, |target| Ok(gguf.read_at(from, target)?));
            let done = read.fetch_add(len, Ordering::Relaxed) + len;
            if result.is_err() || !progress(done, total) {
                stop.store(true, Ordering::Relaxed);
                return result;
            }
        }
        Ok(())
    };
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8).min(chunks.len().max(1));
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut results = vec![work()];
        results.extend(handles.into_iter().map(|handle| {
            handle.join().unwrap_or_else(|_| {
                Err(Error::Model { path: gguf.path().to_owned(), reason: "a reading thread panicked".into() })
            })
        }));
        results
    });
    results.into_iter().collect::<Result<Vec<()>>>()?;
    if stop.load(Ordering::Relaxed) {
        let source = std::io::Error::from(std::io::ErrorKind::Interrupted);
        return Err(Error::Io { path: gguf.path().to_owned(), what: "loading was stopped", source });
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(bytes: u64) -> TensorInfo {
        TensorInfo { name: String::new(), ggml_type: 0, dims: vec![bytes / 4], offset: 0, bytes }
    }

    #[test]
    fn no_tensor_straddles_a_buffer() {
        let infos: Vec<_> = [100, 300, 5000, 20, 900].map(info).into();
        let all: Vec<_> = infos.iter().collect();
        let (placed, sizes) = place(&all, 1024);
        for place in &placed {
            assert_eq!(place.offset % ALIGN, 0);
            assert!(place.offset + place.info.bytes <= sizes[place.buffer]);
        }
        assert_eq!(sizes, [556, 5000, 20, 900]);
    }
}

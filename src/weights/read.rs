//! Positioned reads from several threads, into the final memory or into staging buffers on the way there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vkllm_runtime::{Buffer, Device, Uploader};

use super::Progress;
use super::layout::Placement;
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// Bytes read by one positioned read.
const CHUNK: u64 = 4 << 20;

/// A piece of a tensor: where it is in the file, where it goes.
struct Piece {
    from: u64,
    buffer: usize,
    to: u64,
    len: u64,
}

fn pieces(placed: &[Placement<'_>]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for place in placed {
        let mut done = 0;
        while done < place.info.bytes {
            let len = CHUNK.min(place.info.bytes - done);
            let (from, to) = (place.info.offset + done, place.offset + done);
            pieces.push(Piece { from, buffer: place.buffer, to, len });
            done += len;
        }
    }
    pieces
}

/// Reads all tensors; returns the number of threads. With `staged`, or where the host cannot see a buffer, the device
/// copies.
pub(super) fn all(
    device: &Device,
    gguf: &Gguf,
    placed: &[Placement<'_>],
    buffers: &[Buffer],
    staged: bool,
    progress: Progress<'_>,
) -> Result<usize> {
    let pieces = pieces(placed);
    let total: u64 = pieces.iter().map(|piece| piece.len).sum();
    let (next, read, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let work = || -> Result<()> {
        let mut uploader = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed) as usize) else { break };
            let target = &buffers[piece.buffer];
            let fill = |bytes: &mut [u8]| -> Result<()> { Ok(gguf.read_at(piece.from, bytes)?) };
            let result = if staged || !target.is_host_visible() {
                uploaded(device, &mut uploader, target, piece, fill)
            } else {
                target.write_with(piece.to, piece.len, fill)
            };
            let done = read.fetch_add(piece.len, Ordering::Relaxed) + piece.len;
            if result.is_err() || !progress(done, total) {
                stop.store(true, Ordering::Relaxed);
                return result;
            }
        }
        Ok(uploader.map_or(Ok(()), Uploader::finish)?)
    };
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8).min(pieces.len().max(1));
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

/// Sends one piece through the thread's ring of staging buffers, made on first use.
fn uploaded(
    device: &Device,
    uploader: &mut Option<Uploader>,
    target: &Buffer,
    piece: &Piece,
    fill: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<()> {
    let ring = match uploader {
        Some(ring) => ring,
        None => uploader.insert(Uploader::new(device, CHUNK)?),
    };
    ring.put(target, piece.to, piece.len, fill)
}

/// The largest resident size of this process so far, as Linux counts it.
pub(super) fn peak_resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

//! Submissions: compiled recordings in order, in as many submissions as their times demand.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ash::vk;

use crate::device::{Backend, Compiled, Device, Gpu, Work, foreign, planned};
use crate::encode::Encoded;
use crate::error::Error;
use crate::hazard::between;
use crate::slice::{Cost, group};
use crate::submit::Ticket;
use crate::trail::{Marks, Place};
use crate::vulkan::lock;

/// Slices whose times are kept.
const KEPT: usize = 1 << 14;
/// Slices on the queue at once: while one runs the next one waits, so that the device need not.
const AHEAD: usize = 2;

/// What came of [`Device::run`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a run may have been stopped"]
pub struct Ran {
    /// Everything was done; otherwise it was stopped between two submissions.
    pub whole: bool,
    /// Time in which the host waited for the device.
    pub waited: Duration,
    /// Submissions made.
    pub slices: u32,
}

/// One submission: pieces of parts.
struct Slice {
    buffers: Vec<vk::CommandBuffer>,
    marks: Vec<Arc<Marks>>,
    pieces: Vec<(usize, Range<usize>)>,
}

impl Device {
    /// Submits compiled recordings in order, with barriers between those that touch the same bytes: in one submission, or
    /// in several where one would take longer than the device's slices. A recording that is still pending is waited for.
    pub fn submit(&self, parts: &[&Compiled]) -> Result<Ticket, Error> {
        self.submit_parts(parts, true)
    }

    /// As [`Device::submit`], without the barriers between parts. Exists so that tests can show that a missing one
    /// is noticed.
    pub fn submit_unfenced(&self, parts: &[&Compiled]) -> Result<Ticket, Error> {
        self.submit_parts(parts, false)
    }

    /// As [`Device::submit`], and waits. At most two submissions are on the queue at once; before each but the first,
    /// `go_on` says whether it shall be made. A run that was stopped leaves undefined what its recordings write.
    ///
    /// Errors: [`Error::Lost`], [`Error::Timeout`] when it makes no progress.
    pub fn run(&self, parts: &[&Compiled], go_on: &dyn Fn() -> bool) -> Result<Ran, Error> {
        let Backend::Vulkan(gpu) = &*self.backend else {
            let mut slices = 0;
            for part in parts {
                if slices > 0 && !go_on() {
                    return Ok(Ran { whole: false, waited: Duration::ZERO, slices });
                }
                self.submit(&[part])?.wait()?;
                slices += 1;
            }
            return Ok(Ran { whole: true, waited: Duration::ZERO, slices });
        };
        let doing = doing(parts);
        let encoded = encoded(gpu, parts)?;
        let slices = slices(gpu, parts, &encoded, true)?;
        let mut waited = Duration::ZERO;
        let mut values = Vec::with_capacity(slices.len());
        let mut ended: Vec<Instant> = Vec::with_capacity(slices.len());
        let began = Instant::now();
        let mut wait = |value: u64, ended: &mut Vec<Instant>| {
            let start = Instant::now();
            gpu.timeline.wait(value, &doing)?;
            ended.push(Instant::now());
            waited += start.elapsed();
            Ok::<(), Error>(())
        };
        for (number, slice) in slices.iter().enumerate() {
            if number > 0 && !go_on() {
                break;
            }
            if number >= AHEAD {
                wait(values[number - AHEAD], &mut ended)?;
            }
            values.push(submit(gpu, &encoded, slice, number + 1 == slices.len())?);
        }
        for &value in &values[ended.len()..] {
            wait(value, &mut ended)?;
        }
        gpu.note(&slices[..values.len()], &encoded, began, &ended);
        Ok(Ran { whole: values.len() == slices.len(), waited, slices: values.len() as u32 })
    }

    fn submit_parts(&self, parts: &[&Compiled], fenced: bool) -> Result<Ticket, Error> {
        let doing = doing(parts);
        match &*self.backend {
            Backend::Planner(..) => Err(planned(&doing)),
            Backend::Reference(_) => {
                for part in parts {
                    match &part.work {
                        Work::Reference(program) => program.run()?,
                        Work::Vulkan(_) => return Err(foreign(part)),
                    }
                }
                Ok(Ticket { timeline: None, doing })
            }
            Backend::Vulkan(gpu) => {
                let encoded = encoded(gpu, parts)?;
                let mut value = 0;
                for slice in slices(gpu, parts, &encoded, fenced)? {
                    value = submit(gpu, &encoded, &slice, false)?;
                }
                Ok(Ticket { timeline: Some((Arc::clone(&gpu.timeline), value)), doing })
            }
        }
    }

    /// Takes the times of the latest submissions that [`Device::run`] made, oldest first: by the device's clock, else by the
    /// host's.
    pub fn take_slice_times(&self) -> Vec<Duration> {
        match &*self.backend {
            Backend::Vulkan(gpu) => {
                std::mem::take(&mut *lock(&gpu.slices)).into_iter().map(Duration::from_nanos).collect()
            }
            Backend::Reference(_) | Backend::Planner(..) => Vec::new(),
        }
    }

    /// Where the device stands in what was submitted and is not known to have ended.
    pub fn place(&self) -> Option<Place> {
        match &*self.backend {
            Backend::Vulkan(gpu) => gpu.timeline.trail.place(),
            Backend::Reference(_) | Backend::Planner(..) => None,
        }
    }
}

fn doing(parts: &[&Compiled]) -> Arc<str> {
    parts.first().map_or_else(|| "nothing".into(), |part| Arc::clone(&part.name))
}

/// The parts, all of this device and each once.
fn encoded<'a>(gpu: &Arc<Gpu>, parts: &[&'a Compiled]) -> Result<Vec<&'a Encoded>, Error> {
    let mut all: Vec<&Encoded> = Vec::with_capacity(parts.len());
    for part in parts {
        match &part.work {
            Work::Vulkan(encoded) if encoded.is_of(gpu) => all.push(encoded),
            _ => return Err(foreign(part)),
        }
    }
    for (index, encoded) in all.iter().enumerate() {
        if all[..index].iter().any(|other| std::ptr::eq(*other, *encoded)) {
            let reason = "it stands twice in one submission; submit it once after the other".to_owned();
            return Err(Error::Recording { label: parts[index].name.to_string(), reason });
        }
    }
    Ok(all)
}

/// Groups the pieces of all parts into submissions.
fn slices(gpu: &Gpu, parts: &[&Compiled], encoded: &[&Encoded], fenced: bool) -> Result<Vec<Slice>, Error> {
    let edges: Vec<_> = encoded.iter().map(|encoded| &encoded.edges).collect();
    let costs: Vec<Vec<Cost>> = encoded.iter().map(|encoded| encoded.costs()).collect();
    let mut begins = group(&costs.concat(), gpu.pace.budget).into_iter();
    let mut all: Vec<Slice> = Vec::new();
    let empty = || Slice { buffers: Vec::new(), marks: Vec::new(), pieces: Vec::new() };
    for (index, (&encoded, barrier)) in encoded.iter().zip(between(&edges)).enumerate() {
        let last = encoded.last.load(Ordering::Acquire);
        if last > 0 {
            gpu.timeline.wait(last, &parts[index].name)?;
        }
        for (piece, &commands) in encoded.pieces.iter().enumerate() {
            if begins.next() != Some(false) || all.is_empty() {
                all.push(empty());
            }
            let count = all.len();
            let slice = &mut all[count - 1];
            if piece == 0 && barrier && fenced {
                slice.buffers.push(gpu.fence.commands());
            }
            slice.buffers.push(commands);
            match slice.pieces.last_mut().filter(|(part, _)| *part == index) {
                Some((_, pieces)) => pieces.end = piece + 1,
                None => {
                    slice.pieces.push((index, piece..piece + 1));
                    slice.marks.extend(encoded.marks.clone());
                }
            }
        }
    }
    if all.is_empty() {
        all.push(empty());
    }
    Ok(all)
}

/// Submits a slice; returns the value that marks its end. `ends` says that it is a run's last.
fn submit(gpu: &Gpu, encoded: &[&Encoded], slice: &Slice, ends: bool) -> Result<u64, Error> {
    let value = gpu.timeline.submit(&slice.buffers, &slice.marks, ends)?;
    for (part, _) in &slice.pieces {
        encoded[*part].last.store(value, Ordering::Release);
    }
    Ok(value)
}

impl Gpu {
    /// Notes what slices took, which ended by the host's clock when they were waited for.
    fn note(&self, slices: &[Slice], encoded: &[&Encoded], began: Instant, ended: &[Instant]) {
        let mut since = began;
        for (slice, &end) in slices.iter().zip(ended) {
            let by_host = end.saturating_duration_since(since);
            since = end;
            let spans: Option<Vec<_>> =
                slice.pieces.iter().map(|(part, pieces)| encoded[*part].span(pieces)).collect();
            let spans = spans.filter(|spans| !spans.is_empty());
            let took = match &spans {
                Some(spans) => {
                    let first = spans.iter().map(|(first, _)| *first).min().unwrap_or_default();
                    spans.iter().map(|(_, last)| *last).max().unwrap_or_default().saturating_sub(first)
                }
                None => {
                    // Nobody tells how long each part took: what was expected of them divides it.
                    let expected: Vec<f64> =
                        slice.pieces.iter().map(|(part, pieces)| encoded[*part].expected(pieces)).collect();
                    let all = expected.iter().sum::<f64>().max(f64::MIN_POSITIVE);
                    for ((part, pieces), expected) in slice.pieces.iter().zip(expected) {
                        encoded[*part].took_by_host(pieces.clone(), by_host.mul_f64(expected / all));
                    }
                    by_host.as_nanos() as u64
                }
            };
            let mut all: std::sync::MutexGuard<'_, VecDeque<u64>> = lock(&self.slices);
            if all.len() >= KEPT {
                all.pop_front();
            }
            all.push_back(took);
        }
    }
}

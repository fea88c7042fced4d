//! What the device can do at most: bandwidth of each kind of memory, arithmetic, and the cost of a dispatch.

use std::time::{Duration, Instant};

use vkllm_runtime::{Buffer, CompileOptions, Device, Dispatch, Grid, Need, Recording, Usage, View};
use vkllm_shaders::ops::{probe_copy, probe_dot, probe_fma, probe_read, probe_write};
use vkllm_shaders::select::Candidate;

use crate::error::Result;

/// Bytes of a bandwidth test: beyond the caches of everything that shares memory with a CPU.
const BYTES: u64 = 256 << 20;
/// Runs of each test; the fastest counts, because whatever disturbs makes it slower.
const RUNS: usize = 7;
/// Dispatches of the test that does nothing but start them.
const LAUNCHES: u32 = 256;
/// An arithmetic test that took less is repeated with more rounds.
const LONG_ENOUGH: f64 = 0.01;

/// Bandwidth of one kind of memory, bytes per second. Copied bytes count twice, read and written.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryRates {
    pub name: String,
    /// Bytes of the test.
    pub bytes: u64,
    pub read: f64,
    pub write: f64,
    pub copy: f64,
}

/// What a device can do at most.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    /// The memory that weights are put into, then every type of memory by itself.
    pub memory: Vec<MemoryRates>,
    /// What the host's own threads read from its memory, bytes per second.
    pub host_read: Option<f64>,
    /// Operations per second, a multiplication and an addition being two.
    pub f32: Option<f64>,
    pub f16: Option<f64>,
    pub int8: Option<f64>,
    /// Time from one dispatch to the next that waits for it, and the same with a timestamp between the two.
    pub launch: Option<Duration>,
    pub timed_launch: Option<Duration>,
    /// Bytes of the largest cache of the host, which a software driver has as well.
    pub cache: Option<u64>,
    /// Bytes per second that the memory has on paper, and who says so.
    pub nominal: Option<(f64, String)>,
    /// False where the device tells no times: then the host's clock was read, launch and wait included.
    pub by_device: bool,
}

impl Ceilings {
    /// Bandwidth of reading weights.
    pub fn read(&self) -> Option<f64> {
        self.memory.first().map(|rates| rates.read)
    }

    /// Arithmetic of the type that a kernel multiplies with.
    pub fn arithmetic_for(&self, kernel: &str) -> Option<f64> {
        if kernel.starts_with("linear") && kernel.ends_with(".q8") { self.int8 } else { self.f32 }
    }
}

/// A test that takes a moment each.
pub type Progress<'a> = &'a dyn Fn(&str) -> bool;

struct Probe<'a> {
    device: &'a Device,
    by_device: bool,
}

impl Probe<'_> {
    /// Seconds of the fastest of some runs; `None` when a run takes no time, as on a device that executes nothing.
    fn fastest(&mut self, recording: &Recording, runs: usize) -> Result<Option<f64>> {
        self.fastest_with(recording, runs, &CompileOptions::default())
    }

    fn fastest_with(
        &mut self,
        recording: &Recording,
        runs: usize,
        options: &CompileOptions<'_>,
    ) -> Result<Option<f64>> {
        let compiled = self.device.compile(recording, options)?;
        let mut best: Option<f64> = None;
        for run in 0..=runs {
            let began = Instant::now();
            self.device.submit(&[&compiled])?.wait()?;
            let wall = began.elapsed().as_secs_f64();
            let seconds = match compiled.times().total_nanoseconds {
                Some(total) => total as f64 / 1e9,
                None => {
                    self.by_device = false;
                    wall
                }
            };
            // The first run finds pages and clocks that are not there yet.
            if run > 0 && seconds > 0.0 {
                best = Some(best.map_or(seconds, |best| best.min(seconds)));
            }
        }
        Ok(best)
    }

    /// Invocations of a workgroup, and workgroups: on a software driver a few for each thread, on a GPU many.
    fn shape(&self) -> (u32, u32) {
        let caps = self.device.caps();
        if caps.subgroup <= 16 { (caps.subgroup, 1024) } else { (caps.max_workgroup.min(256), 4096) }
    }

    fn dispatch<P: bytemuck::Pod>(
        &self,
        recording: &mut Recording,
        candidate: &'static Candidate,
        views: Vec<View>,
        push: &P,
        groups: u32,
    ) -> Result<()> {
        let dispatch = Dispatch {
            label: candidate.kernel.name.to_owned(),
            kernel: candidate.kernel,
            views,
            push: bytemuck::bytes_of(push).to_vec(),
            specs: vec![("WG", self.shape().0)],
            grid: Grid::Fixed([groups, 1, 1]),
        };
        Ok(recording.dispatch(dispatch)?)
    }

    fn memory(&mut self, name: &str, usage: Usage, bytes: u64) -> Result<Option<MemoryRates>> {
        let half = bytes / 2 / 16 * 16;
        let pair = |device: &Device| -> Result<[Buffer; 2]> {
            Ok([device.buffer("probe a", half, usage)?, device.buffer("probe b", half, usage)?])
        };
        let [a, b] = pair(self.device)?;
        let (wg, groups) = self.shape();
        let sums = self.device.buffer("probe sums", u64::from(wg * groups) * 4, Usage::Local)?;
        let quads = (half / 16) as u32;
        let mut write = Recording::new("write");
        for (seed, buffer) in [(1, &a), (2, &b)] {
            let push = probe_write::Push { quads, seed, ..Default::default() };
            let views = probe_write::Args { y: buffer.whole() }.views();
            self.dispatch(&mut write, &probe_write::CANDIDATES[0], views, &push, groups)?;
        }
        let mut read = Recording::new("read");
        for buffer in [&a, &b] {
            let push = probe_read::Push { quads, ..Default::default() };
            let views = probe_read::Args { x: buffer.whole(), y: sums.whole() }.views();
            self.dispatch(&mut read, &probe_read::CANDIDATES[0], views, &push, groups)?;
        }
        let mut copy = Recording::new("copy");
        let push = probe_copy::Push { quads, ..Default::default() };
        let views = probe_copy::Args { x: a.whole(), y: b.whole() }.views();
        self.dispatch(&mut copy, &probe_copy::CANDIDATES[0], views, &push, groups)?;
        let rate = |seconds: Option<f64>| seconds.map(|seconds| 2.0 * half as f64 / seconds);
        // Written first: pages that nobody wrote may all be one page of zeros.
        let write = rate(self.fastest(&write, RUNS)?);
        let read = rate(self.fastest(&read, RUNS)?);
        let copy = rate(self.fastest(&copy, RUNS)?);
        let name = name.to_owned();
        Ok(match (read, write, copy) {
            (Some(read), Some(write), Some(copy)) => {
                Some(MemoryRates { name, bytes: 2 * half, read, write, copy })
            }
            _ => None,
        })
    }

    /// Operations per second of a chain of `per_round` operations per invocation and round.
    fn arithmetic(
        &mut self,
        per_round: f64,
        append: impl Fn(&Self, &mut Recording, &Buffer, u32, u32) -> Result<()>,
    ) -> Result<Option<f64>> {
        let (wg, groups) = self.shape();
        let sums = self.device.buffer("probe sums", u64::from(wg * groups) * 4, Usage::Local)?;
        let mut rounds = 64;
        loop {
            let mut recording = Recording::new("arithmetic");
            append(self, &mut recording, &sums, rounds, groups)?;
            let Some(seconds) = self.fastest(&recording, 3)? else { return Ok(None) };
            if seconds >= LONG_ENOUGH || rounds >= 1 << 20 {
                return Ok(Some(per_round * f64::from(rounds) * f64::from(wg * groups) / seconds));
            }
            rounds *= 4;
        }
    }

    fn floats(&mut self, kind: &str) -> Result<Option<f64>> {
        let candidates = probe_fma::CANDIDATES.iter();
        let Some(candidate) = candidates.into_iter().find(|c| c.kernel.axis("TYPE") == kind) else {
            return Ok(None);
        };
        if candidate.kernel.needs.iter().any(|need| !self.device.caps().has(*need)) {
            return Ok(None);
        }
        self.arithmetic(64.0, |probe, recording, sums, rounds, groups| {
            // It tends to 2: no infinities, no subnormals.
            let push = probe_fma::Push { rounds, factor: 0.5, term: 1.0, ..Default::default() };
            let views = probe_fma::Args { y: sums.whole() }.views();
            probe.dispatch(recording, candidate, views, &push, groups)
        })
    }

    fn bytes(&mut self) -> Result<Option<f64>> {
        if !self.device.caps().has(Need::IntegerDot) {
            return Ok(None);
        }
        self.arithmetic(128.0, |probe, recording, sums, rounds, groups| {
            let push = probe_dot::Push { rounds, factor: 0x0503_0201, ..Default::default() };
            let views = probe_dot::Args { y: sums.whole() }.views();
            probe.dispatch(recording, &probe_dot::CANDIDATES[0], views, &push, groups)
        })
    }

    fn launch(&mut self, timed: bool) -> Result<Option<Duration>> {
        let (wg, _) = self.shape();
        let sums = self.device.buffer("probe sums", u64::from(wg) * 4, Usage::Local)?;
        let mut recording = Recording::new("launch");
        for _ in 0..LAUNCHES {
            let push = probe_fma::Push::default();
            let views = probe_fma::Args { y: sums.whole() }.views();
            self.dispatch(&mut recording, &probe_fma::CANDIDATES[0], views, &push, 1)?;
        }
        let options = CompileOptions { label_times: timed, ..CompileOptions::default() };
        let seconds = self.fastest_with(&recording, RUNS, &options)?;
        Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds / f64::from(LAUNCHES))))
    }
}

/// Bytes for a bandwidth test in a heap: two buffers of half of them must fit.
fn test_bytes(device: &Device, heap: Option<usize>) -> u64 {
    let caps = device.caps();
    let heap = heap.and_then(|heap| caps.heaps.get(heap)).map_or(u64::MAX, |heap| heap.size / 4);
    BYTES.min(2 * caps.max_binding).min(heap)
}

/// What the host reads with all its threads, bytes per second.
fn host_read() -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let words = (BYTES / 8) as usize;
    let data: Vec<u64> = (0..words as u64).collect();
    let share = words.div_ceil(threads);
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let began = Instant::now();
        let sum = std::thread::scope(|scope| {
            let sums: Vec<_> = data
                .chunks(share)
                .map(|chunk| scope.spawn(move || chunk.iter().fold(0, |all, word| all ^ word)))
                .collect();
            sums.into_iter().filter_map(|sum| sum.join().ok()).fold(0, |all, sum| all ^ sum)
        });
        std::hint::black_box(sum);
        best = best.min(began.elapsed().as_secs_f64());
    }
    BYTES as f64 / best
}

/// Measures a device. `progress` hears what comes next and ends it early with `false`.
///
/// Errors: the device's, memory that does not suffice for the tests.
pub fn ceilings(device: &Device, progress: Progress<'_>) -> Result<Ceilings> {
    let mut probe = Probe { device, by_device: true };
    let mut found = Ceilings::default();
    let caps = device.caps();
    let kinds = caps.memory.iter().map(|kind| {
        let flags = [
            (kind.device_local, "device"),
            (kind.host_visible, "host-visible"),
            (kind.coherent, "coherent"),
            (kind.cached, "cached"),
        ];
        let words: Vec<&str> = flags.iter().filter(|(has, _)| *has).map(|(_, word)| *word).collect();
        (format!("type {} ({})", kind.index, words.join(", ")), Usage::Exact(kind.index), Some(kind.heap))
    });
    let weights = ("weights".to_owned(), Usage::Constant, None);
    for (name, usage, heap) in std::iter::once(weights).chain(kinds) {
        if !progress(&format!("memory: {name}")) {
            return Ok(found);
        }
        match probe.memory(&name, usage, test_bytes(device, heap)) {
            Ok(rates) => found.memory.extend(rates),
            // A type without room, or one that buffers cannot use, has no bandwidth.
            Err(error) if usage != Usage::Constant => tracing::debug!(name, %error, "not measured"),
            Err(error) => return Err(error),
        }
    }
    if !progress("arithmetic") {
        return Ok(found);
    }
    found.f32 = probe.floats("f32")?;
    found.f16 = probe.floats("f16")?;
    found.int8 = probe.bytes()?;
    found.launch = probe.launch(false)?;
    found.timed_launch = probe.launch(true)?;
    if progress("the host's memory") {
        found.host_read = Some(host_read());
    }
    found.by_device = probe.by_device;
    Ok(found)
}

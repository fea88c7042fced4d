//! Turns a recording into a command buffer: memory placed, barriers set, descriptors written. The only file that
//! records Vulkan commands.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ash::vk;

use crate::arena::Arena;
use crate::buffer::{Buffer, Memory, Usage, View};
use crate::commands::Commands;
use crate::device::{CompileOptions, Gpu};
use crate::error::Error;
use crate::hazard::{Edges, Range, Touches, barriers, edges};
use crate::measure::Measured;
use crate::memory::Storage;
use crate::pipeline::Pipeline;
use crate::recording::{Command, Dispatch, Grid, Recording};
use crate::slice::{Cut, Pace, Share, name, work};
use crate::trail::{Marks, STRIDE};
use crate::vulkan::{Context, failed, lock};

/// A command buffer that may be submitted as often as wished.
pub(crate) struct Encoded {
    commands: Commands,
    /// Its command buffers in order, and what each holds.
    pub(crate) pieces: Vec<vk::CommandBuffer>,
    pub(crate) cuts: Vec<Cut>,
    /// Timestamps of each piece: of its begin, of each of its commands when those are measured, of its end.
    pub(crate) stamps: Vec<std::ops::Range<u32>>,
    /// Kernel and work of each command.
    pub(crate) work: Vec<(&'static str, f64)>,
    pub(crate) measured: Mutex<Measured>,
    /// Where the device notes how far it came.
    pub(crate) marks: Option<Arc<Marks>>,
    /// Timeline value of its last submission, 0 when there was none.
    pub(crate) last: AtomicU64,
    gpu: Arc<Gpu>,
    descriptors: vk::DescriptorPool,
    queries: vk::QueryPool,
    query_count: u32,
    pub(crate) labels: Vec<(String, &'static str, u64)>,
    barriers: usize,
    /// What must be fenced from other parts of a submission.
    pub(crate) edges: Edges,
    arena: u64,
    held: Arc<Mutex<Held>>,
}

/// What a command buffer names, kept alive for it.
#[derive(Default)]
pub(crate) struct Held {
    buffers: Vec<Buffer>,
    pipelines: Vec<Arc<Pipeline>>,
}

impl Drop for Encoded {
    fn drop(&mut self) {
        let last = self.last.load(Ordering::Acquire);
        self.gpu.timeline.end(last, "dropping a recording");
        if self.gpu.context.is_stuck() {
            return;
        }
        let device = &self.gpu.context.device;
        // SAFETY: its submissions are over.
        unsafe {
            device.destroy_query_pool(self.queries, None);
            device.destroy_descriptor_pool(self.descriptors, None);
        }
    }
}

/// What encoding needs to know of a view after placement.
struct Bound {
    handle: vk::Buffer,
    key: usize,
    offset: u64,
    len: u64,
}

struct Resolver<'a> {
    context: &'a Arc<Context>,
    offsets: &'a [u64],
    arena: Option<&'a Buffer>,
}

impl Resolver<'_> {
    fn bind(&self, view: &View) -> Result<Bound, Error> {
        let (buffer, base) = match &view.memory {
            Memory::Buffer(buffer) => (Some(buffer), 0),
            Memory::Transient(index) => (self.arena, self.offsets[*index as usize]),
        };
        match buffer.map(|buffer| (buffer, &buffer.inner.storage)) {
            Some((buffer, Storage::Vulkan(storage))) if storage.is_of(self.context) => Ok(Bound {
                handle: storage.handle,
                key: buffer.key(),
                offset: base + view.offset,
                len: view.len.next_multiple_of(4),
            }),
            _ => Err(Error::Recording {
                label: buffer.map_or_else(|| "arena".into(), |b| b.name().to_owned()),
                reason: "the buffer belongs to another device".into(),
            }),
        }
    }

    fn range(&self, view: &View) -> Result<Range, Error> {
        let bound = self.bind(view)?;
        Ok(Range { memory: bound.key, start: bound.offset, end: bound.offset + bound.len })
    }
}

impl Encoded {
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        recording: &Recording,
        options: &CompileOptions<'_>,
    ) -> Result<Self, Error> {
        let context = &gpu.context;
        let (offsets, arena_size) = recording.placed(&context.caps);
        let arena = match arena_size {
            0 => None,
            size => {
                let own = Arena::default();
                Some(options.arena.unwrap_or(&own).buffer(context, &recording.name, size)?)
            }
        };
        let resolver = Resolver { context, offsets: &offsets, arena: arena.as_ref() };
        let touches = recording
            .commands
            .iter()
            .map(|command| {
                let mut touches = Touches::default();
                for (view, reads, writes) in command.accesses() {
                    let range = resolver.range(view)?;
                    if reads {
                        touches.reads.push(range);
                    }
                    if writes {
                        touches.writes.push(range);
                    }
                }
                Ok(touches)
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let mut before = barriers(&touches);
        let count = before.iter().filter(|&&b| b).count();
        let edges = edges(&touches, &before);
        let omitted = options.omit_barrier.and_then(|omitted| before.iter_mut().filter(|b| **b).nth(omitted));
        if let Some(flag) = omitted {
            *flag = false;
        }
        let mut held: HashMap<usize, Buffer> = HashMap::new();
        for (view, _, _) in recording.commands.iter().flat_map(Command::accesses) {
            if let Some(buffer) = view.buffer() {
                held.entry(buffer.key()).or_insert_with(|| buffer.clone());
            }
        }
        held.extend(arena.iter().map(|buffer| (buffer.key(), buffer.clone())));

        let cuts = gpu.pace.cut(recording);
        let labels = recording.commands.iter().map(|command| command.label().to_owned()).collect();
        let marks = gpu.timeline.trail.marks(&recording.name, labels, notes(&cuts, &before));
        let mut encoded = Encoded {
            commands: Commands::new(&gpu.context)?,
            pieces: Vec::with_capacity(cuts.len()),
            stamps: stamps(&cuts, options.label_times),
            work: recording.commands.iter().map(|command| (name(command), work(command))).collect(),
            measured: Mutex::new(Measured::new(&cuts)),
            marks,
            cuts,
            last: AtomicU64::new(0),
            gpu: Arc::clone(gpu),
            descriptors: vk::DescriptorPool::null(),
            queries: vk::QueryPool::null(),
            query_count: 0,
            labels: Vec::new(),
            barriers: count,
            edges,
            arena: arena_size,
            held: Arc::default(),
        };
        lock(&encoded.held).buffers = held.into_values().collect();
        encoded.create_pools(recording)?;
        encoded.record(recording, &resolver, &before, options)?;
        gpu.timeline.count_recorded();
        gpu.hold(&encoded.held);
        Ok(encoded)
    }

    fn create_pools(&mut self, recording: &Recording) -> Result<(), Error> {
        let context = &self.gpu.context;
        let device = &context.device;
        let commands = self.cuts.iter().flat_map(|cut| &recording.commands[cut.commands.clone()]);
        let kernels = commands.filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch.kernel.bindings.len() as u32),
            _ => None,
        });
        let (sets, bindings) = kernels.fold((0, 0), |(sets, total), n| (sets + 1, total + n));
        // SAFETY: the device is alive; the handles are destroyed when `self` drops.
        unsafe {
            if sets > 0 {
                let sizes = [vk::DescriptorPoolSize::default()
                    .ty(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(bindings)];
                let info = vk::DescriptorPoolCreateInfo::default().max_sets(sets).pool_sizes(&sizes);
                self.descriptors =
                    device.create_descriptor_pool(&info, None).map_err(failed("vkCreateDescriptorPool"))?;
            }
            if context.caps.timestamp_period.is_some() {
                self.query_count = self.stamps.last().map_or(0, |stamps| stamps.end);
                let info = vk::QueryPoolCreateInfo::default()
                    .query_type(vk::QueryType::TIMESTAMP)
                    .query_count(self.query_count);
                self.queries = device.create_query_pool(&info, None).map_err(failed("vkCreateQueryPool"))?;
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        recording: &Recording,
        resolver: &Resolver<'_>,
        before: &[bool],
        options: &CompileOptions<'_>,
    ) -> Result<(), Error> {
        let gpu = Arc::clone(&self.gpu);
        let context = &gpu.context;
        let device = &context.device;
        let mut pipelines = Vec::new();
        let cuts = std::mem::take(&mut self.cuts);
        let notes = notes(&cuts, before);
        let all = recording.commands.len();
        for (number, cut) in cuts.iter().enumerate() {
            let commands = self.commands.begin(vk::CommandBufferUsageFlags::empty())?;
            self.pieces.push(commands);
            if number == 0 && self.query_count > 0 {
                // SAFETY: the command buffer is recording, used by this thread only.
                unsafe { device.cmd_reset_query_pool(commands, self.queries, 0, self.query_count) };
            }
            // Pieces are told apart by what is noted between them; shares of one dispatch need no order.
            let continues = cut.share.is_some_and(|share| share.first > 0);
            if number > 0 && !continues {
                barrier(context, commands, false);
            }
            if !continues {
                self.note(commands, cut.commands.start);
            }
            let mut query = self.stamps[number].start;
            self.stamp(commands, query);
            let mut bound_pipeline = vk::Pipeline::null();
            for index in cut.commands.clone() {
                let command = &recording.commands[index];
                if index > cut.commands.start && before[index] {
                    barrier(context, commands, false);
                    if notes.contains(&(index as u32)) {
                        self.note(commands, index);
                    }
                }
                label(context, commands, command.label());
                match command {
                    Command::Dispatch(dispatch) => {
                        let pipeline =
                            self.dispatch(commands, dispatch, cut.share, resolver, bound_pipeline)?;
                        bound_pipeline = pipeline.handle;
                        pipelines.push(pipeline);
                    }
                    Command::Copy { src, dst, .. } => {
                        let (src, dst) = (resolver.bind(src)?, resolver.bind(dst)?);
                        let region = vk::BufferCopy::default()
                            .src_offset(src.offset)
                            .dst_offset(dst.offset)
                            .size(src.len);
                        // SAFETY: both ranges were checked when recorded.
                        unsafe { device.cmd_copy_buffer(commands, src.handle, dst.handle, &[region]) };
                    }
                    Command::Fill { dst, word, .. } => {
                        let dst = resolver.bind(dst)?;
                        // SAFETY: as above.
                        unsafe { device.cmd_fill_buffer(commands, dst.handle, dst.offset, dst.len, *word) };
                    }
                }
                end_label(context, commands);
                if options.label_times {
                    query += 1;
                    self.stamp(commands, query);
                }
            }
            if !options.label_times {
                self.stamp(commands, query + 1);
            }
            if number + 1 == cuts.len() {
                barrier(context, commands, true);
                self.note(commands, all);
            }
            // SAFETY: ends the recording begun above.
            unsafe { device.end_command_buffer(commands) }.map_err(failed("vkEndCommandBuffer"))?;
        }
        self.cuts = cuts;
        lock(&self.held).pipelines = pipelines;
        if options.label_times {
            let of = |command: &Command| (command.label().to_owned(), name(command), constant_bytes(command));
            self.labels = recording.commands.iter().map(of).collect();
        }
        Ok(())
    }

    /// Notes that so many commands are finished, which a barrier has made sure of.
    fn note(&self, commands: vk::CommandBuffer, done: usize) {
        let Some(marks) = &self.marks else { return };
        let (trail, at) = (self.gpu.timeline.trail.handle, 4 * u64::from(marks.word));
        // SAFETY: the command buffer is recording; the word lies inside the buffer.
        unsafe {
            self.gpu.context.device.cmd_update_buffer(commands, trail, at, &(done as u32).to_le_bytes());
        }
    }

    fn stamp(&self, commands: vk::CommandBuffer, index: u32) {
        if self.query_count > 0 {
            // SAFETY: the index is below the pool's count; the command buffer is recording.
            unsafe {
                self.gpu.context.device.cmd_write_timestamp2(
                    commands,
                    vk::PipelineStageFlags2::ALL_COMMANDS,
                    self.queries,
                    index,
                );
            }
        }
    }

    fn dispatch(
        &self,
        commands: vk::CommandBuffer,
        dispatch: &Dispatch,
        share: Option<Share>,
        resolver: &Resolver<'_>,
        bound_pipeline: vk::Pipeline,
    ) -> Result<Arc<Pipeline>, Error> {
        let caps = &self.gpu.context.caps;
        let device = &self.gpu.context.device;
        let kernel = self.gpu.kernel(dispatch.kernel, &dispatch.label);
        let specs = kernel.spec_values(&dispatch.specs, caps.subgroup);
        let pipeline = self.gpu.pipelines.get(kernel, &specs, share.is_some())?;
        let layouts = [pipeline.set_layout];
        let allocate =
            vk::DescriptorSetAllocateInfo::default().descriptor_pool(self.descriptors).set_layouts(&layouts);
        // SAFETY: the pool was sized for all dispatches of the recording.
        let sets = unsafe { device.allocate_descriptor_sets(&allocate) }
            .map_err(failed("vkAllocateDescriptorSets"))?;
        let mut push = dispatch.push.clone();
        let mut infos = Vec::with_capacity(kernel.bindings.len());
        for (binding, view) in kernel.bindings.iter().zip(&dispatch.views) {
            let bound = resolver.bind(view)?;
            let start = bound.offset - bound.offset % caps.offset_alignment;
            let rest = bound.offset - start;
            let limit = |what: String, found: u64, allowed: u64| Error::Limit {
                device: caps.name.clone(),
                what: format!("{what} of {} in {} ({})", binding.name, dispatch.label, kernel.name),
                found,
                allowed,
            };
            if bound.len + rest > caps.max_binding {
                return Err(limit("the bound range".into(), bound.len + rest, caps.max_binding));
            }
            match binding.at {
                Some(at) => {
                    let words = (rest / 4) as u32;
                    push[at as usize..at as usize + 4].copy_from_slice(&words.to_le_bytes());
                }
                None if rest != 0 => return Err(limit("the misalignment".into(), rest, 0)),
                None => {}
            }
            infos.push([vk::DescriptorBufferInfo::default()
                .buffer(bound.handle)
                .offset(start)
                .range(bound.len + rest)]);
        }
        let writes: Vec<_> = infos
            .iter()
            .enumerate()
            .map(|(index, info)| {
                vk::WriteDescriptorSet::default()
                    .dst_set(sets[0])
                    .dst_binding(index as u32)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .buffer_info(info)
            })
            .collect();
        let grid = match &dispatch.grid {
            Grid::Fixed(grid) => {
                for (found, allowed) in grid.iter().zip(caps.max_groups) {
                    if *found > allowed {
                        return Err(Error::Limit {
                            device: caps.name.clone(),
                            what: format!("the number of workgroups of {} ({})", dispatch.label, kernel.name),
                            found: u64::from(*found),
                            allowed: u64::from(allowed),
                        });
                    }
                }
                Ok(*grid)
            }
            Grid::Indirect(view) => Err(resolver.bind(view)?),
        };
        // SAFETY: the set is fresh; ranges, grids and push sizes were checked; the command buffer is recording.
        unsafe {
            device.update_descriptor_sets(&writes, &[]);
            if pipeline.handle != bound_pipeline {
                device.cmd_bind_pipeline(commands, vk::PipelineBindPoint::COMPUTE, pipeline.handle);
            }
            device.cmd_bind_descriptor_sets(
                commands,
                vk::PipelineBindPoint::COMPUTE,
                pipeline.layout,
                0,
                &sets,
                &[],
            );
            if !push.is_empty() {
                device.cmd_push_constants(commands, pipeline.layout, vk::ShaderStageFlags::COMPUTE, 0, &push);
            }
            match (grid, share) {
                (Ok([x, y, z]), None) => device.cmd_dispatch(commands, x, y, z),
                (Ok(mut count), Some(share)) => {
                    let mut base = [0; 3];
                    base[share.axis] = share.first;
                    count[share.axis] = share.count;
                    let [[x, y, z], [nx, ny, nz]] = [base, count];
                    device.cmd_dispatch_base(commands, x, y, z, nx, ny, nz);
                }
                (Err(at), _) => device.cmd_dispatch_indirect(commands, at.handle, at.offset),
            }
        }
        Ok(pipeline)
    }

    /// Whether it was compiled on this device.
    pub(crate) fn is_of(&self, gpu: &Arc<Gpu>) -> bool {
        Arc::ptr_eq(&self.gpu, gpu)
    }

    /// Barriers inferred for the recording.
    pub(crate) fn barriers(&self) -> usize {
        self.barriers
    }

    /// Bytes of the arena that holds the transients.
    pub(crate) fn arena(&self) -> u64 {
        self.arena
    }

    /// Nanoseconds of a tick of its timestamps, if it has any.
    pub(crate) fn period(&self) -> Option<f32> {
        self.gpu.context.caps.timestamp_period.filter(|_| self.query_count > 0)
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.gpu.pace
    }

    /// Timestamps that are there. Never asked for with WAIT, which hangs on simulated devices.
    pub(crate) fn read_ticks(&self) -> Vec<Option<u64>> {
        if self.query_count == 0 {
            return Vec::new();
        }
        // Pairs of (tick, available).
        let mut raw = vec![[0u64; 2]; self.query_count as usize];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WITH_AVAILABILITY;
        // SAFETY: the pool has as many queries as `raw` has pairs.
        match unsafe { self.gpu.context.device.get_query_pool_results(self.queries, 0, &mut raw, flags) } {
            Ok(()) => {}
            Err(vk::Result::NOT_READY) => {}
            Err(_) => return Vec::new(),
        }
        raw.iter().map(|[tick, available]| (*available != 0).then_some(*tick)).collect()
    }
}

/// Opens a region with a name for debuggers, where there may be one.
fn label(context: &Context, commands: vk::CommandBuffer, name: &str) {
    if let Some(debug) = &context.debug {
        let name = CString::new(name.replace('\0', " ")).unwrap_or_default();
        let label = vk::DebugUtilsLabelEXT::default().label_name(&name);
        // SAFETY: recording; the name lives until the call returns.
        unsafe { debug.cmd_begin_debug_utils_label(commands, &label) };
    }
}

/// Closes the region that [`label`] opened.
fn end_label(context: &Context, commands: vk::CommandBuffer) {
    if let Some(debug) = &context.debug {
        // SAFETY: recording, with an open region.
        unsafe { debug.cmd_end_debug_utils_label(commands) };
    }
}

/// A command buffer that holds one barrier, to stand between parts of a submission.
pub(crate) struct Fence {
    buffer: vk::CommandBuffer,
    // Keeps it alive.
    _commands: Commands,
}

impl Fence {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        let mut commands = Commands::new(context)?;
        let buffer = commands.begin(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE)?;
        barrier(context, buffer, false);
        // SAFETY: ends the recording begun above; the device waits for its last submission before it lets go of the fence.
        unsafe { context.device.end_command_buffer(buffer) }.map_err(failed("vkEndCommandBuffer"))?;
        Ok(Fence { buffer, _commands: commands })
    }

    pub(crate) fn commands(&self) -> vk::CommandBuffer {
        self.buffer
    }
}

/// Bytes of constant buffers a command reads.
pub(crate) fn constant_bytes(command: &Command) -> u64 {
    command
        .accesses()
        .iter()
        .filter(|(view, reads, _)| *reads && view.buffer().is_some_and(|b| b.usage() == Usage::Constant))
        .map(|(view, _, _)| view.len)
        .sum()
}

/// Timestamps of each piece.
fn stamps(cuts: &[Cut], label_times: bool) -> Vec<std::ops::Range<u32>> {
    let mut end = 0;
    cuts.iter()
        .map(|cut| {
            let begin = end;
            end += 1 + if label_times { cut.commands.len() as u32 } else { 1 };
            begin..end
        })
        .collect()
}

/// How many commands are finished wherever that is noted: where a piece begins, and at barriers far enough apart.
fn notes(cuts: &[Cut], before: &[bool]) -> Vec<u32> {
    let mut notes = Vec::new();
    for cut in cuts.iter().filter(|cut| cut.share.is_none_or(|share| share.first == 0)) {
        let mut last = cut.commands.start;
        notes.push(last as u32);
        for index in cut.commands.clone().skip(1) {
            if before[index] && index - last >= STRIDE {
                last = index;
                notes.push(last as u32);
            }
        }
    }
    notes
}

/// Everything before is finished and visible to everything after; `to_host` also makes it visible to the host.
fn barrier(context: &Context, commands: vk::CommandBuffer, to_host: bool) {
    let stages = vk::PipelineStageFlags2::COMPUTE_SHADER | vk::PipelineStageFlags2::ALL_TRANSFER;
    let writes = vk::AccessFlags2::SHADER_STORAGE_WRITE | vk::AccessFlags2::TRANSFER_WRITE;
    let memory = vk::MemoryBarrier2::default().src_stage_mask(stages).src_access_mask(writes);
    let memory = if to_host {
        // What is noted behind it is of finished work too.
        memory
            .dst_stage_mask(vk::PipelineStageFlags2::HOST | vk::PipelineStageFlags2::ALL_TRANSFER)
            .dst_access_mask(vk::AccessFlags2::HOST_READ | vk::AccessFlags2::TRANSFER_WRITE)
    } else {
        memory
            .src_stage_mask(stages | vk::PipelineStageFlags2::DRAW_INDIRECT)
            .dst_stage_mask(stages | vk::PipelineStageFlags2::DRAW_INDIRECT)
            .dst_access_mask(
                writes
                    | vk::AccessFlags2::SHADER_STORAGE_READ
                    | vk::AccessFlags2::TRANSFER_READ
                    | vk::AccessFlags2::INDIRECT_COMMAND_READ,
            )
    };
    let barriers = [memory];
    let info = vk::DependencyInfo::default().memory_barriers(&barriers);
    // SAFETY: the command buffer is recording.
    unsafe { context.device.cmd_pipeline_barrier2(commands, &info) };
}

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
use crate::memory::Storage;
use crate::pipeline::Pipeline;
use crate::recording::{Command, Dispatch, Grid, Recording};
use crate::trace::{LabelTime, Times, spans};
use crate::vulkan::{Context, failed, lock};

/// A command buffer that may be submitted as often as wished.
pub(crate) struct Encoded {
    pub(crate) commands: Commands,
    /// Timeline value of its last submission, 0 when there was none.
    pub(crate) last: AtomicU64,
    gpu: Arc<Gpu>,
    descriptors: vk::DescriptorPool,
    queries: vk::QueryPool,
    query_count: u32,
    labels: Vec<(String, &'static str, u64)>,
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

        let mut encoded = Encoded {
            commands: Commands::begin(&gpu.context, vk::CommandBufferUsageFlags::empty())?,
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
        encoded.create_pools(recording, options)?;
        encoded.record(recording, &resolver, &before, options)?;
        gpu.timeline.count_recorded();
        gpu.hold(&encoded.held);
        Ok(encoded)
    }

    fn create_pools(&mut self, recording: &Recording, options: &CompileOptions<'_>) -> Result<(), Error> {
        let context = &self.gpu.context;
        let device = &context.device;
        let kernels = recording.commands.iter().filter_map(|command| match command {
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
                self.query_count = if options.label_times { recording.commands.len() as u32 + 1 } else { 2 };
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
        let commands = self.commands.buffer;
        let stamp = |index: u32| {
            if self.query_count > 0 {
                // SAFETY: the index is below the pool's count; the command buffer is recording.
                unsafe {
                    device.cmd_write_timestamp2(
                        commands,
                        vk::PipelineStageFlags2::ALL_COMMANDS,
                        self.queries,
                        index,
                    );
                }
            }
        };
        if self.query_count > 0 {
            // SAFETY: the command buffer is recording, used by this thread only.
            unsafe { device.cmd_reset_query_pool(commands, self.queries, 0, self.query_count) };
        }
        stamp(0);
        let mut pipelines = Vec::new();
        let mut labels = Vec::new();
        let mut bound_pipeline = vk::Pipeline::null();
        for (index, command) in recording.commands.iter().enumerate() {
            if before[index] {
                barrier(context, commands, false);
            }
            label(context, commands, command.label());
            let kernel = match command {
                Command::Dispatch(dispatch) => {
                    let pipeline = self.dispatch(dispatch, resolver, bound_pipeline)?;
                    bound_pipeline = pipeline.handle;
                    pipelines.push(pipeline);
                    dispatch.kernel.name
                }
                Command::Copy { src, dst, .. } => {
                    let (src, dst) = (resolver.bind(src)?, resolver.bind(dst)?);
                    let region =
                        vk::BufferCopy::default().src_offset(src.offset).dst_offset(dst.offset).size(src.len);
                    // SAFETY: both ranges were checked when recorded.
                    unsafe { device.cmd_copy_buffer(commands, src.handle, dst.handle, &[region]) };
                    "copy"
                }
                Command::Fill { dst, word, .. } => {
                    let dst = resolver.bind(dst)?;
                    // SAFETY: as above.
                    unsafe { device.cmd_fill_buffer(commands, dst.handle, dst.offset, dst.len, *word) };
                    "fill"
                }
            };
            end_label(context, commands);
            if options.label_times {
                labels.push((command.label().to_owned(), kernel, constant_bytes(command)));
                stamp(index as u32 + 1);
            }
        }
        if !options.label_times {
            stamp(1);
        }
        barrier(context, commands, true);
        // SAFETY: ends the recording begun above.
        unsafe { device.end_command_buffer(commands) }.map_err(failed("vkEndCommandBuffer"))?;
        lock(&self.held).pipelines = pipelines;
        self.labels = labels;
        Ok(())
    }

    fn dispatch(
        &self,
        dispatch: &Dispatch,
        resolver: &Resolver<'_>,
        bound_pipeline: vk::Pipeline,
    ) -> Result<Arc<Pipeline>, Error> {
        let caps = &self.gpu.context.caps;
        let device = &self.gpu.context.device;
        let kernel = self.gpu.kernel(dispatch.kernel, &dispatch.label);
        let specs = kernel.spec_values(&dispatch.specs, caps.subgroup);
        let pipeline = self.gpu.pipelines.get(kernel, &specs)?;
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
        let commands = self.commands.buffer;
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
            match grid {
                Ok([x, y, z]) => device.cmd_dispatch(commands, x, y, z),
                Err(at) => device.cmd_dispatch_indirect(commands, at.handle, at.offset),
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

    /// Times of the last submission, which was waited for. A query that has no result is "no time known".
    pub(crate) fn times(&self) -> Times {
        let Some(period) = self.gpu.context.caps.timestamp_period else { return Times::default() };
        if self.query_count == 0 || self.last.load(Ordering::Acquire) == 0 {
            return Times::default();
        }
        // Pairs of (tick, available); never asked for with WAIT, which hangs on simulated devices.
        let mut raw = vec![[0u64; 2]; self.query_count as usize];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WITH_AVAILABILITY;
        // SAFETY: the pool has as many queries as `raw` has pairs.
        let got = unsafe { self.gpu.context.device.get_query_pool_results(self.queries, 0, &mut raw, flags) };
        if got.is_err() {
            return Times::default();
        }
        let ticks: Vec<_> = raw.iter().map(|[tick, available]| (*available != 0).then_some(*tick)).collect();
        let ends = [ticks[0], ticks[ticks.len() - 1]];
        let labels = self
            .labels
            .iter()
            .zip(spans(&ticks, period))
            .filter_map(|((label, kernel, bytes), span)| {
                span.map(|nanoseconds| LabelTime {
                    label: label.clone(),
                    kernel,
                    nanoseconds,
                    constant_bytes: *bytes,
                })
            })
            .collect();
        let began = ticks[0].map(|tick| (tick as f64 * f64::from(period)) as u64);
        Times {
            total_nanoseconds: spans(&ends, period)[0].filter(|&t| t > 0),
            began_nanoseconds: began,
            labels,
        }
    }
}

/// Opens a region with a name for debuggers, when the layers are on.
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
    pub(crate) commands: Commands,
}

impl Fence {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        let commands = Commands::begin(context, vk::CommandBufferUsageFlags::SIMULTANEOUS_USE)?;
        barrier(context, commands.buffer, false);
        // SAFETY: ends the recording begun above; the device waits for its last submission before it lets go of the fence.
        unsafe { context.device.end_command_buffer(commands.buffer) }
            .map_err(failed("vkEndCommandBuffer"))?;
        Ok(Fence { commands })
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

/// Everything before is finished and visible to everything after; `to_host` also makes it visible to the host.
fn barrier(context: &Context, commands: vk::CommandBuffer, to_host: bool) {
    let stages = vk::PipelineStageFlags2::COMPUTE_SHADER | vk::PipelineStageFlags2::ALL_TRANSFER;
    let writes = vk::AccessFlags2::SHADER_STORAGE_WRITE | vk::AccessFlags2::TRANSFER_WRITE;
    let memory = vk::MemoryBarrier2::default().src_stage_mask(stages).src_access_mask(writes);
    let memory = if to_host {
        memory.dst_stage_mask(vk::PipelineStageFlags2::HOST).dst_access_mask(vk::AccessFlags2::HOST_READ)
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

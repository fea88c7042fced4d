//! Submissions on the one queue: each waits for the one before it and signals the next value of a timeline
//! semaphore, so memory written by one is visible to the next. A ticket waits in bounded steps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ash::vk;

use crate::error::Error;
use crate::trail::{Marks, Trail};
use crate::vulkan::{Context, failed, lock};

/// Work of which nothing ends for this long is given up.
const STALL: Duration = Duration::from_secs(300);

/// How often the driver was called, and what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Command buffers recorded.
    pub recorded: u64,
    /// `vkQueueSubmit2`.
    pub submits: u64,
    /// Times that the host waited for submissions, in however many steps.
    pub waits: u64,
    /// Ends of runs that debuggers were told of, with `VK_EXT_frame_boundary`.
    pub frames: u64,
    /// Bytes that the host read from buffers.
    pub read: u64,
}

/// The queue's timeline.
pub(crate) struct Timeline {
    context: Arc<Context>,
    semaphore: vk::Semaphore,
    pub(crate) trail: Arc<Trail>,
    /// Last value handed to a submission.
    last: Mutex<u64>,
    /// Highest value that was waited for: what is below it needs no other wait.
    passed: AtomicU64,
    recorded: AtomicU64,
    waits: AtomicU64,
    frames: AtomicU64,
}

impl Timeline {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        let trail = Trail::new(context)?;
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device is alive; the feature is enabled.
        let semaphore =
            unsafe { context.device.create_semaphore(&info, None) }.map_err(failed("vkCreateSemaphore"))?;
        Ok(Timeline {
            context: Arc::clone(context),
            semaphore,
            trail,
            last: Mutex::new(0),
            passed: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            frames: AtomicU64::new(0),
        })
    }

    /// Submits command buffers in order, of recordings with these marks; returns the value that marks their end. `ends`
    /// says that a run ends with them, which is a frame to debuggers.
    pub(crate) fn submit(
        &self,
        commands: &[vk::CommandBuffer],
        marks: &[Arc<Marks>],
        ends: bool,
    ) -> Result<u64, Error> {
        let infos: Vec<_> =
            commands.iter().map(|&c| vk::CommandBufferSubmitInfo::default().command_buffer(c)).collect();
        // One lock for value and queue: values must reach the queue in order.
        let mut last = lock(&self.last);
        let stage = vk::PipelineStageFlags2::ALL_COMMANDS;
        let wait =
            [vk::SemaphoreSubmitInfo::default().semaphore(self.semaphore).value(*last).stage_mask(stage)];
        let signal =
            [vk::SemaphoreSubmitInfo::default().semaphore(self.semaphore).value(*last + 1).stage_mask(stage)];
        let mut info =
            vk::SubmitInfo2::default().command_buffer_infos(&infos).signal_semaphore_infos(&signal);
        if *last > 0 {
            info = info.wait_semaphore_infos(&wait);
        }
        let mut frame = vk::FrameBoundaryEXT::default().flags(vk::FrameBoundaryFlagsEXT::FRAME_END);
        if ends && self.context.frames {
            frame = frame.frame_id(self.frames.fetch_add(1, Ordering::Relaxed));
            info = info.push_next(&mut frame);
        }
        self.context.guard(|| {
            let submit = |queue| {
                // SAFETY: the command buffers are complete and not pending (their owner waited), the queue is locked.
                unsafe { self.context.device.queue_submit2(queue, &[info], vk::Fence::null()) }
            };
            self.context
                .with_queue(submit)
                .unwrap_or(Err(vk::Result::ERROR_UNKNOWN))
                .map_err(|result| self.trail.explain(failed("vkQueueSubmit2")(result)))
        })?;
        *last += 1;
        self.trail.submitted(*last, self.passed.load(Ordering::Acquire), marks);
        Ok(*last)
    }

    /// Waits until `value` has passed. The wait's own result is the truth: simulated devices do not keep the counter.
    pub(crate) fn wait(&self, value: u64, doing: &str) -> Result<(), Error> {
        if value <= self.passed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.context.guard(|| self.wait_for(value, doing).map_err(|error| self.trail.explain(error)))
    }

    fn wait_for(&self, value: u64, doing: &str) -> Result<(), Error> {
        let semaphores = [self.semaphore];
        let values = [value];
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        let mut since = Instant::now();
        let mut words = Vec::new();
        self.waits.fetch_add(1, Ordering::Relaxed);
        loop {
            // SAFETY: the semaphore is alive.
            match unsafe { self.context.device.wait_semaphores(&info, 1_000_000_000) } {
                Ok(()) => {
                    self.passed.fetch_max(value, Ordering::AcqRel);
                    return Ok(());
                }
                Err(vk::Result::TIMEOUT) if since.elapsed() < STALL => {
                    let now = self.trail.words();
                    if now != words {
                        (words, since) = (now, Instant::now());
                    }
                }
                Err(vk::Result::TIMEOUT) => return Err(stalled(doing)),
                Err(vk::Result::ERROR_DEVICE_LOST) => {
                    return Err(Error::Lost { doing: doing.to_owned(), place: None });
                }
                Err(other) => return Err(failed("vkWaitSemaphores")(other)),
            }
        }
    }
}

impl Timeline {
    pub(crate) fn count_recorded(&self) {
        self.recorded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn calls(&self) -> Calls {
        Calls {
            recorded: self.recorded.load(Ordering::Relaxed),
            submits: *lock(&self.last),
            waits: self.waits.load(Ordering::Relaxed),
            frames: self.frames.load(Ordering::Relaxed),
            read: self.context.read.load(Ordering::Relaxed),
        }
    }

    /// Waits until what was submitted up to `value` uses nothing any more. Where that cannot be known the device is given up
    /// and nothing of it is ever destroyed.
    pub(crate) fn end(&self, value: u64, doing: &str) {
        let ended = |result| matches!(result, Ok(()) | Err(Error::Lost { .. }));
        if !ended(self.wait(value, doing)) && !ended(self.wait(value, doing)) {
            self.context.give_up(self.trail.explain(stalled(doing)));
        }
    }

    /// Waits for everything submitted; failure is left to whoever holds a ticket.
    pub(crate) fn settle(&self) {
        let last = *lock(&self.last);
        self.end(last, "closing the device");
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.settle();
        if self.context.is_stuck() {
            return;
        }
        // SAFETY: no submission uses it any more.
        unsafe { self.context.device.destroy_semaphore(self.semaphore, None) };
    }
}

fn stalled(doing: &str) -> Error {
    Error::Timeout { doing: doing.to_owned(), seconds: STALL.as_secs(), place: None }
}

/// Proof of a submission.
#[derive(Clone)]
#[must_use = "results may be read only after the ticket was waited for"]
pub struct Ticket {
    pub(crate) timeline: Option<(Arc<Timeline>, u64)>,
    pub(crate) doing: Arc<str>,
}

impl Ticket {
    /// Waits until the submission's results can be read.
    ///
    /// Errors: [`Error::Lost`], [`Error::Timeout`] when it makes no progress.
    pub fn wait(&self) -> Result<(), Error> {
        match &self.timeline {
            Some((timeline, value)) => timeline.wait(*value, &self.doing),
            None => Ok(()),
        }
    }
}

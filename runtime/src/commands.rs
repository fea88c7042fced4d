//! Command buffers with a pool of their own, so that recordings are made and destroyed without regard to one another.

use std::sync::Arc;

use ash::vk;

use crate::error::Error;
use crate::vulkan::{Context, failed};

/// Command buffers, from their allocation to their destruction.
pub(crate) struct Commands {
    pool: vk::CommandPool,
    context: Arc<Context>,
}

impl Commands {
    /// A pool without command buffers.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(context.family);
        // SAFETY: the device is alive; the pool is destroyed on drop.
        let pool = unsafe { context.device.create_command_pool(&info, None) }
            .map_err(failed("vkCreateCommandPool"))?;
        Ok(Commands { pool, context: Arc::clone(context) })
    }

    /// One more command buffer, which is being recorded.
    pub(crate) fn begin(&mut self, flags: vk::CommandBufferUsageFlags) -> Result<vk::CommandBuffer, Error> {
        let device = &self.context.device;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        let begin = vk::CommandBufferBeginInfo::default().flags(flags);
        // SAFETY: nobody else uses the pool while it is borrowed.
        unsafe {
            let made = device.allocate_command_buffers(&info).map_err(failed("vkAllocateCommandBuffers"))?;
            device.begin_command_buffer(made[0], &begin).map_err(failed("vkBeginCommandBuffer"))?;
            Ok(made[0])
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        if self.context.is_stuck() {
            return;
        }
        // SAFETY: whoever submitted them waited for their last submission.
        unsafe { self.context.device.destroy_command_pool(self.pool, None) };
    }
}

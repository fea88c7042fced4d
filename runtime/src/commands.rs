//! A command buffer with a pool of its own, so that each is recorded and destroyed without regard to the others.

use std::sync::Arc;

use ash::vk;

use crate::error::Error;
use crate::vulkan::{Context, failed};

/// A command buffer, from its allocation to its destruction.
pub(crate) struct Commands {
    pub(crate) buffer: vk::CommandBuffer,
    pool: vk::CommandPool,
    context: Arc<Context>,
}

impl Commands {
    /// A command buffer that is being recorded.
    pub(crate) fn begin(context: &Arc<Context>, flags: vk::CommandBufferUsageFlags) -> Result<Self, Error> {
        let device = &context.device;
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(context.family);
        // SAFETY: the device is alive; the pool is destroyed on drop.
        let pool =
            unsafe { device.create_command_pool(&info, None) }.map_err(failed("vkCreateCommandPool"))?;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        let begin = vk::CommandBufferBeginInfo::default().flags(flags);
        // SAFETY: the pool is this function's own until it returns.
        let begun = unsafe {
            device.allocate_command_buffers(&info).map_err(failed("vkAllocateCommandBuffers")).and_then(
                |made| {
                    device.begin_command_buffer(made[0], &begin).map_err(failed("vkBeginCommandBuffer"))?;
                    Ok(made[0])
                },
            )
        };
        match begun {
            Ok(buffer) => Ok(Self { buffer, pool, context: Arc::clone(context) }),
            Err(error) => {
                // SAFETY: nothing was recorded.
                unsafe { device.destroy_command_pool(pool, None) };
                Err(error)
            }
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        if self.context.is_stuck() {
            return;
        }
        // SAFETY: whoever submitted it waited for its last submission.
        unsafe { self.context.device.destroy_command_pool(self.pool, None) };
    }
}

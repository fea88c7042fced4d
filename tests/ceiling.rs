//! The read ceiling of `vkllm bench` against a kernel that has nothing in common with it: SPIR-V built here, Vulkan called
//! here. A workgroup adds up its share of a buffer in steps of its size, with no unrolling.

use rspirv::binary::Assemble;
use rspirv::dr::{Builder, Operand};
use rspirv::spirv;
use vkllm::bench::ceilings;
use vkllm_runtime::ash::{self, vk};

use crate::harness;

/// Bytes that are read, and rounds of which the fastest counts: whatever disturbs makes a run slower.
const BYTES: u64 = 256 << 20;
const ROUNDS: usize = 8;
/// Turns of both, of which the fastest counts as well.
const TURNS: usize = 6;

/// `for (at = group · share + local; at < (group + 1) · share; at += size) sum += x[at]`, quads of words.
fn kernel(size: u32, share: u32) -> Result<Vec<u32>, rspirv::dr::Error> {
    let mut b = Builder::new();
    b.set_version(1, 3);
    b.capability(spirv::Capability::Shader);
    b.memory_model(spirv::AddressingModel::Logical, spirv::MemoryModel::GLSL450);
    let (void, yes) = (b.type_void(), b.type_bool());
    let word = b.type_int(32, 0);
    let (quad, three) = (b.type_vector(word, 4), b.type_vector(word, 3));
    let mut block = |item: u32, stride: u32, set: u32| {
        let array = b.type_runtime_array(item);
        b.decorate(array, spirv::Decoration::ArrayStride, [Operand::LiteralBit32(stride)]);
        let block = b.type_struct([array]);
        b.decorate(block, spirv::Decoration::BufferBlock, []);
        b.member_decorate(block, 0, spirv::Decoration::Offset, [Operand::LiteralBit32(0)]);
        let pointer = b.type_pointer(None, spirv::StorageClass::Uniform, block);
        let variable = b.variable(pointer, None, spirv::StorageClass::Uniform, None);
        b.decorate(variable, spirv::Decoration::DescriptorSet, [Operand::LiteralBit32(0)]);
        b.decorate(variable, spirv::Decoration::Binding, [Operand::LiteralBit32(set)]);
        (variable, b.type_pointer(None, spirv::StorageClass::Uniform, item))
    };
    let (x, quad_at) = block(quad, 16, 0);
    let (y, word_at) = block(word, 4, 1);
    let input = b.type_pointer(None, spirv::StorageClass::Input, three);
    let mut built_in = |name: spirv::BuiltIn| {
        let variable = b.variable(input, None, spirv::StorageClass::Input, None);
        b.decorate(variable, spirv::Decoration::BuiltIn, [Operand::BuiltIn(name)]);
        variable
    };
    let (group_in, local_in) =
        (built_in(spirv::BuiltIn::WorkgroupId), built_in(spirv::BuiltIn::LocalInvocationId));
    let own_word = b.type_pointer(None, spirv::StorageClass::Function, word);
    let own_quad = b.type_pointer(None, spirv::StorageClass::Function, quad);
    let zero = b.constant_bit32(word, 0);
    let zeros = b.constant_null(quad);
    let (size_is, share_is) = (b.constant_bit32(word, size), b.constant_bit32(word, share));
    let signature = b.type_function(void, []);
    let main = b.begin_function(void, None, spirv::FunctionControl::NONE, signature)?;
    b.begin_block(None)?;
    let at = b.variable(own_word, None, spirv::StorageClass::Function, None);
    let sum = b.variable(own_quad, None, spirv::StorageClass::Function, None);
    let group = b.load(three, None, group_in, None, [])?;
    let group = b.composite_extract(word, None, group, [0])?;
    let local = b.load(three, None, local_in, None, [])?;
    let local = b.composite_extract(word, None, local, [0])?;
    let from = b.i_mul(word, None, group, share_is)?;
    let end = b.i_add(word, None, from, share_is)?;
    let first = b.i_add(word, None, from, local)?;
    b.store(at, first, None, [])?;
    b.store(sum, zeros, None, [])?;
    let [header, test, body, next, after] = [b.id(), b.id(), b.id(), b.id(), b.id()];
    b.branch(header)?;
    b.begin_block(Some(header))?;
    b.loop_merge(after, next, spirv::LoopControl::DONT_UNROLL, [])?;
    b.branch(test)?;
    b.begin_block(Some(test))?;
    let now = b.load(word, None, at, None, [])?;
    let more = b.u_less_than(yes, None, now, end)?;
    b.branch_conditional(more, body, after, [])?;
    b.begin_block(Some(body))?;
    let place = b.access_chain(quad_at, None, x, [zero, now])?;
    let value = b.load(quad, None, place, None, [])?;
    let old = b.load(quad, None, sum, None, [])?;
    let new = b.i_add(quad, None, old, value)?;
    b.store(sum, new, None, [])?;
    b.branch(next)?;
    b.begin_block(Some(next))?;
    let step = b.i_add(word, None, now, size_is)?;
    b.store(at, step, None, [])?;
    b.branch(header)?;
    b.begin_block(Some(after))?;
    let quad_sum = b.load(quad, None, sum, None, [])?;
    let mut total = b.composite_extract(word, None, quad_sum, [0])?;
    for lane in 1..4 {
        let part = b.composite_extract(word, None, quad_sum, [lane])?;
        total = b.i_add(word, None, total, part)?;
    }
    let out = b.i_mul(word, None, group, size_is)?;
    let out = b.i_add(word, None, out, local)?;
    let place = b.access_chain(word_at, None, y, [zero, out])?;
    b.store(place, total, None, [])?;
    b.ret()?;
    b.end_function()?;
    b.entry_point(spirv::ExecutionModel::GLCompute, main, "main", [group_in, local_in]);
    b.execution_mode(main, spirv::ExecutionMode::LocalSize, [size, 1, 1]);
    Ok(b.module().assemble())
}

/// A buffer of the first type of memory that the device is nearest to and the host sees; the sums are read back.
///
/// # Safety
/// `physical` is the device's.
unsafe fn buffer(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    device: &ash::Device,
    bytes: u64,
) -> (vk::Buffer, vk::DeviceMemory) {
    let usage = vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::TRANSFER_DST;
    let info = vk::BufferCreateInfo::default().size(bytes).usage(usage);
    // SAFETY: the caller's promise; what is made here is destroyed by the caller.
    unsafe {
        let buffer = device.create_buffer(&info, None).expect("a buffer");
        let needs = device.get_buffer_memory_requirements(buffer);
        let kinds = instance.get_physical_device_memory_properties(physical);
        let with = |flags: vk::MemoryPropertyFlags| {
            (0..kinds.memory_type_count).find(|&index| {
                needs.memory_type_bits & 1 << index != 0
                    && kinds.memory_types[index as usize].property_flags.contains(flags)
            })
        };
        type Flags = vk::MemoryPropertyFlags;
        let seen = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        let kind = with(Flags::DEVICE_LOCAL | seen).or_else(|| with(seen)).expect("memory the host sees");
        let info = vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(kind);
        let memory = device.allocate_memory(&info, None).expect("memory");
        device.bind_buffer_memory(buffer, memory, 0).expect("it is bound");
        (buffer, memory)
    }
}

/// Bytes per second of the fastest round by the device's clock, with workgroups of `size`; checks the sums.
fn read_rate(name: &str, size: u32) -> Option<f64> {
    let quads = BYTES / 2 / 16;
    let groups = 1024u32;
    let share = (quads / u64::from(groups)) as u32;
    let code = kernel(size, share).expect("a module");
    // SAFETY: plain Vulkan on a device of its own; everything is destroyed in reverse order, after the queue is idle.
    unsafe {
        let entry = ash::Entry::load().expect("a loader");
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        let instance = entry.create_instance(&info, None).expect("an instance");
        let is_meant = |physical: &vk::PhysicalDevice| {
            let properties = instance.get_physical_device_properties(*physical);
            properties.device_name_as_c_str().is_ok_and(|other| other.to_string_lossy() == name)
        };
        let physicals = instance.enumerate_physical_devices().expect("devices");
        let physical = physicals.into_iter().find(is_meant).expect("the device under test");
        let families = instance.get_physical_device_queue_family_properties(physical);
        let computes =
            |family: &vk::QueueFamilyProperties| family.queue_flags.contains(vk::QueueFlags::COMPUTE);
        let family = families.iter().position(computes).expect("a queue that computes") as u32;
        let limits = instance.get_physical_device_properties(physical).limits;
        if families[family as usize].timestamp_valid_bits == 0 {
            instance.destroy_instance(None);
            return None;
        }
        let queues =
            [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&[1.0])];
        let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues);
        let device = instance.create_device(physical, &info, None).expect("a device");
        let queue = device.get_device_queue(family, 0);
        // Two, because a binding may not be larger than half of what is read.
        let buffers = [BYTES / 2, BYTES / 2, u64::from(groups * size) * 4]
            .map(|bytes| buffer(&instance, physical, &device, bytes));
        let binding = |index| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(index)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings = [binding(0), binding(1)];
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        let set_layout = device.create_descriptor_set_layout(&info, None).expect("a layout");
        let layouts = [set_layout, set_layout];
        let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&layouts[..1]);
        let layout = device.create_pipeline_layout(&info, None).expect("a layout");
        let info = vk::ShaderModuleCreateInfo::default().code(&code);
        let module = device.create_shader_module(&info, None).expect("a module");
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main");
        let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout);
        let pipelines = device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
        let pipeline = pipelines.expect("a pipeline")[0];
        let sizes =
            [vk::DescriptorPoolSize::default().ty(vk::DescriptorType::STORAGE_BUFFER).descriptor_count(4)];
        let info = vk::DescriptorPoolCreateInfo::default().max_sets(2).pool_sizes(&sizes);
        let pool = device.create_descriptor_pool(&info, None).expect("a pool");
        let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(pool).set_layouts(&layouts);
        let sets = device.allocate_descriptor_sets(&info).expect("sets");
        for (set, input) in sets.iter().zip(&buffers) {
            for (index, (buffer, _)) in [input, &buffers[2]].into_iter().enumerate() {
                let whole = [vk::DescriptorBufferInfo::default().buffer(*buffer).range(vk::WHOLE_SIZE)];
                let write = vk::WriteDescriptorSet::default()
                    .dst_set(*set)
                    .dst_binding(index as u32)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .buffer_info(&whole);
                device.update_descriptor_sets(&[write], &[]);
            }
        }
        let info = vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(2);
        let queries = device.create_query_pool(&info, None).expect("queries");
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(family);
        let command_pool = device.create_command_pool(&info, None).expect("a pool");
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(command_pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(2);
        let commands = device.allocate_command_buffers(&info).expect("command buffers");
        let run = |commands: vk::CommandBuffer| {
            let commands = [commands];
            let submit = vk::SubmitInfo::default().command_buffers(&commands);
            device.queue_submit(queue, &[submit], vk::Fence::null()).expect("it is submitted");
            device.queue_wait_idle(queue).expect("it ends");
        };
        let begin = vk::CommandBufferBeginInfo::default();
        device.begin_command_buffer(commands[0], &begin).expect("it begins");
        for (buffer, _) in &buffers[..2] {
            device.cmd_fill_buffer(commands[0], *buffer, 0, vk::WHOLE_SIZE, 3);
        }
        device.end_command_buffer(commands[0]).expect("it ends");
        run(commands[0]);
        device.begin_command_buffer(commands[1], &begin).expect("it begins");
        device.cmd_reset_query_pool(commands[1], queries, 0, 2);
        device.cmd_bind_pipeline(commands[1], vk::PipelineBindPoint::COMPUTE, pipeline);
        device.cmd_write_timestamp(commands[1], vk::PipelineStageFlags::TOP_OF_PIPE, queries, 0);
        for set in &sets {
            let point = vk::PipelineBindPoint::COMPUTE;
            device.cmd_bind_descriptor_sets(commands[1], point, layout, 0, &[*set], &[]);
            device.cmd_dispatch(commands[1], groups, 1, 1);
        }
        device.cmd_write_timestamp(commands[1], vk::PipelineStageFlags::BOTTOM_OF_PIPE, queries, 1);
        device.end_command_buffer(commands[1]).expect("it ends");
        let mut best = f64::MAX;
        for round in 0..=ROUNDS {
            run(commands[1]);
            let mut ticks = [0u64; 2];
            let flags = vk::QueryResultFlags::TYPE_64;
            device.get_query_pool_results(queries, 0, &mut ticks, flags).expect("timestamps");
            let seconds = (ticks[1] - ticks[0]) as f64 * f64::from(limits.timestamp_period) / 1e9;
            if round > 0 {
                best = best.min(seconds);
            }
        }
        let mapped = device.map_memory(buffers[2].1, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty());
        let sums = std::slice::from_raw_parts(mapped.expect("it is mapped").cast::<u32>(), 8);
        assert_eq!(sums, [3 * 4 * (share / size); 8], "the kernel reads everything once");
        device.destroy_command_pool(command_pool, None);
        device.destroy_query_pool(queries, None);
        device.destroy_descriptor_pool(pool, None);
        device.destroy_pipeline(pipeline, None);
        device.destroy_shader_module(module, None);
        device.destroy_pipeline_layout(layout, None);
        device.destroy_descriptor_set_layout(set_layout, None);
        for (buffer, memory) in buffers {
            device.destroy_buffer(buffer, None);
            device.free_memory(memory, None);
        }
        device.destroy_device(None);
        instance.destroy_instance(None);
        Some(BYTES as f64 / best)
    }
}

#[test]
#[ignore = "a measurement, for a machine that does nothing else"]
fn an_independent_kernel_reads_as_fast_as_the_ceiling_says() {
    let Some(device) = harness::device() else { return };
    let caps = device.caps();
    let sizes = [caps.subgroup, 64.min(caps.max_workgroup), 256.min(caps.max_workgroup)];
    let (mut own, mut ceiling) = (0f64, 0f64);
    // In turns, so that what else the machine does meets both.
    for _ in 0..TURNS {
        for size in sizes {
            let Some(rate) = read_rate(&caps.name, size) else {
                return harness::skip("the device tells no times");
            };
            println!("workgroups of {size}: {:.2} GB/s", rate / 1e9);
            own = own.max(rate);
        }
        // The memory that weights are in alone.
        let first = std::cell::Cell::new(true);
        let found = ceilings(device, &|_| first.replace(false)).expect("ceilings");
        let rate = found.read().expect("a rate");
        println!("ceiling: {:.2} GB/s", rate / 1e9);
        ceiling = ceiling.max(rate);
    }
    let difference = own / ceiling - 1.0;
    println!(
        "{}: {:.2} against {:.2} GB/s, {:+.1} %",
        caps.name,
        own / 1e9,
        ceiling / 1e9,
        difference * 100.0
    );
    assert!(difference.abs() <= 0.15, "the two differ by {:.1} %", difference * 100.0);
}

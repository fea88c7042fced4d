/* TITLE */
/* Build: cc replay.c -o replay -ldl -lm     Run: ./replay [index of the device] */
/* Vulkan's headers are all it needs to be compiled: the loader is opened when it runs. */
#define VK_NO_PROTOTYPES
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>

#ifdef _WIN32
#include <windows.h>
#define OPEN() LoadLibraryA("vulkan-1.dll")
#define FIND(library, name) (void *)GetProcAddress(library, name)
typedef HMODULE library_handle;
#else
#include <dlfcn.h>
#ifdef __APPLE__
#define LOADER "libvulkan.1.dylib"
#else
#define LOADER "libvulkan.so.1"
#endif
#define OPEN() dlopen(LOADER, RTLD_NOW | RTLD_LOCAL)
#define FIND(library, name) dlsym(library, name)
typedef void *library_handle;
#endif

#define FUNCTIONS(X) \
    X(vkAllocateCommandBuffers) \
    X(vkAllocateDescriptorSets) \
    X(vkAllocateMemory) \
    X(vkBeginCommandBuffer) \
    X(vkBindBufferMemory) \
    X(vkCmdBindDescriptorSets) \
    X(vkCmdBindPipeline) \
    X(vkCmdDispatch) \
    X(vkCmdPipelineBarrier) \
    X(vkCmdPushConstants) \
    X(vkCreateBuffer) \
    X(vkCreateCommandPool) \
    X(vkCreateComputePipelines) \
    X(vkCreateDescriptorPool) \
    X(vkCreateDescriptorSetLayout) \
    X(vkCreateDevice) \
    X(vkCreateFence) \
    X(vkCreateInstance) \
    X(vkCreatePipelineLayout) \
    X(vkCreateShaderModule) \
    X(vkEndCommandBuffer) \
    X(vkEnumeratePhysicalDevices) \
    X(vkGetBufferMemoryRequirements) \
    X(vkGetDeviceQueue) \
    X(vkGetPhysicalDeviceMemoryProperties) \
    X(vkGetPhysicalDeviceProperties) \
    X(vkGetPhysicalDeviceQueueFamilyProperties) \
    X(vkMapMemory) \
    X(vkQueueSubmit) \
    X(vkUpdateDescriptorSets) \
    X(vkWaitForFences)
#define X(name) static PFN_##name name;
FUNCTIONS(X)
#undef X

enum { MATCH = 0, MISMATCH = 1, LOST = 10, HANG = 11, COMPILE = 12, UNSUPPORTED = 125 };

struct piece {
    uint32_t words, phase;
    const uint32_t *in_runs;
    uint32_t in_run_count;
    const uint32_t *in;
    const uint32_t *out_runs;
    uint32_t out_run_count;
    const uint32_t *want;
    /* 0 bits, 1 floats, 2 blocks of 8 words of int8, a scale, two sums and a zero, from word `at` on. */
    int kind;
    uint32_t at;
    float tolerance;
};

struct binding {
    uint32_t piece, offset, range;
};

/* DATA */

static void check(VkResult result, const char *call, int code) {
    if (result == VK_SUCCESS) return;
    fprintf(stderr, "%s: %d\n", call, (int)result);
    exit(result == VK_ERROR_DEVICE_LOST ? LOST : code);
}

/* Whether a word may differ as it does. */
static int is_near(const struct piece *piece, uint32_t word, uint32_t got, uint32_t want) {
    float a, b;
    memcpy(&a, &got, 4);
    memcpy(&b, &want, 4);
    if (got == want) return 1;
    if (piece->kind == 1) return fabsf(a - b) <= piece->tolerance;
    if (piece->kind == 0) return 0;
    uint32_t place = (word - piece->at) % 12;
    if (place >= 8) return place < 11 && fabsf(a - b) <= 1e-4f * fabsf(b) + (place > 8 ? piece->tolerance : 0);
    for (int bit = 0; bit < 32; bit += 8) {
        int off = (int8_t)(got >> bit) - (int8_t)(want >> bit);
        if (off < -1 || off > 1) return 0;
    }
    return 1;
}

/* Finds the loader's functions; 0 where there is no loader. */
static int load(void) {
    library_handle library = OPEN();
    if (!library) return 0;
#define X(name) \
    name = (PFN_##name)FIND(library, #name); \
    if (!name) return 0;
    FUNCTIONS(X)
#undef X
    return 1;
}

int main(int argc, char **argv) {
    if (!load()) {
        fputs("no loader of Vulkan 1.3\n", stderr);
        return UNSUPPORTED;
    }
    VkApplicationInfo app = {VK_STRUCTURE_TYPE_APPLICATION_INFO};
    app.apiVersion = VK_API_VERSION_1_3;
    VkInstanceCreateInfo instance_info = {VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
    instance_info.pApplicationInfo = &app;
    VkInstance instance;
    check(vkCreateInstance(&instance_info, NULL, &instance), "vkCreateInstance", UNSUPPORTED);
    VkPhysicalDevice all[16];
    uint32_t count = 16, wanted = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    vkEnumeratePhysicalDevices(instance, &count, all);
    if (wanted >= count) {
        fprintf(stderr, "there are %u devices\n", count);
        return UNSUPPORTED;
    }
    VkPhysicalDevice physical = all[wanted];
    VkPhysicalDeviceProperties properties;
    vkGetPhysicalDeviceProperties(physical, &properties);
    printf("%s\n", properties.deviceName);

    VkQueueFamilyProperties families[16];
    uint32_t family_count = 16, family = UINT32_MAX;
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &family_count, families);
    for (uint32_t i = family_count; i-- > 0;)
        if (families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) family = i;
    if (family == UINT32_MAX) return UNSUPPORTED;
    float priority = 1;
    VkDeviceQueueCreateInfo queue_info = {VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO};
    queue_info.queueFamilyIndex = family;
    queue_info.queueCount = 1;
    queue_info.pQueuePriorities = &priority;
    VkPhysicalDeviceVulkan13Features v13 = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES};
    v13.maintenance4 = VK_TRUE;
    v13.subgroupSizeControl = v13.computeFullSubgroups = subgroup != 0;
    v13.shaderIntegerDotProduct = NEEDS_INTDOT;
    VkPhysicalDeviceVulkan12Features v12 = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES};
    v12.pNext = &v13;
    v12.shaderFloat16 = NEEDS_FP16;
    v12.shaderInt8 = NEEDS_INT8;
    v12.storageBuffer8BitAccess = NEEDS_STORAGE8;
    v12.vulkanMemoryModel = v12.vulkanMemoryModelDeviceScope = NEEDS_MEMORY_MODEL;
    VkPhysicalDeviceVulkan11Features v11 = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES};
    v11.pNext = &v12;
    v11.storageBuffer16BitAccess = NEEDS_STORAGE16;
    VkPhysicalDeviceFeatures2 features = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2};
    features.pNext = &v11;
    features.features.shaderInt16 = NEEDS_INT16;
    features.features.shaderInt64 = NEEDS_INT64;
    VkDeviceCreateInfo device_info = {VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO};
    device_info.pNext = &features;
    device_info.queueCreateInfoCount = 1;
    device_info.pQueueCreateInfos = &queue_info;
    VkDevice device;
    check(vkCreateDevice(physical, &device_info, NULL, &device), "vkCreateDevice", UNSUPPORTED);
    VkQueue queue;
    vkGetDeviceQueue(device, family, 0, &queue);

    VkPhysicalDeviceMemoryProperties memory;
    vkGetPhysicalDeviceMemoryProperties(physical, &memory);
    VkBuffer buffers[PIECES];
    uint32_t *mapped[PIECES];
    for (int i = 0; i < PIECES; i++) {
        VkBufferCreateInfo info = {VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
        info.size = (VkDeviceSize)pieces[i].words * 4 + pieces[i].phase;
        info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT;
        check(vkCreateBuffer(device, &info, NULL, &buffers[i]), "vkCreateBuffer", UNSUPPORTED);
        VkMemoryRequirements needs;
        vkGetBufferMemoryRequirements(device, buffers[i], &needs);
        VkMemoryAllocateInfo allocate = {VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
        allocate.allocationSize = needs.size;
        VkMemoryPropertyFlags seen = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
        for (uint32_t t = memory.memoryTypeCount; t-- > 0;)
            if (needs.memoryTypeBits >> t & 1 && (memory.memoryTypes[t].propertyFlags & seen) == seen)
                allocate.memoryTypeIndex = t;
        VkDeviceMemory own;
        check(vkAllocateMemory(device, &allocate, NULL, &own), "vkAllocateMemory", UNSUPPORTED);
        check(vkBindBufferMemory(device, buffers[i], own, 0), "vkBindBufferMemory", UNSUPPORTED);
        void *pointer;
        check(vkMapMemory(device, own, 0, VK_WHOLE_SIZE, 0, &pointer), "vkMapMemory", UNSUPPORTED);
        mapped[i] = (uint32_t *)pointer + pieces[i].phase / 4;
        for (uint32_t w = 0; w < pieces[i].words; w++) mapped[i][w] = 0x7fc0ab5e;
        const uint32_t *from = pieces[i].in;
        for (uint32_t r = 0; r < pieces[i].in_run_count; r++) {
            uint32_t start = pieces[i].in_runs[2 * r], length = pieces[i].in_runs[2 * r + 1];
            memcpy(mapped[i] + start, from, length * 4);
            from += length;
        }
    }

    VkDescriptorSetLayoutBinding slots[BINDINGS];
    memset(slots, 0, sizeof slots);
    for (uint32_t i = 0; i < BINDINGS; i++) {
        slots[i].binding = i;
        slots[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
        slots[i].descriptorCount = 1;
        slots[i].stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
    }
    VkDescriptorSetLayoutCreateInfo set_info = {VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO};
    set_info.bindingCount = BINDINGS;
    set_info.pBindings = slots;
    VkDescriptorSetLayout set_layout;
    check(vkCreateDescriptorSetLayout(device, &set_info, NULL, &set_layout), "vkCreateDescriptorSetLayout", COMPILE);
    VkPushConstantRange range = {VK_SHADER_STAGE_COMPUTE_BIT, 0, push_size ? push_size : 4};
    VkPipelineLayoutCreateInfo layout_info = {VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO};
    layout_info.setLayoutCount = 1;
    layout_info.pSetLayouts = &set_layout;
    layout_info.pushConstantRangeCount = 1;
    layout_info.pPushConstantRanges = &range;
    VkPipelineLayout layout;
    check(vkCreatePipelineLayout(device, &layout_info, NULL, &layout), "vkCreatePipelineLayout", COMPILE);
    VkShaderModuleCreateInfo module_info = {VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO};
    module_info.codeSize = sizeof spirv;
    module_info.pCode = spirv;
    VkShaderModule module;
    check(vkCreateShaderModule(device, &module_info, NULL, &module), "vkCreateShaderModule", COMPILE);
    VkSpecializationMapEntry entries[sizeof spec_ids / 4];
    for (uint32_t i = 0; i < spec_count; i++) entries[i] = (VkSpecializationMapEntry){spec_ids[i], 4 * i, 4};
    VkSpecializationInfo specialization = {spec_count, entries, 4 * spec_count, spec_values};
    VkPipelineShaderStageRequiredSubgroupSizeCreateInfo required = {
        VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO};
    required.requiredSubgroupSize = subgroup;
    VkComputePipelineCreateInfo info = {VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO};
    info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    info.stage.pNext = subgroup ? &required : NULL;
    info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    info.stage.module = module;
    info.stage.pName = "main";
    info.stage.pSpecializationInfo = &specialization;
    info.layout = layout;
    VkPipeline pipeline;
    check(vkCreateComputePipelines(device, VK_NULL_HANDLE, 1, &info, NULL, &pipeline), "vkCreateComputePipelines",
          COMPILE);

    VkDescriptorPoolSize size = {VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, BINDINGS};
    VkDescriptorPoolCreateInfo pool_info = {VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO};
    pool_info.maxSets = 1;
    pool_info.poolSizeCount = 1;
    pool_info.pPoolSizes = &size;
    VkDescriptorPool pool;
    check(vkCreateDescriptorPool(device, &pool_info, NULL, &pool), "vkCreateDescriptorPool", UNSUPPORTED);
    VkDescriptorSetAllocateInfo set_allocate = {VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO};
    set_allocate.descriptorPool = pool;
    set_allocate.descriptorSetCount = 1;
    set_allocate.pSetLayouts = &set_layout;
    VkDescriptorSet set;
    check(vkAllocateDescriptorSets(device, &set_allocate, &set), "vkAllocateDescriptorSets", UNSUPPORTED);
    for (uint32_t i = 0; i < BINDINGS; i++) {
        VkDescriptorBufferInfo view = {buffers[bindings[i].piece], bindings[i].offset, bindings[i].range};
        VkWriteDescriptorSet write = {VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET};
        write.dstSet = set;
        write.dstBinding = i;
        write.descriptorCount = 1;
        write.descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
        write.pBufferInfo = &view;
        vkUpdateDescriptorSets(device, 1, &write, 0, NULL);
    }

    VkCommandPoolCreateInfo commands_info = {VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    commands_info.queueFamilyIndex = family;
    VkCommandPool command_pool;
    check(vkCreateCommandPool(device, &commands_info, NULL, &command_pool), "vkCreateCommandPool", UNSUPPORTED);
    VkCommandBufferAllocateInfo command_allocate = {VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
    command_allocate.commandPool = command_pool;
    command_allocate.commandBufferCount = 1;
    VkCommandBuffer commands;
    check(vkAllocateCommandBuffers(device, &command_allocate, &commands), "vkAllocateCommandBuffers", UNSUPPORTED);
    VkCommandBufferBeginInfo begin = {VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    check(vkBeginCommandBuffer(commands, &begin), "vkBeginCommandBuffer", UNSUPPORTED);
    vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, layout, 0, 1, &set, 0, NULL);
    if (push_size) vkCmdPushConstants(commands, layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, push_size, push);
    vkCmdDispatch(commands, grid[0], grid[1], grid[2]);
    VkMemoryBarrier barrier = {VK_STRUCTURE_TYPE_MEMORY_BARRIER};
    barrier.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT;
    barrier.dstAccessMask = VK_ACCESS_HOST_READ_BIT;
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &barrier, 0,
                         NULL, 0, NULL);
    check(vkEndCommandBuffer(commands), "vkEndCommandBuffer", UNSUPPORTED);
    VkFenceCreateInfo fence_info = {VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VkFence fence;
    check(vkCreateFence(device, &fence_info, NULL, &fence), "vkCreateFence", UNSUPPORTED);
    VkSubmitInfo submit = {VK_STRUCTURE_TYPE_SUBMIT_INFO};
    submit.commandBufferCount = 1;
    submit.pCommandBuffers = &commands;
    check(vkQueueSubmit(queue, 1, &submit, fence), "vkQueueSubmit", LOST);
    VkResult waited = vkWaitForFences(device, 1, &fence, VK_TRUE, 60000000000ull);
    if (waited == VK_TIMEOUT) {
        puts("no end after 60 s");
        exit(HANG);
    }
    check(waited, "vkWaitForFences", LOST);

    unsigned long wrong = 0, compared = 0;
    for (int i = 0; i < PIECES; i++) {
        const uint32_t *want = pieces[i].want;
        for (uint32_t r = 0; r < pieces[i].out_run_count; r++) {
            uint32_t start = pieces[i].out_runs[2 * r], length = pieces[i].out_runs[2 * r + 1];
            for (uint32_t w = start; w < start + length; w++, want++, compared++) {
                uint32_t got = mapped[i][w];
                float a, b;
                memcpy(&a, &got, 4);
                memcpy(&b, want, 4);
                if (!is_near(&pieces[i], w, got, *want) && wrong++ < 8)
                    printf("piece %d word %u: 0x%08x (%g), expected 0x%08x (%g)\n", i, w, got, a, *want, b);
            }
        }
    }
    printf("%lu of %lu words are wrong\n", wrong, compared);
    return wrong ? MISMATCH : MATCH;
}

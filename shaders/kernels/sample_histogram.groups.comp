// Second stage of a sampled row: tokens and mass per bin of distance from the largest logit, as far down as top-k and
// top-p can reach. Integer sums, so their order does not matter. One subgroup per group of slices and row.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#ifdef SUMS_SHUFFLE
#extension GL_KHR_shader_subgroup_shuffle : require
#else
#extension GL_KHR_shader_subgroup_arithmetic : require
#endif
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;

#include "step.glsl"
#include "sampler.glsl"
#include "lanes.glsl"

layout(binding = 0) readonly restrict buffer Logits { uint logits[]; };
layout(binding = 1) readonly restrict buffer Samplers { Sampler samplers[]; };
layout(binding = 2) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 3) restrict buffer Part { uint part[]; };

layout(push_constant) uniform Push {
    uint logits_at;
    uint samplers_at;
    uint rows_at;
    uint part_at;
    uint n;
    uint stride;
    uint part_stride;
} push;

#include "sampler_work.glsl"

shared uint bins[BINS * BIN_WORDS];

// The workgroup is one subgroup, so this is all it takes to see what other lanes wrote to shared memory.
void settle() {
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

void clear_bins() {
    for (uint i = LANE; i < BINS * BIN_WORDS; i += SG) {
        bins[i] = 0u;
    }
    settle();
}

// A bin below which nothing can be among the k largest: at least k slices have their largest logit down to it.
uint top_k_limit(uint row, uint top, uint k) {
    for (uint slice = LANE; slice < slice_count(); slice += SG) {
        uint key = part[work_at(row) + slice * PARTIAL_WORDS];
        if (key != KEY_NONE) {
            atomicAdd(bins[bin_of(distance_of(key, top)) * BIN_WORDS], 1u);
        }
    }
    settle();
    uint limit = BINS - 1u;
    uint before = 0u;
    for (uint first = 0u; first < BINS; first += SG) {
        uint bin = first + LANE;
        uint count = bins[bin * BIN_WORDS];
        uint reached = lanes_min(before + lanes_add_before(count) + count >= k ? bin : NO_BIN);
        if (reached != NO_BIN) {
            limit = reached;
            break;
        }
        before += lanes_add(count);
    }
    settle();
    clear_bins();
    return limit;
}

void main() {
    uint lane = LANE;
    uint group = gl_WorkGroupID.x;
    uint row = gl_WorkGroupID.y;
    Sampler s = samplers[(push.samplers_at >> 4u) + rows[(push.rows_at >> 3u) + row].sampler_index];
    if (s.inverse_temperature == 0.0 || !truncates(s)) {
        return;
    }
    uint top = row_top(row);
    if (top == KEY_NONE) {
        return;
    }
    clear_bins();
    uint limit = BINS - 1u;
    if (s.top_k == 0u || s.top_k >= push.n) {
        limit = bin_of(NEGLIGIBLE);
    } else if (s.top_k <= slice_count()) {
        limit = top_k_limit(row, top, s.top_k);
    }

    uint logits_at = push.logits_at + row * push.stride;
    uint slice_end = min((group + 1u) * GROUP, slice_count());
    for (uint slice = group * GROUP; slice < slice_end; slice++) {
        uint slice_top = part[work_at(row) + slice * PARTIAL_WORDS];
        if (slice_top == KEY_NONE || bin_of(distance_of(slice_top, top)) > limit) {
            continue;
        }
        uint end = min((slice + 1u) * SLICE, push.n);
        for (uint i = slice * SLICE + lane; i < end; i += SG) {
            uint key = key_of(logits[logits_at + i]);
            float distance = distance_of(key, top);
            uint bin = bin_of(distance);
            if (key != KEY_NONE && bin <= limit) {
                uint mass = mass_of(distance);
                atomicAdd(bins[bin * BIN_WORDS], 1u);
                uint old = atomicAdd(bins[bin * BIN_WORDS + 1u], mass);
                if (old + mass < old) {
                    atomicAdd(bins[bin * BIN_WORDS + 2u], 1u);
                }
            }
        }
    }
    settle();

    for (uint bin = lane; bin <= limit; bin += SG) {
        uint count = bins[bin * BIN_WORDS];
        if (count != 0u) {
            uint at = bins_at(row) + bin * BIN_WORDS;
            uint low = bins[bin * BIN_WORDS + 1u];
            uint old = atomicAdd(part[at + 1u], low);
            atomicAdd(part[at], count);
            atomicAdd(part[at + 2u], bins[bin * BIN_WORDS + 2u] + (old + low < old ? 1u : 0u));
        }
    }
    if (group == 0u && lane == 0u) {
        part[head_at(row) + HEAD_LIMIT] = limit;
    }
}

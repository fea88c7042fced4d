// First stage of every choice of a token: for each slice of a row of logits the largest one, the lowest id that has it
// and the mass of the slice relative to it. Clears what the following stages add to. One subgroup per slice and row.
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

#include "sampler.glsl"
#include "lanes.glsl"
#include "sampler_sums.glsl"

// Bits of f32, because a NaN is best recognised as an integer.
layout(binding = 0) readonly restrict buffer Logits { uint logits[]; };
layout(binding = 1) writeonly restrict buffer Part { uint part[]; };

layout(push_constant) uniform Push {
    uint logits_at;
    uint part_at;
    uint n;
    uint stride;
    uint part_stride;
    uint clear; // words after the partial results of a row
} push;

void main() {
    uint lane = LANE;
    uint slice = gl_WorkGroupID.x;
    uint slices = gl_NumWorkGroups.x;
    uint logits_at = push.logits_at + gl_WorkGroupID.y * push.stride;
    uint part_at = push.part_at + gl_WorkGroupID.y * push.part_stride;
    uint end = min((slice + 1u) * SLICE, push.n);

    uint top = KEY_NONE;
    uint id = NO_TOKEN;
    for (uint i = slice * SLICE + lane; i < end; i += SG) {
        uint key = key_of(logits[logits_at + i]);
        if (key > top) {
            top = key;
            id = i;
        }
    }
    subgroup_best(top, id);

    uint mass = 0u;
    for (uint i = slice * SLICE + lane; i < end; i += SG) {
        uint key = key_of(logits[logits_at + i]);
        if (key != KEY_NONE) {
            mass += (mass_of(distance_of(key, top)) + 512u) >> 10u;
        }
    }
    mass = lanes_add(mass);

    if (lane == 0u) {
        uint at = part_at + slice * PARTIAL_WORDS;
        part[at] = top;
        part[at + 1u] = id;
        part[at + 2u] = mass;
    }
    uint share = (push.clear + slices - 1u) / slices;
    uint clear_end = min((slice + 1u) * share, push.clear);
    for (uint i = slice * share + lane; i < clear_end; i += SG) {
        part[part_at + slices * PARTIAL_WORDS + i] = 0u;
    }
}

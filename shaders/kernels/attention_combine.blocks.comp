// Attention's parts to its result: a row's own chunks, merged in ascending order. HEAD_V is a multiple of 4.
// The grid is (any, rows, 1): any number of workgroups does, as many as a row has WG lane items is best.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint HEAD_V = 128u;
layout(constant_id = 3) const uint OUT = 1u;
// 1: each head has a sink, a score without a value.
layout(constant_id = 4) const uint SINKS = 0u;

#include "step.glsl"

layout(binding = 0) readonly restrict buffer Part { float part[]; };
layout(binding = 1) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 2) readonly restrict buffer Sinks { float sinks[]; };
layout(binding = 3) writeonly restrict buffer Y { float y[]; };
layout(binding = 4) writeonly restrict buffer YQ8 { uint y_q8[]; };

layout(push_constant) uniform Push {
    uint part_at;
    uint rows_at;
    uint sinks_at;
    uint y_at;
    uint y_q8_at;
    uint n_head;
    uint chunks_max;
    uint row_count;
    uint window;
} push;

#include "emit.glsl"

// Words of a part.
const uint STRIDE = HEAD_V + 2u;

// Four neighbouring outputs, all of one head.
vec4 merge(uint row, uint element) {
    uint position = rows[(push.rows_at >> 3u) + row].position;
    uint begin = window_begin(rows[(push.rows_at >> 3u) + row].begin, position, push.window);
    uint base = window_chunk(begin, push.window);
    uint from = begin / KV_BLOCK - base;
    uint to = min(position / KV_BLOCK - base, push.chunks_max - 1u);
    uint head = element / HEAD_V;
    uint head_at = push.part_at + (row * push.n_head + head) * push.chunks_max * STRIDE;
    float top = -3.0e38;
    float total = 0.0;
    if (SINKS == 1u) {
        top = sinks[push.sinks_at + head];
    }
    [[dont_unroll]] for (uint chunk = from; chunk <= to; chunk++) {
        top = max(top, part[head_at + chunk * STRIDE]);
    }
    if (SINKS == 1u) {
        precise float below = sinks[push.sinks_at + head] - top;
        total = exp(below);
    }
    vec4 sum = vec4(0.0);
    [[dont_unroll]] for (uint chunk = from; chunk <= to; chunk++) {
        uint at = head_at + chunk * STRIDE;
        precise float below = part[at] - top;
        float weight = exp(below);
        total = fma(weight, part[at + 1u], total);
        at += 2u + element % HEAD_V;
        sum = fma(vec4(weight), vec4(part[at], part[at + 1u], part[at + 2u], part[at + 3u]), sum);
    }
    return total > 0.0 ? sum / total : vec4(0.0);
}

void main() {
    uint row = gl_WorkGroupID.y;
    if (row >= push.row_count) {
        return;
    }
    uint k = push.n_head * HEAD_V;
    uint items = q8_items(k);
    // Whole subgroups step together, so that the lanes of a block always do.
    for (uint first = gl_WorkGroupID.x * WG; first < items; first += gl_NumWorkGroups.x * WG) {
        uint item = first + gl_LocalInvocationIndex;
        vec4 v[QUADS];
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            uint element = item * OWN + 4u * i;
            v[i] = vec4(0.0);
            if (element < k) {
                v[i] = merge(row, element);
            }
        }
        emit(row, k, item, item < items, v);
    }
}

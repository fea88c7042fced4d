// f32 rows to q8 rows. Any number of workgroups does; as many as there are WG lane items is best.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;

layout(binding = 0) readonly restrict buffer X { float x[]; };
layout(binding = 1) writeonly restrict buffer YQ8 { uint y_q8[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint y_q8_at;
    uint k;
    uint rows;
} push;

#include "q8.glsl"

void main() {
    uint items = push.rows * q8_items(push.k);
    // Whole subgroups step together, so that the lanes of a block always do.
    for (uint first = gl_WorkGroupID.x * WG; first < items; first += gl_NumWorkGroups.x * WG) {
        uint item = first + gl_LocalInvocationIndex;
        bool live = item < items;
        vec4 v[QUADS];
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            v[i] = vec4(0.0);
            if (live) {
                uint at = push.x_at + item * OWN + 4u * i;
                v[i] = vec4(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
            }
        }
        q8_write(push.y_q8_at + item / LANES * Q8_WORDS, item, live, v);
    }
}

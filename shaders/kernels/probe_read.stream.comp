// How fast memory is read: the exclusive or of all words that an invocation reads, one word each. A workgroup's
// invocations take turns in its share.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

layout(binding = 0) readonly restrict buffer X { uvec4 x[]; };
layout(binding = 1) writeonly restrict buffer Y { uint y[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint y_at;
    uint quads;
} push;

#include "probe.glsl"

// Loads in flight.
const uint DEPTH = 4u;

void main() {
    uvec2 share = probe_share(push.quads);
    uint from = push.x_at / 4u;
    uvec4 sum[DEPTH];
    [[unroll]] for (uint i = 0u; i < DEPTH; i++) {
        sum[i] = uvec4(0u);
    }
    uint at = share.x + gl_LocalInvocationIndex;
    for (; at + (DEPTH - 1u) * WG < share.y; at += DEPTH * WG) {
        [[unroll]] for (uint i = 0u; i < DEPTH; i++) {
            sum[i] ^= x[from + at + i * WG];
        }
    }
    for (; at < share.y; at += WG) {
        sum[0] ^= x[from + at];
    }
    uvec4 all = uvec4(0u);
    [[unroll]] for (uint i = 0u; i < DEPTH; i++) {
        all ^= sum[i];
    }
    y[push.y_at + gl_WorkGroupID.x * WG + gl_LocalInvocationIndex] = all.x ^ all.y ^ all.z ^ all.w;
}

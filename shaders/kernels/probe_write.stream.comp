// How fast memory is written: word i becomes i exclusive or a seed.
#version 460
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

layout(binding = 0) writeonly restrict buffer Y { uvec4 y[]; };

layout(push_constant) uniform Push {
    uint y_at;
    uint quads;
    uint seed;
} push;

#include "probe.glsl"

void main() {
    uvec2 share = probe_share(push.quads);
    uint from = push.y_at / 4u;
    for (uint at = share.x + gl_LocalInvocationIndex; at < share.y; at += WG) {
        y[from + at] = (4u * at + uvec4(0u, 1u, 2u, 3u)) ^ push.seed;
    }
}

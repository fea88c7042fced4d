// How fast memory is copied: y = x, in quads of words.
#version 460
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

layout(binding = 0) readonly restrict buffer X { uvec4 x[]; };
layout(binding = 1) writeonly restrict buffer Y { uvec4 y[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint y_at;
    uint quads;
} push;

#include "probe.glsl"

void main() {
    uvec2 share = probe_share(push.quads);
    for (uint at = share.x + gl_LocalInvocationIndex; at < share.y; at += WG) {
        y[push.y_at / 4u + at] = x[push.x_at / 4u + at];
    }
}

// Logits of few tokens where those of all are expected: the others cannot be chosen. One lane per token and row.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

layout(binding = 0) readonly restrict buffer X { uint x[]; };
layout(binding = 1) readonly restrict buffer Places { uint places[]; }; // by token: its index in a row of x, or beyond
layout(binding = 2) writeonly restrict buffer Y { uint y[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint places_at;
    uint y_at;
    uint count; // tokens of a row of x
    uint n;     // tokens of a row of y
} push;

const uint MINUS_INFINITY = 0xff800000u;

void main() {
    uint row = gl_WorkGroupID.y;
    for (uint i = gl_GlobalInvocationID.x; i < push.n; i += gl_NumWorkGroups.x * WG) {
        uint place = places[push.places_at + i];
        uint bits = place < push.count ? x[push.x_at + row * push.count + min(place, push.count - 1u)] : MINUS_INFINITY;
        y[push.y_at + row * push.n + i] = bits;
    }
}

// Keeps the hidden rows of a step for layers that predict further tokens: in a ring by position, one per session. One
// lane per element, one row of workgroups per row.
#version 460
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

#include "step.glsl"

layout(binding = 0) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 1) readonly restrict buffer X { uint x[]; };
layout(binding = 2) writeonly restrict buffer Hidden { uint hidden[]; }; // [session, position modulo ring, k]

layout(push_constant) uniform Push {
    uint rows_at;
    uint x_at;
    uint hidden_at;
    uint k;         // elements of a row
    uint row_count;
    uint ring;      // rows of a session
} push;

void main() {
    uint e = gl_GlobalInvocationID.x;
    uint i = gl_WorkGroupID.y;
    if (e >= push.k || i >= push.row_count) {
        return;
    }
    StepRow row = rows[(push.rows_at >> 3u) + i];
    uint place = row.sampler_index * push.ring + row.position % push.ring;
    hidden[push.hidden_at + place * push.k + e] = x[push.x_at + i * push.k + e];
}

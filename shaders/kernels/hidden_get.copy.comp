// The hidden rows before the rows of a step, out of the ring where `hidden_put` keeps them; zeros where none is known.
// One lane per element, one row of workgroups per row.
#version 460
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

#include "step.glsl"

// StepRow.flags: the hidden row before it is not in the ring.
const uint ROW_BARE = 4u;

layout(binding = 0) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 1) readonly restrict buffer Hidden { uint hidden[]; }; // [session, position modulo ring, k]
layout(binding = 2) writeonly restrict buffer Y { uint y[]; };

layout(push_constant) uniform Push {
    uint rows_at;
    uint hidden_at;
    uint y_at;
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
    uint value = 0u;
    if (row.position > 0u && (row.flags & ROW_BARE) == 0u) {
        uint place = row.sampler_index * push.ring + (row.position - 1u) % push.ring;
        value = hidden[push.hidden_at + place * push.k + e];
    }
    y[push.y_at + i * push.k + e] = value;
}

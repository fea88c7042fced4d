// Writes each row's token into its session's ring of tokens, at the row's position. Runs at the start of every step of
// a session with penalties; a rejected draft is overwritten by what takes its position. One lane per row.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

#include "step.glsl"
#include "sampler.glsl"

layout(binding = 0) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 1) readonly restrict buffer Samplers { Sampler samplers[]; };
layout(binding = 2) writeonly restrict buffer History { uint history[]; };

layout(push_constant) uniform Push {
    uint rows_at;
    uint samplers_at;
    uint history_at;
    uint row_count;
    uint ring; // words of a ring
} push;

void main() {
    if (gl_GlobalInvocationID.x >= push.row_count) {
        return;
    }
    StepRow row = rows[(push.rows_at >> 3u) + gl_GlobalInvocationID.x];
    Sampler s = samplers[(push.samplers_at >> 4u) + row.sampler_index];
    if (s.penalty_window != 0u) {
        history[push.history_at + s.history + row.position % push.ring] = row.token;
    }
}

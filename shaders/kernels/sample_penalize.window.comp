// Repetition, frequency and presence penalties, applied to the logits in place: for every token among the last
// `penalty_window` ones of the row's session. The lane that meets a token first counts it and owns its logit. One
// subgroup per row.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

#include "step.glsl"
#include "sampler.glsl"

layout(binding = 0) restrict buffer Logits { uint logits[]; };
layout(binding = 1) readonly restrict buffer Samplers { Sampler samplers[]; };
layout(binding = 2) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 3) readonly restrict buffer History { uint history[]; };

layout(push_constant) uniform Push {
    uint logits_at;
    uint samplers_at;
    uint rows_at;
    uint history_at;
    uint n;
    uint stride;
    uint ring; // words of a ring
} push;

void main() {
    uint row = gl_WorkGroupID.y;
    uint position = rows[(push.rows_at >> 3u) + row].position;
    Sampler s = samplers[(push.samplers_at >> 4u) + rows[(push.rows_at >> 3u) + row].sampler_index];
    uint window = min(min(s.penalty_window, position + 1u), push.ring);
    uint history_at = push.history_at + s.history;
    for (uint i = gl_LocalInvocationIndex; i < window; i += WG) {
        uint token = history[history_at + (position - i) % push.ring];
        uint count = 1u;
        bool first = token < push.n;
        for (uint j = 0u; j < window && first; j++) {
            if (j != i && history[history_at + (position - j) % push.ring] == token) {
                first = j > i;
                count++;
            }
        }
        uint at = push.logits_at + row * push.stride + token;
        if (first && key_of(logits[at]) != KEY_NONE) {
            precise float logit = uintBitsToFloat(logits[at]);
            logit = logit * (logit > 0.0 ? s.repeat_inverse : s.repeat_penalty);
            logit = logit - float(count) * s.frequency_penalty;
            logit = logit - s.presence_penalty;
            logits[at] = floatBitsToUint(logit);
        }
    }
}

// Adds what a conversation gives to or takes from single tokens to their logits, in place. One subgroup per row.
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
layout(binding = 3) readonly restrict buffer Biases { uint biases[]; }; // token, bias; a conversation names a token once

layout(push_constant) uniform Push {
    uint logits_at;
    uint samplers_at;
    uint rows_at;
    uint biases_at;
    uint n;
    uint stride;
} push;

void main() {
    uint row = gl_WorkGroupID.y;
    Sampler s = samplers[(push.samplers_at >> 4u) + rows[(push.rows_at >> 3u) + row].sampler_index];
    for (uint i = gl_LocalInvocationIndex; i < s.bias_count; i += WG) {
        uint entry = push.biases_at + s.biases + 2u * i;
        uint token = biases[entry];
        uint bias = biases[entry + 1u];
        uint at = push.logits_at + row * push.stride + token;
        if (token < push.n && key_of(logits[at]) != KEY_NONE) {
            precise float logit = uintBitsToFloat(logits[at]) + uintBitsToFloat(bias);
            // Arithmetic on an infinity may be undefined.
            logits[at] = bias == MINUS_INFINITY ? MINUS_INFINITY : floatBitsToUint(logit);
        }
    }
}

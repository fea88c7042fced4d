// Short causal convolutions, channel by channel: y = act(Σ w[t] · x[p - TAPS + 1 + t] + bias), some groups of channels then
// divided by their length. One subgroup per group of channels and row. What a row sees of earlier steps is in a ring of
// inputs by position, so that a rejected row is overwritten before it is seen.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint TAPS = 4u;
layout(constant_id = 3) const uint ACT = 1u; // 1 silu
layout(constant_id = 4) const uint BIAS = 0u;
layout(constant_id = 5) const uint COMPUTE = 1u; // y is wanted
layout(constant_id = 6) const uint KEEP = 1u;    // inputs go to the ring

#include "step.glsl"

layout(binding = 0) readonly restrict buffer X { float x[]; };
layout(binding = 1) readonly restrict buffer Weight { float weight[]; }; // [width][TAPS]
layout(binding = 2) readonly restrict buffer Bias { float bias[]; };
layout(binding = 3) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 4) restrict buffer Inputs { float inputs[]; }; // [slots][ring][width]
layout(binding = 5) writeonly restrict buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint weight_at;
    uint bias_at;
    uint rows_at;
    uint inputs_at;
    uint y_at;
    uint width;
    uint x_stride;
    uint row_count;
    uint first_row;
    // Channels of a group; of the first `normed` channels each group is divided by its length.
    uint group;
    uint normed;
    // The first `scaled` channels are multiplied by `scale` as well.
    uint scaled;
    uint ring;
    float scale;
    float eps;
} push;

#include "subgroup.glsl"
#include "logistic.glsl"

// Where a row's inputs are, oldest first: in the ring, else in x. Absent ones have no place.
const uint NOWHERE = 0xffffffffu;
uint places[TAPS];
bool ringed[TAPS];

float convolved(uint channel) {
    precise float sum = BIAS == 1u ? bias[push.bias_at + channel] : 0.0;
    [[unroll]] for (uint t = 0u; t < TAPS; t++) {
        float value = 0.0;
        if (places[t] != NOWHERE) {
            value = ringed[t] ? inputs[places[t] + channel] : x[places[t] + channel];
        }
        sum = fma(weight[push.weight_at + channel * TAPS + t], value, sum);
    }
    return ACT == 1u ? sum * logistic(sum) : sum;
}

void main() {
    uint row = push.first_row + gl_WorkGroupID.y;
    uint first = gl_WorkGroupID.x * push.group;
    if (row >= push.row_count || first >= push.width) {
        return;
    }
    uint lane = LANE;
    uint count = min(push.group, push.width - first);
    uint rows_at = push.rows_at >> 3u;
    uint position = rows[rows_at + row].position;
    uint slot = rows[rows_at + row].sampler_index;
    uint own = push.x_at + row * push.x_stride;
    uint ring = push.inputs_at + slot * push.ring * push.width;
    if (COMPUTE == 1u) {
        [[unroll]] for (uint t = 0u; t < TAPS; t++) {
            uint back = TAPS - 1u - t;
            // Rows of a step that belong to one conversation are neighbours.
            uint other = row - min(back, row);
            bool here = back <= row && rows[rows_at + other].sampler_index == slot;
            ringed[t] = !here;
            places[t] = here ? push.x_at + other * push.x_stride : ring + (position - back) % push.ring * push.width;
            if (back > position) {
                places[t] = NOWHERE;
            }
        }
        float factor = first < push.scaled ? push.scale : 1.0;
        if (first < push.normed) {
            float squares = 0.0;
            [[dont_unroll]] for (uint c = lane; c < count; c += SG) {
                float value = convolved(first + c);
                squares = fma(value, value, squares);
            }
            precise float root = max(sqrt(subgroup_sum(squares)), push.eps);
            factor = factor / root;
        }
        [[dont_unroll]] for (uint c = lane; c < count; c += SG) {
            y[push.y_at + row * push.width + first + c] = convolved(first + c) * factor;
        }
    }
    if (KEEP == 1u) {
        [[dont_unroll]] for (uint c = lane; c < count; c += SG) {
            inputs[ring + position % push.ring * push.width + first + c] = x[own + first + c];
        }
    }
}

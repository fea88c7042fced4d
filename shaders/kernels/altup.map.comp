// AltUp (Baykal et al. 2023): STREAMS copies of the residual stream, of which a layer computes one. A router's logits give
// small matrices of coefficients, C · tanh(logits). Without CORRECT a stream gets a mixture of all, x[j] += Σ c[j][i] x[i];
// with it, its share of what the layer changed, x[j] += (1 + c[j]) (computed - x[active]). Streams change in place; the
// active one, times `factor` with CORRECT, is also left in y. The grid is (any, rows, 1).
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64;
layout(constant_id = 1) const uint STREAMS = 4u;
layout(constant_id = 2) const uint CORRECT = 0u;
// Type of the coefficients: 0 f32, 1 f16, 2 bf16.
layout(constant_id = 3) const uint TYPE = 0u;

layout(binding = 0) restrict buffer X { float x[]; };
layout(binding = 1) readonly restrict buffer Logits { float logits[]; };
layout(binding = 2) readonly restrict buffer Coefficients { uint coefficients[]; };
layout(binding = 3) readonly restrict buffer Computed { float computed[]; };
layout(binding = 4) readonly restrict buffer Factor { float factor[]; };
layout(binding = 5) writeonly restrict buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint logits_at;
    uint coefficients_at;
    uint computed_at;
    uint factor_at;
    uint y_at;
    uint k;
    uint rows;
    uint active_stream;
} push;

#include "soft_cap.glsl"

float coefficient(uint i) {
    if (TYPE == 0u) {
        return uintBitsToFloat(coefficients[push.coefficients_at + i]);
    }
    uint word = coefficients[push.coefficients_at + i / 2u];
    if (TYPE == 1u) {
        vec2 both = unpackHalf2x16(word);
        return i % 2u == 0u ? both.x : both.y;
    }
    return uintBitsToFloat(i % 2u == 0u ? word << 16u : word & 0xffff0000u);
}

// Row `i` of the coefficients times the tanh of the row's logits.
float mixed(uint row, uint i) {
    precise float sum = 0.0;
    [[dont_unroll]] for (uint t = 0u; t < STREAMS; t++) {
        sum = fma(coefficient(i * STREAMS + t), soft_cap(logits[push.logits_at + row * STREAMS + t], 1.0), sum);
    }
    return sum;
}

shared float c[STREAMS * STREAMS];

void main() {
    uint row = gl_WorkGroupID.y;
    uint count = CORRECT == 1u ? STREAMS : STREAMS * STREAMS;
    [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < count; i += WG) {
        c[i] = mixed(row, i);
    }
    barrier();
    uint stream = push.rows * push.k;
    [[dont_unroll]] for (uint e = gl_GlobalInvocationID.x; e < push.k; e += gl_NumWorkGroups.x * WG) {
        uint at = push.x_at + row * push.k + e;
        float old[STREAMS];
        [[unroll]] for (uint i = 0u; i < STREAMS; i++) {
            old[i] = x[at + i * stream];
        }
        float change = 0.0;
        if (CORRECT == 1u) {
            change = computed[push.computed_at + row * push.k + e] - x[at + push.active_stream * stream];
        }
        [[unroll]] for (uint j = 0u; j < STREAMS; j++) {
            float value = old[j];
            if (CORRECT == 1u) {
                value = fma(1.0 + c[j], change, value);
            } else {
                [[unroll]] for (uint i = 0u; i < STREAMS; i++) {
                    value = fma(c[j * STREAMS + i], old[i], value);
                }
            }
            x[at + j * stream] = value;
            if (j == push.active_stream) {
                y[push.y_at + row * push.k + e] = CORRECT == 1u ? value * factor[push.factor_at + e] : value;
            }
        }
    }
}

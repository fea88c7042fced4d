// What all ways of the op `linear` share: y = (W·x + bias) * scale + residual. Includes the weights of axis FORMAT;
// axis ACT says what a row of x is: f32 values, or q8 blocks of 32 (12 words: 8 of int8, scale, two scaled sums, 0).
// Rows of x begin at multiples of 16 bytes unless FORMAT is a float format with ACT=f32.

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 32u;
layout(constant_id = 2) const uint BIAS = 0u;
layout(constant_id = 3) const uint RESIDUAL = 0u;
// Rows that one workgroup computes; its y index selects the tile.
layout(constant_id = 4) const uint ROWS = 1u;

#include "weights.glsl"

layout(binding = 1) readonly buffer X { uint x[]; };
layout(binding = 1) readonly buffer X4 { uvec4 x4[]; };
layout(binding = 2) readonly restrict buffer Bias { float bias[]; };
layout(binding = 3) readonly buffer Residual { float residual[]; };
layout(binding = 4) buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint weights_at;
    uint x_at;
    uint bias_at;
    uint residual_at;
    uint y_at;
    uint k;
    uint n;
    uint rows;
    uint row_bytes;
    uint x_stride;
    uint y_stride;
    uint residual_stride;
    float scale;
} push;

// Units of a row of weights; only float formats may end in a partial one.
uint linear_units() {
    return (push.k + FORMAT_UNIT - 1u) / FORMAT_UNIT;
}

// Byte offset of the weights of an output; outputs behind the last read those of the last.
uint linear_base(uint index) {
    return push.weights_at * 4u + min(index, push.n - 1u) * push.row_bytes;
}

// Word offset of a row of x; rows behind the last read the last.
uint linear_row(uint row) {
    return push.x_at + min(row, push.rows - 1u) * push.x_stride;
}

// Stores the sum of one output of one row, unless there is no such output or row.
void linear_store(uint row, uint index, float sum) {
    if (row < push.rows && index < push.n) {
        precise float value = sum;
        if (BIAS != 0u) {
            value = value + bias[push.bias_at + index];
        }
        value = value * push.scale;
        if (RESIDUAL != 0u) {
            value = value + residual[push.residual_at + row * push.residual_stride + index];
        }
        y[push.y_at + row * push.y_stride + index] = value;
    }
}

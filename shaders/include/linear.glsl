// What all ways of the op `linear` share: y = (W·x + bias) * scale + residual. Includes the weights of axis FORMAT;
// axis ACT says what a row of x is: f32 values, or q8 blocks of 32 (12 words: 8 of int8, scale, two scaled sums, 0).
// With EXPERTS the weights are a stack of matrices; a workgroup takes a tile of assignments (row, slot) of one expert, y has
// a row for each assignment, and z = 1 is a second stack in the same view, whose outputs lie behind those of the first.
// Rows of x begin at multiples of 16 bytes unless FORMAT is a float format with ACT=f32.

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 32u;
layout(constant_id = 2) const uint BIAS = 0u;
layout(constant_id = 3) const uint RESIDUAL = 0u;
// Rows that one workgroup computes; its y index selects the tile.
layout(constant_id = 4) const uint ROWS = 1u;
layout(constant_id = 7) const uint EXPERTS = 0u;

#include "weights.glsl"

layout(binding = 1) readonly buffer X { uint x[]; };
layout(binding = 1) readonly buffer X4 { uvec4 x4[]; };
layout(binding = 2) readonly restrict buffer Bias { float bias[]; };
layout(binding = 3) readonly buffer Residual { float residual[]; };
layout(binding = 4) buffer Y { float y[]; };
// Bias of the second stack.
layout(binding = 5) readonly restrict buffer Bias2 { float bias2[]; };
// Expert, first entry of `order`, number of entries, 0; no entries: nothing to do.
layout(binding = 6) readonly restrict buffer Tiles { uvec4 tiles[]; };
// Assignments by expert.
layout(binding = 7) readonly restrict buffer Order { uint order[]; };

layout(push_constant) uniform Push {
    uint weights_at;
    uint x_at;
    uint bias_at;
    uint residual_at;
    uint y_at;
    uint bias2_at;
    uint tiles_at;
    uint order_at;
    uint k;
    uint n;
    uint rows;
    uint row_bytes;
    uint x_stride;
    uint y_stride;
    uint residual_stride;
    float scale;
    // Assignments that share a row of x.
    uint slots;
    // Experts in the view, from the first on, and the bytes of one.
    uint first_expert;
    uint expert_count;
    uint expert_bytes;
    // Bytes from the first stack to the second.
    uint second_bytes;
} push;

// The tile of assignments.
uvec4 own_tile;

// First row of the workgroup's tile; to be called before all others.
uint linear_begin() {
    if (EXPERTS == 0u) {
        return gl_WorkGroupID.y * ROWS;
    }
    own_tile = tiles[(push.tiles_at >> 2u) + gl_WorkGroupID.y];
    return own_tile.y;
}

// Whether the workgroup has nothing to do.
bool linear_idle() {
    return EXPERTS == 1u && (own_tile.z == 0u || own_tile.x - push.first_expert >= push.expert_count);
}

// Whether a row of the tile may be left out.
bool linear_lacks(uint r) {
    return EXPERTS == 1u && r >= own_tile.z;
}

// Units of a row of weights; only float formats may end in a partial one.
uint linear_units() {
    return (push.k + FORMAT_UNIT - 1u) / FORMAT_UNIT;
}

// Byte offset of the weights of an output; outputs behind the last read those of the last.
uint linear_base(uint index) {
    uint base = push.weights_at * 4u + min(index, push.n - 1u) * push.row_bytes;
    if (EXPERTS == 1u) {
        base += (own_tile.x - push.first_expert) * push.expert_bytes + gl_WorkGroupID.z * push.second_bytes;
    }
    return base;
}

// Word offset of a row of x; rows behind the last read the last.
uint linear_row(uint row) {
    if (EXPERTS == 1u) {
        uint assignment = order[push.order_at + min(row, own_tile.y + own_tile.z - 1u)];
        return push.x_at + assignment / push.slots * push.x_stride;
    }
    return push.x_at + min(row, push.rows - 1u) * push.x_stride;
}

// Stores the sum of one output of one row, unless there is no such output or row.
void linear_store(uint row, uint index, float sum) {
    if (EXPERTS == 1u) {
        if (row < own_tile.y + own_tile.z && index < push.n) {
            precise float value = sum;
            if (BIAS != 0u) {
                uint at = own_tile.x * push.n + index;
                value = value + (gl_WorkGroupID.z == 0u ? bias[push.bias_at + at] : bias2[push.bias2_at + at]);
            }
            y[push.y_at + order[push.order_at + row] * push.y_stride + gl_WorkGroupID.z * push.n + index] = value;
        }
        return;
    }
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

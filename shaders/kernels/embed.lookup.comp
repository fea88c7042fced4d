#version 460
// One row of the vocabulary per row of the step: y = scale * W[token], decoded from any format. A window of
// the vocabulary writes only the rows whose token it holds.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

#include "step.glsl"
#include "weights.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64;

layout(binding = 1) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 2) writeonly restrict buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint weights_at;
    uint rows_at;
    uint y_at;
    uint k;         // elements of a row
    uint row_bytes; // bytes of a row of weights
    uint first;     // vocabulary row at the start of the view
    uint count;     // vocabulary rows in the view
    uint rows;
    float scale;
} push;

void main() {
    uint unit = gl_GlobalInvocationID.x;
    uint row = gl_WorkGroupID.y;
    uint element = unit * FORMAT_UNIT;
    uint index = rows[push.rows_at / 8 + row].token - push.first;
    if (element >= push.k || index >= push.count) return;
    uint valid = min(push.k - element, FORMAT_UNIT);
    float w[FORMAT_UNIT];
    format_unit_decode(push.weights_at * 4 + index * push.row_bytes, unit, valid, w);
    uint at = push.y_at + row * push.k + element;
    [[unroll]] for (int e = 0; e < FORMAT_UNIT; e++) {
        if (e < valid) y[at + e] = push.scale * w[e];
    }
}

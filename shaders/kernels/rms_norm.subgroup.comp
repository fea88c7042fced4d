// RMS norm of rows: one subgroup per row.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint OUT = 1u;

layout(binding = 0) readonly restrict buffer X { float x[]; };
layout(binding = 1) readonly restrict buffer Weight { float weight[]; };
layout(binding = 2) writeonly restrict buffer Y { float y[]; };
layout(binding = 3) writeonly restrict buffer YQ8 { uint y_q8[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint weight_at;
    uint y_at;
    uint y_q8_at;
    uint k;
    uint rows;
    float eps;
} push;

#include "subgroup.glsl"
#include "quad.glsl"
#include "emit.glsl"

QUAD_LOADER(x_load, x)
QUAD_LOADER(weight_load, weight)

void main() {
    uint row = gl_WorkGroupID.x;
    if (row >= push.rows) {
        return;
    }
    uint lane = gl_SubgroupInvocationID;
    uint k = push.k;
    uint x_at = push.x_at + row * k;

    vec4 squares = vec4(0.0);
    for (uint e = lane * 4u; e < k; e += SG * 4u) {
        vec4 value = x_load(x_at + e, k - e);
        squares = fma(value, value, squares);
    }
    precise float sum = (squares.x + squares.y) + (squares.z + squares.w);
    sum = subgroup_sum(sum);
    precise float mean = sum / float(k);
    precise float scale = inversesqrt(mean + push.eps);

    uint items = q8_items(k);
    for (uint first = 0u; first < items; first += SG) {
        uint item = first + lane;
        vec4 v[QUADS];
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            uint e = min(item * OWN + 4u * i, k);
            v[i] = x_load(x_at + e, k - e) * scale * weight_load(push.weight_at + e, k - e);
        }
        emit(row, k, item, item < items, v);
    }
}

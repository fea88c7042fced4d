// Rows of which the largest values alone are left, in place, one subgroup per row: y = max(0, y - mean - deviations · σ).
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;

layout(binding = 0) restrict buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint y_at;
    uint k;
    uint rows;
    // Words from one row to the next.
    uint stride;
    float deviations;
} push;

#include "subgroup.glsl"

void main() {
    uint row = gl_WorkGroupID.x;
    if (row >= push.rows) {
        return;
    }
    uint lane = LANE;
    uint at = push.y_at + row * push.stride;
    float total = 0.0;
    [[dont_unroll]] for (uint e = lane; e < push.k; e += SG) {
        total += y[at + e];
    }
    precise float mean = subgroup_sum(total) / float(push.k);
    float squares = 0.0;
    [[dont_unroll]] for (uint e = lane; e < push.k; e += SG) {
        precise float apart = y[at + e] - mean;
        squares = fma(apart, apart, squares);
    }
    precise float variance = subgroup_sum(squares) / float(push.k);
    precise float least = fma(push.deviations, sqrt(variance), mean);
    [[dont_unroll]] for (uint e = lane; e < push.k; e += SG) {
        precise float above = y[at + e] - least;
        y[at + e] = max(above, 0.0);
    }
}

// Rows of the size of others, one subgroup per row: y = x · sqrt(mean(size²) / max(mean(x²), least)), with ADD added to y.
// Rows of `size` repeat. x may be y.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint ADD = 0u;

layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) readonly restrict buffer Size { float size[]; };
layout(binding = 2) buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint size_at;
    uint y_at;
    uint k;
    uint rows;
    uint size_rows;
    float least;
} push;

#include "subgroup.glsl"

void main() {
    uint row = gl_WorkGroupID.x;
    if (row >= push.rows) {
        return;
    }
    uint lane = LANE;
    uint k = push.k;
    uint x_at = push.x_at + row * k;
    uint size_at = push.size_at + row % push.size_rows * k;
    float own = 0.0;
    float other = 0.0;
    [[dont_unroll]] for (uint e = lane; e < k; e += SG) {
        own = fma(x[x_at + e], x[x_at + e], own);
        other = fma(size[size_at + e], size[size_at + e], other);
    }
    precise float mean = subgroup_sum(own) / float(k);
    precise float wanted = subgroup_sum(other) / float(k);
    precise float scale = sqrt(wanted) / sqrt(max(mean, push.least));
    [[dont_unroll]] for (uint e = lane; e < k; e += SG) {
        uint at = push.y_at + row * k + e;
        precise float value = x[x_at + e] * scale;
        y[at] = ADD == 1u ? y[at] + value : value;
    }
}

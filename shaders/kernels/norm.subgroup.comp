// Norms of rows, one subgroup per row: y = x / sqrt(mean(x²) + eps) · weight + bias + residual; with CENTRE the row's mean
// is taken off x first (LayerNorm). RESIDUAL 2: times silu(residual) instead. GROUPED: rows use several rows of weights in
// turn; where they do not, no row pays for the remainder.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint OUT = 1u;
layout(constant_id = 3) const uint CENTRE = 0u;
layout(constant_id = 4) const uint BIAS = 0u;
layout(constant_id = 5) const uint RESIDUAL = 0u;
layout(constant_id = 6) const uint GROUPED = 0u;

layout(binding = 0) readonly restrict buffer X { float x[]; };
layout(binding = 1) readonly restrict buffer Weight { float weight[]; };
layout(binding = 2) readonly restrict buffer Bias { float bias[]; };
// May be y itself.
layout(binding = 3) readonly buffer Residual { float residual[]; };
layout(binding = 4) writeonly buffer Y { float y[]; };
layout(binding = 5) writeonly restrict buffer YQ8 { uint y_q8[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint weight_at;
    uint bias_at;
    uint residual_at;
    uint y_at;
    uint y_q8_at;
    uint k;
    uint rows;
    // Words from one row of x to the next.
    uint x_stride;
    // Rows of the weight that rows of x use in turn, with GROUPED.
    uint weights;
    float eps;
} push;

#include "subgroup.glsl"
#include "quad.glsl"
#include "emit.glsl"
#include "logistic.glsl"

QUAD_LOADER(x_load, x)
QUAD_LOADER(weight_load, weight)
QUAD_LOADER(bias_load, bias)
QUAD_LOADER(residual_load, residual)

// Four elements without their mean; those behind the row's end stay zero.
vec4 centred(uint x_at, uint e, uint k, float mean) {
    vec4 value = x_load(x_at + e, k - e);
    if (CENTRE == 1u) {
        value -= mix(vec4(0.0), vec4(mean), lessThan(uvec4(e, e + 1u, e + 2u, e + 3u), uvec4(k)));
    }
    return value;
}

void main() {
    uint row = gl_WorkGroupID.x;
    if (row >= push.rows) {
        return;
    }
    uint lane = LANE;
    uint k = push.k;
    uint x_at = push.x_at + row * push.x_stride;
    uint weight_at = push.weight_at;
    if (GROUPED == 1u) {
        weight_at += row % max(push.weights, 1u) * k;
    }

    float centre = 0.0;
    if (CENTRE == 1u) {
        vec4 values = vec4(0.0);
        [[dont_unroll]] for (uint e = lane * 4u; e < k; e += SG * 4u) {
            values += x_load(x_at + e, k - e);
        }
        precise float total = (values.x + values.y) + (values.z + values.w);
        total = subgroup_sum(total);
        centre = total / float(k);
    }
    vec4 squares = vec4(0.0);
    for (uint e = lane * 4u; e < k; e += SG * 4u) {
        vec4 value = centred(x_at, e, k, centre);
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
            v[i] = centred(x_at, e, k, centre) * scale * weight_load(weight_at + e, k - e);
            if (BIAS == 1u) {
                v[i] += bias_load(push.bias_at + e, k - e);
            }
            if (RESIDUAL == 1u) {
                v[i] += residual_load(push.residual_at + row * k + e, k - e);
            }
            if (RESIDUAL == 2u) {
                vec4 r = residual_load(push.residual_at + row * k + e, k - e);
                v[i] *= r * vec4(logistic(r.x), logistic(r.y), logistic(r.z), logistic(r.w));
            }
        }
        emit(row, k, item, item < items, v);
    }
}

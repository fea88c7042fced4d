// Activations: y = act(gate) * up, or act(gate) alone. Any number of workgroups does; as many as there are WG lane items is
// best.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint ACTIVATION = 0u; // 0 silu, 1 gelu (tanh form), 2 clamped swiglu, 3 squared relu, 4 logistic, 5 none
layout(constant_id = 3) const uint OUT = 1u;
layout(constant_id = 4) const uint GATED = 1u;

layout(binding = 0) readonly restrict buffer Gate { float gate[]; };
layout(binding = 1) readonly restrict buffer Up { float up[]; };
layout(binding = 2) writeonly restrict buffer Y { float y[]; };
layout(binding = 3) writeonly restrict buffer YQ8 { uint y_q8[]; };

layout(push_constant) uniform Push {
    uint gate_at;
    uint up_at;
    uint y_at;
    uint y_q8_at;
    uint k;
    uint rows;
    uint gate_stride;
    uint up_stride;
} push;

#include "quad.glsl"
#include "emit.glsl"
#include "logistic.glsl"

QUAD_LOADER(gate_load, gate)
QUAD_LOADER(up_load, up)

float activate(float x) {
    if (ACTIVATION == 1u) {
        // 0.5 (1 + tanh(u)) = logistic(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
        precise float u = 1.5957691216057308 * x * fma(0.044715 * x, x, 1.0);
        return x * logistic(u);
    }
    if (ACTIVATION == 2u) {
        // gpt-oss: the gate is cut off at 7 above.
        precise float g = min(x, 7.0);
        return g * logistic(1.702 * g);
    }
    if (ACTIVATION == 3u) {
        float r = max(x, 0.0);
        return r * r;
    }
    if (ACTIVATION == 4u) {
        return logistic(x);
    }
    if (ACTIVATION == 5u) {
        return x;
    }
    return x * logistic(x);
}

// What the activation is multiplied by.
vec4 factor(uint at, uint left) {
    if (GATED == 0u) {
        return vec4(1.0);
    }
    vec4 u = up_load(at, left);
    return ACTIVATION == 2u ? clamp(u, vec4(-7.0), vec4(7.0)) + 1.0 : u;
}

void main() {
    uint k = push.k;
    uint row_items = q8_items(k);
    uint items = push.rows * row_items;
    // Whole subgroups step together, so that the lanes of a block always do.
    for (uint first = gl_WorkGroupID.x * WG; first < items; first += gl_NumWorkGroups.x * WG) {
        uint index = first + gl_LocalInvocationIndex;
        bool live = index < items;
        uint row = live ? index / row_items : 0u;
        uint item = index % row_items;
        vec4 v[QUADS];
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            uint e = min(item * OWN + 4u * i, k);
            vec4 g = gate_load(push.gate_at + row * push.gate_stride + e, k - e);
            vec4 u = factor(push.up_at + row * push.up_stride + e, k - e);
            v[i] = vec4(activate(g.x), activate(g.y), activate(g.z), activate(g.w)) * u;
        }
        emit(row, k, item, live, v);
    }
}

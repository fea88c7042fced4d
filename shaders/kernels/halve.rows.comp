// f32 rows to f16 rows: k / 2 words of values times a power of two that brings the largest to [2^14, 2^15), the reciprocal
// of that power, three words of zeros. A subgroup takes a row at a time.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;

layout(binding = 0) readonly restrict buffer X { float x[]; };
layout(binding = 1) writeonly restrict buffer YHalf { uint y_half[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint y_half_at;
    uint k;
    uint rows;
} push;

#include "subgroup.glsl"

void main() {
    uint lane = LANE;
    uint words = push.k / 2u;
    for (uint row = gl_WorkGroupID.x; row < push.rows; row += gl_NumWorkGroups.x) {
        uint from = push.x_at + row * push.k;
        float largest = 0.0;
        for (uint e = lane; e < push.k; e += SG) {
            largest = max(largest, abs(x[from + e]));
        }
        // Exponents as stored; rows of zeros, of subnormal values and of what is no number stay as they are.
        uint exponent = floatBitsToUint(subgroup_max(largest)) >> 23;
        bool plain = exponent >= 1u && exponent < 255u;
        uint raise = plain ? clamp(268u - exponent, 1u, 253u) : 127u;
        float factor = uintBitsToFloat(raise << 23);
        uint to = push.y_half_at + row * (words + 4u);
        for (uint word = lane; word < words; word += SG) {
            vec2 pair = vec2(x[from + 2u * word], x[from + 2u * word + 1u]) * factor;
            y_half[to + word] = packFloat2x16(f16vec2(pair));
        }
        if (lane < 4u) {
            y_half[to + words + lane] = lane == 0u ? (254u - raise) << 23 : 0u;
        }
    }
}

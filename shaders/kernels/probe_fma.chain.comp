// How fast floats are multiplied and added: 32 chains v = v * factor + term per invocation, which begin at
// (invocation + chain) % 8; their sum is written as f32.
#version 460
#extension GL_EXT_control_flow_attributes : require
#ifdef TYPE_F16
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define VEC f16vec4
#define SCALAR float16_t
#else
#define VEC vec4
#define SCALAR float
#endif

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

layout(binding = 0) writeonly restrict buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint y_at;
    uint rounds;
    float factor;
    float term;
} push;

const uint QUADS = 8u;

void main() {
    uint id = gl_WorkGroupID.x * WG + gl_LocalInvocationIndex;
    VEC v[QUADS];
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        v[i] = VEC((id + 4u * i + uvec4(0u, 1u, 2u, 3u)) % 8u);
    }
    VEC factor = VEC(SCALAR(push.factor));
    VEC term = VEC(SCALAR(push.term));
    for (uint round = 0u; round < push.rounds; round++) {
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            v[i] = fma(v[i], factor, term);
        }
    }
    vec4 sum = vec4(0.0);
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        sum += vec4(v[i]);
    }
    y[push.y_at + id] = sum.x + sum.y + sum.z + sum.w;
}

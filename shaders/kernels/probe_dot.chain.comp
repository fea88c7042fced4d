// How fast bytes are multiplied and added: 16 chains v = v + dot(v, factor) of signed bytes per invocation, which begin
// at invocation + chain; their sum is written. Words wrap around.
#version 460
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_integer_dot_product : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

layout(binding = 0) writeonly restrict buffer Y { uint y[]; };

layout(push_constant) uniform Push {
    uint y_at;
    uint rounds;
    uint factor;
} push;

const uint CHAINS = 16u;

void main() {
    uint id = gl_WorkGroupID.x * WG + gl_LocalInvocationIndex;
    int v[CHAINS];
    [[unroll]] for (uint i = 0u; i < CHAINS; i++) {
        v[i] = int(id + i);
    }
    for (uint round = 0u; round < push.rounds; round++) {
        [[unroll]] for (uint i = 0u; i < CHAINS; i++) {
            v[i] += dotPacked4x8EXT(v[i], int(push.factor));
        }
    }
    uint sum = 0u;
    [[unroll]] for (uint i = 0u; i < CHAINS; i++) {
        sum += uint(v[i]);
    }
    y[push.y_at + id] = sum;
}

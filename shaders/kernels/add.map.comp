// Sums: y = (y + x) · scale, in place; values of x repeat. Any number of workgroups does.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64;

layout(binding = 0) readonly restrict buffer X { float x[]; };
layout(binding = 1) restrict buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint y_at;
    uint count;
    uint x_count;
    float scale;
} push;

void main() {
    [[dont_unroll]] for (uint i = gl_GlobalInvocationID.x; i < push.count; i += gl_NumWorkGroups.x * WG) {
        precise float sum = y[push.y_at + i] + x[push.x_at + i % push.x_count];
        y[push.y_at + i] = sum * push.scale;
    }
}

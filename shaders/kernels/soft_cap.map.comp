// Values held within a cap, in place: y = cap · tanh(y / cap). Any number of workgroups does.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

#include "soft_cap.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64;

layout(binding = 0) restrict buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint y_at;
    uint count;
    float cap;
} push;

void main() {
    [[dont_unroll]] for (uint i = gl_GlobalInvocationID.x; i < push.count; i += gl_NumWorkGroups.x * WG) {
        y[push.y_at + i] = soft_cap(y[push.y_at + i], push.cap);
    }
}

// Rows side by side: y = (a, b), rows of a and b any number of words apart. Any number of workgroups does.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64;

layout(binding = 0) readonly restrict buffer A { uint a[]; };
layout(binding = 1) readonly restrict buffer B { uint b[]; };
layout(binding = 2) writeonly restrict buffer Y { uint y[]; };

layout(push_constant) uniform Push {
    uint a_at;
    uint b_at;
    uint y_at;
    uint rows;
    // Words of a row, and from one row to the next.
    uint a_width;
    uint b_width;
    uint a_stride;
    uint b_stride;
} push;

void main() {
    uint width = push.a_width + push.b_width;
    uint count = push.rows * width;
    [[dont_unroll]] for (uint i = gl_GlobalInvocationID.x; i < count; i += gl_NumWorkGroups.x * WG) {
        uint row = i / width;
        uint e = i % width;
        uint word = 0u;
        if (e < push.a_width) {
            word = a[push.a_at + row * push.a_stride + e];
        } else {
            word = b[push.b_at + row * push.b_stride + e - push.a_width];
        }
        y[push.y_at + i] = word;
    }
}

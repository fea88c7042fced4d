// Copies chosen rows, as `gather.copy` does, through another compiler. One invocation per element; the grid is
// (ceil(k / 64), count, 1).
#version 460

layout(local_size_x = 64) in;

layout(binding = 0) readonly restrict buffer X { uint x[]; };
layout(binding = 1) readonly restrict buffer Index { uint index[]; };
layout(binding = 2) writeonly restrict buffer Y { uint y[]; };

layout(push_constant) uniform Push {
    uint x_at;
    uint index_at;
    uint y_at;
    uint k;
    uint count;
} push;

void main() {
    uvec2 id = gl_GlobalInvocationID.xy;
    if (id.x < push.k && id.y < push.count) {
        uint row = index[push.index_at + id.y];
        y[push.y_at + id.y * push.k + id.x] = x[push.x_at + row * push.k + id.x];
    }
}

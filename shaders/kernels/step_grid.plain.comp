// Workgroup counts of a step's attention, as `step_grid.max` finds them, through another compiler. One invocation; the grid
// is (1, 1, 1).
#version 460
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = 1) in;

layout(binding = 0) readonly restrict buffer Rows { uint rows[]; };
layout(binding = 1) writeonly restrict buffer Args { uint args[]; };

layout(push_constant) uniform Push {
    uint rows_at;
    uint args_at;
    uint row_count;
    uint tiles;
    uint n_kv;
    uint chunks_max;
} push;

// Words of a StepRow, its word `position`, and positions per chunk (include/step.glsl).
const uint ROW_WORDS = 8u;
const uint ROW_POSITION = 1u;
const uint KV_BLOCK = 128u;

void main() {
    uint last = 0u;
    for (uint row = 0u; row < push.row_count; row++) {
        last = max(last, rows[push.rows_at + row * ROW_WORDS + ROW_POSITION]);
    }
    args[push.args_at] = push.tiles;
    args[push.args_at + 1u] = push.n_kv;
    args[push.args_at + 2u] = min(last / KV_BLOCK + 1u, push.chunks_max);
}

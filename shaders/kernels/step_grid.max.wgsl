// Workgroup counts of a step's attention: (tiles, KV heads, chunks of the longest row, at most as many as a row sees). Tiles first, so that those that
// read the same keys run side by side. One invocation; the grid is (1, 1, 1).

struct Push {
    rows_at: u32,
    args_at: u32,
    row_count: u32,
    tiles: u32,
    n_kv: u32,
    // Most chunks that a row sees.
    chunks_max: u32,
}

var<immediate> push: Push;

@group(0) @binding(0) var<storage, read> rows: array<u32>;
@group(0) @binding(1) var<storage, read_write> args: array<u32>;

// Words of a StepRow, its word `position`, and positions per chunk (include/step.glsl).
const ROW_WORDS: u32 = 8u;
const ROW_POSITION: u32 = 1u;
const KV_BLOCK: u32 = 128u;

@compute @workgroup_size(1)
fn main() {
    var last = 0u;
    for (var row = 0u; row < push.row_count; row++) {
        last = max(last, rows[push.rows_at + row * ROW_WORDS + ROW_POSITION]);
    }
    args[push.args_at] = push.tiles;
    args[push.args_at + 1u] = push.n_kv;
    args[push.args_at + 2u] = min(last / KV_BLOCK + 1u, push.chunks_max);
}

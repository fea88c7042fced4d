// Copies chosen rows: y[i] = x[index[i]]. One invocation per element; the grid is (ceil(k / 64), count, 1).

struct Push {
    x_at: u32,
    index_at: u32,
    y_at: u32,
    k: u32,
    count: u32,
}

var<immediate> push: Push;

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < push.k && id.y < push.count {
        let row = index[push.index_at + id.y];
        y[push.y_at + id.y * push.k + id.x] = x[push.x_at + row * push.k + id.x];
    }
}

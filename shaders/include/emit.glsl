// How rows of k values are emitted: as f32 (OUT bit 0), as q8 blocks (OUT bit 1) or both.
// The kernel has declared SG, OUT, y[], y_q8[] and the push block.

#include "q8.glsl"

const uint EMIT_F32 = 1u;
const uint EMIT_Q8 = 2u;

// Emits the values that item `item` of a row owns. All lanes of a block call it together.
void emit(uint row, uint k, uint item, bool live, vec4 v[QUADS]) {
    if ((OUT & EMIT_F32) != 0u && live) {
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            uint e = item * OWN + 4u * i;
            uint at = push.y_at + row * k + e;
            if (e + 4u <= k) {
                y[at] = v[i].x;
                y[at + 1u] = v[i].y;
                y[at + 2u] = v[i].z;
                y[at + 3u] = v[i].w;
            } else {
                [[dont_unroll]] for (uint c = 0u; e + c < k; c++) {
                    y[at + c] = v[i][c];
                }
            }
        }
    }
    if ((OUT & EMIT_Q8) != 0u) {
        q8_write(push.y_q8_at + (row * (k / 32u) + item / LANES) * Q8_WORDS, item, live, v);
    }
}

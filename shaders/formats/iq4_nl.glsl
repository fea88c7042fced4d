// iq4_nl: 32 weights in 18 bytes: f16 d, nibbles as in q4_0 that choose from a table; weight = d * table[q].
// Blocks start at even bytes.
#define FORMAT_K 32
#define FORMAT_BYTES 18
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1

#include "non_linear.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + unit * FORMAT_BYTES;
    bool split = (start & 2) == 0;
    uint at = start >> 2;
    uint w[5];
    [[unroll]] for (int i = 0; i < 5; i++) w[i] = weights[at + i];
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint codes = split ? (w[i] >> 16) | (w[i + 1] << 16) : w[i + 1];
        g[0].q[i] = non_linear(codes);
        g[0].q[i + 4] = non_linear(codes >> 4);
    }
    vec2 halves = unpackHalf2x16(w[0]);
    g[0].d = vec2(split ? halves.x : halves.y);
    g[0].m = vec2(0.0);
}

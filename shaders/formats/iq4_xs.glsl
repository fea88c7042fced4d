// iq4_xs: 256 weights in 136 bytes: f16 d, upper 2 bits and then lower 4 bits of eight 6-bit scales, 16 bytes
// of nibbles per group as in iq4_nl; weight = d * (scale - 32) * table[q].
#define FORMAT_K 256
#define FORMAT_BYTES 136
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1

#include "non_linear.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint at = (base >> 2) + (unit >> 3) * 34;
    uint group = unit & 7;
    uint head = weights[at];
    uint scale = (weights[at + 1] >> (4 * group)) & 15;
    scale |= ((head >> (16 + 2 * group)) & 3) << 4;
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint codes = weights[at + 2 + group * 4 + i];
        g[0].q[i] = non_linear(codes);
        g[0].q[i + 4] = non_linear(codes >> 4);
    }
    g[0].d = vec2(unpackHalf2x16(head).x * (float(scale) - 32.0));
    g[0].m = vec2(0.0);
}

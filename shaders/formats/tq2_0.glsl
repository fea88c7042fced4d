// tq2_0: 256 weights in 66 bytes: 64 bytes of 2-bit codes as in q2_k, f16 d; weight = d * (q - 1). Blocks
// start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 66
#define FORMAT_UNIT 128
#define FORMAT_GROUPS 4
#define FORMAT_MIN

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 1) * FORMAT_BYTES;
    bool split = (start & 2) != 0;
    uint at = start >> 2;
    uint part = unit & 1;
    uint w[9];
    [[unroll]] for (int i = 0; i < 9; i++) w[i] = weights[at + part * 8 + i];
    vec2 halves = unpackHalf2x16(weights[at + 16]);
    float d = split ? halves.y : halves.x;
    [[unroll]] for (int j = 0; j < 4; j++) {
        [[unroll]] for (int i = 0; i < 8; i++) {
            g[j].q[i] = int((weights_join(split, w[i], w[i + 1]) >> (2 * j)) & 0x03030303);
        }
        g[j].d = vec2(d);
        g[j].m = vec2(-d);
    }
}

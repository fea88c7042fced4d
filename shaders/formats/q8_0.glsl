// q8_0: 32 weights in 34 bytes: f16 d, int8 q[32]; weight = d * q. Blocks start at even bytes.
#define FORMAT_K 32
#define FORMAT_BYTES 34
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + unit * FORMAT_BYTES;
    bool split = (start & 2) == 0;
    // The 34 bytes lie in nine words wherever they start; q begins in the first word's upper half or the next
    // word.
    uint at = start >> 2;
    uint w[9];
    [[unroll]] for (int i = 0; i < 9; i++) w[i] = weights[at + i];
    [[unroll]] for (int i = 0; i < 8; i++) {
        g[0].q[i] = int(split ? (w[i] >> 16) | (w[i + 1] << 16) : w[i + 1]);
    }
    vec2 halves = unpackHalf2x16(w[0]);
    g[0].d = vec2(split ? halves.x : halves.y);
    g[0].m = vec2(0.0);
}

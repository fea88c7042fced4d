// q6_k: 256 weights in 210 bytes: low 4 bits ql[128], high 2 bits qh[64], int8 scale[16] (one per 16
// weights), f16 d; weight = d * scale * (q - 32). A half block (128 weights) uses 64 bytes of ql, 32 of qh
// and 8 scales: its four groups take the low nibbles of ql[0..32), ql[32..64), then the high nibbles, and
// bits 0-1, 2-3, 4-5, 6-7 of qh[0..32). Blocks start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 210
#define FORMAT_UNIT 128
#define FORMAT_GROUPS 4
#define FORMAT_HALVES
#define FORMAT_MIN

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 1) * FORMAT_BYTES;
    bool split = (start & 2) != 0;
    uint at = start >> 2;
    uint part = unit & 1;
    uint l[17], h[9], s[3];
    [[unroll]] for (int i = 0; i < 17; i++) l[i] = weights[at + part * 16 + i];
    [[unroll]] for (int i = 0; i < 9; i++) h[i] = weights[at + 32 + part * 8 + i];
    [[unroll]] for (int i = 0; i < 3; i++) s[i] = weights[at + 48 + part * 2 + i];
    [[unroll]] for (int i = 0; i < 8; i++) {
        uint l0 = weights_join(split, l[i], l[i + 1]);
        uint l1 = weights_join(split, l[i + 8], l[i + 9]);
        uint top = weights_join(split, h[i], h[i + 1]);
        g[0].q[i] = int((l0 & 0x0f0f0f0f) | ((top << 4) & 0x30303030));
        g[1].q[i] = int((l1 & 0x0f0f0f0f) | ((top << 2) & 0x30303030));
        g[2].q[i] = int(((l0 >> 4) & 0x0f0f0f0f) | (top & 0x30303030));
        g[3].q[i] = int(((l1 >> 4) & 0x0f0f0f0f) | ((top >> 2) & 0x30303030));
    }
    // d lies in word 52, the last half word of the block.
    vec2 halves = unpackHalf2x16(weights[at + 52]);
    float d = split ? halves.y : halves.x;
    [[unroll]] for (int i = 0; i < 4; i++) {
        int pair = int(weights_join(split, s[i / 2], s[i / 2 + 1])) >> (i % 2 * 16);
        g[i].d = d * vec2(bitfieldExtract(pair, 0, 8), bitfieldExtract(pair, 8, 8));
        g[i].m = -32.0 * g[i].d;
    }
}

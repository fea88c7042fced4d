// q2_k: 256 weights in 84 bytes: 16 bytes of 4-bit scale (low) and minimum of 16 weights, 64 bytes of 2-bit
// codes, f16 d, f16 dmin; weight = d * scale * q - dmin * minimum. The four groups of a half block share 32
// bytes, lowest bits first.
#define FORMAT_K 256
#define FORMAT_BYTES 84
#define FORMAT_UNIT 128
#define FORMAT_GROUPS 4
#define FORMAT_HALVES
#define FORMAT_MIN

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint at = (base >> 2) + (unit >> 1) * 21;
    uint part = unit & 1;
    [[unroll]] for (int i = 0; i < 8; i++) {
        uint codes = weights[at + 4 + part * 8 + i];
        [[unroll]] for (int j = 0; j < 4; j++) g[j].q[i] = int((codes >> (2 * j)) & 0x03030303);
    }
    vec2 scale = unpackHalf2x16(weights[at + 20]);
    [[unroll]] for (int j = 0; j < 4; j++) {
        uint pair = weights[at + part * 2 + j / 2] >> (j % 2 * 16);
        g[j].d = scale.x * vec2(pair & 15, (pair >> 8) & 15);
        g[j].m = -scale.y * vec2((pair >> 4) & 15, (pair >> 12) & 15);
    }
}

// q3_k: 256 weights in 110 bytes: 32 bytes of third bits (bit g of byte e for weight e of group g), 64 bytes
// of 2-bit codes as in q2_k, 12 bytes of 6-bit scales (one per 16 weights), f16 d; weight = d * (scale - 32)
// * (q - 4). Scales 0..8 are the low nibbles of the first 8 bytes, 8..16 the high ones; the last 4 bytes hold
// upper bits: scale s takes bits 2 * (s / 4) of byte s % 4. Blocks start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 110
#define FORMAT_UNIT 128
#define FORMAT_GROUPS 4
#define FORMAT_HALVES
#define FORMAT_MIN

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 1) * FORMAT_BYTES;
    bool split = (start & 2) != 0;
    uint at = start >> 2;
    uint part = unit & 1;
    uint h[9], w[9], s[4];
    [[unroll]] for (int i = 0; i < 9; i++) h[i] = weights[at + i];
    [[unroll]] for (int i = 0; i < 9; i++) w[i] = weights[at + 8 + part * 8 + i];
    [[unroll]] for (int i = 0; i < 4; i++) s[i] = weights[at + 24 + i];
    [[unroll]] for (int i = 0; i < 8; i++) {
        uint third = weights_join(split, h[i], h[i + 1]) >> (4 * part);
        uint codes = weights_join(split, w[i], w[i + 1]);
        [[unroll]] for (int j = 0; j < 4; j++) {
            g[j].q[i] = int(((codes >> (2 * j)) & 0x03030303) | ((third >> j) & 0x01010101) << 2);
        }
    }
    vec2 halves = unpackHalf2x16(s[3]);
    float d = split ? halves.y : halves.x;
    uint upper = weights_join(split, s[2], s[3]) >> (4 * part);
    [[unroll]] for (int j = 0; j < 4; j++) {
        uint low = (weights_join(split, s[j / 2], s[j / 2 + 1]) >> (4 * part)) & 0x0f0f0f0f;
        uint pair = (low | ((upper >> (j / 2 * 2)) & 0x03030303) << 4) >> (j % 2 * 16);
        g[j].d = d * (vec2(pair & 0xff, (pair >> 8) & 0xff) - 32.0);
        g[j].m = -4.0 * g[j].d;
    }
}

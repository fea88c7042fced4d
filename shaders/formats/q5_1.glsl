// q5_1: 32 weights in 24 bytes: f16 d, f16 m, 32 fifth bits, nibbles as in q4_0; weight = d * q + m.
#define FORMAT_K 32
#define FORMAT_BYTES 24
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1
#define FORMAT_MIN

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint at = (base >> 2) + unit * 6;
    uint fifth = weights[at + 1];
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint nibbles = weights[at + 2 + i];
        g[0].q[i] = int((nibbles & 0x0f0f0f0f) | weights_spread(fifth >> (4 * i)) << 4);
        g[0].q[i + 4] = int(((nibbles >> 4) & 0x0f0f0f0f) | weights_spread(fifth >> (4 * i + 16)) << 4);
    }
    vec2 halves = unpackHalf2x16(weights[at]);
    g[0].d = halves.xx;
    g[0].m = halves.yy;
}

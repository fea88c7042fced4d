// q4_1: 32 weights in 20 bytes: f16 d, f16 m, nibbles as in q4_0; weight = d * q + m.
#define FORMAT_K 32
#define FORMAT_BYTES 20
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1
#define FORMAT_MIN

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint at = (base >> 2) + unit * 5;
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint nibbles = weights[at + 1 + i];
        g[0].q[i] = int(nibbles & 0x0f0f0f0f);
        g[0].q[i + 4] = int((nibbles >> 4) & 0x0f0f0f0f);
    }
    vec2 halves = unpackHalf2x16(weights[at]);
    g[0].d = halves.xx;
    g[0].m = halves.yy;
}

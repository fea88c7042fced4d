// q5_0: 32 weights in 22 bytes: f16 d, 32 fifth bits, nibbles as in q4_0; weight = d * (q - 16). Blocks start
// at even bytes.
#define FORMAT_K 32
#define FORMAT_BYTES 22
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1
#define FORMAT_MIN

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + unit * FORMAT_BYTES;
    bool split = (start & 2) == 0;
    uint at = start >> 2;
    uint w[6];
    [[unroll]] for (int i = 0; i < 6; i++) w[i] = weights[at + i];
    uint fifth = split ? (w[0] >> 16) | (w[1] << 16) : w[1];
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint nibbles = split ? (w[i + 1] >> 16) | (w[i + 2] << 16) : w[i + 2];
        g[0].q[i] = int((nibbles & 0x0f0f0f0f) | weights_spread(fifth >> (4 * i)) << 4);
        g[0].q[i + 4] = int(((nibbles >> 4) & 0x0f0f0f0f) | weights_spread(fifth >> (4 * i + 16)) << 4);
    }
    vec2 halves = unpackHalf2x16(w[0]);
    float d = split ? halves.x : halves.y;
    g[0].d = vec2(d);
    g[0].m = vec2(-16.0 * d);
}

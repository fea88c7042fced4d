// q4_0: 32 weights in 18 bytes: f16 d, 16 bytes whose low nibbles are q[0..16) and high nibbles q[16..32);
// weight = d * (q - 8). Blocks start at even bytes.
#define FORMAT_K 32
#define FORMAT_BYTES 18
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1
#define FORMAT_MIN

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + unit * FORMAT_BYTES;
    bool split = (start & 2) == 0;
    uint at = start >> 2;
    uint w[5];
    [[unroll]] for (int i = 0; i < 5; i++) w[i] = weights[at + i];
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint nibbles = split ? (w[i] >> 16) | (w[i + 1] << 16) : w[i + 1];
        g[0].q[i] = int(nibbles & 0x0f0f0f0f);
        g[0].q[i + 4] = int((nibbles >> 4) & 0x0f0f0f0f);
    }
    vec2 halves = unpackHalf2x16(w[0]);
    float d = split ? halves.x : halves.y;
    g[0].d = vec2(d);
    g[0].m = vec2(-8.0 * d);
}

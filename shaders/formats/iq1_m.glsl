// iq1_m: 256 weights in 56 bytes: 32 bytes of grid index, one per 8 weights; 16 bytes of nibbles, one per 8
// weights, of 3 upper index bits and the direction of the shift; four 16-bit words of four 3-bit scales (one
// per 16 weights) and a quarter of the f16 d on top; weight = d * (2 * scale + 1) * (grid +- 1/8).
#define FORMAT_K 256
#define FORMAT_BYTES 56
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1
#define FORMAT_HALVES

#include "grid_iq1.glsl"
#include "iq.glsl"
#include "iq1.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint at = (base >> 2) + (unit >> 3) * 14;
    uint group = unit & 7;
    uint indices = weights[at + group];
    uint high = weights[at + 8 + group / 2] >> (16 * (group & 1));
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint nibble = high >> (4 * i);
        uint vector = iq_vector(((indices >> (8 * i)) & 0xff) | (nibble & 7) << 8);
        g[0].q[2 * i] = iq1_eighths(vector, (nibble >> 3) & 1);
        g[0].q[2 * i + 1] = iq1_eighths(vector >> 8, (nibble >> 3) & 1);
    }
    uvec2 words = uvec2(weights[at + 12], weights[at + 13]);
    uvec2 quarters = ((words >> 12) & 15) | ((words >> 28) << 4);
    float d = unpackHalf2x16(quarters.x | quarters.y << 8).x * 0.125;
    uint scales = (group < 4 ? words.x : words.y) >> (8 * (group & 2) + 6 * (group & 1));
    g[0].d = d * vec2(2 * (scales & 7) + 1, 2 * ((scales >> 3) & 7) + 1);
    g[0].m = vec2(0.0);
}

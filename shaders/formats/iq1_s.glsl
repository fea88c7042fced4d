// iq1_s: 256 weights in 50 bytes: f16 d; 32 bytes of grid index, one per 8 weights; per group 16 bits: four
// times 3 upper index bits, a 3-bit scale, direction of the shift; weight = d * (2 * scale + 1) * (grid +-
// 1/8). Blocks start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 50
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1

#include "grid_iq1.glsl"
#include "iq.glsl"
#include "iq1.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 3) * FORMAT_BYTES;
    uint group = unit & 7;
    uint indices = weights_u32(start + 2 + group * 4);
    uint head = weights_u16(start + 34 + group * 2);
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint vector = iq_vector(((indices >> (8 * i)) & 0xff) | ((head >> (3 * i)) & 7) << 8);
        g[0].q[2 * i] = iq1_eighths(vector, head >> 15);
        g[0].q[2 * i + 1] = iq1_eighths(vector >> 8, head >> 15);
    }
    g[0].d = vec2(weights_f16(start) * (float(2 * ((head >> 12) & 7) + 1) * 0.125));
    g[0].m = vec2(0.0);
}

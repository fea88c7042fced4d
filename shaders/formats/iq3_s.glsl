// iq3_s: 256 weights in 110 bytes: f16 d; 64 bytes of grid index, one per 4 weights; 8 bytes of ninth index
// bits; 32 bytes of signs; 4 bytes of 4-bit scales, one per group; weight = d * (2 * scale + 1) * sign *
// grid. Blocks start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 110
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1

#include "grid_iq3_s.glsl"
#include "iq.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 3) * FORMAT_BYTES;
    uint group = unit & 7;
    uint ninth = weights_u8(start + 66 + group);
    uint signs = weights_u32(start + 74 + group * 4);
    [[unroll]] for (int i = 0; i < 8; i++) {
        uint low = (weights_u32(start + 2 + group * 8 + i / 4 * 4) >> (i % 4 * 8)) & 0xff;
        g[0].q[i] = iq_signed(GRID[low | ((ninth >> i) & 1) << 8], signs >> (4 * i));
    }
    uint scale = (weights_u8(start + 106 + group / 2) >> (4 * (group & 1))) & 15;
    g[0].d = vec2(weights_f16(start) * float(2 * scale + 1));
    g[0].m = vec2(0.0);
}

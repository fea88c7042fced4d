// iq2_s: 256 weights in 82 bytes: f16 d; 32 bytes of grid index and 32 of signs, one per 8 weights; 8 bytes
// of upper index bits; 8 bytes of 4-bit scales, one per 16 weights; weight = d * (scale + 0.5) / 4 * sign *
// grid. Blocks start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 82
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1
#define FORMAT_HALVES

#include "grid_iq2_s.glsl"
#include "iq.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 3) * FORMAT_BYTES;
    uint group = unit & 7;
    uint indices = weights_u32(start + 2 + group * 4);
    uint signs = weights_u32(start + 34 + group * 4);
    uint upper = weights_u8(start + 66 + group);
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint vector = iq_vector(((indices >> (8 * i)) & 0xff) | ((upper >> (2 * i)) & 3) << 8);
        g[0].q[2 * i] = iq_signed(iq2_sizes(vector), signs >> (8 * i));
        g[0].q[2 * i + 1] = iq_signed(iq2_sizes(vector >> 8), signs >> (8 * i + 4));
    }
    uint scales = weights_u8(start + 74 + group);
    g[0].d = weights_f16(start) * (0.5 + vec2(scales & 15, scales >> 4)) * 0.25;
    g[0].m = vec2(0.0);
}

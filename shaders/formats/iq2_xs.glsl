// iq2_xs: 256 weights in 74 bytes: f16 d; per 8 weights 9 bits of grid index and 7 of sign index; 4-bit
// scales, one per 16 weights; weight = d * (scale + 0.5) / 4 * sign * grid. Blocks start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 74
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1
#define FORMAT_HALVES

#include "grid_iq2_xs.glsl"
#include "iq.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 3) * FORMAT_BYTES;
    uint group = unit & 7;
    [[unroll]] for (int i = 0; i < 2; i++) {
        uint codes = weights_u32(start + 2 + group * 8 + 4 * i);
        uint fields = codes >> 9;
        uint parity = iq_parity(fields);
        [[unroll]] for (int j = 0; j < 2; j++) {
            uint vector = iq_vector((codes >> (16 * j)) & 511);
            uint signs = iq_even_signs(fields, parity, 16 * j);
            g[0].q[4 * i + 2 * j] = iq_signed(iq2_sizes(vector), signs);
            g[0].q[4 * i + 2 * j + 1] = iq_signed(iq2_sizes(vector >> 8), signs >> 4);
        }
    }
    uint scales = weights_u8(start + 66 + group);
    g[0].d = weights_f16(start) * (0.5 + vec2(scales & 15, scales >> 4)) * 0.25;
    g[0].m = vec2(0.0);
}

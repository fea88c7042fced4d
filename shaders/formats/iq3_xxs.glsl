// iq3_xxs: 256 weights in 98 bytes: f16 d; 64 bytes of grid index, one per 4 weights; per group a word of
// four 7-bit sign indices and a 4-bit scale; weight = d * (scale + 0.5) / 2 * sign * grid. Blocks start at
// even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 98
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1

#include "grid_iq3_xxs.glsl"
#include "iq.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 3) * FORMAT_BYTES;
    uint group = unit & 7;
    uint fields = weights_u32(start + 66 + group * 4);
    uint parity = iq_parity(fields);
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint indices = weights_u32(start + 2 + group * 8 + i / 2 * 4) >> (i % 2 * 16);
        uint signs = iq_even_signs(fields, parity, 7 * i);
        g[0].q[2 * i] = iq_signed(GRID[indices & 0xff], signs);
        g[0].q[2 * i + 1] = iq_signed(GRID[(indices >> 8) & 0xff], signs >> 4);
    }
    g[0].d = vec2(weights_f16(start) * (0.5 + float(fields >> 28)) * 0.5);
    g[0].m = vec2(0.0);
}
